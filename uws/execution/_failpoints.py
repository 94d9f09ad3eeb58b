"""Named places where tests let the process die."""

from __future__ import annotations

from collections.abc import Callable

DECIDED = "start decided"
LAUNCHED = "program launched"
ACCEPTED = "accepted by the batch system"

NAMES = (DECIDED, LAUNCHED)
NAMES_IN_SLURM = (*NAMES, ACCEPTED)


def _go_on(name: str) -> None: ...


reached: Callable[[str], None] = _go_on
"""Called with the name of each place as it is passed."""
