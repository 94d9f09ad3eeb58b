"""A store that is killed under load, again and again."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from eventstore import Head, RecordedEvent, _failpoints
from tests.crash.kills import AFTER_ACKNOWLEDGE, AT_OPENING, AT_RANDOM, PLACES, Campaign, Kill
from tests.crash.store_child import Acknowledged, Attempt, Opening, Orders
from tests.crash.traces import traces
from tests.databases import emptied, needs_postgres, nobody_writes

ROOT = Path(__file__).parents[2]
EMPTY = Head(0, bytes(32))
IN_A_TRANSACTION = (_failpoints.AFTER_WRITE, _failpoints.BEFORE_COMMIT)
"""Where no client of a database is: what it sends is a transaction."""
_decoder = msgspec.json.Decoder(Attempt | Acknowledged | Opening)


class Directory:
    """The data of one store, what its callers have attempted, and what they were told."""

    def __init__(self, data: Path, campaign: Campaign, url: str | None) -> None:
        self._data, self._campaign, self._url = data, campaign, url
        self._attempts: dict[str, Attempt] = {}
        self._acknowledged: dict[str, Acknowledged] = {}
        self._head = EMPTY
        data.mkdir()

    @property
    def unacknowledged(self) -> list[Attempt]:
        return [attempt for batch, attempt in self._attempts.items() if batch not in self._acknowledged]

    def live(self, life: int, kill: Kill | None) -> None:
        """Let a process do its work until it is killed, or until nothing is left unacknowledged."""
        orders = Orders(
            str(self._data),
            self._url,
            str(life),
            self._campaign.seed,
            self._head.position,
            self.unacknowledged,
            kill,
        )
        argv = [sys.executable, "-m", "tests.crash.store_child", msgspec.json.encode(orders).decode()]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout
                self._listen(child.pid, child.stdout, kill)
            except BaseException:
                child.kill()
                raise
        assert child.returncode == (-signal.SIGKILL if kill else 0)

    def _listen(self, pid: int, lines: Iterable[bytes], kill: Kill | None) -> None:
        told = itertools.count(1)
        for line in lines:
            match word := _decoder.decode(line):
                case Opening() if kill:
                    kill.strike(AT_OPENING, 1, pid)
                case Attempt():
                    self._attempts[word.batch] = word
                case Acknowledged():
                    self._acknowledged.setdefault(word.batch, word)
                    assert self._acknowledged[word.batch] == word
                    self._campaign.acknowledged += 1
                    if kill:
                        kill.strike(AT_RANDOM, next(told), pid)

    async def check(self) -> None:
        """Find everything as it must be."""
        if not self._attempts:  # there may not even be a file
            return
        if self._url:
            await nobody_writes(self._url)  # what a client sent before its end may still be done
        events = await traces(self._data, self._head, self._url)
        self._head = Head(events[-1].position, events[-1].hash) if events else EMPTY
        batches: defaultdict[str, list[RecordedEvent]] = defaultdict(list)
        for event in events:
            batches[event.id.rpartition(".")[0]].append(event)
        for batch, found in batches.items():
            attempt = self._attempts[batch]
            assert [event.id for event in found] == attempt.ids, "half a batch"
            assert {event.stream for event in found} == {attempt.stream}
            assert [event.position - found[0].position for event in found] == list(range(attempt.size))
        for batch, told in self._acknowledged.items():
            facts = [(event.position, event.version, event.id, event.hash.hex()) for event in batches[batch]]
            assert facts == told.events, "acknowledged, and not there"


@pytest.mark.parametrize("back_end", ["sqlite", pytest.param("postgres", marks=needs_postgres)])
async def test_what_a_store_has_acknowledged_survives_its_process_and_nothing_is_there_by_half_or_twice(
    request: pytest.FixtureRequest, tmp_path: Path, campaign: Campaign, back_end: str
) -> None:
    server = request.getfixturevalue("postgres_server") if back_end == "postgres" else None
    known = [place for place in PLACES if not server or place not in IN_A_TRANSACTION]
    places = itertools.cycle([*known, AFTER_ACKNOWLEDGE, AFTER_ACKNOWLEDGE])
    for lives in campaign.directories(share=1 / 3):
        directory = Directory(
            tmp_path / str(lives.start), campaign, await emptied(server) if server else None
        )
        for life in lives:
            if life == lives.start:
                choice = AT_OPENING, 1, 0.02
            else:
                place = next(places)
                choice = place, 800 if place in (AT_RANDOM, AFTER_ACKNOWLEDGE) else 15, 0.02
            with campaign.killing(life, *choice) as kill:
                directory.live(life, kill)
                await directory.check()
        directory.live(lives.stop, None)
        await directory.check()
        assert not directory.unacknowledged
