"""The execution phases of UWS 1.1 (section 2.1.3) and the ways between them."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """A job's execution phase."""

    PENDING = "PENDING"
    """Its parameters are being set; nobody has asked for RUN."""
    QUEUED = "QUEUED"
    """It waits to be started."""
    EXECUTING = "EXECUTING"
    """Its program runs."""
    COMPLETED = "COMPLETED"
    """Its program was a success."""
    ERROR = "ERROR"
    """Its program has failed, or could not be started."""
    ABORTED = "ABORTED"
    """It was ended by somebody, or because it ran for too long."""
    UNKNOWN = "UNKNOWN"
    """Nobody can tell at present what became of its program."""
    HELD = "HELD"
    """It waits for room in the queue."""
    SUSPENDED = "SUSPENDED"
    """Its program is stopped, and goes on later."""
    ARCHIVED = "ARCHIVED"
    """Its files are gone, and what is known of it stays."""


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
"""For each phase, those into which a job can come from it."""
