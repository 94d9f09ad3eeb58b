"""``uwsd audit``: verify the log, sign it, erase from it, archive it."""

from __future__ import annotations

import asyncio
import getpass
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eventstore import (
    ChainBroken,
    Head,
    Metadata,
    SQLiteEventLog,
    SQLiteEventStore,
    StoreUnavailable,
)
from eventstore.archive import ArchiveError, Contents, verify_archive
from eventstore.checkpoint import Checkpoint, CheckpointError, SigningKey, VerifierKey, open_checkpoint
from projections import JobTables, Projector
from uws.audit import archive, check_pruning, check_signature, erase_job, prune, sign_head
from uws.config import AuditSettings, load
from uws.files import Files
from uws.model import UsageError
from uws.model.units import format_size, format_time, parse_time

from .common import FAILED, err, out, reported

audit = typer.Typer(
    help="Verify the log, sign it, erase from it, archive it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The declaration, in TOML.")]
Data = Annotated[Path | None, typer.Option(help="The data directory, if not the declaration's.")]
Reason = Annotated[str, typer.Option(help="Why; it goes on record.")]
Key = Annotated[
    str | None, typer.Option(metavar="VKEY", help="The verifier key, if not that of the data directory.")
]
_CONFIG = Path("uwsd.toml")


class Place(msgspec.Struct, frozen=True):
    """Where the log is, and how it is signed. ``origin`` is None when no declaration tells it."""

    data: Path
    settings: AuditSettings
    origin: str | None

    @property
    def log(self) -> Path:
        return self.data / "events.db"

    @property
    def key(self) -> Path:
        return self.data / self.settings.key

    def signing_key(self) -> SigningKey:
        return SigningKey.load_or_create(self.key, self.origin) if self.origin else SigningKey.load(self.key)

    def verifier_key(self) -> VerifierKey:
        return SigningKey.load(self.key, self.origin).verifier


@audit.command()
def verify(
    archived: Annotated[
        Path | None, typer.Argument(metavar="[ARCHIVE]", help="Verify this archive, not the log.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Show that what this checkpoint saw is still there.")
    ] = None,
    key: Key = None,
    config: Config = _CONFIG,
    data: Data = None,
) -> None:
    """Recompute the hash chain of the log or of an archive; exit 1 at the first fault."""
    with reported():
        known = VerifierKey.parse(key) if key else None
        place = None
        if archived is None or (checkpoint and known is None):  # an archive may be all there is
            place = _place(config, data)
            if known is None and (checkpoint or place.key.exists()):
                known = place.verifier_key()
        seen = [(path, open_checkpoint(path.read_bytes(), known)) for path in checkpoint or [] if known]
        if archived:
            _verify_archive(archived, known, seen)
        elif place:
            asyncio.run(_verify_log(place, known, seen))


async def _verify_log(
    place: Place, key: VerifierKey | None, seen: list[tuple[Path, Checkpoint]]
) -> None:  # fmt: skip
    async with _reading(place) as log:
        head = await log.head()
        with _progress("verifying", head.position) as progress, _faults(CheckpointError):
            began = time.perf_counter()
            verified = await log.verify(contains=[c.head for _, c in seen], progress=progress)
            seconds = time.perf_counter() - began
            if key:
                check_pruning(verified, key)
    out.print(f"{verified.events} events verified, {verified.events / seconds:,.0f} a second", soft_wrap=True)
    if verified.erased or verified.pruned:
        out.print(f"{verified.erased} erased and {verified.pruned} pruned, as is on record")
    if verified.pruning and key is None:
        out.print("that it was the server that pruned was not checked: give --key", soft_wrap=True)
    _print_head(verified.head)
    _print_seen(seen)


def _verify_archive(path: Path, key: VerifierKey | None, seen: list[tuple[Path, Checkpoint]]) -> None:
    with _progress("verifying", None) as progress, _faults(ArchiveError, CheckpointError):
        contents = verify_archive(path, contains=[c.head for _, c in seen], progress=progress)
        if key:
            seen = [(path, check_signature(contents, key)), *seen]
    _print_contents(contents)
    if key is None:
        out.print("that it was the server that wrote it was not checked: give --key", soft_wrap=True)
    _print_seen(seen)


@audit.command("checkpoint")
def checkpoint_(config: Config = _CONFIG, data: Data = None) -> None:
    """Print a signed checkpoint of the log: its head, hash and time. Keep it elsewhere."""
    with reported():
        sys.stdout.write(asyncio.run(_checkpoint(_place(config, data))))


async def _checkpoint(place: Place) -> str:
    async with _reading(place) as log:
        return sign_head(place.signing_key(), await log.head(), datetime.now(UTC))


@audit.command()
def key(config: Config = _CONFIG, data: Data = None) -> None:
    """Print the verifier key, with which anybody can check checkpoints."""
    with reported():
        out.print(str(_place(config, data).verifier_key()), soft_wrap=True)


@audit.command()
def erase(
    job: Annotated[str, typer.Argument(help="The id of a destroyed job.")],
    reason: Reason,
    config: Config = _CONFIG,
    data: Data = None,
) -> None:
    """Take what a destroyed job held out of the log and the read models; the chain stays whole.

    The server must be stopped.
    """
    with reported():
        if not reason.strip() or not reason.isprintable():
            raise UsageError(f"--reason: expected a line of text, got {reason!r}")
        asyncio.run(_erase(_place(config, data), job, reason))
    out.print(f"job {job} is erased: its owner and parameters are in no file of the server", soft_wrap=True)


async def _erase(place: Place, job_id: str, reason: str) -> None:
    async with _writing(place) as store, _read_models(place, store) as projector:
        files, who = Files(place.data), _who("uwsd audit erase")
        await erase_job(store, projector, files, job_id, reason=reason, metadata=who)


@audit.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive, a new file.")],
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to this UTC time.")] = None,
    pruning: Annotated[
        bool, typer.Option("--prune", help="Then do what `uwsd audit prune FILE` does.")
    ] = False,
    config: Config = _CONFIG,
    data: Data = None,
) -> None:
    """Write the log, from where it was pruned last, into a compressed archive that can be verified alone."""
    with reported():
        place = _place(config, data)
        try:
            latest = parse_time(until) if until is not None else None
        except ValueError as error:
            raise UsageError(f"--until: {error}") from None
        asyncio.run(_export(place, output, latest, pruning))


async def _export(place: Place, path: Path, until: datetime | None, pruning: bool) -> None:
    # Whether it can be pruned is found out before anything is written.
    async with _writing(place) if pruning else _reading(place) as log:
        head = await log.head()
        with _progress("archiving", head.position) as progress, _faults():
            contents = await archive(
                log, path, place.signing_key(), datetime.now(UTC), until=until, progress=progress
            )
        _print_contents(contents)
        out.print(f"{path}: {format_size(path.stat().st_size)}", soft_wrap=True)
        if isinstance(log, SQLiteEventStore):
            await _prune(place, log, path)


@audit.command("prune")
def prune_(
    archived: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="What `uwsd audit export` has written.")
    ],
    config: Config = _CONFIG,
    data: Data = None,
) -> None:
    """Take out of the log what is in an archive of destroyed jobs; the chain stays whole.

    The server must be stopped.
    """
    with reported():
        asyncio.run(_prune_alone(_place(config, data), archived))


async def _prune_alone(place: Place, path: Path) -> None:
    async with _writing(place) as store:
        await _prune(place, store, path)


async def _prune(place: Place, store: SQLiteEventStore, path: Path) -> None:
    before = place.log.stat().st_size
    try:
        with _progress("verifying", None) as progress, _faults(ArchiveError, CheckpointError):
            who = _who("uwsd audit prune")
            await prune(store, path, place.verifier_key(), metadata=who, progress=progress)
        async with _read_models(place, store) as projector:  # which forget what the log forgot
            await projector.caught_up(timeout=3600)
            await projector.scrub()
    except StoreUnavailable as error:
        raise UsageError(f"{error}; repeat it with: uwsd audit prune {path}") from error
    out.print(f"pruned: the log had {format_size(before)} and has {format_size(place.log.stat().st_size)}")


def _place(config: Path, data: Path | None) -> Place:
    """Find out where the log is. A data directory alone will do."""
    if config == _CONFIG and not config.exists():
        if data is not None:
            return Place(data, AuditSettings(), None)
        raise UsageError(
            f"{config}: there is no such file; name the declaration with --config, "
            "or the data directory with --data"
        )
    settings = load(config)
    return Place(data or settings.data, settings.audit, settings.audit.origin)


@asynccontextmanager
async def _reading(place: Place) -> AsyncIterator[SQLiteEventLog]:
    log = await SQLiteEventLog.read(place.log)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def _writing(place: Place) -> AsyncIterator[SQLiteEventStore]:
    await (await SQLiteEventLog.read(place.log)).close()  # a log that is there, and is one
    store = await SQLiteEventStore.open(place.log)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _read_models(place: Place, store: SQLiteEventStore) -> AsyncIterator[Projector]:
    projector = await Projector.open(place.data / "projections.db", store, [JobTables()])
    try:
        yield projector
    finally:
        await projector.close()


def _who(command: str) -> Metadata:
    return Metadata(actor=getpass.getuser(), client=command)


@contextmanager
def _progress(doing: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; give what moves it on."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _faults(*kinds: type[Exception]) -> Iterator[None]:
    """Print what does not hold, and end with status 1."""
    faults: tuple[type[Exception], ...] = (ChainBroken, *kinds)
    try:
        yield
    except faults as error:
        err.print(str(error), style="red", soft_wrap=True)
        raise typer.Exit(FAILED) from None


def _print_contents(contents: Contents) -> None:
    first = contents.after.position + 1
    out.print(f"{contents.events} events, positions {first} to {contents.head.position}")
    if contents.erased:
        out.print(
            f"{contents.erased} erased"
            + (f", {contents.unrecorded} of them later than the archive's end" if contents.unrecorded else "")
        )
    _print_head(contents.head)


def _print_head(head: Head) -> None:
    out.print(f"head {head.position} {head.hash.hex()}", soft_wrap=True)


def _print_seen(seen: list[tuple[Path, Checkpoint]]) -> None:
    for path, checkpoint in seen:
        out.print(
            f"{path}: what {checkpoint.origin} had at position {checkpoint.head.position} "
            f"on {format_time(checkpoint.time)} is there",
            soft_wrap=True,
        )
