"""Summarise the numeric columns of a VOTable: an example service.

    python -m examples.statistics CATALOGUE [--column=NAME]... [--bins=N]

Writes `statistics.vot`, `statistics.json` and `histograms.png` into the current directory. Masked, NaN and
infinite values count as missing. Exit status 1, with one line on stderr, when there is nothing to summarise.
"""

import argparse
import difflib
import json
import math
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.parsers.expat import ExpatError

import astropy
import numpy as np
from astropy.io.votable import parse_single_table
from astropy.table import MaskedColumn, Table
from matplotlib.figure import Figure

DRAWN_AT_MOST = 64


class StatisticsError(Exception):
    """There is nothing to summarise; the message says why, in one line."""


@dataclass(frozen=True)
class Summary:
    """One column in numbers, all but `count` and `missing` in its `unit`; None where there is no answer.

    `standard_deviation` is that of the values themselves (divided by n), not an estimate from a sample.
    """

    name: str
    unit: str
    ucd: str
    count: int
    missing: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    median: float | None
    standard_deviation: float | None


UCDS = {
    "name": "meta.id;meta.main",
    "unit": "meta.unit",
    "ucd": "meta.ucd",
    "count": "meta.number",
    "missing": "meta.number",
    "minimum": "stat.min",
    "maximum": "stat.max",
    "mean": "stat.mean",
    "median": "stat.median",
    "standard_deviation": "stat.stdev",
}


def read_table(path: Path) -> Table:
    """Return the first table of a VOTable file."""
    try:
        # A file object rather than a name: astropy would fetch a name that looks like a URL.
        with path.open("rb") as file:
            return parse_single_table(file, verify="ignore").to_table(use_names_over_ids=True)
    except IndexError as error:
        raise StatisticsError(f"{path.name} holds no table") from error
    except (OSError, ValueError, TypeError, ExpatError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise StatisticsError(f"{path.name} cannot be read as a VOTable: {reason}") from error


def choose(table: Table, wanted: list[str]) -> list[str]:
    """Return the columns to summarise: those wanted, or else all numeric ones."""
    numeric = [name for name in table.colnames if table[name].ndim == 1 and table[name].dtype.kind in "iuf"]
    for name in wanted:
        if name not in table.colnames:
            raise StatisticsError(f"there is no column {name!r}{hint(name, table.colnames)}")
        if name not in numeric:
            others = ", ".join(numeric) or "none"
            raise StatisticsError(f"column {name!r} is not numeric; numeric columns: {others}")
    if not numeric:
        raise StatisticsError("the table has no numeric column")
    return list(dict.fromkeys(wanted)) or numeric


def hint(name: str, known: list[str]) -> str:
    """Return the second half of an error line: what was perhaps meant, and what there is."""
    lowered = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    perhaps = f", did you mean {lowered[close[0]]!r}?" if close else ";"
    return f"{perhaps} known columns: {', '.join(known)}"


def values_of(table: Table, name: str) -> np.ndarray:
    """Return a column's present values as floats, in the order of the rows."""
    values = np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)
    return values[np.isfinite(values)]


def summarise(table: Table, name: str) -> Summary:
    """Return the summary of a column."""
    column, values = table[name], values_of(table, name)
    answers = (np.min, np.max, np.mean, np.median, np.std)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = [answer(values) if values.size else math.nan for answer in answers]
    return Summary(
        name,
        "" if column.unit is None else str(column.unit),
        column.meta.get("ucd") or "",
        values.size,
        len(column) - values.size,
        *(float(number) if math.isfinite(number) else None for number in numbers),
    )


def write_votable(summaries: list[Summary], path: Path) -> None:
    """Write one row per column, its unit beside its numbers."""
    table = Table()
    for field, ucd in UCDS.items():
        cells = [getattr(summary, field) for summary in summaries]
        mask = [cell is None for cell in cells]
        table[field] = MaskedColumn([math.nan if cell is None else cell for cell in cells], mask=mask)
        table[field].meta["ucd"] = ucd
    table.write(path, format="votable", overwrite=True)


def can_be_binned(summary: Summary, bins: int) -> bool:
    """Return whether floats are fine enough for that many bins between the minimum and the maximum."""
    if summary.minimum is None or summary.maximum is None:
        return False
    finest = np.spacing(max(abs(summary.minimum), abs(summary.maximum)))
    return bool(2 * bins * finest < summary.maximum - summary.minimum < math.inf)


def draw(table: Table, summaries: list[Summary], bins: int, path: Path) -> None:
    """Draw a histogram per column, side by side."""
    drawn = summaries[:DRAWN_AT_MOST]
    across = math.ceil(math.sqrt(len(drawn)))
    down = math.ceil(len(drawn) / across)
    figure = Figure(figsize=(max(5, 2.6 * across), 2.2 * down + 0.4), dpi=110, layout="constrained")
    for number, summary in enumerate(drawn, start=1):
        axes = figure.add_subplot(down, across, number)
        axes.set_title(summary.name, fontsize=9, parse_math=False)
        axes.set_xlabel(summary.unit, fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
        if can_be_binned(summary, bins):
            axes.hist(values_of(table, summary.name), bins=bins, color="#3b6ea8")
        else:
            text = f"{summary.minimum:g} to {summary.maximum:g}" if summary.count else "no values"
            axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
    if len(drawn) < len(summaries):
        figure.suptitle(f"The first {len(drawn)} of {len(summaries)} columns")
    figure.savefig(path)


def bin_count(text: str) -> int:
    """Return a number of bins, for argparse."""
    if not 1 <= (bins := int(text)) <= 10_000:
        raise argparse.ArgumentTypeError("must be 1 to 10000")
    return bins


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="statistics", description="Summarise a VOTable's numeric columns.")
    parser.add_argument("catalogue", type=Path, metavar="CATALOGUE", help="VOTable file")
    parser.add_argument("--column", action="append", default=[], metavar="NAME", help="only this column")
    parser.add_argument("--bins", type=bin_count, default=30, metavar="N", help="per histogram (default 30)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = arguments(argv)
    # Remarks about somebody's table would hide the one line that matters when something fails.
    astropy.log.setLevel("ERROR")
    warnings.simplefilter("ignore")
    try:
        table = read_table(options.catalogue)
        summaries = [summarise(table, name) for name in choose(table, options.column)]
    except StatisticsError as error:
        print(f"statistics: {error}", file=sys.stderr)
        return 1
    write_votable(summaries, Path("statistics.vot"))
    report = {"rows": len(table), "columns": [asdict(summary) for summary in summaries]}
    Path("statistics.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    draw(table, summaries, options.bins, Path("histograms.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
