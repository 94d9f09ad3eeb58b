"""An append-only, hash-chained event log for asyncio. It knows nothing of what its events mean."""

from ._chain import chain_hash, payload_digest
from ._errors import (
    ChainBroken,
    DuplicateEventId,
    EventStoreError,
    Overloaded,
    StoreClosed,
    StoreLocked,
    StoreUnavailable,
    VersionConflict,
)
from ._types import (
    EventStore,
    Head,
    Metadata,
    NewEvent,
    RecordedEvent,
    from_microseconds,
    new_id,
    to_microseconds,
)
from .memory import MemoryEventStore
from .sqlite import SQLiteEventStore

__all__ = [
    "ChainBroken",
    "DuplicateEventId",
    "EventStore",
    "EventStoreError",
    "Head",
    "MemoryEventStore",
    "Metadata",
    "NewEvent",
    "Overloaded",
    "RecordedEvent",
    "SQLiteEventStore",
    "StoreClosed",
    "StoreLocked",
    "StoreUnavailable",
    "VersionConflict",
    "chain_hash",
    "from_microseconds",
    "new_id",
    "payload_digest",
    "to_microseconds",
]
