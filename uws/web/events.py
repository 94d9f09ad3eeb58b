"""Server-sent events: what happens to a job, or to all of a list, as it happens (HTML, section 9.2)."""

from __future__ import annotations

import logging
import resource as limits
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

from aiohttp import web
from msgspec.structs import replace

from eventstore import EventStore, EventStoreError, RecordedEvent
from uws.feed import Feed, Listener, is_over
from uws.jobs import Backend
from uws.model import Action, Job, TooMany, Unavailable, UWSError, fold
from uws.queueing import Standing

from . import json_documents
from .forms import query_of, single, whole_number
from .resource import CALLER, SITE, Resource, ask_again
from .waiting import Client, client_of

_log = logging.getLogger(__name__)

MAX_STREAMS = 10_000
"""Streams of an application that are open at one time. They take a quarter of the open files that the process
may have at most: less than all connections, so that others are answered, too.
"""
SHARE = 10
"""Into how many shares they are divided: a user, or an address of nobody in particular, has one at most."""
RETRY = 3
"""Seconds after which a client that has lost its stream comes back."""
LAST_EVENT_ID = "Last-Event-ID"
_AGAIN = 15
"""Seconds after which a client that found no room may come back."""
_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # else nginx keeps back what is small
}
_RETRY = b"retry: %d\n" % (1000 * RETRY)
_RESET = b'event: reset\ndata: {"reason":"read the list: it is not known what happened to it before"}\n\n'
_END = b'event: end\ndata: {"reason":"the job has ended"}\n\n'
_BYE = b'event: bye\ndata: {"reason":"the server stops"}\n\n'


def _change(job: Job, recorded: RecordedEvent) -> bytes:
    return b"id: %d\nevent: job\ndata: %s\n\n" % (
        recorded.position,
        json_documents.job_event(job, recorded),
    )


def _queue(job_id: str, standing: Standing) -> bytes:
    return b"event: queue\ndata: %s\n\n" % json_documents.job_standing(job_id, standing)


class Streams:
    """The streams of an application that are open. All end with the server."""

    def __init__(self) -> None:
        self._open: dict[Listener, web.Request] = {}
        self._feeds: dict[EventStore, Feed] = {}
        files = limits.getrlimit(limits.RLIMIT_NOFILE)[0]
        self._of: defaultdict[Client, set[Listener]] = defaultdict(set)
        self._room = MAX_STREAMS if files == limits.RLIM_INFINITY else min(MAX_STREAMS, files // 4)

    def feed_of(self, backend: Backend) -> Feed:
        """Return what all who listen to this server's jobs share."""
        if backend.store not in self._feeds:
            self._feeds[backend.store] = Feed(backend, _change, _queue)
        return self._feeds[backend.store]

    @contextmanager
    def opened(self, request: web.Request) -> Iterator[Listener]:
        """Give the listener of a request.

        Raises `Unavailable` when there are too many, `TooMany` when its client has too many of them.
        """
        if len(self._open) >= self._room and self._dismiss(self._open) >= self._room:
            raise Unavailable(f"{self._room} streams of events are open, which is as many as may", _AGAIN)
        client, share = client_of(request[CALLER]), max(1, self._room // SHARE)
        if len(self._of[client]) >= share and self._dismiss(self._of[client]) >= share:
            raise TooMany(
                f"you have {share} streams of events open, which is as many as one may; "
                f"close one, or try again in {_AGAIN} s",
                _AGAIN,
            )
        listener = Listener(partial(_cut_off, request))
        self._open[listener] = request
        self._of[client].add(listener)
        try:
            if request.app[SITE].closing.is_set():
                listener.end()
            yield listener
        finally:
            del self._open[listener]
            self._of[client].discard(listener)
            if not self._of[client]:
                del self._of[client]

    def _dismiss(self, listeners: Collection[Listener]) -> int:
        """Let those end whose clients have gone, which is noticed when they are told something, or here.

        Returns how many are left.
        """
        gone = [listener for listener in listeners if self._open[listener].transport is None]
        for listener in gone:
            listener.end()
        return len(listeners) - len(gone)

    def close(self) -> None:
        """Let all end. Who does not take what he was sent, and would not take a farewell, is cut off."""
        for listener, request in self._open.items():
            listener.end()
            if request.transport and request.transport.get_write_buffer_size():
                _cut_off(request)


def _cut_off(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()


STREAMS = web.AppKey("streams", Streams)


async def job_events(request: web.Request) -> web.StreamResponse:
    """``{job}/events``: how the job is, then each change, until it has ended.

    Who knows a ``version`` of the job, which counts its events, is told what came after it.
    Whoever has heard of its end is answered 204, so that browsers do not ask again.
    """
    resource = Resource(request)
    uws, after = resource.uws, _last_heard(request)
    streams = request.app[STREAMS]
    feed = streams.feed_of(uws.backend)
    with streams.opened(request) as listener:
        async with feed.of_job(resource.job_id, listener):
            recorded = await uws.history(resource.job_id, resource.caller)
            if after is None and (known := single(query_of(request), "VERSION")) is not None:
                version = whole_number(known, "version", 0)
                after = max((event.position for event in recorded if event.version <= version), default=0)
            if after is not None and after > (await uws.backend.store.head()).position:
                after = None  # it was heard of another log
            job = fold(recorded)
            assert job, "history has found it"
            if is_over(job):
                if after is not None and after >= recorded[-1].position:
                    return web.Response(status=204, headers={"Cache-Control": "no-store"})
                listener.end()
            feed.recount(listener, recorded, after, await uws.standing(job))
            return await _send(resource, listener, _RETRY + b"\n", replace(job, shares=()))


async def _is_welcome(resource: Resource, job: Job | None) -> bool:
    """Whether who listens, to a job or to a list, still may: he was logged out, say, or a share has ended.

    ``job`` is without its shares: what he may do to it by himself, nothing that happens to it ends.
    """
    try:
        await ask_again(resource.request)
        if job is None:
            _check_list(resource)
        elif not resource.caller.may(Action.HISTORY, job, resource.uws.backend.clock.now()):
            await resource.uws.load_job(resource.job_id, resource.caller, Action.HISTORY)
    except (UWSError, EventStoreError, OSError):  # or it cannot be known: he may come back
        return False
    return True


def _check_list(resource: Resource) -> None:
    """Raise `NotAuthenticated` or `NotAuthorized` for who may not look at lists of the service."""
    resource.caller.check_scope(Action.READ)
    resource.caller.check_use(Action.READ, resource.uws.service)


async def job_list_events(request: web.Request) -> web.StreamResponse:
    """``{jobs}/events``: each change of any of the caller's jobs of this service."""
    resource = Resource(request)
    _check_list(resource)
    uws, after = resource.uws, _last_heard(request)
    streams = request.app[STREAMS]
    topic = uws.service.name, resource.caller.user
    with streams.opened(request) as listener:
        async with streams.feed_of(uws.backend).of_list(topic, after, listener):
            begins = _RETRY + b"\n"
            if listener.missed:
                begins = _RETRY + b"id: %d\n" % listener.position + _RESET
            return await _send(resource, listener, begins)


def _last_heard(request: web.Request) -> int | None:
    """Return the position that the client has heard of last, None for nothing. Raises `UsageError`.

    A browser that comes back asks for the URL that it asked for first: its header is newer.
    """
    sent = request.headers.get(LAST_EVENT_ID)
    if sent is not None:
        return whole_number(sent, LAST_EVENT_ID, 0)
    after = single(query_of(request), "AFTER")
    return None if after is None else whole_number(after, "after", 0)


async def _send(
    resource: Resource, listener: Listener, begins: bytes, job: Job | None = None
) -> web.StreamResponse:
    """Send what a listener is told, as the client takes it, until it ends, or he is welcome no more."""
    response = web.StreamResponse(headers={**_HEADERS, "X-Request-ID": resource.caller.request_id or ""})
    try:
        await response.prepare(resource.request)
        if resource.request.method == "HEAD":
            return response
        await response.write(begins)
        async for words in listener:
            if not await _is_welcome(resource, job):
                return response
            await response.write(words or b": \nid: %d\n\n" % listener.position)
        await response.write(_BYE if resource.site.closing.is_set() else _END)
    except ConnectionError:
        _log.debug("request %s: the client has gone", resource.caller.request_id)
    return response
