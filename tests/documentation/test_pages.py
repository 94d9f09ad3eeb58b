"""Every block of code in the documentation is true.

A page is read from its first block to its last by one reader (`tests.documentation.reader`): sessions are
typed and have to print what they show, declarations are read, programs run, as their language says (`RULES`).
What a page takes for granted before its first block, a server with some jobs say, is in ``stages/PAGE.sh``.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from tests.databases import emptied, programs
from tests.documentation.pages import PAGES, ROOT, Block, blocks, typed
from tests.documentation.reader import HERE, Reader, reading, toml
from tests.nginx import FILE, fronted
from uws.config import load

EXAMPLES = ROOT / "examples/uwsd.toml"
HADOLINT = Path(sys.executable).with_name("hadolint")


async def session(reader: Reader, block: Block) -> None:
    """It is typed, and prints what it shows; or where it shows nothing at all, each command succeeds."""
    lines = typed(block)
    for line in lines:
        try:
            await reader.types(line, shows=any(line.shown for line in lines))
        except AssertionError as error:
            raise AssertionError(f"{line.place}: {error}") from None


async def declaration(reader: Reader, block: Block) -> None:
    """It is right, by itself if it has a name, else as a part of the page's ``uwsd.toml`` or the examples."""
    if block.file:
        (reader.home / block.file).write_text(block.text)
        load(reader.home / block.file)
    else:
        _declare(reader, tomllib.loads(reader.here(block.text)))


async def change(reader: Reader, block: Block) -> None:
    """What it changes is in the page's declaration, and what it makes of that is right."""
    lines = [line for line in block.text.splitlines() if line[:3] not in ("---", "+++", "@@ ")]
    before, after = (
        tomllib.loads(reader.here("\n".join(line[1:] for line in lines if line[0] in f" {sign}")))
        for sign in "-+"
    )
    declared = tomllib.loads((reader.home / "uwsd.toml").read_text())
    assert _merged(declared, before) == declared
    _declare(reader, after)


def _declare(reader: Reader, part: dict[str, Any]) -> None:
    """Add a part to the page's declaration, and read it; keys of a service alone are those of a service."""
    file = reader.home / "uwsd.toml"
    declared = tomllib.loads((file if file.exists() else EXAMPLES).read_text())
    if not file.exists():
        declared["data"] = "var"
        (reader.home / "data").symlink_to(EXAMPLES.parent / "data")
    if "results" in part:
        part = {"services": {next(iter(declared["services"])): part}}
    for name, service in part.get("services", {}).items():
        if not {"command", "function"} & {*service, *declared["services"].get(name, {})}:
            service |= {"title": name, "command": ["true"]}
    whole = _merged(declared, part)
    file.write_text("".join(f"{name} = {toml(value)}\n" for name, value in whole.items()))
    load(file)


def _merged(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return whole | {
        name: _merged(whole[name], value)
        if isinstance(value, dict) and isinstance(whole.get(name), dict)
        else value
        for name, value in part.items()
    }


async def module(reader: Reader, block: Block) -> None:
    """It is a file, if it has a name; else it runs, after those before it on the page."""
    if block.file:
        (reader.home / block.file).write_text(block.text)
        compile(block.text, block.place, "exec")
        return
    program = reader.home / ".page.py"
    with program.open("a") as file:
        file.write(f"{reader.here(block.text)}\n\n")
    await reader.runs(f"python -c 'import runpy; runpy.run_path(\"{program}\")'")


async def script(reader: Reader, block: Block) -> None:
    """It is a file, if its first line says so; else all its commands succeed."""
    if named := re.match(r"# (\w+\.sh)\b", block.text):
        (reader.home / named[1]).write_text(block.text)
        subprocess.run(["bash", "-n", reader.home / named[1]], check=True)
    else:
        await reader.runs(block.text)


async def saying(reader: Reader, block: Block) -> None:
    """Our programs say so: each line, or name of a line in a table, is made from words of theirs."""
    for line in block.text.splitlines():
        said = line.split("│")[1].strip() if "│" in line else line.strip()
        if re.search(r"[^\W\d]", said) and "┃" not in line:
            assert any(_says(pattern, words, said) for pattern, words in _templates()), said


def _says(pattern: re.Pattern[str], words: int, said: str) -> bool:
    return words > 2 and bool(pattern.search(said) if 3 < words >= len(said) / 3 else pattern.fullmatch(said))


@cache
def _templates() -> list[tuple[re.Pattern[str], int]]:
    """Return a pattern for each text in our programs, with how many characters it has for certain."""
    found = {}
    for room in ("benchmarks", "eventstore", "projections", "uws"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                match node:
                    case ast.Constant(value=str(text)):
                        parts = re.split(r"\{[^}]*\}|%\w", text)
                    case ast.JoinedStr(values=values):
                        parts = [str(part.value) if isinstance(part, ast.Constant) else "" for part in values]
                    case _:
                        continue
                if words := sum(map(len, parts)):
                    found[".*".join(map(re.escape, parts))] = words
    return [(re.compile(pattern), words) for pattern, words in found.items()]


async def document(reader: Reader, block: Block) -> None:
    """It is well-formed."""
    etree.fromstring(block.text)


async def members(reader: Reader, block: Block) -> None:
    """It is JSON."""
    json.loads(block.text)


async def query(reader: Reader, block: Block) -> None:
    """It asks for metrics that there are."""
    metrics = (ROOT / "uws/metrics.py").read_text()
    for name in re.findall(r"\buwsd_\w+", block.text):
        assert re.sub(r"_(bucket|count|sum)$", "", name) in metrics, name


async def image(reader: Reader, block: Block) -> None:
    """Hadolint finds nothing in it."""
    if HADOLINT.exists():
        linted = ["--no-color", "--ignore", "DL3006", "--ignore", "DL3008", "-"]
        done = subprocess.run(
            [HADOLINT, *linted], input=block.text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "")


async def front(reader: Reader, block: Block) -> None:
    """Nginx takes it, in the place of the line of the file for it that sets the same."""
    sets = "    server " if "max_fails" in block.text else "    proxy_set_header X-Remote-User"
    (line,) = (line for line in FILE.read_text().splitlines() if line.startswith(sets))
    async with fronted(reader.root / "nginx" / str(block.line), 8080, more=[(line, reader.here(block.text))]):
        pass


async def statements(reader: Reader, block: Block) -> None:
    """The stage has had them executed: the page tells late of what it needs early."""
    assert block.text in (reader.home / "executed.sql").read_text()


async def records(reader: Reader, block: Block) -> None:
    """They let hosts of a network into a database."""
    for line in block.text.splitlines():
        if not line.startswith("#"):
            kind, _, _, network, method = line.split()
            assert (kind, method) == ("hostssl", "scram-sha-256")
            ip_network(network)


async def included(reader: Reader, block: Block) -> None:
    """It is a part of a page, which has the lines between which it is."""
    assert block.file
    text = ((ROOT / block.page).parent / block.file).read_text()
    for line in re.findall(r'^:(?:start-after|end-before): "(.*)"$', block.text, re.MULTILINE):
        assert line in text, line


async def contents(reader: Reader, block: Block) -> None:
    """Its pages are there."""
    for name in re.findall(r"^(?!:)(\S+)$", block.text, re.MULTILINE):
        assert name.startswith("reference/") or list((ROOT / "docs").glob(f"{name}*")), name


RULES: dict[str, Callable[[Reader, Block], Awaitable[None]]] = {
    "console": session,
    "toml": declaration,
    "diff": change,
    "python": module,
    "sh": script,
    "text": saying,
    "xml": document,
    "json": members,
    "promql": query,
    "dockerfile": image,
    "nginx": front,
    "sql": statements,
    "conf": records,
    "{include}": included,
    "{toctree}": contents,
}
"""By the language of a block, what makes it true."""


NOT_TYPED = {"docs/tutorial.md": "tests/test_tutorial.py types it"}
"""Pages that nobody reads so, and why."""


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_TYPED])
async def test_every_block_of_a_page_is_true(
    page: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stage = HERE / f"stages/{Path(page).stem.lower()}.sh"
    database = ""
    if stage.exists() and "$DATABASE" in stage.read_text():
        if programs() is None:
            pytest.skip("there is no PostgreSQL")
        database = await emptied(request.getfixturevalue("postgres_server"))
    wrong = []
    async with reading(tmp_path, database) as reader:
        if stage.exists():
            await reader.begins(stage)
        for block in blocks(page):
            try:
                await RULES[block.language](reader, block)
            except KeyError:
                wrong.append(
                    f"{block.place}: nothing runs {block.language!r}; it is one of {', '.join(RULES)}"
                )
            except Exception as error:
                place = "" if str(error).startswith(page) else f"{block.place}: "
                wrong.append(f"{place}{error}")
    assert not wrong, "\n\n".join(wrong)
