"""Figures of several servers side by side, each held against the floor of the machine and against a peer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.tables import told

FLOOR, SERVER, FRESH, AGED = "floor", "server", "peer, fresh", "peer, aged"
COLUMNS = (FLOOR, SERVER, FRESH, AGED)
HEADS = (
    "what",
    "unit",
    *(FLOOR, SERVER, "lowest – highest", FRESH, AGED),
    *("÷ floor", "÷ peer", "goal", "reached"),
)


class Goal(msgspec.Struct, frozen=True):
    """What the server's figure is to be at least, or at most: as a multiple of that ``of`` a column."""

    bound: float
    of: str = ""
    at_most: bool = False

    def __str__(self) -> str:
        bound = f"{'≤' if self.at_most else '≥'} {self.bound:g}"
        return f"{bound} × {self.of.partition(',')[0]}" if self.of else bound

    def is_reached(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound


class Line(NamedTuple):
    """A line of the table, in ``unit``, and what is to be reached.

    Lines of one ``series`` differ in the number of clients.
    """

    what: str
    unit: str
    goals: tuple[Goal, ...] = ()
    series: str = ""
    clients: int = 0


class Sample(NamedTuple):
    """What one round gave for a line, in one column."""

    line: Line
    column: str
    value: float


class Figure(msgspec.Struct):
    """What became of a line: its samples by column, and which goals were reached, None if not measured."""

    what: str
    unit: str
    samples: dict[str, list[float]]
    goals: tuple[Goal, ...]
    reached: list[bool | None]
    series: str = ""
    clients: int = 0

    def median(self, column: str) -> float | None:
        return median(self.samples[column]) if self.samples.get(column) else None

    def ratio(self, column: str) -> float | None:
        """Return the server's figure as a multiple of a column's: within rounds, where both have as many."""
        servers, others = self.samples.get(SERVER), self.samples.get(column)
        if not servers or not others or not all(others):
            return None
        if len(servers) == len(others):
            return median(one / other for one, other in zip(servers, others, strict=True))
        return median(servers) / median(others)

    def cells(self) -> list[str]:
        """Return a cell for each of `HEADS`."""
        servers = self.samples.get(SERVER, [])
        spread = f"{told(min(servers))} – {told(max(servers))}" if len(servers) > 1 else ""
        figures = {column: told(self.median(column)) for column in COLUMNS}
        reached = [{True: "yes", False: "no", None: "–"}[each] for each in self.reached]
        return [
            self.what,
            self.unit,
            *(figures[FLOOR], figures[SERVER], spread, figures[FRESH], figures[AGED]),
            *(told(self.ratio(column)) for column in (FLOOR, FRESH)),
            *("; ".join(map(str, self.goals)), "; ".join(reached)),
        ]


def figures_of(samples: Iterable[Sample]) -> list[Figure]:
    """Put samples together: those with goals first, else in the order in which they came."""
    found: dict[Line, dict[str, list[float]]] = {}
    for line, column, value in samples:
        found.setdefault(line, {}).setdefault(column, []).append(value)
    figures = [_figure(line, by_column) for line, by_column in found.items()]
    return sorted(figures, key=lambda figure: not figure.goals)


def _figure(line: Line, samples: Mapping[str, list[float]]) -> Figure:
    figure = Figure(line.what, line.unit, dict(samples), line.goals, [], line.series, line.clients)
    for goal in line.goals:
        value = figure.ratio(goal.of) if goal.of else figure.median(SERVER)
        figure.reached.append(None if value is None else goal.is_reached(value))
    return figure


def show(console: Console, title: str, caption: str, figures: Iterable[Figure]) -> None:
    """Print the table."""
    table = Table(title=title, caption=caption, caption_justify="left")
    for head in HEADS:
        table.add_column(head, justify="left" if head in ("what", "unit", "goal") else "right")
    for figure in figures:
        table.add_row(*figure.cells())
    console.print(table)


def markdown(figures: Iterable[Figure]) -> str:
    """Return the table as Markdown has it."""
    rows = [[*HEADS], *([":--", ":--", *["--:"] * 7, ":--", "--:"],), *(figure.cells() for figure in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
