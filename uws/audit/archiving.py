"""Archives of the log, and pruning what is in one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from eventstore import Erased, EventStore, Metadata
from eventstore.archive import Contents, Readable, verify_archive, write_archive
from eventstore.checkpoint import SigningKey
from uws.audit.checkpoints import sign_head
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
        log, path, until=until, checkpoint=lambda head: sign_head(key, head, now), progress=progress
    )


async def prune(
    store: EventStore, path: Path, *, metadata: Metadata, progress: Callable[[int], None] = lambda count: None
) -> Contents:
    """Take out of the log what is in the archive at ``path`` of jobs that are destroyed; all others stay.

    The archive is read back from the disk and verified first, and held against the log. Raises
    `eventstore.ChainBroken`, `eventstore.archive.ArchiveError`.
    """
    contents = await asyncio.to_thread(verify_archive, path, progress)
    await store.verify(contains=[contents.head])
    await store.prune(
        contents.head.position,
        ended_by=ENDED_BY,
        reason=f"archived in {path.name}",
        checkpoint=contents.checkpoint,
        metadata=metadata,
    )
    return contents
