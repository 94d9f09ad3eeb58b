"""Worlds without programs, random histories of their jobs, and what the log alone says of them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from eventstore import (
    Erased,
    EventStore,
    MemoryEventStore,
    Metadata,
    NewEvent,
    Pruned,
    RecordedEvent,
    SQLiteEventStore,
    StreamNotFound,
    new_id,
    to_microseconds,
)
from projections import DESTROYED, READ_MODELS, JobReadModel, Projector, ReadModel
from tests.harness import ManualClock
from tests.projections.models import GATE
from uws import (
    Backend,
    Caller,
    Changes,
    Ending,
    Failure,
    Job,
    Phase,
    Result,
    Service,
    StrParameter,
    UserUWS,
    UWSError,
    fold,
    make_uws_for_service,
)
from uws.audit.archiving import ENDED_BY
from uws.files import Files
from uws.model import ENDED, PHASE_AFTER, STARTED, TRANSITIONS, apply
from uws.model import events as e

NOBODY = Caller()
NAMES = [model.name for model in READ_MODELS]
SERVICES = (
    Service(
        name="keeps",
        title="Keeps a record",
        command=["true"],
        archive=True,
        parameters={"x": StrParameter(), "many": StrParameter(multiple=True)},
    ),
    Service(name="forgets", title="Forgets", command=["true"], parameters={"x": StrParameter(required=True)}),
)
Rows = dict[str, list[tuple[Any, ...]]]


class World:
    """All that is below HTTP and above the disk, with nobody who runs programs."""

    def __init__(self, backend: Backend, models: Sequence[ReadModel[Any]]) -> None:
        self.backend, self._models = backend, models
        self.uws = [make_uws_for_service(service, backend, "http://localhost") for service in SERVICES]

    @property
    def keeps(self) -> UserUWS:
        return self.uws[0]

    @property
    def projector(self) -> Projector:
        return self.backend.projector

    @property
    def jobs(self) -> JobReadModel:
        return self.backend.jobs

    @property
    def store(self) -> EventStore:
        return self.backend.store

    async def rows(self) -> Rows:
        """Return all rows of all tables, by table, once all that happened is in them."""
        await self.projector.caught_up()
        return await self.projector.ask(rows_of, self._models)

    async def set_run_id(self, run_id: str) -> str:
        """Create a job with a run id, and return it."""
        return (await self.keeps.create_job(Changes(run_id=run_id), NOBODY)).id


def rows_of(connection: sqlite3.Connection, models: Sequence[ReadModel[Any]] = READ_MODELS) -> Rows:
    """Return all rows of all tables."""
    return {
        table: connection.execute(contents.query).fetchall()
        for model in models
        for table, contents in model.contents.items()
    }


@asynccontextmanager
async def world(
    directory: Path,
    clock: ManualClock,
    store: EventStore | None = None,
    models: Sequence[ReadModel[Any]] = READ_MODELS,
) -> AsyncIterator[World]:
    """Open a world over ``store``; a new one in memory by default."""
    directory.mkdir(exist_ok=True)
    own = store or MemoryEventStore(clock.now)
    projector = await Projector.open(directory / "projections.db", own, models)
    projector.retry_seconds = 0
    files = Files(directory)
    files.prepare()
    try:
        yield World(Backend(own, projector, JobReadModel(projector), files, clock), models)
    finally:
        await projector.close()
        if store is None:
            await own.close()


@asynccontextmanager
async def log(directory: Path, clock: ManualClock) -> AsyncIterator[SQLiteEventStore]:
    """Open a log on the disk."""
    store = await SQLiteEventStore.open(directory / "events.db", now=clock.now)
    try:
        yield store
    finally:
        await store.close()


def job_events(number: int, value: str = "") -> list[NewEvent]:
    """Return the first three events of a job."""
    created = e.JobCreated(
        service="keeps", declaration="0", execution_duration=1, destruction=None, owner=f"user {number % 7}",
        parameters={"x": (value,)},
    )  # fmt: skip
    return [e.encode(event, Metadata()) for event in (created, e.JobQueued(), e.JobStarted(declaration="0"))]


def with_models(*models: ReadModel[Any]) -> list[ReadModel[Any]]:
    """Return the read models, some of them replaced by others of the same name."""
    others = {model.name: model for model in models}
    return [others.get(model.name, model) for model in READ_MODELS]


class Gate:
    """Where a `GatedDocuments` that is made in another process waits for its test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def reached(self) -> int:
        """Wait until the model is there; return its process."""
        return int(await asyncio.to_thread((self._directory / "reached").read_text))

    async def release(self) -> None:
        """Let it go on."""
        await asyncio.to_thread((self._directory / "released").write_bytes, b"")


@contextmanager
def gate(directory: Path) -> Iterator[Gate]:
    """Have processes that are started meanwhile wait at a gate."""
    directory.mkdir()
    for name in ("reached", "released"):
        os.mkfifo(directory / name)
    os.environ[GATE] = f"{os.getpid()} {directory}"
    try:
        yield Gate(directory)
    finally:
        del os.environ[GATE]


# Random histories

RESULT = Result(id="r", path="results/r", size=7, sha256="0" * 64, media_type="text/plain")
_endings = st.sampled_from(
    [
        Ending(exit_code=0, results=(RESULT,)),
        Ending(exit_code=3, failure=Failure(message="no")),
        Ending(signal="SIGTERM", failure=Failure(message="ended", type="transient", detail="x\ny")),
    ]
)
_HOLDERS: tuple[str | msgspec.UnsetType, ...] = (msgspec.UNSET, msgspec.UNSET, "a", "b")
_uploads = st.integers(0, 3).map(
    lambda size: (
        (e.Upload(file=f"f{size}", filename="f", size=size, sha256="0" * 64, node=_HOLDERS[size]),)
        if size
        else ()
    )
)
_by_nobody = st.sampled_from(
    [
        e.JobHeld(reason="the disk is full"),
        e.JobSuspended(reason="for a while"),
        e.JobResumed(),
        e.JobLost(reason="who knows"),
        e.JobQueued(),
        e.JobSubmitted(declaration="0"),
        e.JobAccepted(batch_job="7", reason="Resources"),
        e.JobStarted(declaration="0"),
        e.ProgramFound(finding="running"),
        e.ProgramSignalled(signal="SIGTERM"),
        e.ProgressMade(fraction=0.5, text="half"),
        e.JobRequeued(reason="it was lost"),
    ]
)
"""What no command of a client causes, and queueing again what was started."""


def _decided(paused: bool, service: str | None) -> e.QueueEvent:
    return e.QueuePaused(service=service) if paused else e.QueueResumed(service=service)


_wish = st.one_of(
    st.tuples(st.just("create"), st.sampled_from([None, "ada", "bob"]), st.booleans()),
    st.tuples(st.just("set"), st.text("ab\n", max_size=3)),
    st.tuples(st.just("duration"), st.integers(0, 10**6)),
    st.tuples(st.just("destruction"), st.integers(-100, 10**6)),
    st.tuples(st.just("runid"), st.text("rs", max_size=2)),
    st.tuples(st.just("queue")),
    st.tuples(st.just("start")),
    st.tuples(st.just("stop"), st.sampled_from(["duration", "shutdown"])),
    st.tuples(st.just("end"), _endings),
    st.tuples(st.just("abort")),
    st.tuples(st.just("destroy")),
    st.tuples(st.just("expire")),
    st.tuples(st.just("erase")),
    st.tuples(st.just("prune")),
    st.tuples(st.just("append"), _by_nobody),
    st.tuples(st.just("upload"), st.sampled_from(["f", "g", "x"]), _uploads),
    st.tuples(st.just("import"), st.integers(0, 10**6)),
    st.tuples(
        st.just("queue of all"),
        st.builds(_decided, st.booleans(), st.sampled_from([None, "keeps", "forgets"])),
    ),
    st.tuples(
        st.just("node"),
        st.sampled_from([e.NodeJoined(node="a"), e.NodeJoined(node="b"), e.NodeLeft(node="a", reason="?")]),
    ),
    st.tuples(st.just("declare"), st.sampled_from(["keeps", "other"])),
)
Step = tuple[int, float, tuple[Any, ...]]
histories = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0, 0.25, 1e5]), _wish), max_size=40)

HISTORY: list[Step] = [
    (0, 0, ("declare", "keeps")),
    (0, 0, ("create", "ada", True)),
    (1, 1, ("create", None, False)),
    (2, 1, ("create", "bob", False)),
    (0, 1, ("start",)),
    (1, 1, ("set", "ab")),
    (2, 1, ("destroy",)),
    (0, 1, ("end", Ending(exit_code=0, results=(RESULT,)))),
    (3, 1, ("create", None, True)),
    (3, 1, ("start",)),
    (1, 1, ("upload", "f", (e.Upload(file="f", filename="f", size=5, sha256="0" * 64),))),
    (5, 1, ("import", 1000)),
    (0, 1, ("queue of all", e.QueuePaused(service="keeps"))),
    (0, 1, ("node", e.NodeJoined(node="a"))),
]
"""Four jobs that go their ways, one that came from elsewhere, and a pause."""


class Player:
    """Carries out wishes on jobs that are chosen by number."""

    def __init__(self, on: World, clock: ManualClock) -> None:
        self.world, self.clock = on, clock
        self.jobs: list[tuple[UserUWS, str, Caller]] = []

    async def play(self, history: Sequence[Step]) -> None:
        for step in history:
            await self.step(step)

    async def step(self, step: Step) -> None:
        number, seconds, wish = step
        self.clock.advance(seconds=seconds)
        with suppress(UWSError):
            await self._do(number, *wish)

    async def prune(self, number: int) -> None:
        """Take out of the log what had ended up to one of its events."""
        store = self.world.store
        if log := await store.read_all():
            with suppress(ValueError):  # it was pruned further before
                await store.prune(log[number % len(log)].position, ended_by=ENDED_BY, reason="archived")

    async def _do(self, number: int, kind: str, *details: Any) -> None:
        if kind == "declare":
            await self._declare(details[0], number)
        elif kind == "queue of all":
            await self.world.store.append(e.QUEUE_STREAM, [e.encode(details[0], Metadata())])
        elif kind == "node":
            new = [e.encode(details[0], Metadata())]
            await self.world.store.append(e.node_stream(details[0].node), new)
        elif kind == "import":
            await self._import(number, details[0])
        elif kind == "create" or not self.jobs:
            owner, run = details if kind == "create" else (None, False)
            uws, caller = self.world.uws[number % 2], Caller(owner, request_id=f"request {number}")
            job = await uws.create_job(Changes(parameters={"x": ["1"]}, run_id="first"), caller, run=run)
            self.jobs.append((uws, job.id, caller))
        else:
            await self._change(*self.jobs[number % len(self.jobs)], number, kind, *details)

    async def _change(
        self, uws: UserUWS, job_id: str, caller: Caller, number: int, kind: str, *details: Any
    ) -> None:
        match kind, *details:
            case "set", text:
                await uws.change_job(job_id, Changes(parameters={"X": [text]}), caller)
            case "duration", seconds:
                await uws.change_job(job_id, Changes(execution_duration=seconds), caller)
            case "destruction", seconds:
                time = self.clock.now() + timedelta(seconds=seconds)
                await uws.change_job(job_id, Changes(destruction=time), caller)
            case "runid", text:
                await uws.change_job(job_id, Changes(run_id=text), caller)
            case ("queue",):
                await uws.queue_job(job_id, caller)
            case ("start",):
                await uws.start_job(job_id)
            case "stop", reason:
                await uws.stop_job(job_id, reason)
            case "end", ending:
                await uws.end_job(job_id, ending)
            case ("abort",):
                await uws.abort_job(job_id, caller)
            case ("destroy",):
                await uws.destroy_job(job_id, caller, patience=0)
            case ("expire",):
                await uws.expire_job(job_id)
            case ("erase",):
                with suppress(StreamNotFound):
                    await self.world.store.erase(f"job/{job_id}", reason="on request")
            case ("prune",):
                await self.prune(number)
            case "append", event:
                await self._append(job_id, event)
            case "upload", name, uploads:
                await self._append(job_id, e.ParametersSet(parameters={name: uploads}))

    async def _append(self, job_id: str, event: e.JobEvent) -> None:
        """Append an event where the job's phase allows it."""
        job = fold(await self.world.store.read_stream(f"job/{job_id}"))
        if job is None or job.destroyed or job.phase in ENDED:
            return
        if PHASE_AFTER.get(type(event)) in {None, *TRANSITIONS[job.phase]}:
            await self.world.store.append(f"job/{job_id}", [e.encode(event, Metadata())])

    async def _import(self, number: int, ago: int) -> None:
        """Record a job that ran some seconds ago."""
        began = to_microseconds(self.clock.now()) - ago * 1_000_000
        job_id = f"imported-{new_id()}"
        done: list[e.JobEvent] = [
            e.JobCreated(service="forgets", declaration="0", execution_duration=1, destruction=None),
            e.JobQueued(),
            e.JobStarted(declaration="0"),
            e.JobCompleted(results=(RESULT,)),
        ]
        await self.world.store.append(
            f"job/{job_id}",
            [
                e.encode(event, Metadata(occurred=began + later * 1_500_000, source="elsewhere"))
                for later, event in enumerate(done)
            ],
        )
        self.jobs.append((self.world.uws[1], job_id, NOBODY))

    async def _declare(self, name: str, number: int) -> None:
        declared = e.ServiceDeclared(service=name, digest=f"{number:064}", declaration='{"title": "?"}')
        await self.world.store.append(e.service_stream(name), [e.encode(declared, Metadata())])


# What the log says


async def streams_of(store: EventStore) -> dict[str, list[RecordedEvent]]:
    """Return all events there are, by stream."""
    streams: dict[str, list[RecordedEvent]] = defaultdict(list)
    for event in await store.read_all(limit=1 << 30):
        streams[event.stream].append(event)
    return streams


def jobs_of(streams: Mapping[str, list[RecordedEvent]]) -> dict[str, Job]:
    """Return the jobs, in the order in which they were created."""
    jobs = {stream: fold(events) for stream, events in streams.items() if e.job_id_of(stream)}
    return dict(sorted(((s, job) for s, job in jobs.items() if job), key=lambda item: item[1].position))


async def told_by(store: EventStore) -> Rows:
    """Return what all tables should hold, going by the folded streams; of documents, the jobs themselves."""
    streams = await streams_of(store)
    jobs = jobs_of(streams)
    last = {stream: events[-1].position for stream, events in streams.items()}
    cut = max(
        (
            event.position
            for events in streams.values()
            for event in events
            if event.type in (Erased.type, Pruned.type)
        ),
        default=0,
    )
    used = [
        (*row, last[stream])
        for stream, job in jobs.items()
        if (row := _used(job, streams[stream])) is not None
    ]
    return {
        "document": [
            (job.position, job.id, last[stream], job.destroyed is not None, job)
            for stream, job in jobs.items()
        ],
        "job": [(*_listed(job), last[stream]) for stream, job in jobs.items()],
        "changed": _changes(jobs, streams, cut),
        "cut": [(0, cut)],
        "active": [
            (
                job.position,
                job.id,
                job.service,
                job.owner,
                _waits_in(job),
                _micros(job.queued),
                _micros(job.started),
                job.quotas,
                node_of(job),
                _nodes_of_files(job),
                _reason(streams[stream]),
                last[stream],
            )
            for stream, job in jobs.items()
            if job.phase not in ENDED and not job.destroyed
        ],
        "used": sorted((job_id, position, *row) for position, job_id, *row in used),
        "usage": _sums(used),
        "lately": _lately(used),
        "occurrence": sorted(
            row for stream, events in streams.items() for row in _occurrences(stream, events)
        ),
        "course": sorted(_course(stream, streams[stream]) for stream in jobs),
        "node": [
            (stream.removeprefix("node/"), joined.time, joined.position)
            for stream, events in sorted(streams.items())
            if stream.startswith("node/") and (joined := _joined(events))
        ],
        "paused": _paused(streams.get(e.QUEUE_STREAM, [])),
        "service": sorted(
            _declared(events) for stream, events in streams.items() if stream[:8] == "service/"
        ),
    }


def _waits_in(job: Job) -> str:
    """Return the phase of a job, of which one that is QUEUED in a batch system has its own."""
    return "SUBMITTED" if job.phase == "QUEUED" and job.submitted else job.phase


def node_of(job: Job) -> str | None:
    """Return where the program of a job was started last, or is to be, which may be in Slurm."""
    return "/slurm" if job.submitted else job.node


def _reason(events: Sequence[RecordedEvent]) -> str:
    """Return what a job waits for in a batch system, if that was the last that moved it."""
    moved = [event for event in events if event.type in _PHASES]
    last = moved[-1]
    return msgspec.json.decode(last.data).get("reason", "") if last.type == "JobAccepted" else ""


def _occurrences(stream: str, events: Sequence[RecordedEvent]) -> Iterator[tuple[Any, ...]]:
    """Return what is told of the events of a stream that were not erased, one by one."""
    left = [event for event in events if not event.erased]
    job, service, owner = None, None, None
    if e.job_id_of(stream):
        job = left[0].position
        if left[0].type == "JobCreated":
            created = msgspec.json.decode(left[0].data)
            service, owner = created["service"], created.get("owner")
    elif stream.startswith("service/"):
        service = stream.removeprefix("service/")
    for event in left:
        about, named = event.about, None if job else stream
        if stream == e.QUEUE_STREAM:
            service = msgspec.json.decode(event.data).get("service")
        time = event.time if about.occurred is None else about.occurred
        yield event.position, job, named, service, owner, event.type, about.actor, time


def _course(stream: str, events: Sequence[RecordedEvent]) -> tuple[Any, ...]:
    rows = list(_occurrences(stream, events))
    (position, _, _, service, owner, kind, _, begun), last = rows[0], rows[-1][0]
    job_id = stream.removeprefix("job/")
    if kind == Erased.type:
        return position, job_id, "", None, (), DESTROYED, begun, None, 0, None, position, *[None] * 3, last
    job = fold(events)
    assert job is not None
    phase, ran, started, ends = "PENDING", 0, None, []
    for position_, *_, kind, _, time in rows:
        after = _PHASES.get(kind, DESTROYED if kind == "JobDestroyed" else phase)
        if phase in STARTED and after not in STARTED:
            ran += max(0, time - (started or time))
        started = {"JobStarted": time, "JobRequeued": None}.get(kind, started)
        if after != phase and after in {*ENDED, DESTROYED}:
            ends.append((time, position_, after))
        phase = after
    over, gone = (*ends, (None,) * 3, (None,) * 3)[:2]
    row = position, job_id, service, owner, job.quotas, phase, begun, started, ran
    return *row, *over, *gone[:2], last


_PHASES = {kind.__name__: phase.value for kind, phase in PHASE_AFTER.items()}


def comparable(rows: Rows) -> Rows:
    """Return rows as `told_by` has them, with what is written as JSON decoded."""
    return {table: [_readable(table, row) for row in found] for table, found in rows.items()}


def _readable(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    if table == "document":
        return *row[:4], msgspec.json.decode(row[4], type=Job)
    if table == "used":
        return *row[:10], msgspec.json.decode(row[10] or "{}"), *row[11:]
    if table == "course":
        return *row[:4], tuple(msgspec.json.decode(row[4] or "[]")), *row[5:]
    if table == "active":
        return (
            *row[:7],
            tuple(msgspec.json.decode(row[7] or "[]")),
            row[8],
            msgspec.json.decode(row[9] or "{}"),
            *row[10:],
        )
    return row


def _nodes_of_files(job: Job) -> dict[str, list[str]]:
    found = {
        name: {value.node for value in values if isinstance(value, e.Upload)}
        for name, values in job.parameters.items()
    }
    nodes = {name: sorted(node for node in there if isinstance(node, str)) for name, there in found.items()}
    return {name: there for name, there in nodes.items() if there}


def _micros(time: Any) -> int | None:
    return time and to_microseconds(time)


def _listed(job: Job) -> tuple[Any, ...]:
    return (
        job.position, job.id, job.service, job.owner, job.run_id, job.phase, _micros(job.created),
        _micros(job.destruction), job.destroyed is not None,
    )  # fmt: skip


def _changes(jobs: Mapping[str, Job], streams: Mapping[str, list[RecordedEvent]], cut: int) -> list[Any]:
    """Return where and when the log told something last of each list, if that was after the last cut."""
    changed: dict[tuple[str, str | None], tuple[int, int]] = {}
    for stream, job in jobs.items():
        last, place = streams[stream][-1], (job.service, job.owner)
        if last.position > cut:
            changed[place] = max((last.position, last.time), changed.get(place, (0, 0)))
    return sorted(((*place, *changed[place]) for place in changed), key=lambda row: (row[0], row[1] or ""))


def _used(job: Job, events: Sequence[RecordedEvent]) -> tuple[Any, ...] | None:
    if not job.service:  # it was erased
        return None
    ran, before = 0, None
    for event in events:
        after = apply(before, event)
        assert after
        if before and before.phase in STARTED and after.phase not in STARTED:
            ran += max(0, e.time_of(event) - (_micros(before.started) or 0))
        before = after
    gone = bool(job.destroyed) or job.phase is Phase.ARCHIVED
    uploads = {
        name: size
        for name, values in job.parameters.items()
        if (size := sum(value.size for value in values if isinstance(value, e.Upload))) and not gone
    }
    return (
        job.position, job.id, job.service, job.owner, DESTROYED if job.destroyed else job.phase,
        e.time_of(events[0]), _micros(job.started), _micros(job.ended), ran,
        0 if gone else sum(result.size for result in job.results), uploads,
    )  # fmt: skip


def _sums(used: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    jobs, ran, size = Counter[Any](), Counter[Any](), Counter[Any]()
    for _, _, service, owner, phase, _, _, _, microseconds, results, uploads, _ in used:
        jobs[service, owner, phase] += 1
        ran[service, owner, phase] += microseconds
        size[service, owner, phase] += results + sum(uploads.values())
    places = sorted(jobs, key=lambda place: (place[0], place[1] or "", place[2]))
    return [(*place, jobs[place], ran[place], size[place]) for place in places]


def _lately(used: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return how many jobs of each owner ended in each hour, and how long they ran: a second at least."""
    jobs, ran = Counter[Any](), Counter[Any]()
    for _, _, _, owner, _, _, started, ended, microseconds, _, _, _ in used:
        if started is not None and ended is not None:
            place = owner, ended // (60 * 60 * 1_000_000)
            jobs[place] += 1
            ran[place] += max(microseconds, 1_000_000)
    return [(*place, jobs[place], ran[place]) for place in sorted(jobs, key=lambda at: (at[0] or "", at[1]))]


def _joined(events: Sequence[RecordedEvent]) -> RecordedEvent | None:
    """Return the event by which a node joined that is there."""
    joined: RecordedEvent | None = None
    for event in events:
        joined = (joined or event) if event.type == "NodeJoined" else None
    return joined


def _paused(events: Sequence[RecordedEvent]) -> list[tuple[Any, ...]]:
    paused: dict[str, tuple[int, int]] = {}
    for event in events:
        what = e.decode_queue(event)
        if isinstance(what, e.QueueResumed):
            paused.pop(what.service or "", None)
        else:
            paused.setdefault(what.service or "", (e.time_of(event), event.position))
    return [(name, *paused[name]) for name in sorted(paused)]


def _declared(events: Sequence[RecordedEvent]) -> tuple[Any, ...]:
    declared = e.decode_declaration(events[-1])
    return (
        declared.service, declared.digest, declared.declaration, events[-1].time, len(events),
        events[-1].position,
    )  # fmt: skip
