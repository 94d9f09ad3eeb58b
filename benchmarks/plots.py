"""Drawings of figures: the floor of the machine, a peer, and the number of clients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.figures import AGED, FLOOR, FRESH, SERVER, Figure


def draw(output: Path, figures: Sequence[Figure], peer: str) -> dict[str, str]:
    """Write drawings to a directory; return their titles by their names."""
    drawn = {}
    if any(figure.ratio(FLOOR) for figure in figures):
        drawn["floor.svg"] = "The server's figures as multiples of the floor's"
        _bars(output / "floor.svg", drawn["floor.svg"], figures, {FLOOR: "black"})
    if any(figure.ratio(FRESH) for figure in figures):
        drawn["peer.svg"] = f"The server's figures as multiples of those of GAVO DaCHS {peer}"
        _bars(output / "peer.svg", drawn["peer.svg"], figures, {FRESH: "black", AGED: "0.6"})
    series = defaultdict[str, list[Figure]](list)
    for figure in figures:
        if figure.series:
            series[figure.series].append(figure)
    if several := {name: those for name, those in series.items() if len(those) > 1}:
        drawn["clients.svg"] = "Answers a second, by the number of clients"
        _lines(output / "clients.svg", drawn["clients.svg"], several)
    return drawn


def _lines(path: Path, title: str, series: Mapping[str, Sequence[Figure]]) -> None:
    """Draw server and floor of each series over the number of clients."""
    from matplotlib.figure import Figure as Drawing

    columns = 3
    rows = -(-len(series) // columns)
    with _styled():
        drawing = Drawing(figsize=(9, 1 + 1.7 * rows), layout="constrained")
        drawing.suptitle(title, x=0.01, ha="left", fontsize=9)
        grid = drawing.subplots(rows, columns, squeeze=False)
        for axes, (name, figures) in zip(grid.flat, series.items(), strict=False):
            for column, colour in {FLOOR: "0.6", SERVER: "black"}.items():
                known = [(each.clients, rate) for each in figures if (rate := each.median(column))]
                axes.plot(*zip(*sorted(known), strict=True), "o-", color=colour, markersize=3, label=column)
            axes.set_title(name, loc="left", fontsize=7)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted(each.clients for each in figures))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.spines[["top", "right"]].set_visible(False)
        for axes in [*grid.flat][len(series) :]:
            axes.set_visible(False)
        grid.flat[0].legend(frameon=False)
        drawing.savefig(path, metadata={"Date": None})


def _bars(path: Path, title: str, figures: Sequence[Figure], colours: dict[str, str]) -> None:
    """Draw ratios as bars that begin at 1, where there is no difference, and goals as marks."""
    from matplotlib.figure import Figure as Drawing

    shown = [figure for figure in figures if any(figure.ratio(column) for column in colours)][::-1]
    with _styled():
        drawing = Drawing(figsize=(9, 1 + (0.15 + 0.1 * len(colours)) * len(shown)), layout="constrained")
        axes = drawing.subplots()
        height = 0.7 / len(colours)
        for number, (column, colour) in enumerate(colours.items()):
            known = [(place, ratio) for place, figure in enumerate(shown) if (ratio := figure.ratio(column))]
            heights = [place + (0.5 * (len(colours) - 1) - number) * height for place, _ in known]
            bars = axes.barh(
                heights, [ratio - 1 for _, ratio in known], height, left=1, color=colour, label=column
            )
            axes.bar_label(bars, [f"{ratio:.3g}" for _, ratio in known], padding=3, fontsize=7)
        goals = [
            (goal.bound, place)
            for place, figure in enumerate(shown)
            for goal in figure.goals
            if goal.of in colours
        ]
        bounds, places = [bound for bound, _ in goals], [place for _, place in goals]
        axes.plot(bounds, places, "|", color="red", markersize=10, markeredgewidth=2, label="goal")
        axes.set_xscale("log")
        axes.set_yticks(range(len(shown)), [f"{figure.what}, {figure.unit}" for figure in shown])
        axes.set_title(title, loc="left", fontsize=9)
        axes.margins(x=0.1, y=0.01)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower right")
        drawing.savefig(path, metadata={"Date": None})


def _styled() -> AbstractContextManager[None]:
    """Have drawings alike, of the same figures byte for byte."""
    import matplotlib as mpl

    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 8})
