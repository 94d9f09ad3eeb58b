"""What one owner may have: limits for everybody, others by role and group, and what is told of them. Pure.

Jobs without an owner count as one owner's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .access import Identity, Role
from .errors import OverQuota, TooMany, UWSError
from .units import Duration, Size, format_duration, format_size, format_time, parse_duration, parse_size

if TYPE_CHECKING:
    from .queueing import QueueSettings

UNLIMITED = "unlimited"
ANONYMOUS = "anonymous"
"""The name under which nobody in particular has quotas of his own."""
DAY = timedelta(days=1)


class QuotaTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one owner may have: ``[quotas]`` says it for everybody.

    A table in it says it for those whom its name tells: ``[quotas.operator]``, ``[quotas.auditor]`` and
    ``[quotas.admin]`` for who has that role, ``[quotas."@staff"]`` for who is in that group,
    ``[quotas.anonymous]`` for nobody in particular. What such a table does not name is as for everybody, and
    who is in several has the largest of what they name; ``"unlimited"`` is without a limit.
    """

    queued: int | str | None = None
    """Jobs that wait in queues."""
    running: int | str | None = None
    """Jobs that run at one time."""
    stored: Size | None = None
    """The results and uploads of all jobs that exist, together."""
    uploads: Size | None = None
    """The files of one request, together."""
    lifetime: Duration | None = None
    """From a job's creation to the latest destruction time that may be set."""
    jobs_per_day: int | str | None = None
    """Jobs that are made within 24 hours."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            try:
                limit = self.limit(name)
            except ValueError as error:
                raise ValueError(f'{name}: {error}, or "{UNLIMITED}"') from None
            if limit is not None and limit < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is below the minimum 1")

    def limit(self, name: str) -> float | None:
        """Return a limit in seconds, bytes or jobs; infinite for none, None where it is not named."""
        given = getattr(self, name)
        if given is None:
            return None
        return math.inf if given == UNLIMITED else _READ.get(name, _whole)(given)


def _whole(value: int | str) -> int:
    if isinstance(value, str):
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


_READ: Mapping[str, Callable[[Any], int]] = {
    "stored": parse_size, "uploads": parse_size, "lifetime": parse_duration,
}  # fmt: skip


_Limits = Mapping[str, float]
"""Those that a table names, in seconds, bytes or jobs; infinite for none."""


def _limits(table: QuotaTable) -> _Limits:
    found = ((name, table.limit(name)) for name in table.__struct_fields__)
    return {name: limit for name, limit in found if limit is not None}


class Quota(NamedTuple):
    """What one owner may have, as `QuotaTable` names it; None is no limit."""

    queued: int | None = None
    running: int | None = None
    stored: int | None = None
    uploads: int | None = None
    lifetime: int | None = None
    jobs_per_day: int | None = None


class Use(NamedTuple):
    """What an owner has: bytes that his jobs ``stored``, and jobs that he ``made`` within a day.

    They are counted up to what he may make; if there are as many, ``oldest`` is when the first of the last so
    many was made.
    """

    stored: int = 0
    made: int = 0
    oldest: datetime | None = None


@dataclass
class Coming:
    """The bytes of files that requests of one owner are bringing now, all together."""

    bytes: int = 0


class Allowance(NamedTuple):
    """How many bytes of files a request may bring, and why no more; or, all that are ``coming`` together."""

    bytes: int
    refusal: UWSError
    coming: Coming | None = None


@dataclass(frozen=True)
class QuotaSettings:
    """The ``[quotas]`` table: what holds for everybody, and by name for roles, ``@group`` and ``anonymous``.

    Where it does not say how many jobs may be queued and run, ``[queue]`` does.
    """

    everybody: QuotaTable = field(default_factory=QuotaTable)
    others: Mapping[str, QuotaTable] = field(default_factory=dict)

    def names_of(self, identity: Identity) -> tuple[str, ...]:
        """Return the names of the other tables that hold for somebody."""
        names = {*identity.roles, *(f"@{group}" for group in identity.groups)}
        if identity.user is None:
            names.add(ANONYMOUS)
        return tuple(sorted(str(name) for name in names if name in self.others))

    def of(self, names: Sequence[str], queue: QueueSettings) -> Quota:
        """Return what holds for whom these tables do: of what several name, the largest."""
        everybody, others = self._limits
        tables = [others[name] for name in names if name in others]
        return Quota(*(self._limit(name, everybody, tables, queue) for name in Quota._fields))

    @cached_property
    def _limits(self) -> tuple[_Limits, dict[str, _Limits]]:
        """What the tables say, as numbers."""
        return _limits(self.everybody), {name: _limits(table) for name, table in self.others.items()}

    @staticmethod
    def _limit(name: str, everybody: _Limits, tables: Sequence[_Limits], queue: QueueSettings) -> int | None:
        own = [table[name] for table in tables if name in table]
        limit = max(own) if own else everybody.get(name)
        if limit is None:
            limit = getattr(queue, f"max_{name}_per_owner", None)
        return None if limit is None or math.isinf(limit) else int(limit)


OTHERS = (*(str(role) for role in Role), ANONYMOUS)
"""The names that tables for others may have, besides those of groups."""


def refusal(
    quota: Quota, use: Use, now: datetime, *, more: int = 0, begins: bool = False, new: bool = False
) -> UWSError | None:
    """Say why an owner may not store ``more`` bytes, or have a job begin or be made; None when he may."""
    if (most := quota.stored) is not None:
        is_full = begins and use.stored >= most
        if is_full or (more > 0 and use.stored + more > most):
            return OverQuota(_too_much(most, use, "" if is_full else format_size(more)))
    if new and quota.jobs_per_day is not None and use.oldest:
        free = use.oldest + DAY
        wait = max(1, math.ceil((free - now).total_seconds()))
        return TooMany(
            f"{_jobs(use.made)} of the same owner made within 24 h, at most {quota.jobs_per_day} allowed: "
            f"the next can be made in {format_duration(wait)}, at {format_time(free)}",
            wait,
        )
    return None


def allowance(
    quota: Quota, use: Use, now: datetime, coming: Coming, *, new: bool = False, replaceable: int = 0
) -> list[Allowance]:
    """Return what files a request may bring for a job; none is no limit but that of the service.

    So many bytes of it are ``replaceable``.
    """
    if new and (refused := refusal(quota, use, now, begins=True, new=True)):
        return [Allowance(0, refused)]
    found = []
    if (most := quota.uploads) is not None:
        words = f"the files of this request are larger than {format_size(most)}, which one may bring at most"
        found.append(Allowance(most, OverQuota(words)))
    if (most := quota.stored) is not None:
        room = max(0, most - use.stored) + replaceable
        words = _too_much(most, use, f"more than {format_size(room)}")
        found.append(Allowance(room, OverQuota(words), coming))
    return sorted(found, key=lambda each: each.bytes)


def _too_much(most: int, use: Use, coming: str) -> str:
    more = f" and {coming} to come" if coming else ""
    return (
        f"{format_size(use.stored)} of results and uploads of the same owner stored{more}, "
        f"at most {format_size(most)} allowed: delete jobs that are not needed any more"
    )


def sentences(quota: Quota, use: Use, queued: int, running: int) -> Iterator[str]:
    """Say what an owner may have, and what he has of it."""
    if quota.queued is not None:
        yield f"{queued} of {_jobs(quota.queued)} queued"
    if quota.running is not None:
        yield f"{running} of {_jobs(quota.running)} running"
    if quota.jobs_per_day is not None:
        yield f"{use.made} of {_jobs(quota.jobs_per_day)} made within 24 h"
    if quota.stored is not None:
        yield f"{format_size(use.stored)} of {format_size(quota.stored)} of results and uploads stored"
    if quota.uploads is not None:
        yield f"files of {format_size(quota.uploads)} at most in one request"
    if quota.lifetime is not None:
        yield f"jobs are kept for {format_duration(quota.lifetime)} at most"


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
