"""What is printed, and how: tables, bars, JSON, and text that steers no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from uws.admin import Report

_ANY_WIDTH = 100_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - it is called where the error is handled


# What operators write is printed as it is: no markup, no emoji.
out: Console = _Console(markup=False, emoji=False, highlight=False)
err: Console = Console(markup=False, emoji=False, highlight=False, stderr=True)


class Rate(ProgressColumn):
    """How many of something are done in a second."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self._of = of

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._of}/s" if task.speed else "")


@contextmanager
def bar(doing: str, total: int | None = None, *columns: ProgressColumn) -> Iterator[Report]:
    """Show a bar on a terminal; give what is told how far it is."""
    usual = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    with Progress(*usual, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def table(*columns: str) -> Table:
    """Return a table that wraps what is too wide, and never cuts it off."""
    return Table(*(Column(column, overflow="fold", min_width=len(column)) for column in columns))


def print_whole(rows: Table, column: str) -> None:
    """Print a table of which this column is not wrapped, and where no terminal shows it, none."""
    for each in rows.columns:
        each.no_wrap = each.header == column
    takes = Measurement.get(out, out.options.update(max_width=_ANY_WIDTH), rows)
    rows.width = max(out.width, takes.minimum) if out.is_terminal else takes.maximum
    out.print(rows, crop=False)


def print_line(line: str) -> None:
    """Print a line as it is, of any width; what clients sent in it may not steer the reader's terminal."""
    sys.stdout.write(harmless(line) + "\n")


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON, on one line unless it is indented. What is not seen is escaped in it."""
    encoded = msgspec.json.encode(value)
    text = (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()
    sys.stdout.write("\n".join(map(json_line, text.split("\n"))) + "\n")


def json_line(text: str) -> str:
    """Return a line of JSON that says the same, and steers no terminal."""
    # Outside of strings there is nothing that is not printed.
    return text if text.isprintable() else "".join(c if c.isprintable() else dumps(c)[1:-1] for c in text)


def print_exactly(document: bytes) -> None:
    """Write a document byte for byte; on a terminal, what would steer it is replaced."""
    sys.stdout.flush()
    if sys.stdout.isatty():
        document = "\n".join(map(harmless, document.decode().split("\n"))).encode()
    sys.stdout.buffer.write(document)
    sys.stdout.buffer.flush()


def print_warning(text: str) -> None:
    """Say what must not be missed, beside the output."""
    err.print(text, style="bold yellow", soft_wrap=True)


def warn_of_unsigned(path: Path) -> None:
    """Say what was not shown of a file that was verified without a key."""
    print_warning(
        f"{path}: NOT PROVED who made it: it agrees with itself, which anybody can see to; "
        "give --key with the verifier key of the server"
    )


def harmless(line: str) -> str:
    """Return a line in which nothing steers the reader's terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in line)
