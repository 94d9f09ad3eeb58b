"""Events of retention: what was archived, and what was taken out of the log because its time was over."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .base import Event

Duty = Literal["owners", "histories"]
"""What retention takes out of the log: what jobs held, or all that is left of them."""


class MonthArchived(Event, frozen=True):
    """The log of a month is in an archive, a ``file`` that was verified: the positions ``first`` to ``last``.

    ``hash`` (hexadecimal) is the one at ``last``, ``sha256`` the digest of the archive. Where it is not
    ``whole``, jobs and log-ins are in it as if they were erased.
    """

    month: str
    file: str
    first: int
    last: int
    hash: str
    sha256: str
    whole: bool = True


class RetentionBegun(Event, frozen=True):
    """What ended before ``before`` is to be taken away, which is kept for ``after`` (a duration)."""

    duty: Duty
    after: str
    before: datetime


class RetentionApplied(Event, frozen=True):
    """What `RetentionBegun` speaks of is in no file of the server any more."""

    duty: Duty


RetentionEvent = MonthArchived | RetentionBegun | RetentionApplied
