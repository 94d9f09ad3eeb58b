"""How a command becomes events: load the job, fold it, let the pure model decide, append."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from eventstore import DuplicateEventId, NewEvent, RecordedEvent, VersionConflict
from uws.commands import SERVER, Caller, Changes, Command
from uws.jobs.backend import Backend
from uws.jobs.offered import Offered
from uws.model import (
    OF_MEMBERS,
    TRANSITIONS,
    Action,
    Job,
    JobGone,
    JobNotFound,
    OtherService,
    Phase,
    Service,
    Unavailable,
    UserUWSJobBase,
    UserUWSTransitions,
    fold,
)
from uws.model import events as e
from uws.model.job import evolve

_log = logging.getLogger(__name__)

_ATTEMPTS = 20
Step = Callable[[Job], list[e.JobEvent]]


class CarriesOut(Offered):
    """How a command becomes events: load the job, fold, decide, append."""

    def __init__(
        self, service: Service, job_class: type[UserUWSJobBase], backend: Backend, base_url: str
    ) -> None:
        super().__init__(service, job_class, base_url)
        self.backend = backend
        self.transitions: UserUWSTransitions = UserUWSTransitions(service, job_class)

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

    async def _by_server(self, job_id: str, step: Step, *led_by: str) -> Job:
        """Carry out a command of the server's own; the last event of a type in ``led_by`` has led to it."""
        return await self._carry_out(job_id, [step], Command(SERVER, led_by=led_by))

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
            _log.warning("the files of job %s cannot be deleted now: %s", job_id, error)

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
