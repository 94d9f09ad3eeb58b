"""``uwsd audit usage``: what jobs used, from the log alone, held against the usage read model."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from eventstore.scanning import scan_log
from projections import UsageOf, beside, usage_in
from uws.admin import DoesNotHold, counting
from uws.audit.accounting import Key, Ledger, Sums, add_up, partings
from uws.config import Settings
from uws.model import UsageError
from uws.model.text import made_fit
from uws.model.units import format_size

from .common import CONFIG, AsJson, Config, Data, microseconds_of, reported, settings_of
from .output import bar, err, out, print_json, table

_NOBODY = "(nobody)"


class By(StrEnum):
    """What sums are made of."""

    OWNER = "owner"
    SERVICE = "service"
    MONTH = "month"

    def of(self, key: Key) -> str | None:
        """Return the part of a key that this names."""
        found: str | None = getattr(key, self.value)
        return found


class Row(msgspec.Struct, frozen=True, rename={"of": "by"}):
    """A line of what is told: seconds are those of programs that ran, and of the processor."""

    of: str | None
    jobs: int
    failed: int
    seconds: float
    cpu_seconds: float
    result_bytes: int
    upload_bytes: int


def usage(
    by: Annotated[By, typer.Option(help="What to add up.")] = By.SERVICE,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Jobs created from this UTC time on.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Jobs created before this UTC time.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw it, too; needs matplotlib.")
    ] = None,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Add up what jobs used, from the log alone, and hold it against the usage read model; 1 if they part."""
    with reported():
        if as_csv and as_json:
            raise UsageError("--csv and --json: give one of them")
        if plot is not None and plot.suffix != ".svg":
            raise UsageError(f"--plot: expected the name of a file that ends in .svg, got {plot}")
        settings = settings_of(config, data)
        earliest, latest = microseconds_of("--since", since), microseconds_of("--until", until)
        shown = asyncio.run(_shown(settings))
        ledger = _added_up(settings, shown[0] if shown else 0, earliest, latest)
        rows = [_row(of, sums) for of, sums in ledger.by(by.of).items()]
        if as_json:
            _print_json(by, ledger, rows)
        elif as_csv:
            _print_csv(by, rows)
        else:
            _print_table(by, rows)
        say = err.print if as_csv or as_json else out.print
        if plot is not None:
            _draw(plot, by, rows)
            say(f"{plot}: drawn", soft_wrap=True)
        if ledger.erased or ledger.pruned:
            say(
                f"not counted: {ledger.erased} erased jobs, and those of {ledger.pruned} pruned events",
                soft_wrap=True,
            )
        _compare(ledger, shown, say)


async def _shown(settings: Settings) -> tuple[int, list[UsageOf]] | None:
    """Return what the usage read model shows, and at which position; None where there is none yet."""
    async with beside(settings.projections, "usage") as model:
        shown = await model.ask_at(usage_in) if model else None
        return shown if shown and shown[0] else None


def _added_up(settings: Settings, shown: int, since: int | None, until: int | None) -> Ledger:
    with scan_log(settings.log) as log:
        head = log.head().position
    with bar("folding", head) as report:
        progress = counting(report, head)
        return asyncio.run(add_up(settings.log, shown=shown, since=since, until=until, progress=progress))


def _row(of: str | None, sums: Sums) -> Row:
    return Row(
        of, sums.jobs, sums.failed, sums.running / 1e6, sums.processor / 1e6, sums.results, sums.uploads
    )


def _print_table(by: By, rows: list[Row]) -> None:
    shown = table(by.value)
    for name in ("jobs", "failed", "ran, s", "CPU, s", "results", "uploads"):
        shown.add_column(name, justify="right", overflow="fold", min_width=len(name))
    for row in rows:
        shown.add_row(
            _NOBODY if row.of is None else row.of,
            f"{row.jobs:,}",
            f"{row.failed:,}",
            f"{row.seconds:,.1f}",
            f"{row.cpu_seconds:,.1f}",
            format_size(row.result_bytes),
            format_size(row.upload_bytes),
        )
    out.print(shown)


def _print_csv(by: By, rows: list[Row]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow([by.value, *Row.__struct_fields__[1:]])
    writer.writerows(msgspec.structs.astuple(row) for row in rows)


def _print_json(by: By, ledger: Ledger, rows: list[Row]) -> None:
    told: Mapping[str, Any] = {
        "position": ledger.position,
        "rows": [{by.value: row.of, **_without_of(row)} for row in rows],
        "erased_jobs": ledger.erased,
        "pruned_events": ledger.pruned,
    }
    print_json(told, indent=2)


def _without_of(row: Row) -> dict[str, Any]:
    return {field: getattr(row, field) for field in Row.__struct_fields__[1:]}


def _compare(ledger: Ledger, shown: tuple[int, list[UsageOf]] | None, say: Callable[..., None]) -> None:
    """Say that the read model is equal, or raise `DoesNotHold` with all places where it is not."""
    if shown is None:
        say("there is no usage read model to hold this against: a server makes it", soft_wrap=True)
        return
    found = partings(ledger, shown[1])
    if found:
        raise DoesNotHold(
            "\n".join(
                f"{parting.service}, {_NOBODY if parting.owner is None else parting.owner}, {parting.phase}: "
                f"the log tells of {_told(parting.log)}; the usage read model of {_told(parting.read_model)}"
                for parting in found
            )
        )
    behind = f" of {ledger.position}" if shown[0] < ledger.position else ""
    say(f"equal to the usage read model, at position {shown[0]}{behind}", soft_wrap=True)


def _told(what: tuple[int, float, int]) -> str:
    jobs, seconds, size = what
    return f"{jobs} jobs, {seconds} s, {size} bytes"


def _draw(path: Path, by: By, rows: list[Row]) -> None:
    """Draw CPU seconds and seconds run of each row as bars. Raises `UsageError` without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot: matplotlib is not installed: pip install 'uwsd[plots]'") from None
    names = [made_fit(_NOBODY if row.of is None else row.of) for row in rows]
    places = range(len(rows))  # names would be one bar where two are the same
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "usage", "font.size": 10}):
        figure = Figure(figsize=(9, max(2.0, 0.8 + 0.25 * len(rows))), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, label, values in (
            (panels[0], "jobs (failed: black)", [row.jobs for row in rows]),
            (panels[1], "hours run (CPU: black)", [row.seconds / 3600 for row in rows]),
            (panels[2], "MB (uploads: black)", [(row.result_bytes + row.upload_bytes) / 1e6 for row in rows]),
        ):
            axes.barh(places, values, color="0.75")
            axes.set_xlim(left=0)
            axes.set_xlabel(label)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].barh(places, [row.failed for row in rows], color="black", height=0.4)
        panels[1].barh(places, [row.cpu_seconds / 3600 for row in rows], color="black", height=0.4)
        panels[2].barh(places, [row.upload_bytes / 1e6 for row in rows], color="black", height=0.4)
        panels[0].set_yticks(places, names, parse_math=False)
        panels[0].invert_yaxis()
        panels[0].set_ylabel(by.value)
        figure.savefig(path, metadata={"Date": None})
