"""Archives of the log, and pruning what is in one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from eventstore import ChainBroken, Erased, EventLog, EventStore, Head, Metadata, Verified
from eventstore.archive import Contents, beginning, verify_archive, write_archive
from eventstore.archive import withhold as withhold_archive
from eventstore.checkpoint import Checkpoint, SigningKey, VerifierKey, open_checkpoint
from uws.audit.checkpoints import sign_head
from uws.model import UsageError
from uws.model.events import JobDestroyed

ENDED_BY = (JobDestroyed.__name__, Erased.type)
"""The types of events that end a job's stream for good."""
_PAGE = 2000


async def archive(
    log: EventLog,
    path: Path,
    key: SigningKey,
    now: datetime,
    *,
    until: datetime | None,
    after: Head | None = None,
    withheld: Callable[[str], bool] = lambda stream: False,
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Write the log, from where it was pruned last to ``until``, into a new file with a signed checkpoint.

    It begins behind ``after`` instead where that is given; streams that are ``withheld`` are in it as if
    they were erased. Raises what `eventstore.archive.write_archive` does.
    """
    return await write_archive(
        log,
        path,
        after=after,
        until=until,
        withheld=withheld,
        sign=lambda head, extension: sign_head(key, head, now, extension),
        progress=progress,
    )


async def withhold(
    path: Path, key: SigningKey, now: datetime, withheld: Callable[[str], bool]
) -> Contents:  # fmt: skip
    """Write an archive anew, in which streams that are ``withheld`` are as if they were erased.

    Raises what `eventstore.archive.withhold` does, and `eventstore.checkpoint.CheckpointError`.
    """
    await verified(path, key.verifier)
    return await asyncio.to_thread(
        withhold_archive, path, withheld, lambda head, extension: sign_head(key, head, now, extension)
    )


async def prune(
    store: EventStore,
    path: Path,
    key: VerifierKey,
    *,
    metadata: Metadata,
    before: Sequence[Path] = (),
    reason: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Take out of the log what is in the archive at ``path`` of jobs that are destroyed; all others stay.

    The archive is read back from the disk and verified first, with its signature, and held against the log;
    so are those ``before`` it, which lead up to it from where the log was pruned last. Interrupted, it can
    be repeated. Raises `eventstore.ChainBroken`, `eventstore.archive.ArchiveError`,
    `eventstore.checkpoint.CheckpointError`; `UsageError` when the archives do not begin where the log does,
    or one lacks what a destroyed job holds that is not erased.
    """
    reached = (await beginning(store)).position
    heads, lacking = [], ""
    for each in (*before, path):
        contents = await verified(each, key, progress)
        if contents.after.position > reached:
            raise UsageError(
                f"{each} begins after position {contents.after.position}: the log has events since position "
                f"{reached} that are not in it"
            )
        reached = contents.head.position
        if contents.unrecorded:
            lacking = str(each)
        heads.append(contents.head)
    await store.verify(contains=heads)
    if lacking and (stream := await _holding(store, reached)):
        raise UsageError(
            f"{lacking} lacks what jobs held, which {stream} holds still: it would be lost; erase it first, "
            "or export the log anew"
        )
    try:
        await store.prune(
            contents.head.position,
            ended_by=ENDED_BY,
            reason=reason or f"archived in {path.name}",
            checkpoint=contents.checkpoint,
            metadata=metadata,
        )
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    return contents


async def _holding(store: EventStore, through: int) -> str | None:
    """Return the stream of a job that was destroyed up to a position and is not erased."""
    position = 0
    while page := await store.read_all(after=position, limit=_PAGE):
        position = page[-1].position
        for event in page:
            if event.position <= through and event.type == JobDestroyed.__name__ and not event.erased:
                return event.stream
        if position >= through:
            break
    return None


async def verified(
    path: Path, key: VerifierKey, progress: Callable[[int], None] = lambda count: None
) -> Contents:
    """Read an archive back from the disk, and verify it with its signature.

    Raises `eventstore.ChainBroken`, `eventstore.archive.ArchiveError`,
    `eventstore.checkpoint.CheckpointError`, `OSError`.
    """
    over = threading.Event()

    def report(count: int) -> None:
        if over.is_set():
            raise RuntimeError(f"nobody waits for {path} to be verified any more")
        progress(count)

    try:
        contents = await asyncio.to_thread(lambda: verify_archive(path, progress=report))
    finally:
        over.set()
    check_signature(contents, key)
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
