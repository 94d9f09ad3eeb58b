"""Tasks that must not be left half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def to_the_end(coroutine: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine that is not left half-way: a caller that is cancelled is so when it has ended."""
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
