"""``uwsd init``: a declaration with two services that work, to be made one's own."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from uws.model import UsageError

from .common import out, reported

SKELETON = Path(__file__).with_name("skeleton")


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made if it is not there.")],
) -> None:
    """Begin a server of one's own: write a declaration with comments, and what its two services need."""
    with reported():
        files = sorted(path for path in SKELETON.iterdir() if path.is_file())
        for file in files:
            if os.path.lexists(path := directory / file.name):
                raise UsageError(f"{path} is there already: name another directory; nothing was written")
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            with (directory / file.name).open("xb") as new:
                new.write(file.read_bytes())
            out.print(f"made {directory / file.name}", soft_wrap=True)
    declaration = quote(str(directory / "uwsd.toml"))
    out.print(f"next: uwsd check --run-examples {declaration}", soft_wrap=True)
    out.print(f"then: uwsd serve {declaration}", soft_wrap=True)
