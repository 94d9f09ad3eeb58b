"""What is found, and how long it is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from threading import Thread
from typing import Literal, TypeVar

import msgspec

R = TypeVar("R")
State = Literal["well", "doubt", "fault"]
PATIENCE = 10.0
"""Seconds for whatever has to answer."""


class Finding(msgspec.Struct, frozen=True):
    """What was found of a ``subject``, and what to do where it is not well."""

    subject: str
    state: State
    found: str
    advice: str = ""


async def patiently(work: Callable[[], R]) -> R:
    """Return what ``work`` does, in a thread for which nobody waits at the end: a dead disk may have it.

    Raises what it does, and `TimeoutError`.
    """
    done: Future[R] = Future()

    def carry_out() -> None:
        with suppress(InvalidStateError):  # nobody waits any more
            try:
                done.set_result(work())
            except InvalidStateError:
                raise
            except BaseException as error:
                done.set_exception(error)

    Thread(target=carry_out, daemon=True).start()
    async with asyncio.timeout(PATIENCE):
        return await asyncio.wrap_future(done)
