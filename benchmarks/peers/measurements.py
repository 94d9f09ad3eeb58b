"""What a peer is asked, as this server is: fresh, just started for each measurement, and aged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import perf_counter, sleep

import uvloop

from benchmarks import measurements as ours
from benchmarks.figures import AGED, FRESH, Sample
from benchmarks.measurements import CLIENTS, Asked, Bench
from benchmarks.peers.dachs import AUTHORIZATION, JOBS, Dachs, DachsClient
from benchmarks.requests import FORM
from benchmarks.servers import Server

HEADERS = {"Authorization": AUTHORIZATION}
WARMING = 5
"""Requests before those that count: what it makes once, it has made then."""
POLLED = 8
"""Wake-ups, each of which takes it a second."""


def measure_dachs(bench: Bench) -> Iterator[Sample]:
    """DaCHS fresh, restarted before each measurement, and aged."""
    smallest, largest = bench.stores[0].jobs, bench.stores[-1].jobs
    peer = _Peer(bench)
    with Dachs.prepared(bench.scratch, CLIENTS) as dachs:
        with dachs.serving() as server:  # what it has copies of is a job that it has run
            uvloop.run(ours.run_alone(server, DachsClient, 1))
        dachs.fill(largest)
        with dachs.serving() as server:
            yield from peer.recent(server, FRESH, largest)
        yield from peer.rest(dachs, largest)
        dachs.fill(smallest)
        yield from peer.rest(dachs, smallest)
        measured: list[Callable[[Server, str], Iterator[Sample]]] = [
            peer.document, peer.phase, peer.recent, peer.create, peer.alone
        ]  # fmt: skip
        for measure in [*measured, peer.throughput, peer.wake_ups]:
            with dachs.serving() as server:
                yield from measure(server, FRESH)
            dachs.fill(smallest)
        with dachs.serving() as server:
            peer.age(server)
            for measure in measured:
                yield from measure(server, AGED)


class _Peer:
    """What is asked of it while it runs."""

    def __init__(self, bench: Bench) -> None:
        self._sizes, self._jobs = bench.sizes, bench.stores[0].jobs
        self._post = ours.script(bench.scratch)

    def document(self, server: Server, column: str) -> Iterator[Sample]:
        yield from self._asked(server, column, ours.DOCUMENT, self._job(server))

    def phase(self, server: Server, column: str) -> Iterator[Sample]:
        yield from self._asked(server, column, ours.PHASE, f"{self._job(server)}/phase")

    def recent(self, server: Server, column: str, jobs: int | None = None) -> Iterator[Sample]:
        yield from self._asked(server, column, ours.RECENT, f"{JOBS}?LAST=20", jobs)

    def create(self, server: Server, column: str) -> Iterator[Sample]:
        yield from self._asked(server, column, ours.CREATE, JOBS)

    def alone(self, server: Server, column: str) -> Iterator[Sample]:
        for _ in range(self._sizes.rounds):
            (seconds,) = uvloop.run(ours.run_alone(server, DachsClient, 1))
            yield Sample(ours.LATENCY, column, 1000 * seconds)

    def throughput(self, server: Server, column: str) -> Iterator[Sample]:
        yield Sample(
            ours.THROUGHPUT, column, uvloop.run(ours.run_queued(server, DachsClient, self._sizes.burst))
        )

    def wake_ups(self, server: Server, column: str) -> Iterator[Sample]:
        sizes = self._sizes._replace(wake_ups=POLLED)
        header = f"Authorization: {AUTHORIZATION}"
        p95 = uvloop.run(ours.wake_ups(server, DachsClient, sizes, header))
        yield Sample(ours.wake_up_line(sizes.waiting), column, p95)

    def rest(self, dachs: Dachs, jobs: int) -> Iterator[Sample]:
        """How soon it answers, and what it costs then."""
        begin = perf_counter()
        with dachs.serving() as server:
            yield Sample(ours.start_line(jobs), FRESH, perf_counter() - begin)
            sleep(ours.SETTLED)
            ((memory, used),) = ours.at_rest([server], self._sizes.idle)
            yield Sample(ours.memory_line(jobs), FRESH, memory)
            yield Sample(ours.processor_line(jobs), FRESH, used)

    def age(self, server: Server) -> None:
        """Have it serve documents."""
        asked, served = Asked(self._job(server), HEADERS), 0.0
        while served < self._sizes.age:
            rate, _ = ours.ask(server, asked, CLIENTS, 1)
            served += rate

    def _job(self, server: Server) -> str:
        return server.post(JOBS, FORM, **HEADERS)

    def _asked(
        self, server: Server, column: str, kind: str, path: str, jobs: int | None = None
    ) -> Iterator[Sample]:
        asked = Asked(path, HEADERS, self._post if kind == ours.CREATE else None)
        begin = perf_counter()
        for _ in range(WARMING):
            if asked.script:
                self._job(server)
            else:
                server.read(path, **HEADERS)
        # With a million jobs it takes seconds for a list: each client is to have an answer.
        seconds = math.ceil((perf_counter() - begin) / WARMING * CLIENTS)
        rate, cost = ours.ask(server, asked, CLIENTS, max(seconds, self._sizes.seconds))
        yield Sample(ours.rate_line(kind, CLIENTS, jobs or self._jobs), column, rate)
        yield Sample(ours.cost_line(kind, jobs or self._jobs), column, cost)
