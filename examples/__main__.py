"""`make run`: serve the examples, run one job of each over HTTP, show its outcome, and go on serving."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
import uvloop
from lxml import etree
from rich.console import Console
from rich.table import Column, Table

from examples.sky import sample_files
from uws.app import serve
from uws.cli import with_options
from uws.cli.common import reported
from uws.config import Settings, load
from uws.model.units import format_size, parse_time

UWS = {"uws": "http://www.ivoa.net/xml/UWS/v1.0"}
DECLARATION = Path(__file__).with_name("uwsd.toml")
app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
out = Console()
out.width = max(out.width, 140)  # job URLs are for copying: they stay on one line


@dataclass
class Outcome:
    """What the table shows of a job; `results` are names and sizes."""

    service: str
    url: str
    phase: str
    seconds: float
    results: str
    error: str


@app.command()
def main(
    once: Annotated[bool, typer.Option("--once", help="End after the table.")] = False,
    host: Annotated[str | None, typer.Option(help="Listen on this address.")] = None,
    port: Annotated[int | None, typer.Option(help="Listen on this port; 0 picks a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Keep the log and the jobs in this directory.")] = None,
) -> None:
    """Serve the example services and run one job of each."""
    with reported():
        settings = with_options(load(DECLARATION), host=host, port=port, data=data)
        outcomes = uvloop.run(demonstrate(settings, once=once))
    if not outcomes or any(outcome.phase != "COMPLETED" for outcome in outcomes):
        raise typer.Exit(1)


async def demonstrate(settings: Settings, *, once: bool) -> list[Outcome]:
    """Serve, run one job of each service, print the table; return the outcomes when serving has ended."""
    stop, started = asyncio.Event(), asyncio.Event()
    address = []

    def ready(url: str) -> None:
        address.append(url)
        started.set()

    serving = asyncio.create_task(serve(settings, ready=ready, stop=stop))
    outcomes: list[Outcome] = []
    serving.add_done_callback(lambda _: started.set())  # when it could not begin, too
    try:
        await started.wait()
        outcomes = [await run_job(address[0], *request) for request in requests()] if address else []
        show(outcomes)
        if address and not once:
            out.print(f"serving on {address[0]} until Ctrl-C", soft_wrap=True)
            await serving
    except aiohttp.ClientError as error:
        out.print(f"the server went away: {error}", style="red", markup=False)
    finally:
        stop.set()
        await serving
    return outcomes


def show(outcomes: list[Outcome]) -> None:
    """Print the table, and below it what went wrong."""
    if outcomes:
        out.print(table(outcomes))
    for outcome in outcomes:
        if outcome.error:
            out.print(f"{outcome.service}: {outcome.error}", markup=False)


def requests() -> list[tuple[str, dict[str, str | Path]]]:
    """Return which services to ask for what; paths are files to upload."""
    image, catalogue = sample_files(Path(tempfile.gettempdir()) / "uwsd-examples")
    return [
        ("cutout", {"image": image, "ra": "266.4", "dec": "-28.93", "size": "6"}),
        ("statistics", {"catalogue": catalogue, "bins": "20"}),
    ]


async def run_job(url: str, service: str, fields: dict[str, str | Path]) -> Outcome:
    """Do what any UWS client does: create the job, run it, wait for its end and read the document."""
    form = aiohttp.FormData({"PHASE": "RUN"})
    for name, value in fields.items():
        if isinstance(value, Path):
            form.add_field(name, value.read_bytes(), filename=value.name)
        else:
            form.add_field(name, value)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/{service}/async", data=form) as response:
            response.raise_for_status()
            job, document = str(response.url), await response.read()
        while (phase := _text(document, "phase")) in ("QUEUED", "EXECUTING"):
            async with session.get(job, params={"WAIT": "-1"}) as response:
                document = await response.read()
    results = [
        f"{result.get('id')}, {format_size(int(result.get('size', '0')))}"
        for result in etree.fromstring(document).iterfind(".//uws:result", UWS)
    ]
    took = seconds(_text(document, "startTime"), _text(document, "endTime"))
    return Outcome(service, job, phase, took, "\n".join(results), _text(document, "message"))


def seconds(started: str, ended: str) -> float:
    """Return the time between two instants of a job document; 0 when one is missing."""
    if not (started and ended):
        return 0.0
    return (parse_time(ended) - parse_time(started)).total_seconds()


def table(outcomes: list[Outcome]) -> Table:
    """Lay the outcomes out for a terminal."""
    laid_out = Table("service", Column("job", no_wrap=True), "phase", "seconds", "results")
    for outcome in outcomes:
        laid_out.add_row(
            outcome.service, outcome.url, outcome.phase, f"{outcome.seconds:.1f}", outcome.results
        )
    return laid_out


def _text(document: bytes, name: str) -> str:
    return etree.fromstring(document).findtext(f".//uws:{name}", "", UWS)


if __name__ == "__main__":
    app()
