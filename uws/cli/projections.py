"""``uwsd projections``: look at the read models, make them anew, compare them with the log."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Literal

import typer

from eventstore.connection import translated
from projections import READ_MODELS, Copied, Difference, Status, unpack
from projections import pack as packed
from uws.admin import DoesNotHold, ProjectionsStatus, RebuildProjections, VerifyProjections
from uws.config import Settings
from uws.model import UsageError
from uws.model.units import format_size
from uws.node import open_log

from .common import CONFIG, AsJson, Config, Data, carried_out, reported, settings_of
from .naming import read_models
from .output import Rate, err, out, print_json, table

projections: typer.Typer = typer.Typer(
    help="Look at the read models, make them anew, compare them with the log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Read models; all when none is named.", autocompletion=read_models),
]

Packed = Annotated[Path, typer.Argument(metavar="FILE", help="A file, or - for a pipe.")]


@projections.command()
def status(
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print how far the read models have come, and what has stopped them."""
    with reported():
        found = carried_out(settings_of(config, data), ProjectionsStatus(), "asking")
    if as_json:
        print_json(found, indent=2)
        return
    rows = table("name", "version", "position", "lag", "size", "state")
    for column in rows.columns[1:5]:
        column.justify = "right"
    for each in found:
        numbers = str(each.version), str(each.position), str(each.lag), format_size(each.size)
        rows.add_row(each.name, *numbers, _state(each))
    out.print(rows)
    for each in found:
        for news in _news_of(each):
            out.print(f"{each.name}: {news}", soft_wrap=True)


@projections.command()
def rebuild(names: Names = None, config: Config = CONFIG, data: Data = None) -> None:
    """Make read models anew from the log; what there is serves until they are ready."""
    with reported():
        operation = RebuildProjections(tuple(names or ()))
        interrupted = "interrupted: what was made is kept, and the next rebuild goes on there"
        rebuilt = carried_out(
            settings_of(config, data), operation, "rebuilding", Rate("events"), interrupted=interrupted
        )
    for each in rebuilt:
        rate = each.events / each.seconds if each.seconds else 0
        out.print(
            f"{each.name}: {each.events} events in {each.seconds:.1f} s, {rate:,.0f} a second", soft_wrap=True
        )


@projections.command()
def verify(names: Names = None, config: Config = CONFIG, data: Data = None) -> None:
    """Compare read models with what the log makes of them; exit 1 when one differs."""
    with reported():
        operation = VerifyProjections(tuple(names or ()))
        found = carried_out(settings_of(config, data), operation, "comparing", Rate("events"))
        for name, difference in found.items():
            if difference is None:
                out.print(f"{name}: as the log says")
        if told := [_told(difference) for difference in found.values() if difference]:
            raise DoesNotHold("\n".join(told))


@projections.command()
def pack(file: Packed, config: Config = CONFIG, data: Data = None) -> None:
    """Write copies of the read models into FILE, for another node of the log; - is standard output."""
    with reported(), _opened(file, "wb") as opened:
        settings = settings_of(config, data)
        target = _Written(opened, "standard output" if file == Path("-") else str(file))
        with translated(str(settings.projections)):
            copied = packed(settings.projections, target)
        target.flush()
        if not copied:
            raise UsageError(f"{settings.projections}: there are no read models")
    _print_copied(copied)


@projections.command()
def fetch(file: Packed, config: Config = CONFIG, data: Data = None) -> None:
    """Take over what another node packed into FILE, in place of what there is; - is standard input.

    No server may run on the data directory. What came since is folded at the next start.
    """
    with reported(), _opened(file, "rb") as source:
        settings = settings_of(config, data)
        with translated(str(settings.projections)):
            copied = asyncio.run(_fetched(settings, source))
    _print_copied(copied)


async def _fetched(settings: Settings, source: IO[bytes]) -> list[Copied]:
    async with open_log(settings):
        return await asyncio.to_thread(unpack, source, settings.projections, READ_MODELS)


class _Written:
    """A file that says which one it is when it cannot be written."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name

    def write(self, data: bytes) -> int:
        with self._named():
            return self._file.write(data)

    def flush(self) -> None:
        with self._named():
            self._file.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(f"{self._name}: {error.strerror}") from None


@contextmanager
def _opened(file: Path, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
    """Open a file, one that is written for its owner alone: all jobs of everybody are in it."""
    if file == Path("-"):
        yield sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
        return
    try:
        with open(file, mode, opener=partial(os.open, mode=0o600)) as opened:
            if mode == "wb" and file.is_file():
                os.fchmod(opened.fileno(), 0o600)  # it may have been there
            yield opened
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def _print_copied(copied: Iterable[Copied]) -> None:
    for each in copied:
        err.print(f"{each.name}: version {each.version}, up to position {each.position}", soft_wrap=True)


def _state(status: Status) -> str:
    if status.error:
        return "stopped"
    return "serves" if status.version else "missing"


def _news_of(status: Status) -> Iterator[str]:
    """Say what does not fit into a table."""
    if status.error:
        yield f"stopped {status.error}"
    if making := status.making:
        how = "is being made" if making.going_on else "was being made, until that was interrupted"
        yield f"version {making.version} {how}, at position {making.position}"
        if making.error:
            yield f"version {making.version} stopped {making.error}"


def _told(found: Difference) -> str:
    place = f"{found.table}, {found.key}: " if found.table else ""
    return f"{found.name}: {place}{found.text}"
