"""Tables of what was measured, held against targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

Figures = defaultdict[str, dict[str, float]]
"""What was measured: by the name of a `Line`, then by column."""


class Line(NamedTuple):
    """One line of a table, in ``unit``, and its targets: for the last column, and its ratio to the first.

    The ratio is to be at most ``ratio``, or at least ``share``.
    """

    name: str
    unit: str
    least: float | None = None
    most: float | None = None
    ratio: float | None = None
    share: float | None = None


def show(
    console: Console,
    title: str,
    corner: str,
    lines: Sequence[Line],
    columns: Sequence[str],
    figures: Figures,
    *,
    compared: bool = True,
) -> bool:
    """Print a table; return whether all targets were reached, as far as they were measured.

    The last column is ``compared`` with the first: the ratio stands beside them.
    """
    table = Table(title=title)
    for column in (corner, "unit", *columns, *["ratio"] * compared, "target", "reached"):
        table.add_column(column, justify="left" if column in (corner, "unit") else "right")
    all_reached = True
    for line in lines:
        measured = figures[line.name]
        last, first = measured.get(columns[-1]), measured.get(columns[0])
        ratio = last / first if last and first else None
        reached = is_reached(line, last, ratio)
        all_reached = all_reached and reached is not False
        cells = [line.name, line.unit, *(told(measured.get(column)) for column in columns)]
        if compared:
            cells.append(f"{ratio:.2f}" if ratio else "")
        table.add_row(*cells, target(line), {True: "yes", False: "no", None: ""}[reached])
    console.print(table)
    return all_reached


def is_reached(line: Line, last: float | None, ratio: float | None) -> bool | None:
    """Hold the last column against the target; None where there is none, or nothing was measured."""
    if line.ratio is not None:
        return None if ratio is None else ratio <= line.ratio
    if line.share is not None:
        return None if ratio is None else ratio >= line.share
    if last is None or (line.least is None and line.most is None):
        return None
    return (line.least or 0) <= last <= (float("inf") if line.most is None else line.most)


def target(line: Line) -> str:
    if line.ratio is not None:
        return f"ratio ≤ {line.ratio:g}"
    if line.share is not None:
        return f"ratio ≥ {line.share:g}"
    if line.most is not None:
        return f"≤ {line.most:g}"
    return "" if line.least is None else f"≥ {line.least:,g}"


def told(figure: float | None) -> str:
    if figure is None:
        return ""
    if isinstance(figure, int):
        return f"{figure:,}"
    digits = 2 if 0 < figure < 10 else 1 if 0 < figure < 100 else 0
    return f"{figure:,.{digits}f}"


def new_console() -> Console:
    """Return a console whose text can be written to a file, too."""
    console = Console(record=True, highlight=False)
    console.width = max(console.width, 120)  # figures are for reading: none is cut off
    return console
