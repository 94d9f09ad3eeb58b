"""The addresses elsewhere that pages and docstrings refer to, for `make linkcheck` to ask them all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from .described import OURS, table

ROOT = Path(__file__).parents[2]
_IN_PAGE = re.compile(r"(?:\]\(|<)(https?://[^)>\s]+)[)>]")
_IN_TEXT = re.compile(r"https?://(?:[\w-]+\.)+[a-z]{2,}(?:/[\w./#~-]*[\w/])?")
_NOWHERE = re.compile(r"https?://(127\.|10\.|localhost|([\w-]+\.)*example(\.|/|$)|[\w.-]+\.lan\b)")
"""What stands in examples."""


def lines() -> Iterator[str]:
    yield "---\norphan: true\n---\n"  # for `make linkcheck`, and not for readers
    yield "# Addresses elsewhere\n"
    yield "Standards, programs and other places that these pages and the code refer to. "
    yield "`make linkcheck` asks each of them whether it is still there.\n"
    rows = [(f"<{url}>", ", ".join(f"`{place}`" for place in places)) for url, places in external().items()]
    yield from table(("address", "where"), rows)


def external() -> dict[str, list[str]]:
    """Return all of them, each with the files that refer to it."""
    found: dict[str, list[str]] = {}
    for path in pages():
        for url in _IN_PAGE.findall(path.read_text()):
            found.setdefault(url, []).append(str(path.relative_to(ROOT)))
    for path in sorted(path for package in OURS for path in (ROOT / package).rglob("*.py")):
        for text in _strings(ast.parse(path.read_text())):
            for url in _IN_TEXT.findall(text):
                found.setdefault(url, []).append(str(path.relative_to(ROOT)))
    return {url: sorted(set(found[url])) for url in sorted(found) if not _NOWHERE.match(url)}


def pages() -> list[Path]:
    """Return all pages that somebody has written."""
    docs = ROOT / "docs"
    return sorted(
        [*ROOT.glob("*.md"), *(path for path in docs.rglob("*.md") if docs / "reference" != path.parent)]
    )


def _strings(tree: ast.Module) -> Iterator[str]:
    """Yield docstrings, below what they describe, too: what stands by itself and is no code."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text
