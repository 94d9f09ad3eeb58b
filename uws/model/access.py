"""Who may do what: tables for roles, for the scopes of tokens and for shares, and the rules over them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from .errors import NotAuthenticated, NotAuthorized
from .events import Share
from .job import Job
from .service import Service


class Action(StrEnum):
    """What can be done to a job."""

    READ = "look at"
    """Its documents, its place in the list, its events as they come."""
    HISTORY = "read the history of"
    """What happened to it, event by event."""
    FILES = "read the files of"
    """Results, uploads, and what its program has written."""
    SUBMIT = "make"
    """Make one, of a service."""
    CHANGE = "change"
    """Parameters, run id, times, and RUN."""
    ABORT = "abort"
    """End it before its program has ended."""
    DESTROY = "delete"
    """Take it away, with its files."""
    SHARE = "share"
    """Let others look at it, and end that."""
    QUEUE = "pause"
    """Start no jobs for a while, of a service or none at all."""
    AUDIT = "audit"
    """Read the whole record: of all jobs, and of who did what else."""


class Role(StrEnum):
    """What somebody may do to jobs that are not his own; without any role, nothing."""

    OPERATOR = "operator"
    """Look at them, abort and destroy them, and pause the queue."""
    AUDITOR = "auditor"
    """Look at them, and at the whole record."""
    ADMIN = "admin"
    """All."""


class Scope(StrEnum):
    """What a token lets its holder do of that which its user may do."""

    READ = "read"
    """Look at jobs."""
    SUBMIT = "submit"
    """Make, change and end jobs."""


TO_ALL_JOBS: dict[Role, frozenset[Action]] = {
    Role.OPERATOR: frozenset({Action.READ, Action.HISTORY, Action.ABORT, Action.DESTROY, Action.QUEUE}),
    Role.AUDITOR: frozenset({Action.READ, Action.HISTORY, Action.AUDIT}),
    Role.ADMIN: frozenset(Action),
}
LOOKING = frozenset({Action.READ, Action.HISTORY, Action.FILES, Action.AUDIT})
NEEDED: dict[Action, frozenset[Scope]] = {
    **{action: frozenset({Scope.READ if action in LOOKING else Scope.SUBMIT}) for action in Action},
    Action.SHARE: frozenset(Scope),  # who shares could else give himself what he may not look at
}
"""The scopes that a token has to have."""
SHARED = frozenset({Action.READ, Action.HISTORY, Action.FILES})
"""What may be done to a job by those with whom it is shared."""
OF_MEMBERS = frozenset({Action.SUBMIT, Action.CHANGE})
"""What a service that is limited to groups lets only these do, be the job one's own."""


@dataclass(frozen=True)
class Identity:
    """Who somebody is. ``user`` None is nobody in particular.

    ``scopes`` None is no restriction: everything that ``user`` may do may be done. ``link`` is the SHA-256 of
    the secret of a link, if he shows one.
    """

    user: str | None = None
    groups: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[Scope] | None = None
    link: str | None = None

    def may(self, action: Action, job: Job, now: datetime) -> bool:
        """Whether this may be done to ``job`` now: it is one's own or nobody's (UWS 1.1 section 3), one's
        role lets one, or it is shared with one, or by the link that one shows.
        """
        shares = [share for share in job.shares if action in SHARED and share.is_good(now)]
        if any(self._opens(share) for share in shares):
            return True  # whoever has a link needs no more, and no token's scope limits it
        if not self.has_scope(action):
            return False
        is_own = job.owner is None or job.owner == self.user
        return is_own or self.may_with_all(action) or any(share.to in self._names for share in shares)

    def _opens(self, share: Share) -> bool:
        return bool(self.link and share.digest and hmac.compare_digest(self.link, share.digest))

    @property
    def _names(self) -> set[str]:
        """What a share for this user can be for. A user's name cannot stand for a group."""
        user = {self.user} if self.user and not self.user.startswith("@") else set[str]()
        return user | {f"@{group}" for group in self.groups}

    def may_use(self, action: Action, service: Service) -> bool:
        """Whether one is in one of the groups to which ``service`` is limited, if it is, or has a role that
        lets one do this to jobs of whomever.
        """
        is_member = not service.groups or not self.groups.isdisjoint(service.groups)
        return is_member or self.may_with_all(action)

    def may_with_all(self, action: Action) -> bool:
        """Whether one's role lets one do this to jobs of whomever."""
        return any(action in TO_ALL_JOBS[role] for role in self.roles)

    def has_scope(self, action: Action) -> bool:
        """Whether the token that is used, if any, is good for this."""
        return self.scopes is None or NEEDED[action] <= self.scopes

    def check(self, action: Action, job: Job, now: datetime) -> None:
        """Raise `NotAuthenticated` or `NotAuthorized` where this may not be done to ``job`` now."""
        if self.may(action, job, now):
            return
        if self.user is None:
            raise NotAuthenticated(f"job {job.id} belongs to somebody: say who you are")
        self.check_scope(action)
        whose = f"job {job.id} is not yours"
        raise NotAuthorized(f"{whose}: you may not {action} it" if self.may(Action.READ, job, now) else whose)

    def check_use(self, action: Action, service: Service) -> None:
        """Raise `NotAuthenticated` or `NotAuthorized` where ``service`` is limited to groups of others."""
        if self.may_use(action, service):
            return
        if self.user is None:
            raise NotAuthenticated(f"{service.name} is not for everybody: say who you are")
        raise NotAuthorized(f"{service.name} is not for everybody: you are in none of its groups")

    def check_scope(self, action: Action) -> None:
        """Raise `NotAuthorized` where the token that is used is not good for this."""
        if not self.has_scope(action):
            scopes = ", ".join(sorted(self.scopes or ())) or "none"
            raise NotAuthorized(f"this token's scope is {scopes}: with it you may not {action} jobs")


STRANGER = Identity(scopes=frozenset())
"""Somebody who has not said who he is where that is needed: he may do what a link lets him that he shows."""


def digest_of_link(secret: str) -> str:
    """Return the SHA-256 of the secret of a link: what the log has of it."""
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
