"""One task that writes: it takes all that waits, has it written together, and answers after that."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from ._chain import Append, Outcome
from ._errors import Overloaded, StoreClosed, StoreUnavailable
from ._types import RecordedEvent

R = TypeVar("R")
Work = Append | Callable[[], Awaitable[Any]]
"""What is asked for: appends are committed together, everything else is done on its own."""


class Committer:
    """Does what is asked for, one after the other, until it is closed. It belongs to the running event loop.

    ``commit`` writes some appends in one transaction and returns an outcome for each. ``release`` is called
    when nothing comes any more. ``max_waiting`` appends may wait before `Overloaded` is raised; at most
    ``max_batch`` are committed together.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Append]], Awaitable[Sequence[Outcome]]],
        release: Callable[[], Awaitable[None]],
        *,
        max_waiting: int,
        max_batch: int,
    ) -> None:
        self._commit, self._release = commit, release
        self._max_waiting, self._max_batch = max_waiting, max_batch
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._work_came = asyncio.Event()
        self._closed = False
        self._failure: StoreUnavailable | None = None
        self._task = asyncio.create_task(self._do_all(), name=f"committer {id(self):x}")

    async def append(self, append: Append) -> tuple[RecordedEvent, ...]:
        """Have events appended with others that wait. Raises why they are not."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(len(self._waiting))
        return cast(tuple[RecordedEvent, ...], await self._have_done(append))

    async def do(self, work: Callable[[], Awaitable[R]]) -> R:
        """Have something done while nothing else is. Raises what it raises, `StoreClosed`."""
        return cast(R, await self._have_done(work))

    async def check(self, probe: Callable[[], Awaitable[object]]) -> None:
        """Return when writing works: ``probe`` finds out after it has failed. Raises `StoreUnavailable`."""
        if self._closed:
            raise StoreClosed
        if self._failure and self._waiting:  # what waits will tell soon enough
            raise _again(self._failure)
        if self._failure:
            await self.do(probe)

    async def close(self) -> None:
        """Do what was asked for before, then release everything. May be called twice."""
        self._closed = True
        self._work_came.set()
        await asyncio.shield(self._task)

    async def _have_done(self, work: Work) -> Any:
        if self._closed:
            raise StoreClosed
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((work, answer))
        self._work_came.set()
        return await answer

    async def _do_all(self) -> None:
        try:
            while self._waiting or not self._closed:
                if self._waiting:
                    await self._do_some()
                else:
                    self._work_came.clear()
                    await self._work_came.wait()
        finally:
            # Only a loop that is torn down comes here while somebody waits.
            self._closed = True
            for _, answer in self._waiting:
                _give(answer, StoreClosed())
            await self._release()

    async def _do_some(self) -> None:
        """Take what can be done together from the queue, do it, and answer."""
        work, answer = self._waiting.popleft()
        if not isinstance(work, Append):
            _give(answer, await self._attempt(work))
            return
        batch, answers = [work], [answer]
        while self._waiting and len(batch) < self._max_batch:
            if not isinstance(more := self._waiting[0][0], Append):
                break
            batch.append(more)
            answers.append(self._waiting.popleft()[1])
        done: Any = StoreClosed()  # which it is when nothing comes of this
        try:
            done = await self._attempt(lambda: self._commit(batch))
        finally:
            for index, answer in enumerate(answers):
                _give(answer, _again(done) if isinstance(done, Exception) else done[index])

    async def _attempt(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what came of ``work``, or the exception: the committer outlives whatever it meets."""
        try:
            done = await work()
        except StoreUnavailable as error:
            self._failure = error
            return error
        except Exception as error:
            return error
        self._failure = None
        return done


def _again(error: Exception) -> Exception:
    """Return what tells another caller the same: what is raised once is made anew from its words."""
    return type(error)(*error.args) if isinstance(error, StoreUnavailable) else StoreUnavailable(repr(error))


def _give(answer: asyncio.Future[Any], outcome: Any) -> None:
    if answer.done():  # its caller was cancelled
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
