"""An append-only, hash-chained event log for asyncio. It knows nothing of what its events mean."""

from ._chain import chain_hash, check_payload, payload_digest
from ._errors import (
    ChainBroken,
    DuplicateEventId,
    EventStoreError,
    Overloaded,
    PositionPruned,
    StoreClosed,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
    StreamNotFound,
    VersionConflict,
)
from ._types import (
    Committed,
    Erased,
    EventLog,
    EventStore,
    Head,
    Metadata,
    NewEvent,
    Pruned,
    RecordedEvent,
    Verified,
    from_microseconds,
    new_id,
    to_microseconds,
)
from .memory import MemoryEventStore
from .opening import open_store, read_log
from .sqlite import SQLiteEventLog, SQLiteEventStore

__all__ = [
    "ChainBroken",
    "Committed",
    "DuplicateEventId",
    "Erased",
    "EventLog",
    "EventStore",
    "EventStoreError",
    "Head",
    "MemoryEventStore",
    "Metadata",
    "NewEvent",
    "Overloaded",
    "PositionPruned",
    "Pruned",
    "RecordedEvent",
    "SQLiteEventLog",
    "SQLiteEventStore",
    "StoreClosed",
    "StoreFull",
    "StoreLocked",
    "StoreUnavailable",
    "StreamNotFound",
    "Verified",
    "VersionConflict",
    "chain_hash",
    "check_payload",
    "from_microseconds",
    "new_id",
    "open_store",
    "payload_digest",
    "read_log",
    "to_microseconds",
]
