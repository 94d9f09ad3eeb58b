"""Archives of the log, and pruning what is in one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from eventstore import ChainBroken, Erased, EventStore, Head, Metadata, Verified
from eventstore.archive import Contents, Readable, beginning, verify_archive, write_archive
from eventstore.checkpoint import Checkpoint, SigningKey, VerifierKey, open_checkpoint
from uws.audit.checkpoints import sign_head
from uws.model import UsageError
from uws.model.events import JobDestroyed

ENDED_BY = (JobDestroyed.__name__, Erased.type)
"""The types of events that end a job's stream for good."""


async def archive(
    log: Readable,
    path: Path,
    key: SigningKey,
    now: datetime,
    *,
    until: datetime | None,
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Write the log, from where it was pruned last to ``until``, into a new file with a signed checkpoint.

    Raises what `eventstore.archive.write_archive` does.
    """
    return await write_archive(
        log,
        path,
        until=until,
        sign=lambda head, extension: sign_head(key, head, now, extension),
        progress=progress,
    )


async def prune(
    store: EventStore,
    path: Path,
    key: VerifierKey,
    *,
    metadata: Metadata,
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Take out of the log what is in the archive at ``path`` of jobs that are destroyed; all others stay.

    The archive is read back from the disk and verified first, with its signature, and held against the log.
    Interrupted, it can be repeated. Raises `eventstore.ChainBroken`, `eventstore.archive.ArchiveError`,
    `eventstore.checkpoint.CheckpointError`; `UsageError` when the archive does not begin where the log does.
    """
    contents = await asyncio.to_thread(lambda: verify_archive(path, progress=progress))
    check_signature(contents, key)
    begins = await beginning(store)
    if contents.after.position > begins.position:
        raise UsageError(
            f"{path} begins after position {contents.after.position}: the log has events since position "
            f"{begins.position} that are not in it"
        )
    await store.verify(contains=[contents.head])
    try:
        await store.prune(
            contents.head.position,
            ended_by=ENDED_BY,
            reason=f"archived in {path.name}",
            checkpoint=contents.checkpoint,
            metadata=metadata,
        )
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    return contents


def check_signature(contents: Contents, key: VerifierKey) -> Checkpoint:
    """Return the checkpoint of an archive, which signs all of it. Raises `ChainBroken`, `CheckpointError`."""
    if not contents.checkpoint:
        raise ChainBroken(contents.head.position, "the archive ends here without a signed checkpoint")
    checkpoint = open_checkpoint(contents.checkpoint, key)
    if checkpoint.head != contents.head or contents.extension not in checkpoint.extensions:
        raise ChainBroken(contents.head.position, "the archive ends here, but is not the one that was signed")
    return checkpoint


def check_pruning(verified: Verified, key: VerifierKey) -> None:
    """Show that a log was pruned by whoever has its key. Raises `ChainBroken`, `CheckpointError`."""
    if (pruning := verified.pruning) is None:
        return
    seen = Head(pruning.through, bytes.fromhex(pruning.hash))
    if not pruning.checkpoint or open_checkpoint(pruning.checkpoint, key).head != seen:
        raise ChainBroken(pruning.through, "pruned up to here without a signed checkpoint that says so")
