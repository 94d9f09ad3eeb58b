"""``uwsd audit``: verify the log, sign it, erase from it, archive it."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from eventstore import Head
from eventstore.archive import ArchiveError, Contents, verify_archive
from eventstore.checkpoint import Checkpoint, CheckpointError, VerifierKey, open_checkpoint
from uws.admin import EraseJob, PruneLog, counting
from uws.audit import archive, check_pruning, check_signature, sign_head
from uws.config import Settings
from uws.model import UsageError
from uws.model.units import format_size

from .common import (
    CONFIG,
    Config,
    Data,
    carried_out,
    faults,
    is_given,
    print_seen,
    reading,
    reported,
    settings_of,
    time_of,
)
from .histories import Results, Through, export_history, looks_like_history, verify_history_file
from .naming import job_ids
from .output import bar, out, print_warning, warn_of_unsigned

audit: typer.Typer = typer.Typer(
    help="Verify the log, sign it, erase from it, archive it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_OF_SEVERAL = (
    "in no row of the log and no file of this node; other nodes take them out of their files in some ten "
    "seconds, and those that are not there before they serve again; the database's files and its write-ahead "
    "log keep them until they are overwritten, its backups for as long as there are any"
)
"""Where nothing is any more of what was erased, and where it still is, when the log is in a database."""
Reason = Annotated[str, typer.Option(help="Why; it goes on record.")]
Key = Annotated[
    str | None, typer.Option(metavar="VKEY", help="The verifier key, if not that of the data directory.")
]


@audit.command()
def verify(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Verify this archive or history, not the log.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Show that what this checkpoint saw is still there.")
    ] = None,
    key: Key = None,
    results: Results = None,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Recompute the hash chain of the log, of an archive or of a history; exit 1 at the first fault.

    A history is held against the log, too, where --data or --config says which.
    """
    with reported():
        known = VerifierKey.parse(key) if key else None
        settings = None
        is_history = file is not None and looks_like_history(file)
        if results and not is_history:
            raise UsageError("--results: only a history says of which job; give its file, too")
        beside = is_history and bool(data or is_given(context, "config"))
        if file is None or beside or (checkpoint and known is None):  # a file may be all there is
            settings = settings_of(config, data)
            if known is None and (checkpoint or settings.key.exists()):
                known = settings.verifier_key()
        seen = [(path, open_checkpoint(path.read_bytes(), known)) for path in checkpoint or [] if known]
        if file and is_history:
            verify_history_file(file, known, seen, results, settings if beside else None)
        elif file:
            _verify_archive(file, known, seen)
        elif settings:
            asyncio.run(_verify_log(settings, known, seen))


async def _verify_log(
    settings: Settings, key: VerifierKey | None, seen: list[tuple[Path, Checkpoint]]
) -> None:  # fmt: skip
    async with reading(settings) as log:
        head = await log.head()
        with bar("verifying", head.position) as report, faults(CheckpointError):
            progress = counting(report, head.position)
            began = time.perf_counter()
            verified = await log.verify(contains=[c.head for _, c in seen], progress=progress)
            seconds = time.perf_counter() - began
            if key:
                check_pruning(verified, key)
    out.print(f"{verified.events} events verified, {verified.events / seconds:,.0f} a second", soft_wrap=True)
    if verified.erased or verified.pruned:
        out.print(f"{verified.erased} erased and {verified.pruned} pruned, as is on record")
    if verified.pruning and key is None:
        print_warning("that it was the server that pruned was not checked: give --key")
    _print_head(verified.head)
    print_seen(seen)


def _verify_archive(path: Path, key: VerifierKey | None, seen: list[tuple[Path, Checkpoint]]) -> None:
    with bar("verifying") as report, faults(ArchiveError, CheckpointError):
        progress = counting(report)
        contents = verify_archive(path, contains=[c.head for _, c in seen], progress=progress)
        if key:
            seen = [(path, check_signature(contents, key)), *seen]
    _print_contents(contents)
    print_seen(seen)
    if key is None:
        warn_of_unsigned(path)


@audit.command("checkpoint")
def checkpoint_(config: Config = CONFIG, data: Data = None) -> None:
    """Print a signed checkpoint of the log: its head, hash and time. Keep it elsewhere."""
    with reported():
        sys.stdout.write(asyncio.run(_checkpoint(settings_of(config, data))))


async def _checkpoint(settings: Settings) -> str:
    async with reading(settings) as log:
        return sign_head(settings.signing_key(), await log.head(), datetime.now(UTC))


@audit.command()
def key(config: Config = CONFIG, data: Data = None) -> None:
    """Print the verifier key, with which anybody can check checkpoints."""
    with reported():
        out.print(str(settings_of(config, data).verifier_key()), soft_wrap=True)


@audit.command()
def erase(
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", help="The id of a destroyed job.", autocompletion=job_ids),
    ],
    reason: Reason,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Take what a destroyed job held out of the log and the read models; the chain stays whole."""
    with reported():
        settings = settings_of(config, data)
        carried_out(settings, EraseJob(job, reason), "erasing")
    where = _OF_SEVERAL if settings.store.url else "in no file of the server"
    out.print(f"job {job} is erased: its owner and parameters are {where}", soft_wrap=True)


@audit.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A new file.")],
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="Write the histories of these jobs.", autocompletion=job_ids),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Archive up to this UTC time.")] = None,
    pruning: Annotated[
        bool, typer.Option("--prune", help="Then do what `uwsd audit prune FILE` does.")
    ] = False,
    through: Through = None,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Write the log, from where it was pruned last, or the histories of jobs into a file that verifies alone.

    Without JOB it is a compressed archive. With JOB it is a ZIP file for whoever asks what happened to these.
    """
    with reported():
        if jobs:
            for option, given in (("--until", until is not None), ("--prune", pruning)):
                if given:
                    raise UsageError(
                        f"{option}: goes with the archive of the log, not with histories of jobs"
                    )
            export_history(settings_of(config, data), jobs, output, through)
            return
        if through:
            raise UsageError("--through: goes with histories of jobs; say which jobs")
        settings = settings_of(config, data)
        latest = None if until is None else time_of("--until", until)
        asyncio.run(_export(settings, output, latest))
        if pruning:
            _prune(settings, output)


async def _export(settings: Settings, path: Path, until: datetime | None) -> None:
    async with reading(settings) as log:
        head = await log.head()
        with bar("archiving", head.position) as report, faults():
            progress = counting(report, head.position)
            contents = await archive(
                log, path, settings.signing_key(), datetime.now(UTC), until=until, progress=progress
            )
        _print_contents(contents)
        out.print(f"{path}: {format_size(path.stat().st_size)}", soft_wrap=True)


@audit.command("prune")
def prune_(
    archived: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="What `uwsd audit export` has written.")
    ],
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Take out of the log what is in an archive of destroyed jobs; the chain stays whole."""
    with reported():
        _prune(settings_of(config, data), archived)


def _prune(settings: Settings, path: Path) -> None:
    pruned = carried_out(settings, PruneLog(str(path.absolute())), "verifying")
    out.print(f"pruned: the log had {format_size(pruned.before)} and has {format_size(pruned.after)}")


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
