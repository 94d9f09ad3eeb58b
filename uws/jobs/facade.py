"""The commands of clients: create, change, queue, abort, share and destroy jobs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from eventstore import DuplicateEventId, new_id
from uws.commands import SERVER, Caller, Changes, Command
from uws.files import Spool, Spooled
from uws.jobs.backend import Backend
from uws.jobs.carrying_out import Step
from uws.jobs.programs import ServerCommands
from uws.model import (
    OF_MEMBERS,
    Action,
    Job,
    JobGone,
    OverQuota,
    ParameterError,
    Service,
    Share,
    TooMany,
    Upload,
    Values,
    digest_of_link,
    fold,
    make_user_uws_job_class,
)
from uws.model import events as e
from uws.model.quotas import Quota, refusal
from uws.model.text import first_foreign

_COMMANDS = (Action.CHANGE, Action.ABORT, Action.DESTROY)
LONGEST_STOP = 60.0
"""Seconds that a command waits for a program to be stopped."""


class UserUWS(ServerCommands):
    """The UWS of one service: the facade to create, get, change, list and destroy its jobs.

    All methods may raise `eventstore.EventStoreError`. Methods that name a job raise `JobNotFound`,
    `JobGone`, and where they take a caller also `NotAuthenticated` and `NotAuthorized`: a job with an
    owner is his alone, but for looking at it, where he shares it. A command that was done before, under the
    same key of the same caller, is not done again: the job is returned as it is now; `KeyReused` when that
    was another command.
    """

    def at(self, base_url: str) -> UserUWS:
        """Return this UWS as clients see it who reach the server at ``base_url``."""
        return UserUWS(self.service, self.job_class, self.backend, base_url)

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
        node = self.backend.keeper or msgspec.UNSET
        parameters = dict(
            self.job_class.check(
                name, [replace(one, node=node) if isinstance(one, Upload) else one for one in values]
            )
            for name, values in first.parameters.items()
        )
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
                        while job.is_under_way:
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
            id=secrets.token_hex(8), to=to, digest=None if secret is None else digest_of_link(secret)
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
                uploads = [spooled.as_upload(spelling, self.backend.keeper) for spooled in files]
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


def new_job_id() -> str:
    """Return a job id nobody can guess: the time, and 80 random bits, in 32 hexadecimal digits.

    Growing with time, it costs the log half of what a random one does. No h, p, s or t: uws-client strips
    these letters of ``https`` from the beginning of an id.
    """
    return new_id()


def _size(parameters: Mapping[str, Values]) -> int:
    return sum(value.size for values in parameters.values() for value in values if isinstance(value, Upload))
