"""What the commands of benchmarks have in common: options, and how they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[Path, typer.Option(help="Where the data lie meanwhile: a disk, not memory.")]
DIRECTORY = Path("/var/tmp")  # noqa: S108 - only a directory of its own is made there
Trace = Annotated[Path, typer.Option(help="A trace in Standard Workload Format, gzipped or not.")]
TRACE = Path(__file__).parents[2] / "shared/data/NASA-iPSC-1993-3.1-cln.swf.gz"
"""Where the trace lies beside a checkout that has it; the Parallel Workloads Archive has it, too."""


def new_app() -> typer.Typer:
    """Return an app whose failures are told as Python tells them."""
    return typer.Typer(pretty_exceptions_enable=False, add_completion=False)
