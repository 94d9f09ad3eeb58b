"""`make bench-fairness`: who waits how long when the users of a real machine share the slots of a server.

Some days of a trace are replayed over HTTP in a fraction of their time: each job is sent when it was sent, by
its user, and runs a program that sleeps as long as it ran. One job takes one slot, however many processors it
had. What was decided in which order is not looked at, only when jobs started and ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, NamedTuple

import aiohttp
import typer
import uvloop

from benchmarks.growth import Run, made_up, read_trace
from benchmarks.options import DIRECTORY, TRACE, Directory, Trace, new_app
from benchmarks.servers import Client, Document, ended_in_order, serving
from benchmarks.tables import Figures, Line, new_console, show

DAY = 86_400
SLOTS = (128, 3)
MADE_UP = 1_000
"""Jobs that stand in for a trace."""
FACTOR = 2.0
"""A quote is right that is no further than by this factor from the truth."""

DECLARATION = """
data = "data"

[server]
port = 0
jobs_end_with_server = true

[services.ipsc]
title = "Jobs of the iPSC/860"
command = ["sleep", "{{seconds}}"]
max_running = {slots}

[services.ipsc.parameters]
seconds = {{ type = "float", required = true, min = 0, unit = "s" }}
processors = {{ type = "int" }}
executable = {{ type = "str" }}
"""
APART = 1e-6
"""Seconds that each job sleeps longer than the one before, so that none is like another for that."""

app = new_app()

RUNNING, LOAD = "jobs that ran at one time, at most", "share of the slots that was in use"
WAITED, MEAN = "jobs that waited over 0.1 s", "mean wait"
HEAVIEST, BUSIEST = "of the heaviest owner, by time used", "of the owner of most jobs"
LONGEST, SINGLE = "longest wait", "of an owner of one job"
STARVED = "the latter by the heaviest owner's mean"
QUOTED, RIGHT = "jobs with a quote", "quote right within a factor of two"
LINES = (
    Line(RUNNING, ""),
    Line(LOAD, ""),
    Line(WAITED, ""),
    Line(MEAN, "s"),
    Line(HEAVIEST, "s"),
    Line(BUSIEST, "s"),
    Line(LONGEST, "s"),
    Line(SINGLE, "s"),
    Line(STARVED, "", most=1),
    Line(QUOTED, ""),
    Line(RIGHT, "", least=0.5),
)


@app.command()
def main(
    days: Annotated[
        int, typer.Option(min=1, help="How many: those that follow each other with most jobs.")
    ] = 5,
    day: Annotated[float, typer.Option(min=0.1, help="Seconds in which a day goes by.")] = 60,
    slots: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="How many programs run at one time; several are tried in turn, default 128 and 3."
        ),
    ] = None,
    trace: Trace = TRACE,
    directory: Directory = DIRECTORY,
    output: Annotated[
        Path | None, typer.Option(help="Write fairness.txt and fairness.svg to this directory, too.")
    ] = None,
) -> None:
    """Measure who waits how long; the exit status is 1 when a target is missed with the last number of slots.

    Without the trace, made-up jobs stand in for it.
    """
    console, figures = new_console(), Figures(dict)
    runs = busiest_days(list(read_trace(trace)) if trace.exists() else list(made_up(MADE_UP)), days, day)
    heaviest = by_time_used(runs)
    jobs_of = Counter(run.user for run in runs)
    singles = sum(jobs == 1 for jobs in jobs_of.values())
    print(f"{len(runs):,} jobs of {len(jobs_of)} owners, {singles} of which have one job", flush=True)
    columns, replayed = [], []
    with ended_in_order(), TemporaryDirectory(dir=directory) as scratch:
        for number in slots or SLOTS:
            column = f"{number} slots"
            print(column, flush=True)
            replayed = replay(Path(scratch) / column, runs, number)
            tell(replayed, heaviest, number, column, figures)
            columns.append(column)
    title = f"{len(runs):,} jobs of {len(jobs_of)} owners, {days} days of {day:g} s, {os.cpu_count()} cores"
    reached = show(console, title, "", LINES, columns, figures, compared=False)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "fairness.txt").write_text(console.export_text())
        plot(output / "fairness.svg", replayed, heaviest, columns[-1])
    if not reached:
        raise typer.Exit(1)


# The trace


def busiest_days(runs: Sequence[Run], days: int, day: float) -> list[Run]:
    """Return the jobs of so many days that follow each other, in the seconds of the replay."""
    jobs = Counter(int(run.submitted // DAY) for run in runs)
    first = max(range(max(jobs) + 1), key=lambda first: sum(jobs[first + number] for number in range(days)))
    scale = day / DAY
    chosen = [run for run in runs if first <= run.submitted // DAY < first + days]
    return [
        run._replace(submitted=(run.submitted - first * DAY) * scale, waited=0, ran=run.ran * scale)
        for run in sorted(chosen, key=lambda run: run.submitted)
    ]


def by_time_used(runs: Sequence[Run]) -> list[str]:
    """Return the owners, who used most first."""
    used = defaultdict[str, float](float)
    for run in runs:
        used[run.user] += run.ran
    return sorted(used, key=lambda owner: -used[owner])


# Replaying


class Replayed(NamedTuple):
    """A job of the trace, its document right after RUN, and in the end."""

    run: Run
    quoted: Document
    ended: Document

    @property
    def start(self) -> float:
        assert self.ended.start_time
        return self.ended.start_time.timestamp()

    @property
    def end(self) -> float:
        assert self.ended.end_time
        return self.ended.end_time.timestamp()

    @property
    def queued(self) -> float:
        return self.ended.creation_time.timestamp()

    @property
    def waited(self) -> float:
        return self.start - self.queued

    @property
    def quote_is_right(self) -> bool:
        """Whether what was promised, counted from RUN, is about what it took."""
        if self.quoted.quote is None:
            return False
        promised, took = self.quoted.quote.timestamp() - self.queued, self.end - self.queued
        return took / FACTOR <= promised <= took * FACTOR


def replay(scratch: Path, runs: Sequence[Run], slots: int) -> list[Replayed]:
    """Send jobs to a server of so many slots, each at its time, and wait until all have ended."""
    scratch.mkdir()
    file = scratch / "uwsd.toml"
    file.write_text(DECLARATION.format(slots=slots))
    with serving([sys.executable, "-m", "benchmarks.users", file], scratch / "log") as server:
        return uvloop.run(send(server.url, runs))


async def send(url: str, runs: Sequence[Run]) -> list[Replayed]:
    begin = perf_counter()
    async with aiohttp.ClientSession(url) as session:
        clients = {user: Client(session, "/ipsc/async", user) for user in {run.user for run in runs}}

        async def submit(number: int, run: Run) -> tuple[str, Document]:
            await asyncio.sleep(begin + run.submitted - perf_counter())
            job = await clients[run.user].create(
                seconds=f"{run.ran + number * APART:.6f}",
                processors=str(run.processors),
                executable=run.executable,
                PHASE="RUN",
            )
            return job, await clients[run.user].document(job)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(submit(number, run)) for number, run in enumerate(runs)]
        made = [task.result() for task in tasks]
        return [
            Replayed(run, quoted, await clients[run.user].completed(job))
            for run, (job, quoted) in zip(runs, made, strict=True)
        ]


# Telling


def tell(
    replayed: Sequence[Replayed], heaviest: Sequence[str], slots: int, column: str, figures: Figures
) -> None:
    """Put down what a replay with so many slots has shown."""
    waits = waits_of(replayed)
    busiest = max(waits, key=lambda owner: len(waits[owner]))
    singles = [owned[0] for owned in waits.values() if len(owned) == 1]
    every = [job.waited for job in replayed]
    whole = max(job.end for job in replayed) - min(job.queued for job in replayed)
    told = {
        RUNNING: at_one_time(replayed),
        LOAD: sum(job.end - job.start for job in replayed) / whole / slots,
        WAITED: mean(wait > 0.1 for wait in every),
        MEAN: mean(every),
        HEAVIEST: mean(waits[heaviest[0]]),
        BUSIEST: mean(waits[busiest]),
        LONGEST: max(every),
        QUOTED: mean(job.quoted.quote is not None for job in replayed),
        RIGHT: mean(job.quote_is_right for job in replayed),
    }
    if singles:
        told[SINGLE] = max(singles)
        if told[HEAVIEST]:
            told[STARVED] = told[SINGLE] / told[HEAVIEST]
    for name, figure in told.items():
        figures[name][column] = figure


def waits_of(replayed: Sequence[Replayed]) -> Mapping[str, list[float]]:
    """Return the seconds that jobs waited, by owner."""
    waits = defaultdict[str, list[float]](list)
    for job in replayed:
        waits[job.run.user].append(job.waited)
    return waits


def at_one_time(replayed: Sequence[Replayed]) -> int:
    """Return how many jobs ran at one time, at most."""

    def running() -> Iterator[int]:
        number = 0
        steps = [(job.start, 1) for job in replayed] + [(job.end, -1) for job in replayed]
        for _, step in sorted(steps):
            number += step
            yield number

    return max(running())


def plot(path: Path, replayed: Sequence[Replayed], heaviest: Sequence[str], title: str) -> None:
    """Draw each owner's waits, the heaviest owner first."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    waits = waits_of(replayed)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fairness", "font.size": 10}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for place, owner in enumerate(heaviest):
            single = len(waits[owner]) == 1
            axes.vlines(place, min(waits[owner]), max(waits[owner]), color="0.75", linewidth=3)
            axes.plot(
                place, mean(waits[owner]), "o" if single else "_", markersize=7, color="black",
                markerfacecolor="none", markeredgewidth=1.5,
            )  # fmt: skip
        names = [owner.removeprefix("user") for owner in heaviest]
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_yscale("symlog", linthresh=0.01)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="owner, who used most time first", ylabel=f"wait in s, {title}", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.annotate(
            "columns: shortest to longest    bars: mean    circles: owners of one job",
            (0.5, 1.01), xycoords="axes fraction", ha="center", fontsize=9,
        )  # fmt: skip
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    app()
