"""The commands: create, change, queue, abort and destroy jobs, and ask about them.

Everything else - HTTP, the scheduler, the command line - goes through `UserUWS`. A command loads the
job's events, folds them, lets the pure model decide, and appends what then has happened.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from eventstore import (
    DuplicateEventId,
    EventStore,
    NewEvent,
    RecordedEvent,
    StoreUnavailable,
    VersionConflict,
    new_id,
    to_microseconds,
)
from projections import Cursor, JobReadModel, JobReference, Page, Projector, Whose
from uws.clock import Clock, pause
from uws.commands import SERVER, Caller, Changes, Command
from uws.files import Files, Spool, Spooled
from uws.model import (
    ACTIVE,
    OF_MEMBERS,
    STARTED,
    TRANSITIONS,
    Action,
    Ending,
    Job,
    JobGone,
    JobNotFound,
    OtherService,
    OverQuota,
    ParameterError,
    Phase,
    ProgramFile,
    QueueSettings,
    QuotaSettings,
    Result,
    Service,
    Share,
    TooMany,
    Unavailable,
    Upload,
    UserUWSJobBase,
    UserUWSTransitions,
    Values,
    digest_of_link,
    fold,
    make_user_uws_job_class,
)
from uws.model import events as e
from uws.model.job import evolve
from uws.model.quotas import Quota, refusal
from uws.model.text import first_foreign
from uws.queueing import Queueing, Standing
from uws.quotas import Quotas

log = logging.getLogger(__name__)

_ATTEMPTS = 20
_COMMANDS = (Action.CHANGE, Action.ABORT, Action.DESTROY)
_LEADS_TO_END = "JobStarted", "StopRequested", "ProgramFound"
LONGEST_STOP = 60.0
"""Seconds that a command waits for a program to be stopped."""
Step = Callable[[Job], list[e.JobEvent]]
PAGE = 100
"""Jobs of a list that are read at once: to write them keeps the event loop for 1 to 3 ms."""


@dataclass(frozen=True)
class JobFilter:
    """Which jobs of a list are wanted (UWS 1.1 section 2.2.2.1): those that meet all that is given.

    They are in any of ``phases`` (None: in all but ARCHIVED), were created strictly after ``after``, have
    exactly ``run_id``, and for each of ``parameters``, by its declared name, this value among those it was
    given, as text; a file's is its name. ``text`` stands, whatever its case, in the id, the run id, a value
    or the error's message.
    """

    phases: Collection[Phase] | None = None
    after: datetime | None = None
    run_id: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None

    @property
    def looks_into_jobs(self) -> bool:
        """Whether the entries of the list do not tell enough."""
        return self.text is not None or bool(self.parameters)


@dataclass(frozen=True)
class Backend:
    """What all services of a server share: the log, its read models, the files, the time, and the queue.

    ``services`` are those that are offered, by name.
    """

    store: EventStore
    projector: Projector
    jobs: JobReadModel
    files: Files
    clock: Clock
    services: Mapping[str, Service] = field(default_factory=dict)
    limits: QueueSettings = field(default_factory=QueueSettings)
    allowed: QuotaSettings = field(default_factory=QuotaSettings)

    @cached_property
    def queueing(self) -> Queueing:
        """The queue of all services."""
        return Queueing(
            self.store, self.projector, self.jobs, self.clock, self.services, self.limits, self.allowed
        )

    @cached_property
    def quotas(self) -> Quotas:
        """What owners may have of all services together."""
        return Quotas(self.projector, self.jobs, self.clock, self.allowed, self.limits)

    async def follow(self, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        """Subscribe to the log behind a position, and anew whenever it could not be read."""
        while True:
            try:
                async for batch in self.store.subscribe(after=after):
                    after = batch[-1].position
                    yield batch
                return
            except Exception as error:
                log.warning("the log cannot be followed: %s; trying again", error)
                await pause(self.clock)


class Offered:
    """A service as clients see it who reach the server at ``base_url``: what is declared, and its URLs."""

    jobdoc_stylesheet = "static/xsl/useruws-job-to-html.xsl"
    joblist_stylesheet = "static/xsl/useruws-joblist-to-html.xsl"

    def __init__(self, service: Service, job_class: type[UserUWSJobBase], base_url: str) -> None:
        self.service, self.job_class = service, job_class
        self.base_url = base_url.rstrip("/")

    @property
    def jobdoc_preamble(self) -> tuple[str, str]:
        """The ``xml-stylesheet`` instruction of job documents, as target and text."""
        return self._preamble(self.jobdoc_stylesheet)

    @property
    def joblist_preamble(self) -> tuple[str, str]:
        """The ``xml-stylesheet`` instruction of job lists, as target and text."""
        return self._preamble(self.joblist_stylesheet)

    def _preamble(self, stylesheet: str) -> tuple[str, str]:
        return "xml-stylesheet", f'type="text/xsl" href="{self.base_url}/{stylesheet}"'

    @property
    def service_url(self) -> str:
        """The URL of the service itself."""
        return f"{self.base_url}/{self.service.name}"

    @property
    def sync_url(self) -> str:
        """The URL of synchronous execution (DALI 1.1 section 2.2)."""
        return f"{self.service_url}/sync"

    @property
    def joblist_url(self) -> str:
        """The URL of the job list."""
        return f"{self.service_url}/async"

    def get_url_for_id(self, job_id: str) -> str:
        """Return the URL of a job, as its clients reach it."""
        return f"{self.joblist_url}/{job_id}"


class UserUWS(Offered):
    """The UWS of one service: the facade to create, get, change, list and destroy its jobs.

    All methods may raise `eventstore.EventStoreError`. Methods that name a job raise `JobNotFound`,
    `JobGone`, and where they take a caller also `NotAuthenticated` and `NotAuthorized`: a job with an
    owner is his alone, but for looking at it, where he shares it. A command that was done before, under the
    same key of the same caller, is not done again: the job is returned as it is now; `KeyReused` when that
    was another command.
    """

    def __init__(
        self, service: Service, job_class: type[UserUWSJobBase], backend: Backend, base_url: str
    ) -> None:
        super().__init__(service, job_class, base_url)
        self.backend = backend
        self.transitions = UserUWSTransitions(service, job_class)

    def at(self, base_url: str) -> UserUWS:
        """Return this UWS as clients see it who reach the server at ``base_url``."""
        return UserUWS(self.service, self.job_class, self.backend, base_url)

    # Questions

    async def get_job(self, job_id: str, caller: Caller, action: Action = Action.READ) -> Job:
        """Return a job from the read model, as it was at the log's head when this was called, or later.

        Raises `OtherService` for another service's job, and `NotAuthenticated` or `NotAuthorized` where the
        caller may not do ``action``.
        """
        await self.backend.projector.caught_up("documents")
        return self._admitted(await self.backend.jobs.get(job_id), job_id, caller, action)

    async def get_ids_and_phases(
        self,
        owner: Whose,
        *,
        phase: Iterable[Phase] = (),
        last: int | None = None,
        after: datetime | None = None,
    ) -> list[JobReference]:
        """Return the owner's jobs of this service, newest first (UWS 1.1 section 2.2.2.1).

        ``phase`` gives the union of these phases (by default all but ARCHIVED), ``after`` those created
        strictly later, ``last`` the newest so many; all given are combined.
        """
        wanted = JobFilter(phases=tuple(phase) or None, after=after)
        async with aclosing(self.pages(owner, wanted, last=last)) as pages:
            return [reference async for page in pages for reference in page]

    async def pages(
        self, owner: Whose, wanted: JobFilter, *, last: int | None = None
    ) -> AsyncGenerator[list[JobReference], None]:
        """Yield the owner's jobs of this service, newest first, a bounded number at a time, or none yet.

        With ``last``, only the newest so many. A job that changes meanwhile is there as it was before or
        as it is after that, once at most.
        """
        await self._listable(wanted.looks_into_jobs)
        before: Cursor | None = None
        while last is None or last > 0:
            limit = PAGE if last is None else min(last, PAGE)
            references, before = await self._references(owner, wanted, before, limit)
            yield references
            if before is None:
                return
            if last is not None:
                last -= len(references)

    async def find_jobs(
        self, owner: Whose, wanted: JobFilter, *, before: Cursor | None = None, limit: int
    ) -> Page:
        """Return the owner's jobs of this service, newest first, that come after the entry ``before``.

        They are at most ``limit``. They may be fewer, or none, though there is a next page: a bounded number
        of jobs is examined, and a bounded number of bytes given.
        """
        await self._listable(looking_into_jobs=True)
        return await self._entries(owner, wanted, before, limit)

    async def list_state(self, owner: Whose) -> str:
        """Return a text that is another one whenever the owner's list of jobs, or one in it, may be."""
        await self._listable(looking_into_jobs=False)
        return await self.backend.jobs.list_state(self.service.name, owner)

    async def list_position(self, owner: Whose) -> int | None:
        """Return where the log last told something of the owner's jobs, None when that is not known."""
        await self._listable(looking_into_jobs=False)
        return await self.backend.jobs.list_position(self.service.name, owner)

    async def wait(
        self,
        job_id: str,
        caller: Caller,
        *,
        seconds: float,
        lasting: Collection[Phase] | None = None,
        closing: asyncio.Event,
    ) -> Job:
        """Return the job once it is in none of the phases ``lasting``, after ``seconds`` at most.

        By default once it has left its present phase, or at once when that is not PENDING, QUEUED or
        EXECUTING (UWS 1.1 section 2.2.1.1). Returns at once when ``closing`` is set, and who waits is woken
        by `Projector.wake` to see it.
        """
        with self.backend.projector.watch(e.job_stream(job_id)) as changed:
            job = await self.get_job(job_id, caller)
            if lasting is None:
                lasting = {job.phase} & ACTIVE
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while job.phase in lasting and not closing.is_set():
                        await changed.wait()
                        changed.clear()
                        job = await self.get_job(job_id, caller)
            return job

    async def history(self, job_id: str, caller: Caller) -> Sequence[RecordedEvent]:
        """Return the events of a job, in order. Raises `OtherService` for another service's job."""
        recorded = await self.backend.store.read_stream(e.job_stream(job_id))
        self._admitted(fold(recorded), job_id, caller, Action.HISTORY)
        return recorded

    async def estimate(
        self,
        owner: str | None,
        parameters: Mapping[str, Values],
        *,
        queued: bool = False,
        quotas: tuple[str, ...] = (),
    ) -> datetime | None:
        """Predict when such a job that starts now, or joins the queue now, will end.

        That goes by jobs that were like it. None without experience, and while the queue is paused.
        """
        start: datetime | None = self.backend.clock.now()
        try:
            if queued:
                start, takes = await self.backend.queueing.joining(
                    self.service.name, owner, parameters, quotas
                )
            else:
                takes = await self.backend.jobs.duration_of_like(self.service.name, owner, parameters)
        except StoreUnavailable:  # no estimate is worth refusing a command
            return None
        return _later(start, takes)

    async def standing(self, job: Job) -> Standing | None:
        """Return how a job waits; ``start`` is when it may start. None when it does not wait in the queue."""
        if job.phase is not Phase.QUEUED:
            return None
        return await self.backend.queueing.standing(job.id, job.service, job.owner)

    async def _listable(self, looking_into_jobs: bool) -> None:
        await self.backend.projector.caught_up("job_list", *["documents"] * looking_into_jobs)

    async def _references(
        self, owner: Whose, wanted: JobFilter, before: Cursor | None, limit: int
    ) -> tuple[list[JobReference], Cursor | None]:
        if wanted.looks_into_jobs:
            found = await self._entries(owner, wanted, before, limit)
            return [_reference(job) for job in found.jobs], found.next
        references = await self.backend.jobs.page(
            self.service.name,
            owner,
            phases=wanted.phases,
            run_id=wanted.run_id,
            after=wanted.after,
            before=before,
            limit=limit,
        )
        return references, references[-1].cursor if len(references) == limit else None

    async def _entries(self, owner: Whose, wanted: JobFilter, before: Cursor | None, limit: int) -> Page:
        return await self.backend.jobs.entries(
            self.service.name,
            owner,
            phases=wanted.phases,
            after=wanted.after,
            before=before,
            run_id=wanted.run_id,
            parameters=wanted.parameters,
            text=wanted.text,
            limit=limit,
        )

    # Commands of clients

    async def create_job(
        self, changes: Changes, caller: Caller, *, run: bool = False, sync: bool = False
    ) -> Job:
        """Create a job, and with ``run`` queue it in the same breath. All of it happens, or nothing.

        ``sync`` goes on record: that the caller waits for the result (DALI 1.1 section 2.2). Raises
        `ParameterError`, `RepeatedParameter`, `UsageError`, `MissingParameters`, `OverQuota`, `TooMany`. A
        caller that is cancelled does not learn whether the job was created, unless it asks again under the
        same key.
        """
        self._check_submits(caller)
        command = self._command(caller, None, changes, ("RUN",) * run + ("SYNC",) * sync)
        if done := await self._done(command):
            return done
        self.backend.files.check_room()
        values, taken = self._accept(changes)
        parameters = {name: given for name, given in values.items() if given}
        quote = await self.estimate(caller.user, parameters)
        quotas = self.backend.quotas
        names, quota = quotas.names_of(caller), quotas.of(caller)

        def create(_: Job) -> list[e.JobEvent]:
            return self.transitions.create_job(
                self.backend.clock.now(),
                owner=caller.user,
                run_id=changes.run_id,
                parameters=parameters,
                quote=quote,
                sync=sync,
                quotas=names,
                longest=quota.lifetime,
            )

        job_id = new_job_id()
        queued = await self.estimate(caller.user, parameters, queued=True, quotas=names) if run else None
        async with quotas.turn(self.service, caller.user, quota):
            within = await self._within(quota, caller.user, values, new=True)
            steps = [within, create, *self._control(changes, lambda job: quota)]
            if run:
                steps.append(await self._queueing(caller.user, quota, queued))
            try:
                new = command.encode(self._decide(job_id, None, steps))
                with self._taking(job_id, taken):
                    return await self._append(job_id, None, new)
            except (OverQuota, TooMany, DuplicateEventId):
                if done := await self._done(command):  # by its twin, which came first
                    return done
                raise

    async def rerun_job(self, first: Job, files: Mapping[Upload, Spooled], caller: Caller) -> Job:
        """Create a job with what ``first`` was given, and queue it; ``files`` are copies of its uploads.

        It belongs to the owner of ``first``, whose quotas hold; that it was ``caller`` who made it is on
        record. Raises what `create_job` does.
        """
        self.backend.files.check_room()
        for name in first.parameters:
            if self.service.find(name) is None:
                raise ParameterError(name, self.service.unknown(name))
        parameters = dict(self.job_class.check(name, values) for name, values in first.parameters.items())
        owner, names, quota = first.owner, first.quotas, self.backend.quotas.of(SERVER, first)
        quote = await self.estimate(owner, parameters)
        queued = await self.estimate(owner, parameters, queued=True, quotas=names)

        def create(_: Job) -> list[e.JobEvent]:
            return self.transitions.create_job(
                self.backend.clock.now(),
                owner=owner,
                run_id=None,  # the client's own jobs are called so
                parameters=parameters,
                quote=quote,
                quotas=names,
                longest=quota.lifetime,
                rerun_of=first.id,
            )

        job_id = new_job_id()
        async with self.backend.quotas.turn(self.service, owner, quota):
            steps: list[Step] = [
                await self._within(quota, owner, parameters, new=True),
                create,
                lambda job: self.transitions.set_execution_duration(job, first.execution_duration),
                await self._queueing(owner, quota, queued),
            ]
            new = Command(caller).encode(self._decide(job_id, None, steps))
            with self._taking(job_id, [(spooled, upload) for upload, spooled in files.items()]):
                return await self._append(job_id, None, new)

    async def change_job(
        self, job_id: str, changes: Changes, caller: Caller, *, run: bool = False, abort: bool = False
    ) -> Job:
        """Set parameters and job control values, then RUN or ABORT if asked: all of it, or nothing.

        Raises what `create_job` does, and `IllegalPhase`.
        """
        wishes = ("RUN",) * run + ("ABORT",) * abort
        needed = (Action.CHANGE,) * (run or changes != Changes()) + (Action.ABORT,) * abort
        command = self._command(caller, job_id, changes, wishes, needed or (Action.CHANGE,))
        if done := await self._done(command):
            return done
        if not abort:
            self.backend.files.check_room()
        quotas = self.backend.quotas
        values, taken = self._accept(changes)
        steps: list[Step] = []
        if values:
            steps.append(lambda job: self.transitions.set_parameters(job, values))
        if (run_id := changes.run_id) is not None:
            steps.append(lambda job: self.transitions.set_run_id(job, run_id))
        steps += self._control(changes, lambda job: quotas.of(caller, job))
        async with AsyncExitStack() as stack:
            if run or taken:
                before = await self.load_job(job_id, caller, Action.CHANGE)
                owner, names = before.owner, quotas.names_of(caller, before)
                quota = quotas.of(caller, before)
                parameters = {**before.parameters, **values}
                quote = await self.estimate(owner, parameters, queued=True, quotas=names) if run else None
                await stack.enter_async_context(quotas.turn(self.service, owner, quota))
                steps.insert(0, await self._within(quota, owner, values, run=run))
                if run:
                    steps.append(await self._queueing(owner, quota, quote))
            if abort:
                steps.append(self.transitions.abort_job)
            with self._taking(job_id, taken):
                job = await self._carry_out(job_id, steps, command)
        if unused := {upload for _, upload in taken} - job.uploads:
            self.backend.files.of(job_id).drop(unused)
        return job

    async def queue_job(self, job_id: str, caller: Caller) -> Job:
        """RUN: put a job that is complete into the queue.

        Where that is full, the job is held, or `QueueFull` raised, as its service says. Raises
        `IllegalPhase`, `MissingParameters`, `OverQuota`.
        """
        return await self.change_job(job_id, Changes(), caller, run=True)

    async def abort_job(self, job_id: str, caller: Caller) -> Job:
        """ABORT: end a job; one that runs is stopped soon after this returns. Raises `IllegalPhase`."""
        return await self.change_job(job_id, Changes(), caller, abort=True)

    async def destroy_job(self, job_id: str, caller: Caller, *, patience: float = LONGEST_STOP) -> None:
        """Stop what runs, delete all files and end the job for its clients, or archive it.

        Returns when that is so, or after ``patience`` seconds; the job then goes when its program has.
        """
        with self.backend.projector.watch(e.job_stream(job_id)) as changed:
            job = await self._carry_out(
                job_id,
                [lambda job: self.transitions.destroy_job(job, expired=False)],
                self._command(caller, job_id, Changes(), ("DELETE",), (Action.DESTROY,)),
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    with suppress(JobGone):
                        while job.phase in STARTED:
                            await changed.wait()
                            changed.clear()
                            job = await self.load_job(job_id, caller, Action.DESTROY)
                    # Whoever recorded the end may not be through with this yet.
                    await self._delete_files(job_id)

    async def share_job(
        self, job_id: str, caller: Caller, *, to: str | None, lasts: timedelta | None
    ) -> tuple[Share, str | None] | None:
        """Let the user or the ``@group`` that this is ``to`` look at a job; None is whoever has a secret.

        Returns the share and, of such a link, its secret, which is nowhere else; None when the command was
        done before. Raises `UsageError`, `IllegalPhase`.
        """
        secret = secrets.token_urlsafe(32) if to is None else None
        share = Share(
            id=secrets.token_hex(8),
            to=to,
            digest=None if secret is None else digest_of_link(secret),
        )
        wishes = "SHARE", to or "", str(lasts)
        job = await self._carry_out(
            job_id,
            [lambda job: self.transitions.share_job(job, share, lasts, self.backend.clock.now())],
            self._command(caller, job_id, Changes(), wishes, (Action.SHARE,)),
        )
        made = next((one for one in job.shares if one.id == share.id), None)
        return (made, secret) if made else None

    async def unshare_job(self, job_id: str, share_id: str, caller: Caller) -> None:
        """End a share of a job. Raises `NotFound`."""
        await self._carry_out(
            job_id,
            [lambda job: self.transitions.unshare_job(job, share_id)],
            self._command(caller, job_id, Changes(), ("UNSHARE", share_id), (Action.SHARE,)),
        )

    async def admit(self, job_id: str | None, caller: Caller, actions: Sequence[Action] = ()) -> bool:
        """Find out before a command is read whether the job is there and the caller may do any of these.

        These are by default those that change or end a job. None is a job to be created. Returns whether the
        caller's key was used for the same before: such a command passes whatever has become of the job, and
        files that come with it need not be kept.
        """
        return (await self._admit(job_id, caller, actions))[0]

    @asynccontextmanager
    async def receiving(self, job_id: str | None, caller: Caller) -> AsyncIterator[Spool]:
        """Give room for the files of a command that `admit` lets pass: as much as the job's owner may have.

        What comes of a command that was carried out before is not kept.
        """
        quotas = self.backend.quotas
        comes_again, job = await self._admit(job_id, caller)
        twin = self._command(caller, job_id).first_id if quotas.of(caller, job).stored else None
        async with quotas.twin(twin):
            if twin:  # it may have come meanwhile
                comes_again, job = await self._admit(job_id, caller)
            allowances = [] if comes_again else await quotas.allowance(caller, job)
            async with self.backend.files.spool(keep=not comes_again, allowances=allowances) as spool:
                yield spool

    async def _admit(
        self, job_id: str | None, caller: Caller, actions: Sequence[Action] = ()
    ) -> tuple[bool, Job | None]:
        command = self._command(caller, job_id)
        if job_id is None:
            self._check_submits(caller)
            return await self._done(command) is not None, None
        # Read once, so that a twin of the command cannot come between two looks.
        recorded = await self.backend.store.read_stream(e.job_stream(job_id))
        if command.was_done(recorded):
            return True, None
        job = fold(recorded)
        actions = actions or _COMMANDS
        action = next((one for one in actions if job and self.lets(caller, one, job)), actions[0])
        return False, self._admitted(job, job_id, caller, action)

    def lets(self, caller: Caller, action: Action, job: Job) -> bool:
        """Whether a caller may do this to a job of this service now."""
        is_his = caller.may(action, job, self.backend.clock.now())
        return is_his and (action not in OF_MEMBERS or caller.may_use(action, self.service))

    def _check_submits(self, caller: Caller) -> None:
        caller.check_scope(Action.SUBMIT)
        caller.check_use(Action.SUBMIT, self.service)

    # Commands of the server

    async def start_job(self, job_id: str, program: tuple[ProgramFile, ...] = ()) -> Job:
        """Record that a program, of these files, is started now, under the present declaration."""
        self.backend.files.check_room()
        recorded = await self.backend.store.read_stream(e.job_stream(job_id))
        job = self._admitted(fold(recorded), job_id, SERVER)
        quote = await self.estimate(job.owner, job.parameters)
        return await self._carry_out(
            job_id,
            [lambda job: self.transitions.start_job(job, quote, program)],
            Command(SERVER, led_by=("JobQueued",)),
            recorded,
        )

    async def release_job(self, job_id: str) -> bool:
        """Queue a job that is held, if there is room for it now; returns whether there was.

        Raises `IllegalPhase` when it is not HELD any more.
        """
        job = await self.load_job(job_id, SERVER)
        quota = self.backend.quotas.of(SERVER, job)
        async with self.backend.quotas.turn(self.service, job.owner, quota):
            if await self.backend.queueing.full(self.service, job.owner, quota.queued):
                return False
            quote = await self.estimate(job.owner, job.parameters, queued=True, quotas=job.quotas)
            await self._by_server(job_id, lambda job: self.transitions.release_job(job, quote), "JobHeld")
        return True

    async def stop_job(self, job_id: str, reason: e.StopReason) -> Job:
        """Record why a running program is stopped, unless somebody decided so before."""
        return await self._by_server(job_id, lambda job: self.transitions.stop_job(job, reason), "JobStarted")

    async def find_program(self, job_id: str, finding: e.Finding) -> Job:
        """Record what became of a program that no server saw."""
        return await self._by_server(
            job_id, lambda job: self.transitions.find_program(job, finding), "JobStarted"
        )

    async def signal_program(self, job_id: str, signal: Literal["SIGTERM", "SIGKILL"]) -> Job:
        """Record that a program was told to end."""
        return await self._by_server(
            job_id, lambda job: self.transitions.signal_program(job, signal), "StopRequested"
        )

    async def report_progress(self, job_id: str, fraction: float | None, text: str) -> Job:
        """Record what a program told of its progress, unless it is no news or comes too late."""
        return await self._by_server(
            job_id, lambda job: self.transitions.report_progress(job, fraction, text), "JobStarted"
        )

    async def end_job(self, job_id: str, ending: Ending, *, ended: datetime | None = None) -> Job:
        """Record what became of a program, which ``ended`` then, or now."""
        return await self._by_server(
            job_id, lambda job: self.transitions.end_job(job, ending), *_LEADS_TO_END, occurred=ended
        )

    async def lose_job(self, job_id: str, results: tuple[Result, ...], reason: str) -> Job:
        """Record that a program is gone and nobody knows how it ended."""
        return await self._by_server(
            job_id, lambda job: self.transitions.lose_job(job, results, reason), *_LEADS_TO_END
        )

    async def expire_job(self, job_id: str) -> Job:
        """Destroy or archive a job whose destruction time has come; nothing when it was put off meanwhile."""

        def expire(job: Job) -> list[e.JobEvent]:
            return self.transitions.purge_job(job, self.backend.clock.now())

        return await self._by_server(job_id, expire, "JobCreated", "DestructionSet")

    async def purge_job(self, job_id: str, caller: Caller, phases: Collection[Phase] = ()) -> Job:
        """Do what `expire_job` does, for ``caller``, and also to a job that is in one of ``phases`` now.

        Returns without waiting for a program that has to be stopped first.
        """

        def purge(job: Job) -> list[e.JobEvent]:
            return self.transitions.purge_job(job, self.backend.clock.now(), phases)

        command = self._command(caller, job_id, actions=(Action.DESTROY,))
        return await self._carry_out(job_id, [purge], command)

    # How commands are carried out

    def _command(
        self,
        caller: Caller,
        job_id: str | None,
        changes: Changes | None = None,
        wishes: tuple[str, ...] = (),
        actions: tuple[Action, ...] = (Action.CHANGE,),
    ) -> Command:
        scope = (self.service.name, job_id) if job_id else (self.service.name,)
        return Command(caller, scope, changes, wishes, actions)

    async def _done(self, command: Command) -> Job | None:
        """Return the job of a command that was done before, None when it was not. Raises `KeyReused`.

        This comes before all that can refuse it: declaration and disk may not be what they were.
        """
        first = command.first_id and await self.backend.store.read_event(command.first_id)
        if not first or not command.was_done([first]):
            return None
        return fold(await self.backend.store.read_stream(first.stream))

    async def _by_server(
        self, job_id: str, step: Step, *led_by: str, occurred: datetime | None = None
    ) -> Job:
        """Carry out a command of the server's own; the last event of a type in ``led_by`` has led to it."""
        return await self._carry_out(job_id, [step], Command(SERVER, led_by=led_by, occurred=occurred))

    async def _carry_out(
        self, job_id: str, steps: Sequence[Step], command: Command,
        recorded: Sequence[RecordedEvent] | None = None,
    ) -> Job:  # fmt: skip
        """Load, decide, append; again when somebody else was faster. Files that are unwanted then go.

        ``recorded`` is what was loaded already.
        """
        for _ in range(_ATTEMPTS):
            if recorded is None:
                recorded = await self.backend.store.read_stream(e.job_stream(job_id))
            job = fold(recorded)
            if job and command.was_done(recorded):
                return job
            before = self._admitted(job, job_id, command.caller, *command.actions)
            events = self._decide(job_id, before, steps)
            if not events:
                return before
            try:
                after = await self._append(job_id, before, command.encode(events, recorded))
            except (VersionConflict, DuplicateEventId):
                recorded = None
                continue
            if after.destroyed or after.phase is Phase.ARCHIVED:
                await self._delete_files(job_id)
            else:
                self.backend.files.of(job_id).drop(before.uploads - after.uploads)
            return after
        raise Unavailable(f"job {job_id} is being changed by too many others")

    async def _append(self, job_id: str, before: Job | None, new: Sequence[NewEvent]) -> Job:
        stream, version = e.job_stream(job_id), before.version if before else 0
        recorded = await self.backend.store.append(stream, new, expected=version)
        if recorded[0].about != new[0].metadata:  # a twin of this command, under the same key, was faster
            raise DuplicateEventId(new[0].id, stream)
        after = fold(recorded, before)
        assert after is not None
        return after

    async def _delete_files(self, job_id: str) -> None:
        """Delete a job's directory; where that fails, `uws.execution.Destruction` goes on trying."""
        try:
            await self.backend.files.of(job_id).remove()
        except OSError as error:
            log.warning("the files of job %s cannot be deleted now: %s", job_id, error)

    def _decide(self, job_id: str, job: Job | None, steps: Sequence[Step]) -> list[e.JobEvent]:
        events: list[e.JobEvent] = []
        for step in steps:
            for event in step(job):  # type: ignore[arg-type]  # only the step that creates is given no job
                after = evolve(job, event, job_id=job_id, now=self.backend.clock.now())
                if job and after.phase is not job.phase and after.phase not in TRANSITIONS[job.phase]:
                    raise AssertionError(f"{job.phase} to {after.phase} is no transition")
                job = after
                events.append(event)
        return events

    async def load_job(self, job_id: str, caller: Caller, action: Action = Action.READ) -> Job:
        """Fold a job of this service from the log itself, whatever the read models do.

        Raises `OtherService` for another service's job.
        """
        return self._admitted(
            fold(await self.backend.store.read_stream(e.job_stream(job_id))), job_id, caller, action
        )

    def _admitted(self, job: Job | None, job_id: str, caller: Caller, *actions: Action) -> Job:
        if job is None:
            raise JobNotFound(job_id)
        for action in actions:
            caller.check(action, job, self.backend.clock.now())
        if job.destroyed:
            raise JobGone(job_id)
        if job.service != self.service.name:
            raise OtherService(job_id, job.service)
        for action in OF_MEMBERS.intersection(actions):
            caller.check_use(action, self.service)
        return job

    async def _queueing(self, owner: str | None, quota: Quota, quote: datetime | None) -> Step:
        """Return what RUN does to a job of such an owner, whose turn it is."""
        full = await self.backend.queueing.full(self.service, owner, quota.queued)
        if full is None:
            return lambda job: self.transitions.queue_job(job, quote)
        return lambda job: self.transitions.hold_job(job, full)

    async def _within(
        self,
        quota: Quota,
        owner: str | None,
        values: Mapping[str, Values],
        *,
        new: bool = False,
        run: bool = False,
    ) -> Step:
        """Return what refuses a command by which an owner, whose turn it is, would have more than he may."""
        use, now = await self.backend.quotas.use(owner, quota), self.backend.clock.now()

        def check(job: Job | None) -> list[e.JobEvent]:
            replaced = {name: job.parameters.get(name, ()) for name in values} if job else {}
            more = _size(values) - _size(replaced)
            if refused := refusal(quota, use, now, more=more, begins=new or run, new=new):
                raise refused
            return []

        return check

    def _control(self, changes: Changes, quota: Callable[[Job], Quota]) -> list[Step]:
        steps: list[Step] = []
        if (seconds := changes.execution_duration) is not None:
            steps.append(lambda job: self.transitions.set_execution_duration(job, seconds))
        if (time := changes.destruction) is not None:
            steps.append(
                lambda job: self.transitions.set_destruction(
                    job, time, self.backend.clock.now(), quota(job).lifetime
                )
            )
        return steps

    def _accept(self, changes: Changes) -> tuple[dict[str, Values], list[tuple[Spooled, Upload]]]:
        """Hold what was sent against the declaration; returns values by declared name, and where files go."""
        if changes.run_id is not None and first_foreign(changes.run_id):
            raise ParameterError("RUNID", "has a character that cannot be part of an XML document")
        sent: dict[str, list[str | Upload]] = {}
        taken: list[tuple[Spooled, Upload]] = []
        for name, texts in changes.parameters.items():
            if spelling := self._known(name):
                sent.setdefault(spelling, []).extend(texts)
        for name, files in changes.files.items():
            if spelling := self._known(name):
                uploads = [spooled.as_upload(spelling) for spooled in files]
                sent.setdefault(spelling, []).extend(uploads)
                taken += zip(files, uploads, strict=True)
        return dict(self.job_class.check(name, values) for name, values in sent.items()), taken

    def _known(self, name: str) -> str | None:
        """Return the declared spelling of a name, None for one to be ignored. Raises `ParameterError`."""
        spelling = self.service.find(name)
        if spelling is None and self.service.unknown_parameters == "refuse":
            raise ParameterError(name, self.service.unknown(name))
        return spelling

    @contextmanager
    def _taking(self, job_id: str, taken: Sequence[tuple[Spooled, Upload]]) -> Iterator[None]:
        """Have received files in the job's directory; they go again when what is done with them fails.

        They stay when it is cancelled, for then the log may have them.
        """
        directory = self.backend.files.of(job_id)
        try:
            for spooled, upload in taken:
                directory.take(spooled, upload)
            yield
        except Exception:
            directory.drop(upload for _, upload in taken)
            raise


def make_uws_for_service(service: Service, backend: Backend, base_url: str) -> UserUWS:
    """Return the UWS tailored to ``service``, with a job class generated from its parameters."""
    return UserUWS(service, make_user_uws_job_class(service), backend, base_url)


def offered(service: Service, base_url: str) -> Offered:
    """Return ``service`` as its clients see it, for who only makes documents of its jobs."""
    return Offered(service, make_user_uws_job_class(service), base_url)


def new_job_id() -> str:
    """Return a job id nobody can guess: the time, and 80 random bits, in 32 hexadecimal digits.

    Growing with time, it costs the log half of what a random one does. No h, p, s or t: uws-client strips
    these letters of ``https`` from the beginning of an id.
    """
    return new_id()


def _reference(job: Job) -> JobReference:
    place = Cursor(to_microseconds(job.created), job.position)
    return JobReference(job.id, job.phase, job.run_id, job.owner, job.created, place)


def _size(parameters: Mapping[str, Values]) -> int:
    return sum(value.size for values in parameters.values() for value in values if isinstance(value, Upload))


def _later(time: datetime | None, seconds: float | None) -> datetime | None:
    try:
        return time and time + timedelta(seconds=seconds) if seconds is not None else None
    except OverflowError:
        return None


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Return when any of ``awaitables`` is done; the others are cancelled."""
    waiting = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
