"""The pages of the reference, written from the code that they describe: a module for each page.

What is said of a class or a function is its docstring; of a field, a constant or a value, the docstring below
it; of a command, what `--help` says.
"""

from __future__ import annotations

from pathlib import Path

from . import commands, configuration, events, http, links, python

PAGES = {
    page.__name__.rpartition(".")[2]: page for page in (configuration, commands, http, events, python, links)
}


def write(directory: Path) -> None:
    """Write all pages; one that is the same already is left alone, so that nothing is built for nothing."""
    directory.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        text, path = "\n".join(page.lines()) + "\n", directory / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
