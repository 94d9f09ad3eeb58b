"""Events of retention: what was archived, and what was taken out of the log because its time was over."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .base import Event

Duty = Literal["owners", "histories"]
"""What retention takes out of the log: what jobs held, or all that is left of them."""


class MonthArchived(Event, frozen=True):
    """The log of a month is in an archive, which was verified."""

    month: str
    """The month, as ``2026-01``."""
    file: str
    """The archive's name."""
    first: int
    """The position of its first event."""
    last: int
    """The position of its last event."""
    hash: str
    """The hash at its last position, hexadecimal."""
    sha256: str
    """SHA-256 of the archive, hexadecimal."""
    whole: bool = True
    """Whether all is in it; else jobs and log-ins are in it as if they were erased."""


class RetentionBegun(Event, frozen=True):
    """What has been kept for long enough is to be taken away."""

    duty: Duty
    """What is taken away: what jobs held (``owners``), or all that is left of them (``histories``)."""
    after: str
    """For how long it is kept: a duration, such as ``2y``."""
    before: datetime
    """What ended before that time is concerned (UTC)."""


class RetentionApplied(Event, frozen=True):
    """What `RetentionBegun` speaks of is in no file of the server any more."""

    duty: Duty
    """What was taken away, as in `RetentionBegun`."""


RetentionEvent = MonthArchived | RetentionBegun | RetentionApplied
