"""Why a command or a question was refused. HTTP statuses are given to these in `uws.web.errors`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from .phases import Phase


class UWSError(Exception):
    """Base of all errors of this package; its text is fit for a user's eyes."""


class UsageError(UWSError):
    """The client asked for something malformed."""


class ParameterError(UsageError):
    """A parameter's value was refused."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class RepeatedParameter(ParameterError):
    """Several values came for a parameter that takes one (DALI 1.1 section 4.2)."""


class MissingParameters(UsageError):
    """A job cannot run yet: ``names`` are required and have no value."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"required, but not given: {', '.join(names)}")
        self.names: tuple[str, ...] = tuple(names)


class TooLarge(UsageError):
    """A request or an upload is larger than the server takes."""


class NotFound(UWSError):
    """There is no such thing."""


class Altered(UWSError):
    """A file is no longer as the log has it."""


class JobNotFound(NotFound):
    """There is no such job, and as far as is known there never was."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id


class OtherService(UWSError):
    """The job is one of another service, where it has its own URL."""

    def __init__(self, job_id: str, service: str) -> None:
        super().__init__(f"job {job_id} belongs to {service}")
        self.job_id = job_id
        self.service = service


class JobGone(UWSError):
    """The job existed and was destroyed."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was destroyed")
        self.job_id = job_id


class IllegalPhase(UWSError):
    """What was asked is not possible in the job's phase."""

    def __init__(self, job_id: str, phase: Phase, asked: str, allowed: Iterable[Phase]) -> None:
        phases = ", ".join(sorted(allowed))
        super().__init__(f"job {job_id} is {phase}: {asked} is only possible in {phases}")
        self.job_id = job_id
        self.phase = phase


class Superseded(UWSError):
    """A program is no longer the one that counts: its job was given up, and may have been started again."""

    def __init__(self, job_id: str, start: int) -> None:
        super().__init__(f"job {job_id}: the start at version {start} was given up")
        self.job_id = job_id
        self.start = start


class OverQuota(UWSError):
    """The owner would have more than he may."""


class QueueFull(OverQuota):
    """RUN is refused: as many jobs wait in the queue as may."""


class NotSuccessful(UWSError):
    """A job has ended without success, and the same would come of the same again."""


class Broken(UWSError):
    """A job has failed through no fault of its input."""


class NotAuthenticated(UWSError):
    """The caller must say who he is."""


class NotAuthorized(UWSError):
    """The caller is known and may not do this."""


class TooMany(UWSError):
    """The caller asks for more than is his share; try again after ``retry_after`` seconds."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Unavailable(UWSError):
    """The server cannot answer now; try again after ``retry_after`` seconds."""

    def __init__(self, reason: str, retry_after: int = 5) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class NodeAway(Unavailable):
    """Another node has what is asked for, and cannot be reached now."""

    def __init__(self, node: str) -> None:
        super().__init__(f"the file is on node {node}, which cannot be reached now", retry_after=10)
        self.node = node


class OnOtherNode(UWSError):
    """A file of a job is on another ``node``; None where nobody knows on which."""

    def __init__(self, node: str | None) -> None:
        super().__init__(f"the file is on {f'node {node}' if node else 'another node'}")
        self.node = node


class OutOfSpace(Unavailable):
    """There is no room left where files are kept."""


class UnknownForm(UWSError):
    """An event is of a type, or in a form, that this version does not know."""

    def __init__(self, position: int, event_type: str, schema: int) -> None:
        super().__init__(
            f"position {position}: {event_type} in form {schema} is not known here; "
            "it was written by a newer version of this program"
        )
        self.position = position
        self.event_type = event_type
        self.schema = schema


class DeclarationError(UWSError):
    """A declaration or configuration has mistakes: ``problems``, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: tuple[str, ...] = tuple(problems)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``name`` may be a misspelling of."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean …?)`` when one of ``known`` is close to ``name``, else nothing."""
    meant = closest(name, known)
    return f" (did you mean {meant}?)" if meant else ""
