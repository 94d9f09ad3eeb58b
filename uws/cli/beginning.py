"""``uwsd init``: a declaration with two services that work, to be made one's own."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from uws.model import UsageError

from .common import reported
from .output import print_line

SKELETON = Path(__file__).with_name("skeleton")


def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where to; made if it is not there.")],
) -> None:
    """Begin a server of one's own: write a declaration with comments, and what its two services need."""
    with reported():
        made = _write(directory)
    for path in made:
        print_line(f"made {path}")
    # What begins with a dash would be taken for an option.
    declaration = quote(os.path.join(os.curdir * directory.startswith("-"), directory, "uwsd.toml"))  # noqa: PTH118
    print_line(f"next: uwsd check --run-examples {declaration}")
    print_line(f"then: uwsd serve {declaration}")


def _write(directory: str) -> list[Path]:
    """Return what was written, which is all or, where anything of these names is, nothing."""
    if not directory:
        raise UsageError("DIR: expected a directory, got ''; the one you are in is .")
    where = Path(directory)
    if where.exists() and not where.is_dir():
        raise UsageError(f"{where} is there already, and no directory: name another one")
    files = {where / path.name: path.read_bytes() for path in sorted(SKELETON.iterdir()) if path.is_file()}
    for path in files:
        if os.path.lexists(path):
            raise UsageError(f"{path} is there already: name another directory; nothing was written")
    where.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        with path.open("xb") as new:
            new.write(text)
    return list(files)
