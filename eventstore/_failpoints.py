"""Named places where tests let the process die."""

from __future__ import annotations

from collections.abc import Callable

BEFORE_WRITE = "before write"
AFTER_WRITE = "after write"
BEFORE_COMMIT = "before commit"
AFTER_COMMIT = "after commit"
BEFORE_ACKNOWLEDGE = "before acknowledge"

NAMES = (BEFORE_WRITE, AFTER_WRITE, BEFORE_COMMIT, AFTER_COMMIT, BEFORE_ACKNOWLEDGE)


def _go_on(name: str) -> None: ...


reached: Callable[[str], None] = _go_on
"""Called with the name of each place as it is passed, in whatever thread."""
