"""What admin commands do. An operation is a request that can be sent, and carries itself out."""

from __future__ import annotations

import asyncio
import os
import pwd
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from eventstore import ChainBroken, EventLog, StoreUnavailable, new_id
from eventstore.archive import ArchiveError
from eventstore.checkpoint import CheckpointError
from projections import READ_MODELS, Behind, Difference, Projector, Rebuilt, Status, read_status
from uws.audit import READ_MODEL, erase_job, prune
from uws.commands import Caller
from uws.config import Settings
from uws.importing import Imported, import_swf
from uws.jobs import Backend, UserUWS
from uws.model import Role, UsageError
from uws.queueing import QueueShown

from .failures import DoesNotHold

R = TypeVar("R")
Report = Callable[[int, int | None], None]
"""Told how far an operation is, and of how much, where that is known. Any thread may call it, often."""


@dataclass(frozen=True)
class Administered:
    """What operations work on: an open data directory, of a server or of none.

    ``find`` returns the service of a name, whether it is offered or not.
    """

    settings: Settings
    backend: Backend
    find: Callable[[str], Awaitable[UserUWS]]


class Operation(msgspec.Struct, Generic[R], frozen=True, forbid_unknown_fields=True):
    """A request to be carried out by whoever has the data directory open; its tag is the command's words.

    ``R``, what `carry_out` says that it returns, can be sent, too.
    """

    begins: ClassVar[bool] = False
    """Whether it makes a log where there is none."""
    needs_read_models: ClassVar[bool] = True
    """Whether they are to follow the log meanwhile, where no server runs."""

    @property
    def words(self) -> str:
        """The command, as it is typed."""
        return str(self.__struct_config__.tag)

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> R:
        """Do it, in the name of ``caller``. Cancelled, it can be asked for again.

        Raises `DoesNotHold`, and else what `problems_of` knows.
        """
        raise NotImplementedError


class Question(Operation[R], frozen=True):
    """An operation that changes nothing; where no server runs, it is answered beside the log."""

    async def read(self, settings: Settings, log: EventLog) -> R:
        """Answer from the files alone, whoever has them open. Raises what `problems_of` knows."""
        raise NotImplementedError


class EraseJob(Operation[None], frozen=True, tag="audit erase"):
    """Take what a destroyed job held out of the log and the read models."""

    job_id: str
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip() or not self.reason.isprintable():
            raise UsageError(f"--reason: expected a line of text, got {self.reason!r}")

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> None:
        to = here.backend
        await erase_job(
            to.store, to.projector, to.files, self.job_id, reason=self.reason, metadata=caller.metadata
        )
        await to.store.settle()


class PrunedLog(msgspec.Struct, frozen=True):
    """The size of the log in bytes, before it was pruned and after."""

    before: int
    after: int


class PruneLog(Operation[PrunedLog], frozen=True, tag="audit prune"):
    """Take out of the log what is in an archive of destroyed jobs. The path is absolute."""

    archive: str

    def __post_init__(self) -> None:
        _check_path(self.archive)

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> PrunedLog:
        backend = here.backend
        before = await backend.store.size()
        try:
            await prune(
                backend.store,
                Path(self.archive),
                here.settings.verifier_key(),
                metadata=caller.metadata,
                progress=counting(report),
            )
            await backend.store.settle()
            await backend.projector.caught_up(timeout=3600)
            await backend.projector.scrub()  # they forget what the log forgot
        except (ChainBroken, ArchiveError, CheckpointError) as error:
            raise DoesNotHold(str(error)) from error
        except StoreUnavailable as error:
            raise UsageError(f"{error}; repeat it with: uwsd audit prune {self.archive}") from error
        return PrunedLog(before, await backend.store.size())


class ProjectionsStatus(Question[list[Status]], frozen=True, tag="projections status"):
    """Tell how the read models are."""

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> list[Status]:
        return await here.backend.projector.status()

    async def read(self, settings: Settings, log: EventLog) -> list[Status]:
        position = (await log.head()).position
        try:
            return await asyncio.to_thread(read_status, settings.projections, position, READ_MODELS)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{settings.projections}: {error}") from error


class RebuildProjections(Operation[list[Rebuilt]], frozen=True, tag="projections rebuild"):
    """Make read models anew from the log, all when none is named. It goes on where it was interrupted."""

    names: tuple[str, ...] = ()

    needs_read_models = False

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> list[Rebuilt]:
        return await here.backend.projector.rebuild(self.names, report)


class VerifyProjections(Operation[dict[str, Difference | None]], frozen=True, tag="projections verify"):
    """Compare read models with what the log makes of them, all when none is named."""

    names: tuple[str, ...] = ()

    async def carry_out(
        self, here: Administered, caller: Caller, report: Report
    ) -> dict[str, Difference | None]:
        return await here.backend.projector.verify(self.names, report)


class ImportTrace(Operation[Imported], frozen=True, tag="import swf"):
    """Take a trace over as jobs of a service that have ended. The path is absolute."""

    trace: str
    service: str
    jobs: int | None = None
    anonymous: bool = False

    begins = True
    needs_read_models = False

    def __post_init__(self) -> None:
        _check_path(self.trace)

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> Imported:
        return await import_swf(
            here.backend.store,
            here.settings.services,
            Path(self.trace),
            service=self.service,
            actor=caller.user,
            jobs=self.jobs,
            anonymous=self.anonymous,
            progress=report,
            pace=self._keep_with(here.backend.projector),
        )

    def _keep_with(self, projector: Projector) -> Callable[[], Awaitable[None]] | None:
        """Return what waits until clients of a running server see what was imported so far."""

        async def pace() -> None:
            with suppress(Behind):
                await projector.caught_up()

        return pace if projector.follows else None


class FollowLog(Operation[None], frozen=True, tag="audit"):
    """Bring the read model that auditors ask up to the log's head."""

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> None:
        await here.backend.projector.caught_up(READ_MODEL, timeout=3600)


class ShowQueue(Operation[QueueShown], frozen=True, tag="queue"):
    """Tell which jobs wait, at most ``limit``, and why each does."""

    limit: int = 1000

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"--limit: {self.limit} is below the minimum 1")

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> QueueShown:
        return await here.backend.queueing.show(self.limit)


class PauseQueue(Operation[bool], frozen=True, tag="queue pause"):
    """Start no job of a service, or none at all, from now on. Tells whether that is new."""

    service: str | None = None

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> bool:
        return await here.backend.queueing.pause(self.service, caller)


class ResumeQueue(Operation[bool], frozen=True, tag="queue resume"):
    """Take back `PauseQueue` of the same name. Tells whether there was anything to take back."""

    service: str | None = None

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> bool:
        return await here.backend.queueing.resume(self.service, caller)


OPERATIONS: tuple[type[Operation[Any]], ...] = (
    EraseJob,
    PruneLog,
    ProjectionsStatus,
    RebuildProjections,
    VerifyProjections,
    ImportTrace,
    FollowLog,
    ShowQueue,
    PauseQueue,
    ResumeQueue,
)


async def carry_out(operation: Operation[R], here: Administered, caller: Caller, report: Report) -> R:
    """Carry out ``operation``. When this ends, so do threads that still work for it at their next report."""
    over = threading.Event()

    def report_until_over(done: int, of: int | None) -> None:
        if over.is_set():
            raise RuntimeError(f"nobody waits for {operation.words} any more")
        report(done, of)

    try:
        return await operation.carry_out(here, caller, report_until_over)
    finally:
        over.set()


def caller_of(operation: Operation[R], uid: int | None = None) -> Caller:
    """Return the system's user ``uid`` (None: who runs this process) as the caller of ``operation``."""
    number = os.getuid() if uid is None else uid
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid {number}"
    return Caller(
        user=name, request_id=new_id(), client=f"uwsd {operation.words}", roles=frozenset({Role.ADMIN})
    )


def counting(report: Report, of: int | None = None) -> Callable[[int], None]:
    """Return what is told how much was done since it was told last, and reports how much that makes."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(done, of)

    return count


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path!r}: the name of a file that is to go on record must be UTF-8") from None
    if not Path(path).is_absolute():
        raise UsageError(f"{path}: the path must be absolute")
