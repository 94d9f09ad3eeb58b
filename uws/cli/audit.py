"""``uwsd audit``: verify the log, sign it, erase from it, archive it."""

from __future__ import annotations

import asyncio
import getpass
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eventstore import ChainBroken, Head, Metadata, SQLiteEventLog, SQLiteEventStore
from eventstore.archive import Contents, verify_archive
from eventstore.checkpoint import Checkpoint, SigningKey, VerifierKey, open_checkpoint
from projections import JobTables, Projector
from uws.audit import archive, erase_job, prune, sign_head
from uws.config import AuditSettings, load
from uws.files import Files
from uws.model import DeclarationError
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
    """Where the log is, and how it is signed."""

    data: Path
    settings: AuditSettings

    @property
    def log(self) -> Path:
        return self.data / "events.db"

    @property
    def key(self) -> Path:
        return self.data / self.settings.key

    def signing_key(self) -> SigningKey:
        return SigningKey.load_or_create(self.key, self.settings.origin)

    def verifier_key(self) -> VerifierKey:
        return SigningKey.load(self.key, self.settings.origin).verifier


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
        if archived:
            # It can be on a machine that has nothing but the archive.
            verifier = _verifier(key, config, data) if checkpoint or key else None
            _verify_archive(archived, verifier, _opened(checkpoint, verifier))
        else:
            verifier = _verifier(key, config, data) if checkpoint else None
            _run(_verify_log(_place(config, data), _opened(checkpoint, verifier)))


def _opened(paths: list[Path] | None, key: VerifierKey | None) -> list[tuple[Path, Checkpoint]]:
    return [(path, open_checkpoint(path.read_bytes(), key)) for path in paths or [] if key]


async def _verify_log(place: Place, seen: list[tuple[Path, Checkpoint]]) -> None:
    log = await SQLiteEventLog.read(place.log)
    try:
        head = await log.head()
        with _progress("verifying", head.position) as progress, _broken():
            began = time.perf_counter()
            verified = await log.verify(contains=[c.head for _, c in seen], progress=progress)
        seconds = time.perf_counter() - began
    finally:
        await log.close()
    out.print(f"{verified.events} events verified, {verified.events / seconds:,.0f} a second", soft_wrap=True)
    if verified.erased or verified.pruned:
        out.print(f"{verified.erased} erased and {verified.pruned} pruned, as is on record")
    _print_head(verified.head)
    _print_seen(seen)


def _verify_archive(path: Path, key: VerifierKey | None, seen: list[tuple[Path, Checkpoint]]) -> None:
    with _progress("verifying", None) as progress, _broken():
        contents = verify_archive(path, progress)
        if key and contents.checkpoint:
            seen = [(path, open_checkpoint(contents.checkpoint, key)), *seen]
        for _, checkpoint in seen:
            if checkpoint.head != contents.head:
                raise ChainBroken(
                    contents.head.position,
                    f"the archive ends here, but not with what the checkpoint saw at position "
                    f"{checkpoint.head.position}",
                )
    _print_contents(contents)
    if key is None and contents.checkpoint:
        out.print("its checkpoint was not checked: give the verifier key with --key", soft_wrap=True)
    _print_seen(seen)


@audit.command("checkpoint")
def checkpoint_(config: Config = _CONFIG, data: Data = None) -> None:
    """Print a signed checkpoint of the log: its head, hash and time. Keep it elsewhere."""
    with reported():
        place = _place(config, data)
        sys.stdout.write(_run(_checkpoint(place)))


async def _checkpoint(place: Place) -> str:
    log = await SQLiteEventLog.read(place.log)
    try:
        return sign_head(place.signing_key(), await log.head(), datetime.now(UTC))
    finally:
        await log.close()


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
        _run(_erase(_place(config, data), job, reason))
    out.print(f"job {job} is erased: its owner and parameters are in no file of the server", soft_wrap=True)


async def _erase(place: Place, job_id: str, reason: str) -> None:
    async with _writing(place) as store:
        projector = await Projector.open(place.data / "projections.db", store, [JobTables()])
        try:
            await erase_job(
                store, projector, Files(place.data), job_id, reason=reason, metadata=_who("uwsd audit erase")
            )
        finally:
            await projector.close()


@audit.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive, a new file.")],
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to this UTC time.")] = None,
    pruning: Annotated[
        bool,
        typer.Option("--prune", help="Then take destroyed jobs out of the log. The server must be stopped."),
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
            raise DeclarationError([f"--until: {error}"]) from None
        _run(_export(place, output, latest, pruning))


async def _export(place: Place, path: Path, until: datetime | None, pruning: bool) -> None:
    async with _writing(place) if pruning else _reading(place) as log:
        head = await log.head()
        with _progress("archiving", head.position) as progress, _broken():
            contents = await archive(
                log, path, place.signing_key(), datetime.now(UTC), until=until, progress=progress
            )
        _print_contents(contents)
        out.print(f"{path}: {format_size(path.stat().st_size)}", soft_wrap=True)
        if isinstance(log, SQLiteEventStore):
            before = place.log.stat().st_size
            with _progress("verifying", contents.events) as progress, _broken():
                await prune(log, path, metadata=_who("uwsd audit export --prune"), progress=progress)
            out.print(
                f"pruned: the log had {format_size(before)} and has {format_size(place.log.stat().st_size)}"
            )


def _verifier(key: str | None, config: Path, data: Path | None) -> VerifierKey:
    return VerifierKey.parse(key) if key else _place(config, data).verifier_key()


def _place(config: Path, data: Path | None) -> Place:
    """Find out where the log is. A data directory alone will do."""
    if data is not None and config == _CONFIG and not config.exists():
        return Place(data, AuditSettings())
    settings = load(config)
    return Place(data or settings.data, settings.audit)


@asynccontextmanager
async def _reading(place: Place) -> AsyncIterator[SQLiteEventLog]:
    log = await SQLiteEventLog.read(place.log)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def _writing(place: Place) -> AsyncIterator[SQLiteEventStore]:
    if not place.log.is_file():
        raise DeclarationError([f"{place.log}: there is no log"])
    store = await SQLiteEventStore.open(place.log)
    try:
        yield store
    finally:
        await store.close()


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


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
def _broken() -> Iterator[None]:
    """Print where the chain is broken, and end with status 1."""
    try:
        yield
    except ChainBroken as error:
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
