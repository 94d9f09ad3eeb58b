"""`make bench` and `make bench-quick`: all figures, beside those of the machine's floor and of a peer.

Bare handlers and loops, this server, and GAVO DaCHS where it is installed are started, and loaded in turn by
the same clients; one table says what was measured, what is to be reached and what was. Needs wrk.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import msgspec
import typer

from benchmarks import figures, plots
from benchmarks.figures import Figure, Sample, figures_of
from benchmarks.measurements import MEASUREMENTS, SMALLEST, UNTOUCHED, Bench, Measurement, Sizes
from benchmarks.options import DIRECTORY, TRACE, Directory, Trace, new_app
from benchmarks.peers.dachs import Dachs
from benchmarks.peers.measurements import measure_dachs
from benchmarks.requests import prepared
from benchmarks.scale import ROOM
from benchmarks.servers import MB, ended_in_order
from benchmarks.tables import new_console

QUICK = Sizes(
    stores=(SMALLEST, 100_000), clients=(16,), rounds=3, seconds=1, everywhere=False,
    alone=20, queued=160, cold=16, waiting=1_000, wake_ups=100,
    download=1_000 * MB, upload=250 * MB, listeners=1_000, events=20, idle=2, age=500, burst=16,
)  # fmt: skip
LONG = Sizes(
    stores=(SMALLEST, 100_000, 1_000_000), clients=(1, 16, 256), rounds=3, seconds=2, everywhere=True,
    alone=50, queued=1_000, cold=32, waiting=1_000, wake_ups=400,
    download=1_000 * MB, upload=1_000 * MB, listeners=5_000, events=50, idle=10, age=3_000, burst=32,
)  # fmt: skip
PEER = "GAVO DaCHS"
BEGIN, END = "<!-- what the benchmarks wrote begins -->", "<!-- what the benchmarks wrote ends -->"
WIDTH = 200
PACKAGES = ("aiohttp", "uvloop", "msgspec", "lxml", "aiosqlite")

app = new_app()


class Report(msgspec.Struct):
    """All that one run has found out."""

    command: str
    minutes: float
    machine: dict[str, str]
    versions: dict[str, str]
    sizes: Sizes
    took: dict[str, float]
    """Seconds by measurement."""
    figures: list[Figure]


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer jobs and clients: minutes.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="How many the largest store has.")] = None,
    peer: Annotated[bool, typer.Option(help="Measure the peer, too, where it is installed.")] = True,
    trace: Trace = TRACE,
    directory: Directory = DIRECTORY,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write bench.json, bench.txt and plots there, and the table into a README.md there."
        ),
    ] = None,
) -> None:
    """Measure everything; the exit status is 1 when a goal is missed."""
    if shutil.which("wrk") is None:
        raise typer.BadParameter("wrk is not installed: on Debian, apt install wrk")
    sizes = QUICK if quick else LONG
    if jobs:
        sizes = sizes._replace(stores=(*(store for store in sizes.stores if store < jobs), jobs))
    if shutil.disk_usage(directory).free < (room := sum(sizes.stores) * ROOM + 10 * sizes.upload):
        raise typer.BadParameter(f"{directory}: {sizes.stores[-1]:,} jobs need {room // MB:,} MB there")
    installed = Dachs.version() if peer else ""
    with_peer = (measure_dachs,) if installed else ()
    begin = perf_counter()
    report = Report(f"make bench{'-quick' * quick}", 0, machine(), versions(installed), sizes, {}, [])
    with ended_in_order(), TemporaryDirectory(dir=directory) as scratch:
        # A peer has a user of its own, who has to find its files.
        Path(scratch).chmod(0o711)
        samples = measured(Path(scratch), sizes, trace, [*MEASUREMENTS, *with_peer], report.took)
        report.figures = figures_of(samples)
    report.minutes = (perf_counter() - begin) / 60
    tell(report, output)
    if not all(reached is not False for figure in report.figures for reached in figure.reached):
        raise typer.Exit(1)


def measured(
    scratch: Path,
    sizes: Sizes,
    trace: Path,
    measurements: Sequence[Measurement],
    took: dict[str, float],
) -> list[Sample]:
    """Make the stores, and measure one thing after the other."""
    stores = []
    for jobs in sizes.stores:
        with _timed(f"{jobs:,} jobs", took):
            (scratch / f"{jobs}").mkdir()
            stores.append(prepared(scratch / f"{jobs}", trace, jobs))
    bench, samples = Bench(scratch, sizes, stores), dict[Measurement, list[Sample]]()
    for measure in sorted(measurements, key=lambda measure: measure not in UNTOUCHED):
        with _timed(measure.__name__.removeprefix("measure_").replace("_", " "), took):
            samples[measure] = [*measure(bench)]
    return [sample for measure in measurements for sample in samples[measure]]


@contextmanager
def _timed(name: str, took: dict[str, float]) -> Iterator[None]:
    print(name, flush=True)
    begin = perf_counter()
    yield
    took[name] = perf_counter() - begin


# Telling


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory) / 1e6:.0f} GB",
        "system": f"Linux {platform.release().partition('-')[0]}",
        "busy before": f"{os.getloadavg()[0]:.1f} processes on average of the last minute",
    }


def versions(peer: str) -> dict[str, str]:
    """Return what was measured, and by what."""
    said = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S607
    return {
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "SQLite": sqlite3.sqlite_version,
        "wrk": said.split()[1] if said else "",
        PEER: peer or "not installed, or left out: its columns are empty",
    }


def tell(report: Report, output: Path | None) -> None:
    """Print the table, and write everything to a directory."""
    console = new_console()
    console.width = max(console.width, WIDTH)
    title = f"{report.command}, {report.minutes:.1f} minutes, {report.machine['cores']} cores"
    facts = {**report.machine, **report.versions}
    caption = "; ".join(f"{name}: {value}" for name, value in facts.items())
    figures.show(console, title, caption, report.figures)
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (output / "bench.txt").write_text(console.export_text())
    drawn = plots.draw(output, report.figures, facts[PEER])
    readme = output / "README.md"
    if readme.exists():
        before, _, rest = readme.read_text().partition(BEGIN)
        _, found, after = rest.partition(END)
        if found:
            readme.write_text(f"{before}{BEGIN}\n{_markdown(report, facts, drawn)}{END}{after}")


def _markdown(report: Report, facts: dict[str, str], drawn: dict[str, str]) -> str:
    images = "".join(f"\n![{title}]({name})\n" for name, title in drawn.items())
    told = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    return (
        f"\n`{report.command}`, {report.minutes:.1f} minutes:\n\n{figures.markdown(report.figures)}"
        f"{images}\n{told}\n"
    )


if __name__ == "__main__":
    app()
