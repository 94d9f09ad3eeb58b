"""The pages of the documentation: the blocks of code in them, and what two outputs have to have in common."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    str(path.relative_to(ROOT))
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
    if "```" in path.read_text()
]
"""Those that have blocks of code."""
_FENCED = re.compile(r"^( *)```(\S*) ?([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`([\w-]+\.\w+)`[^`\n]*:\s*\Z")
ID = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{16})\b")
TIME = re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?)?")
_VARYING = (
    (TIME, "TIME"),
    (ID, "ID"),
    (re.compile(r"\b[0-9a-f]{12,64}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "HASH"),
    (re.compile(r"[A-Za-z0-9+/_-]{40,}=*"), "BASE64"),
    (re.compile(r"(?<=\w-)[a-z0-9_]{8}(?=/)"), "RANDOM"),
    (re.compile(r"[\d,]+ a second"), "N a second"),
    (re.compile(r'"seconds":\d+\.\d+'), '"seconds":N'),
    (re.compile(r"-?\b[\d,]+(?:\.\d+)? (s|kB|MB|GB|TB)\b"), r"N \1"),
    (re.compile(r"\b\d{7,} bytes"), "N bytes"),
    (re.compile(r"(?<=│) +\d+\.\d+ +(?=│)"), " N "),
    (re.compile(r"[─━]{2,}"), "─"),
    (re.compile(r"[ ]{2,}"), " "),
    (re.compile(r" +$", re.MULTILINE), ""),
)
"""What differs from run to run, and how wide a table becomes by it."""


@dataclass(frozen=True)
class Block:
    """A block of code, where its first line is, and the file that it is, if it or the text before says so."""

    page: str
    line: int
    language: str
    text: str
    file: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Typed:
    """A command of a session, which may have several lines, and what it is shown to print."""

    place: str
    command: str
    shown: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    found = []
    for match in _FENCED.finditer(text):
        named = _NAMED.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 2
        code = textwrap.dedent(match[4]) if match[1] else match[4]
        found.append(Block(page, line, match[2], code, match[3] or (named and named[1])))
    return found


def typed(block: Block) -> list[Typed]:
    """Return what is typed at the prompts of a session; ``> `` goes on with a command."""
    found: list[Typed] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append(Typed(f"{block.page}:{number}", line[2:], ""))
            continue
        last = found.pop()
        if line[:1] == ">" and not last.shown:
            found.append(Typed(last.place, f"{last.command}\n{line[2:]}", ""))
        else:
            found.append(Typed(last.place, last.command, f"{last.shown}{line}\n"))
    return found


def alike(shown: str, printed: str) -> bool:
    """Whether something was printed as is shown, but for what differs from run to run.

    ``…`` stands for anything in a line, on a line of its own for any number of lines.
    """
    lines = re.split(r"(?m)^…\n", normal(shown))
    parts = [re.sub(r" ?… ?", "[^\n]*", re.escape(part).replace("\\ ", " ")) for part in lines]
    return bool(re.fullmatch(r"(?:.*\n)*".join(parts), normal(printed)))


def normal(text: str) -> str:
    for pattern, by in _VARYING:
        text = pattern.sub(by, text)
    return text
