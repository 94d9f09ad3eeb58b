"""Named places where tests let the process die."""

from __future__ import annotations

from collections.abc import Callable

ARCHIVED = "month archived"
WITHHELD = "archive written anew"
BEGUN = "retention begun"
ERASED = "stream erased"
PRUNED = "histories pruned"
SCRUBBED = "read models scrubbed"

NAMES = (ARCHIVED, WITHHELD, BEGUN, ERASED, PRUNED, SCRUBBED)


def _go_on(name: str) -> None: ...


reached: Callable[[str], None] = _go_on
"""Called with the name of each place as it is passed."""
