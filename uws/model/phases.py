"""The execution phases of UWS 1.1 (section 2.1.3) and the ways between them."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """A job's execution phase."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    ABORTED = "ABORTED"
    UNKNOWN = "UNKNOWN"
    HELD = "HELD"
    SUSPENDED = "SUSPENDED"
    ARCHIVED = "ARCHIVED"


ENDED = frozenset({Phase.COMPLETED, Phase.ERROR, Phase.ABORTED, Phase.ARCHIVED})
"""A job in one of these never runs again."""

ACTIVE = frozenset({Phase.PENDING, Phase.QUEUED, Phase.EXECUTING})
"""WAIT blocks only in these (section 2.2.1.1)."""

SETTING_UP = frozenset({Phase.PENDING, Phase.HELD})
"""Parameters may be changed, and RUN may be asked for, only in these."""

STARTED = frozenset({Phase.EXECUTING, Phase.SUSPENDED, Phase.UNKNOWN})
"""There may be a program to stop."""

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.QUEUED, Phase.HELD, Phase.ABORTED, Phase.ERROR}),
    Phase.HELD: frozenset({Phase.QUEUED, Phase.ABORTED, Phase.ERROR}),
    Phase.QUEUED: frozenset({Phase.EXECUTING, Phase.HELD, Phase.ABORTED, Phase.ERROR}),
    Phase.EXECUTING: frozenset(
        {Phase.COMPLETED, Phase.ERROR, Phase.ABORTED, Phase.SUSPENDED, Phase.UNKNOWN, Phase.QUEUED}
    ),
    Phase.SUSPENDED: frozenset(
        {Phase.EXECUTING, Phase.COMPLETED, Phase.ERROR, Phase.ABORTED, Phase.UNKNOWN, Phase.QUEUED}
    ),
    Phase.UNKNOWN: frozenset(
        {Phase.EXECUTING, Phase.COMPLETED, Phase.ERROR, Phase.ABORTED, Phase.SUSPENDED, Phase.QUEUED}
    ),
    Phase.COMPLETED: frozenset({Phase.ARCHIVED}),
    Phase.ERROR: frozenset({Phase.ARCHIVED}),
    Phase.ABORTED: frozenset({Phase.ARCHIVED}),
    Phase.ARCHIVED: frozenset(),
}
