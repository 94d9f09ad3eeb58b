"""What all commands share: the options, the settings, the exit statuses, and how errors are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.progress import ProgressColumn

from eventstore import ChainBroken, EventLog, read_log, to_microseconds
from eventstore.checkpoint import Checkpoint
from uws.admin import DoesNotHold, Operation, problems_of
from uws.config import AuditSettings, Settings, load
from uws.model import UsageError
from uws.model.units import format_time, parse_duration, parse_time
from uws.node import administer

from .output import bar, err, out

R = TypeVar("R")

FAILED = 1
"""The exit status when what was to be shown does not hold."""
USAGE = 2
"""The exit status for a wrong declaration or option, or surroundings in which a command cannot work."""
INTERRUPTED = 130
"""The exit status after Ctrl-C."""
READ_ENOUGH = 141
"""The exit status when whoever reads has read enough: what shells say of programs that SIGPIPE ends."""
BROKEN = 70
"""The exit status for a fault of the program itself (EX_SOFTWARE in sysexits.h)."""

Config = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", readable=False, help="The declaration, in TOML.")
]
Data = Annotated[Path | None, typer.Option(help="The data directory, if not the declaration's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
CONFIG = Path("uwsd.toml")


@contextmanager
def reported() -> Iterator[None]:
    """Print what is wrong with a declaration or its surroundings, one a line, and end with status 2.

    What does not hold ends with status 1.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        problems = problems_of(error)
        if not problems:
            raise
        for problem in problems:
            err.print(problem, style="red", soft_wrap=True)
        raise typer.Exit(FAILED if isinstance(error, DoesNotHold) else USAGE) from None


def duration_of(option: str, text: str, *, at_least: int = 0) -> int:
    """Return the seconds that were given for an option. Raises `UsageError`."""
    try:
        seconds = parse_duration(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if seconds < at_least:
        raise UsageError(f"{option}: expected at least {at_least} s, got {text!r}")
    return seconds


def time_of(option: str, text: str) -> datetime:
    """Return the UTC time that was given for an option. Raises `UsageError`."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def microseconds_of(option: str, text: str | None) -> int | None:
    """Return the time that was given for an option in microseconds since 1970, None where none was."""
    return None if text is None else to_microseconds(time_of(option, text))


def is_declared(config: Path) -> bool:
    """Whether a declaration is to be read: one that nobody has named, and that is not there, is not."""
    return config != CONFIG or config.exists()


def settings_of(config: Path, data: Path | None) -> Settings:
    """Find out where the log is, and what is declared of it.

    A data directory alone will do. Raises `UsageError`, `DeclarationError`.
    """
    if is_declared(config):
        settings = load(config)
        return msgspec.structs.replace(settings, data=data or settings.data)
    if data is not None:
        return bare(data)
    raise UsageError(
        f"{config}: there is no such file; name the declaration with --config, "
        "or the data directory with --data"
    )


def bare(data: Path) -> Settings:
    """Return the settings of a data directory of which nothing is declared."""
    return Settings(data=data, audit=AuditSettings(origin=None))


def carried_out(
    settings: Settings,
    operation: Operation[R],
    doing: str,
    *columns: ProgressColumn,
    interrupted: str = "interrupted",
) -> R:
    """Carry out an admin command, by the server if one runs, with a bar on terminals.

    Ctrl-C prints ``interrupted`` and ends with status 130. Raises what `uws.node.administer` does.
    """
    try:
        with bar(doing, None, *columns) as report:
            return asyncio.run(administer(settings, operation, report))
    except KeyboardInterrupt:
        err.print(interrupted, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[EventLog]:
    """Give the log, to be read beside whoever writes it."""
    log = await read_log(settings.log)
    try:
        yield log
    finally:
        await log.close()


@contextmanager
def faults(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that show a fault, `eventstore.ChainBroken` and ``kinds``, into `DoesNotHold`."""
    shown: tuple[type[Exception], ...] = (ChainBroken, *kinds)
    try:
        yield
    except shown as error:
        raise DoesNotHold(str(error)) from error


def is_given(context: typer.Context, option: str) -> bool:
    """Whether somebody has typed ``option``, be it with its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def print_seen(seen: Iterable[tuple[Path, Checkpoint]]) -> None:
    """Say of each checkpoint in a file that what it saw is still there."""
    for path, checkpoint in seen:
        out.print(
            f"{path}: what {checkpoint.origin} had at position {checkpoint.head.position} "
            f"on {format_time(checkpoint.time)} is there",
            soft_wrap=True,
        )
