"""How operations fail, told alike wherever they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eventstore import EventStoreError
from uws.beneath import whose
from uws.model import DeclarationError, UWSError


class DoesNotHold(UWSError):
    """What was to be shown is not so: the log, an archive or a read model is not what it should be."""


class Refusal(UWSError):
    """What a server answered instead of a result: ``problems``, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: tuple[str, ...] = tuple(problems)


class NobodyListens(UWSError):
    """No server answers at the socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"nobody listens at {path}")
        self.path = path


class Unreachable(UWSError):
    """Another process has the data directory, but does not answer at its socket."""

    def __init__(self, data: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{data} is in use by {holder}, which takes no admin commands now; "
            "try again when it has started or ended"
        )
        self.data = data
        self.pid = pid


def problems_of(error: BaseException) -> list[str]:
    """Return what is in the way, one a line; nothing for an error that nobody has foreseen.

    Of what belongs to another user of the system, it is said to whom.
    """
    match error:
        case DeclarationError() | Refusal():
            return list(error.problems)
        case UWSError() | EventStoreError():
            return [f"{error}{whose(error.__cause__)}"]
        case UnicodeEncodeError():  # what came from the command line, and is no text
            return [f"{error.object!r} is no text in UTF-8"]
        case OSError():
            return [f"{error.filename or 'the system'}: {error.strerror or error}{whose(error)}"]
        case _:
            return []
