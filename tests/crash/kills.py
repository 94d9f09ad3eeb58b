"""When processes are killed, and the count of it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from eventstore import _failpoints

AT_OPENING = "at opening"
AT_RANDOM = "at random"
AFTER_ACKNOWLEDGE = "after acknowledge"
PLACES = (*_failpoints.NAMES, AT_RANDOM, AT_RANDOM, AT_RANDOM)
LIVES = 6
"""How often the processes of one data directory are killed."""


class Kill(msgspec.Struct, frozen=True):
    """The end of a process: at the ``count``-th passing of a failpoint, or at random.

    At random is ``spin`` seconds after the ``count``-th acknowledgement has arrived.
    """

    place: str
    count: int
    spin: float = 0.0

    def arm(self) -> None:
        """Have this process killed when it has passed the failpoint so often."""
        to_come = itertools.count(self.count, -1)

        def reached(name: str) -> None:
            if name == self.place and next(to_come) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        _failpoints.reached = reached

    def strike(self, place: str, count: int, pid: int) -> None:
        """Kill a process of ours if this is the time, after a while that is too short to be waited for."""
        if (place, count) != (self.place, self.count):
            return
        until = time.perf_counter() + self.spin
        while time.perf_counter() < until:
            pass
        os.kill(pid, signal.SIGKILL)


@dataclass
class Campaign:
    """So many kills, what chance decides about them, and what came of it."""

    kills: int
    """In all campaigns of a run."""
    seed: int
    random: random.Random
    places: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    begun: float = field(default_factory=time.monotonic)

    def directories(self, share: float) -> Iterator[range]:
        """Divide this campaign's share of the kills among data directories."""
        kills = round(share * self.kills)
        for first in range(0, kills, LIVES):
            yield range(first, min(first + LIVES, kills))

    @contextmanager
    def killing(self, number: int, place: str, count: int, spin: float) -> Iterator[Kill]:
        """Choose the end of one process; what fails then names it."""
        kill = Kill(place, self.random.randint(1, count), spin * self.random.random() ** 3)
        try:
            yield kill
        except BaseException as error:
            error.add_note(f"{kill}, number {number} of --kills {self.kills} --seed {self.seed}")
            raise
        self.places[place] += 1

    def __str__(self) -> str:
        places = ", ".join(f"{place} {count}" for place, count in sorted(self.places.items()))
        return (
            f"{self.places.total()} kills ({places}), {self.acknowledged} acknowledged, "
            f"{time.monotonic() - self.begun:.0f} s, seed {self.seed}"
        )
