"""The feed: what happens to jobs, told to all who listen. The log is followed once for them, while any do.

Each event is read and put into words once. Who listens to a job, or to all jobs of an owner, is handed the
words; how they are carried is not known here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from datetime import timedelta
from typing import NamedTuple

from msgspec.structs import replace

from eventstore import Erased, Pruned, RecordedEvent
from uws.jobs import Backend
from uws.model import Job, Phase, Unavailable, fold
from uws.model import events as e
from uws.model.job import apply
from uws.queueing import Standing

_log = logging.getLogger(__name__)

KEPT = 1000
"""Positions of the log that are remembered: who comes back from further away has missed something."""
ROOM = 2 * KEPT
"""Messages that wait for one listener at most: one who is further behind is given up."""
BEAT = 15.0
"""Seconds between two signs of life."""
_PATIENCE = 10.0
"""Seconds that a listener waits until the feed has reached the log's head."""
_RETRY = 1.0
"""Seconds until the log is tried again that could not be read."""
_AT_ONCE = 100
"""Events that are read, and listeners that are told, before others are answered."""
_PIECE = 32
"""Messages that a listener takes at once."""
_KNOWN = 10_000
"""Jobs whose state is remembered; that of others is read from the log when something happens to them."""
_LOOKED_AT = 100
"""Jobs whose standing in the queue is looked up between two signs of life."""

_CUTS = frozenset({Erased.type, Pruned.type})
"""Events that say that others are not in the log any more."""

JobList = tuple[str, str | None]
"""The jobs of a service, by its name, that an owner has."""
Topic = str | JobList
"""What is listened to: a job, by its id, or a list."""


class Message(NamedTuple):
    """Words about the event at a position."""

    position: int
    words: bytes


class Listener:
    """Gives what is told of one topic: in order, each once. Ends when no more will be told.

    Words may be empty: then they are a sign of life, and all up to ``position`` was given. One who does not
    keep up is given up: ``give_up`` is called, and has to see to it that nobody waits for him.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.position: int = 0
        """Up to where it was told, or will have been when it has taken what waits."""
        self.missed = False
        """Whether it does not know what happened before it was told anything."""
        self._give_up = give_up
        self._messages: deque[Message] = deque()
        self._standing = b""
        self._stirred = asyncio.Event()
        self._ends = False

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> bytes:
        if not self._messages and not self._ends:
            self._stirred.clear()
            await self._stirred.wait()
        if not self._messages and self._ends:
            raise StopAsyncIteration
        taken = [self._messages.popleft() for _ in range(min(_PIECE, len(self._messages)))]
        return b"".join(message.words for message in taken)

    def begin(self, position: int, past: Iterable[Message], standing: bytes = b"") -> None:
        """Let it be told of the ``past``, which is all up to ``position``, before what it was told by now."""
        later = [message for message in self._messages if message.position > position]
        now = [Message(position, standing)] if standing else []
        self._messages = deque([*past, *now, *later])
        self._standing = standing
        self.position = max(position, self.position)

    def tell(self, message: Message) -> None:
        """Tell it of an event, unless it knows."""
        if message.position <= self.position or self._ends:
            return
        if len(self._messages) >= ROOM:
            self.end()
            self._give_up()
            return
        self.position = message.position
        self._messages.append(message)
        self._stirred.set()

    def note(self, standing: bytes) -> None:
        """Tell it how its job waits in the queue, unless it knows."""
        if standing and standing != self._standing and not self._ends:
            self._standing = standing
            self._messages.append(Message(self.position, standing))
            self._stirred.set()

    def stir(self, position: int) -> None:
        """Give a sign of life, and let it know that all up to ``position`` was told."""
        self.position = max(position, self.position)
        self._stirred.set()

    def end(self) -> None:
        """Tell it no more."""
        self._ends = True
        self._stirred.set()


class Feed:
    """Tells listeners of events. ``change`` and ``queue`` put them, and standings in the queue, into words.

    What is told of an event depends on the log alone; so it is the same for one who hears it when it happens
    and one who was away.
    """

    def __init__(
        self,
        backend: Backend,
        change: Callable[[Job, RecordedEvent], bytes],
        queue: Callable[[str, Standing], bytes],
    ) -> None:
        self._store, self._clock, self._queueing = backend.store, backend.clock, backend.queueing
        self._change, self._queue = change, queue
        self._listeners: defaultdict[Topic, set[Listener]] = defaultdict(set)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        """Jobs as they are after some of their events, without what is never told."""
        self._recent: deque[tuple[JobList, Message]] = deque()
        self._least = 0
        """What was before this position may not be in the log any more."""
        self._since = 0
        """Behind this position, all messages are remembered."""
        self._position = 0
        """Up to here, the log was read."""
        self._advanced = asyncio.Event()
        self._telling = asyncio.Lock()
        self._present = 0
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    # Listening

    @asynccontextmanager
    async def of_job(self, job_id: str, listener: Listener) -> AsyncIterator[None]:
        """Tell of what happens to a job from now on until it has ended; `recount` tells what was before."""
        async with self._followed(None):
            with self._listening(job_id, listener):
                yield

    def recount(
        self,
        listener: Listener,
        recorded: Sequence[RecordedEvent],
        after: int | None,
        standing: Standing | None,
    ) -> None:
        """Tell a listener of the events of its job behind ``after``, or of the last one, before what comes.

        ``recorded`` is all that the job's stream held at some moment since the listener began, ``standing``
        how the job waits in the queue.
        """
        if after is None:
            after = recorded[-1].position - 1
        job, past = None, []
        for event in recorded:
            job = apply(job, event)
            if job and event.position > after:
                past.append(Message(event.position, self._change(job, event)))
        if job and job.id not in self._jobs:
            self._remember(job)
        how = self._queue(job.id, standing) if job and standing else b""
        listener.begin(recorded[-1].position, past, how)

    @asynccontextmanager
    async def of_list(self, topic: JobList, after: int | None, listener: Listener) -> AsyncIterator[None]:
        """Tell of all that happens to jobs of a list behind the position ``after``, or from now on.

        Unless all that happened since is remembered, the listener has ``missed`` it, and is told what comes.
        Raises `Unavailable` when the log cannot be read.
        """
        async with self._followed(after) as head:
            await self._reached(head)
            with self._listening(topic, listener):
                listener.missed = after is None or not self._since <= after <= self._position
                start = self._position if listener.missed else after or 0
                past = [each for its, each in self._recent if its == topic and each.position > start]
                listener.begin(self._position, past)
                yield

    @asynccontextmanager
    async def _followed(self, after: int | None) -> AsyncIterator[int]:
        """Follow the log while this lasts, so that what is behind ``after`` is remembered, if it may be.

        Gives the log's head.
        """
        head = (await self._store.head()).position
        oldest = max(self._least, head - KEPT)
        self._present += 1
        try:
            if not self._tasks:
                if self._position < oldest:
                    self._forget(head)
                self._begin()
            if after is not None and oldest <= after < self._since:
                self._stop()
                self._forget(oldest)  # who has heard some of it already is not told that again
                self._begin()
            yield head
        finally:
            self._present -= 1
            if not self._present:
                self._stop()

    @contextmanager
    def _listening(self, topic: Topic, listener: Listener) -> Iterator[None]:
        self._listeners[topic].add(listener)
        try:
            yield
        finally:
            self._listeners[topic].discard(listener)
            if not self._listeners[topic]:
                del self._listeners[topic]

    async def _reached(self, position: int) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._position < position:
                    await self._advanced.wait()
        except TimeoutError:
            raise Unavailable(f"events are told up to position {self._position} of {position}") from None

    # Following

    def _begin(self) -> None:
        # In a context of its own: what it logs is not about the request that happened to come first.
        about = Context()
        self._tasks = (
            asyncio.create_task(self._follow(), name="feed", context=about),
            asyncio.create_task(self._beat(), name="feed: signs of life", context=about),
        )

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = ()

    def _forget(self, position: int) -> None:
        """Go on behind a position, and remember no message before it."""
        self._position = self._since = position
        self._recent.clear()

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self._store.subscribe(after=self._position):
                    await self._take(batch)
                return
            except Exception:  # the log cannot be read
                _log.exception("the feed stands at position %s", self._position)
                await self._clock.sleep_until(self._clock.now() + timedelta(seconds=_RETRY))

    async def _take(self, batch: Sequence[RecordedEvent]) -> None:
        over: set[str] = set()
        try:
            for count, recorded in enumerate(batch, 1):
                if told := await self._told(recorded):
                    await self._publish(*told)
                    if is_over(told[0]):
                        over.add(told[0].id)
                elif recorded.type in _CUTS:
                    self._least = recorded.position
                    self._forget(recorded.position)
                    self._jobs.pop(e.job_id_of(recorded.stream) or "", None)
                self._position = recorded.position
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        finally:  # what failed is read again from there on, and the ends before it are not
            for job_id in over:  # not before what came with the end was told
                for listener in self._listeners.get(job_id, ()):
                    listener.end()
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def _told(self, recorded: RecordedEvent) -> tuple[Job, Message] | None:
        """Return what an event has made of its job, and words about it; None for what is none of a job."""
        job_id = e.job_id_of(recorded.stream)
        if job_id is None or recorded.erased or recorded.type in _CUTS:
            return None
        before, version = self._jobs.get(job_id), recorded.version - 1
        stream: Sequence[RecordedEvent] = ()
        if (before.version if before else 0) != version:
            stream = await self._store.read_stream(recorded.stream)
        try:
            if stream:
                before = fold(event for event in stream if event.version <= version)
            job = apply(before, recorded) if before or not version else None
            if job is None:  # it was erased meanwhile
                return None
            return self._remember(job), Message(recorded.position, self._change(job, recorded))
        except Exception:  # whatever it is, others are told of what happens to them
            _log.exception("position %s of the log cannot be told", recorded.position)
            return None

    def _remember(self, job: Job) -> Job:
        """Remember a job for its next event, and return what is remembered of it."""
        known = replace(job, run_id=None, parameters={}, results=(), failure=None, shares=())
        self._jobs[job.id] = known
        self._jobs.move_to_end(job.id)
        if len(self._jobs) > _KNOWN:
            self._jobs.popitem(last=False)
        return known

    async def _publish(self, job: Job, message: Message) -> None:
        """Tell all whom it concerns, and keep it for those who come back."""
        topic = job.service, job.owner
        async with self._telling:
            self._position = message.position
            self._recent.append((topic, message))
            self._since = max(self._since, message.position - KEPT)
            while self._recent[0][1].position <= self._since:
                self._recent.popleft()
            listeners = [*self._listeners.get(job.id, ()), *self._listeners.get(topic, ())]
            await _in_turn(listeners, lambda each: each.tell(message))

    # Signs of life

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now() + timedelta(seconds=BEAT))
            try:
                await self._tell_standings()
            except Exception:  # whatever it is, the rest is told
                _log.exception("standings in the queue cannot be told")
            async with self._telling:  # so that all up to the position was told
                everybody = [each for listeners in self._listeners.values() for each in listeners]
                await _in_turn(everybody, lambda each: each.stir(self._position))

    async def _tell_standings(self) -> None:
        """Tell those who listen to jobs in the queue how they stand by now."""
        waiting = [job_id for job_id in self._listeners if isinstance(job_id, str) and self._queued(job_id)]
        for job_id in waiting[:_LOOKED_AT]:
            if job := self._queued(job_id):
                standing = await self._queueing.standing(job)
                if standing and self._queued(job_id):
                    words = self._queue(job_id, standing)
                    for listener in self._listeners.get(job_id, ()):
                        listener.note(words)
            if job_id in self._listeners:  # the next turn is that of others
                self._listeners[job_id] = self._listeners.pop(job_id)

    def _queued(self, job_id: str) -> Job | None:
        job = self._jobs.get(job_id)
        return job if job and job.phase is Phase.QUEUED else None


def is_over(job: Job) -> bool:
    """Whether nothing is told of a job to those who listen to it alone: it has ended, or is gone."""
    return job.has_ended or job.destroyed is not None


async def _in_turn(listeners: Collection[Listener], do: Callable[[Listener], None]) -> None:
    """Do something to all listeners, and let others be answered meanwhile."""
    for count, listener in enumerate(listeners, 1):
        do(listener)
        if count % _AT_ONCE == 0:
            await asyncio.sleep(0)
