"""Where the chain of the log ends, and what the last checkpoint beside it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from eventstore import EventStore
from eventstore.checkpoint import Checkpoint, CheckpointError, SigningKey, open_checkpoint
from uws.model.units import format_time


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint: the signed note as it is, and what of the log was ``found`` at its position."""

    origin: str
    position: int
    hash: str
    time: str
    found: str
    note: str


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The head of the log, and its last checkpoint; ``missing`` says why there is none."""

    position: int
    hash: str
    checkpoint: Signed | None = None
    missing: str | None = None


HOLDS = "as signed"
"""What is found where the log has, at a checkpoint's position, the hash that was signed."""


async def chain_of(store: EventStore, key: Path, checkpoints: Path) -> Chain:
    """Tell how far the chain goes, and hold the last checkpoint in a directory against it.

    That is the hash at its position alone: whether the chain leads there is for `EventStore.verify` to say.
    Raises `eventstore.EventStoreError`.
    """
    head = await store.head()
    try:
        note, checkpoint = await asyncio.to_thread(_last, key, checkpoints)
    except (CheckpointError, OSError) as error:
        return Chain(position=head.position, hash=head.hash.hex(), missing=_reason(error))
    return Chain(
        position=head.position,
        hash=head.hash.hex(),
        checkpoint=Signed(
            origin=checkpoint.origin,
            position=checkpoint.head.position,
            hash=checkpoint.head.hash.hex(),
            time=format_time(checkpoint.time),
            found=await _found(store, checkpoint),
            note=note,
        ),
    )


def _last(key: Path, checkpoints: Path) -> tuple[str, Checkpoint]:
    written = sorted(path for path in checkpoints.iterdir() if path.name[:16].isdecimal())
    if not written:
        raise FileNotFoundError
    note = written[-1].read_text()
    return note, open_checkpoint(note, SigningKey.load(key).verifier)


def _reason(error: CheckpointError | OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is none yet"
    return str(error) if isinstance(error, CheckpointError) else error.strerror or "it cannot be read"


async def _found(store: EventStore, checkpoint: Checkpoint) -> str:
    position = checkpoint.head.position
    if not position:
        return HOLDS
    there = await store.read_all(after=position - 1, limit=1)
    if there and there[0].position == position:
        return HOLDS if there[0].hash == checkpoint.head.hash else "another hash than the one that was signed"
    return "pruned since" if there else "nothing: the log was cut off before it"
