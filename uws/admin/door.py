"""The server's side of the socket. Who may connect is a matter of the socket's mode and owner."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from structlog.contextvars import bound_contextvars

from uws.commands import Caller
from uws.model import UWSError

from . import wire
from .access import ACCESS_OPERATIONS
from .failures import DoesNotHold, problems_of
from .jobs import JOB_OPERATIONS
from .operations import OPERATIONS, Administered, Operation, caller_of, carry_out
from .rerunning import RERUN_OPERATIONS

_log = logging.getLogger(__name__)

_LONGEST_WORDS = 500
"""Characters of the log's line that may be what somebody has typed."""
_EVERY = 0.1
"""Seconds between two lines that tell of progress."""
_LEAVING = 5.0
"""Seconds that clients have at the end to read why there is no result."""
_decoder: msgspec.json.Decoder[Operation[Any]] = msgspec.json.Decoder(
    reduce(or_, OPERATIONS + JOB_OPERATIONS + ACCESS_OPERATIONS + RERUN_OPERATIONS)
)


@asynccontextmanager
async def listening(here: Administered) -> AsyncIterator[None]:
    """Carry out operations that come through ``admin.sock`` in the data directory.

    Only the directory's owner may use it. The log must be locked: a socket that is there is then a leftover.
    Leaving ends the operations that run; their clients are told. Raises `OSError`.
    """
    door = _Door(here)
    app = web.Application()
    app.router.add_post("/", door.answer)
    app.on_shutdown.append(door.close)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_LEAVING)
    await runner.setup()
    assert runner.server is not None
    try:
        with _bound(here.settings.data / wire.SOCKET) as bound:
            server = await asyncio.get_running_loop().create_unix_server(runner.server, sock=bound)
            try:
                yield
            finally:
                server.close()
    finally:
        await runner.cleanup()


class _Door:
    """Answers requests, and knows the operations that run."""

    def __init__(self, here: Administered) -> None:
        self._here = here
        self._running: set[asyncio.Task[Any]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Carry out the operation in the body, unless the client goes away meanwhile."""
        body = await request.read()
        response = web.StreamResponse(headers={"Content-Type": wire.LINES})
        await response.prepare(request)
        try:
            operation = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await _send(response, wire.Failure([f"the server that runs does not know this command: {error}"]))
        except UWSError as error:
            await _send(response, wire.Failure(problems_of(error)))
        else:
            caller = caller_of(operation, _user_at(request))
            with bound_contextvars(request_id=caller.request_id):
                asked = str(operation)[:_LONGEST_WORDS]
                _log.info("%s asks for %s: %s (%s)", caller.user, operation.words, asked, caller.request_id)
                await self._attend(operation, caller, response)
        return response

    async def close(self, app: web.Application) -> None:
        """End what runs; clients are told."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _attend(self, operation: Operation[Any], caller: Caller, response: web.StreamResponse) -> None:
        """Tell the client how far the operation is, and what came of it."""
        reached = sent = wire.Progress(0, None)

        def report(done: int, of: int | None) -> None:
            nonlocal reached
            reached = wire.Progress(done, of)

        task = asyncio.create_task(carry_out(operation, self._here, caller, report), name=operation.words)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_EVERY)
                if reached is not sent:
                    sent = reached
                    await _send(response, sent)
        finally:
            if task.cancel():
                _log.info("%s is given up: its client went away (%s)", operation.words, caller.request_id)
                await asyncio.wait([task])
        await _send(response, self._outcome(task, caller))

    def _outcome(self, task: asyncio.Task[Any], caller: Caller) -> wire.Result | wire.Failure:
        words = task.get_name()
        if task.cancelled():
            return wire.Failure([f"the server was stopped before {words} was done; repeat it"])
        error = task.exception()
        if error is None:
            return wire.Result(msgspec.Raw(wire.encode(task.result())))
        if problems := problems_of(error):
            _log.info("%s: %s (%s)", words, "; ".join(problems)[:_LONGEST_WORDS], caller.request_id)
            return wire.Failure(problems, holds=not isinstance(error, DoesNotHold))
        _log.error("%s failed (%s)", words, caller.request_id, exc_info=error)
        return wire.Failure([f"an internal error; it is on record as {caller.request_id}"])


def _user_at(request: web.Request) -> int:
    """Return the number of the user at the other end."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(connection.fileno())) as peer:
        return wire.credentials(peer)[1]


@contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    """Give a socket at ``path``, whatever was there, for the owner alone. It is gone when this is left."""
    with socket.socket(socket.AF_UNIX) as bound, ExitStack() as stack:
        try:
            path.unlink(missing_ok=True)
            with wire.address(path.parent) as address:
                bound.bind(address)
            stack.callback(path.unlink, missing_ok=True)
            path.chmod(0o600)  # before it listens nobody can connect
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield bound


async def _send(response: web.StreamResponse, line: wire.Line) -> None:
    await response.write(wire.encode(line) + b"\n")
