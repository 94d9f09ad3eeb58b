"""Who may do what to whose jobs: a table for roles, one for the scopes of tokens, and the rule over both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .errors import NotAuthenticated, NotAuthorized
from .job import Job


class Action(StrEnum):
    """What can be done to a job."""

    READ = "look at"
    """Its documents, its place in the list, its events as they come."""
    HISTORY = "read the history of"
    FILES = "read the files of"
    """Results, uploads, and what its program has written."""
    SUBMIT = "make"
    CHANGE = "change"
    """Parameters, run id, times, and RUN."""
    ABORT = "abort"
    DESTROY = "delete"


class Role(StrEnum):
    """What somebody may do to jobs that are not his own; without any role, nothing."""

    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Scope(StrEnum):
    """What a token lets its holder do of that which its user may do."""

    READ = "read"
    SUBMIT = "submit"


TO_ALL_JOBS: dict[Role, frozenset[Action]] = {
    Role.OPERATOR: frozenset({Action.READ, Action.HISTORY, Action.ABORT, Action.DESTROY}),
    Role.AUDITOR: frozenset({Action.READ, Action.HISTORY}),
    Role.ADMIN: frozenset(Action),
}
WITHIN: dict[Scope, frozenset[Action]] = {
    Scope.READ: frozenset({Action.READ, Action.HISTORY, Action.FILES}),
    Scope.SUBMIT: frozenset({Action.SUBMIT, Action.CHANGE, Action.ABORT, Action.DESTROY}),
}


@dataclass(frozen=True)
class Identity:
    """Who somebody is. ``user`` None is nobody in particular.

    ``scopes`` None is no restriction: everything that ``user`` may do may be done.
    """

    user: str | None = None
    groups: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[Scope] | None = None

    def may(self, action: Action, job: Job) -> bool:
        """Whether this may be done to ``job``: it is one's own or nobody's (UWS 1.1 section 3), or one's role
        lets one.
        """
        if not self.has_scope(action):
            return False
        return job.owner is None or job.owner == self.user or self.may_with_all(action)

    def may_with_all(self, action: Action) -> bool:
        """Whether one's role lets one do this to jobs of whomever."""
        return any(action in TO_ALL_JOBS[role] for role in self.roles)

    def has_scope(self, action: Action) -> bool:
        """Whether the token that is used, if any, is good for this."""
        return self.scopes is None or any(action in WITHIN[scope] for scope in self.scopes)

    def check(self, action: Action, job: Job) -> None:
        """Raise `NotAuthenticated` or `NotAuthorized` where this may not be done to ``job``."""
        if self.may(action, job):
            return
        self.check_scope(action)
        if self.user is None:
            raise NotAuthenticated(f"job {job.id} belongs to somebody: say who you are")
        whose = f"job {job.id} is not yours"
        raise NotAuthorized(f"{whose}: you may not {action} it" if self.may(Action.READ, job) else whose)

    def check_scope(self, action: Action) -> None:
        """Raise `NotAuthorized` where the token that is used is not good for this."""
        if not self.has_scope(action):
            scopes = ", ".join(sorted(self.scopes or ())) or "none"
            raise NotAuthorized(f"this token's scope is {scopes}: with it you may not {action} jobs")
