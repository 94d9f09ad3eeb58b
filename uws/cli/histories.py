"""``uwsd audit export JOB`` and ``uwsd audit verify`` of what it writes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from eventstore.checkpoint import Checkpoint, CheckpointError, VerifierKey
from eventstore.excerpt import check_held
from uws.admin import DoesNotHold, counting
from uws.audit.proof import (
    History,
    HistoryError,
    JobHistory,
    Proven,
    Step,
    compare_results,
    export_histories,
    verify_history,
    visible,
)
from uws.config import Settings
from uws.model import UsageError
from uws.model.units import format_size, format_time

from .common import faults, print_seen, reading
from .output import bar, out, warn_of_unsigned

Through = Annotated[
    Path | None,
    typer.Option(metavar="CHECKPOINT", help="Show that no history was changed since this checkpoint."),
]
Results = Annotated[
    Path | None,
    typer.Option(metavar="DIRECTORY", help="Compare the result files in it with what a history says."),
]
_ZIP = b"PK"


def looks_like_history(path: Path) -> bool:
    """Whether a file is a ZIP, which archives are not. Raises `OSError`."""
    if not path.is_file():  # a pipe can be read only once
        return False
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def export_history(settings: Settings, jobs: list[str], output: Path, through: Path | None) -> None:
    """Write the histories of jobs into a new file. Raises what `reported` knows."""
    note = "" if through is None else _text(through)
    proven = asyncio.run(_export(settings, jobs, output, note))
    _print_proven(proven)
    out.print(f"{output}: {format_size(output.stat().st_size)}", soft_wrap=True)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise UsageError(f"--through: {path} is no checkpoint, which is text") from None


async def _export(settings: Settings, jobs: list[str], output: Path, through: str) -> Proven:
    async with reading(settings) as log:
        head = await log.head()
        with bar("verifying", head.position) as report, faults():
            return await export_histories(
                log,
                output,
                jobs,
                settings.signing_key(),
                datetime.now(UTC),
                through=through,
                progress=counting(report, head.position),
            )


def verify_history_file(
    path: Path,
    key: VerifierKey | None,
    seen: list[tuple[Path, Checkpoint]],
    results: Path | None,
    settings: Settings | None,
) -> None:
    """Verify a history and say what it shows; hold it against files and the log where these are given."""
    with faults(HistoryError, CheckpointError):
        proven = verify_history(path, key, contains=[checkpoint.head for _, checkpoint in seen])
        if settings:
            asyncio.run(_hold_against(settings, proven.history))
    for job in proven.history.jobs.values():
        _print_job(proven.history, job)
    _print_proven(proven)
    print_seen(seen)
    if settings:
        out.print(f"the log in {settings.data} holds all of it", soft_wrap=True)
    if results:
        _compare(proven.history, results)
    if not proven.signed:
        warn_of_unsigned(path)


async def _hold_against(settings: Settings, history: History) -> None:
    async with reading(settings) as log:
        with bar("verifying", (await log.head()).position) as report:
            await log.verify(progress=counting(report, (await log.head()).position))
        await check_held(log, history.ends)


def _print(label: str, text: str) -> None:
    out.print(f"  {label:<10}{visible(text)}", soft_wrap=True)


def _print_step(label: str, step: Step | None) -> None:
    if step:
        _print(label, f"{format_time(step.time)} by {step.by}: {step.says}")


def _print_job(history: History, told: JobHistory) -> None:
    """Say in short what happened to a job."""
    out.print(f"job {told.id}: {visible(told.says)}", soft_wrap=True)
    job = told.job
    if job is None or not job.service:
        _print_step("erased", told.emptied)
        return
    _print("service", job.service)
    _print("owner", job.owner or "nobody in particular")
    _print("created", format_time(job.created))
    if told.recorded:
        when, by = format_time(told.recorded.time), told.recorded.by
        _print("imported", f"{when} by {by} from {told.source}, which has the times")
    try:
        _print("command", history.command_of(told))
    except ValueError as error:
        _print("command", f"cannot be told: {error}")
    if told.started:
        _print("started", format_time(told.started.time))
    elif told.ended:
        _print("started", "never")
    for step in told.stopped:
        _print_step("stopped", step)
    _print_step("ended", told.ended)
    _print_step("destroyed", told.destroyed)
    for result in told.results:
        _print("result", f"{result.id}, {result.path}, {result.size} B, SHA-256 {result.sha256}")


def _print_proven(proven: Proven) -> None:
    """Say what was shown, under which key, and what was not."""
    history, checkpoint = proven.history, proven.checkpoint
    count = len(history.jobs)
    envelopes = f", {history.envelopes} envelopes of others" if history.envelopes else ""
    out.print(f"{history.events} events verified, of {count} job{'s' * (count != 1)}{envelopes}")
    if erased := sum(job.erased for job in history.jobs.values()):
        out.print(f"{erased} erased, as is on record")
    if proven.through:
        when = format_time(proven.through.time)
        out.print(
            f"up to position {proven.through.head.position} as it was at the checkpoint of {when}",
            soft_wrap=True,
        )
    head = checkpoint.head
    out.print(f"signed as of position {head.position} {head.hash.hex()}", soft_wrap=True)
    out.print(f"on {format_time(checkpoint.time)} by {checkpoint.origin}", soft_wrap=True)


def _compare(history: History, directory: Path) -> None:
    """Say which results are as they were recorded. Raises `DoesNotHold` when any is not."""
    if not any(job.results for job in history.jobs.values()):
        out.print("no results are on record")
    altered = []
    for compared in compare_results(history, directory):
        where = f"result {compared.result.id} of job {compared.job}, {compared.path}"
        if compared.fault:
            altered.append(visible(f"{where}: {compared.fault}"))
        else:
            out.print(visible(f"{where}: as it was recorded"), soft_wrap=True)
    if altered:
        raise DoesNotHold("\n".join(altered))
