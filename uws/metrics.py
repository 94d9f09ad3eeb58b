"""What is measured of a server, in the words of Prometheus.

What has happened to jobs is taken from the log; how many there are, from the read models when somebody asks.
No metric tells of an owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from eventstore import Committed, RecordedEvent, StoreUnavailable
from uws.jobs import Backend
from uws.model import Phase
from uws.model import events as e

_log = logging.getLogger(__name__)

_OF_REQUESTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10)
_OF_COMMITS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10)
_OF_JOBS = (0.01, 0.1, 1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600)
"""The upper ends of buckets, in seconds."""
_QUEUES = frozenset({"JobQueued", "JobRequeued"})
_ENDS = {
    "JobCompleted": Phase.COMPLETED,
    "JobFailed": Phase.ERROR,
    "JobAborted": Phase.ABORTED,
}


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Histogram(
            "uwsd_http_request_duration_seconds",
            "Time until a request's answer was there, or sent where it is sent as it is made.",
            ["method", "route", "status"],
            buckets=_OF_REQUESTS,
            registry=self._registry,
        )
        self._waits = Histogram(
            "uwsd_job_queue_wait_seconds",
            "Time that jobs were QUEUED before they were started.",
            ["service"],
            buckets=_OF_JOBS,
            registry=self._registry,
        )
        self._runs = Histogram(
            "uwsd_job_run_seconds",
            "Time from a job's start to its end, by the phase in which it ended.",
            ["service", "phase"],
            buckets=_OF_JOBS,
            registry=self._registry,
        )
        self._commits = Histogram(
            "uwsd_log_commit_duration_seconds",
            "Time that a transaction of the log took, until it was on disk.",
            buckets=_OF_COMMITS,
            registry=self._registry,
        )
        self._events = Counter(
            "uwsd_log_events", "Events that were brought to the log.", registry=self._registry
        )

    def of(self, method: str, route: str, status: int) -> Callable[[float], None]:
        """Return what takes note of the seconds that requests of a kind take.

        ``method`` and ``route`` must be of few, whatever clients send.
        """
        return self._requests.labels(method, route, f"{status // 100}xx").observe

    @asynccontextmanager
    async def observing(self, backend: Backend) -> AsyncIterator[None]:
        """Take note of what comes to the log, and of what that says of jobs, while the context lasts."""
        for service in backend.services:  # so that the first of them is seen as one more than none
            self._waits.labels(service)
            for phase in _ENDS.values():
                self._runs.labels(service, phase)
        position = (await backend.store.head()).position
        following = asyncio.create_task(self._follow(backend, position), name="metrics: following the log")
        try:
            with backend.store.observed(self._committed):
                yield
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def render(self, backend: Backend | None, accept: str) -> tuple[bytes, str]:
        """Return all metrics as they are now, and their media type: OpenMetrics if ``accept`` asks for it."""
        found = await _looked_up(backend) if backend else []
        encode, media_type = choose_encoder(accept)
        # In a thread, so that requests are answered meanwhile: there may be thousands of lines.
        return await asyncio.to_thread(encode, _Scrape(self._registry, found)), media_type

    def _committed(self, committed: Committed) -> None:
        self._commits.observe(committed.seconds)
        self._events.inc(committed.events)

    async def _follow(self, backend: Backend, position: int) -> None:
        async for batch in backend.follow(position):
            for event in batch:
                try:
                    if _is_measured(event):
                        self._moved(event, await backend.store.read_stream(event.stream))
                except Exception:  # whatever it is, the others are measured
                    _log.exception("position %s of the log is not measured", event.position)

    def _moved(self, event: RecordedEvent, stream: Sequence[RecordedEvent]) -> None:
        """Take note of a job that has started or ended."""
        before = _last_step(stream[: event.version - 1])
        if before is None or before.erased:
            return
        created = e.decode(stream[0])
        assert isinstance(created, e.JobCreated)
        seconds = max(0, e.time_of(event) - e.time_of(before)) / 1e6
        if event.type == "JobStarted":
            self._waits.labels(created.service).observe(seconds)
        elif before.type == "JobStarted":
            self._runs.labels(created.service, _ENDS[event.type]).observe(seconds)


def _is_measured(event: RecordedEvent) -> bool:
    """Whether a job has started or ended: here, not where it was imported from."""
    return (event.type == "JobStarted" or event.type in _ENDS) and event.about.source is None


def _last_step(stream: Sequence[RecordedEvent]) -> RecordedEvent | None:
    """Return the last event that has queued or started a job."""
    steps = (event for event in reversed(stream) if event.type == "JobStarted" or event.type in _QUEUES)
    return next(steps, None)


async def _looked_up(backend: Backend) -> list[Metric]:
    """Return what is not counted but looked up, without waiting for read models that are behind."""
    lag = GaugeMetricFamily(
        "uwsd_projection_lag_events",
        "Events of the log that a read model does not show yet.",
        labels=["model"],
    )
    positions, head = backend.projector.positions, (await backend.store.head()).position
    for model, position in positions.items():
        lag.add_metric([model], head - position)
    found: list[Metric] = [
        lag,
        GaugeMetricFamily("uwsd_log_head_position", "Position of the log's last event.", head),
    ]
    with suppress(StoreUnavailable):  # what else there is is told
        found.append(await _jobs(backend))
    return found


async def _jobs(backend: Backend) -> Metric:
    numbers = {(service, str(phase)): 0 for service in backend.services for phase in Phase}
    numbers.update(await backend.jobs.jobs_by_phase())
    jobs = GaugeMetricFamily(
        "uwsd_jobs", "Jobs, without those that are destroyed.", labels=["service", "phase"]
    )
    for labels, number in numbers.items():
        jobs.add_metric(labels, number)
    return jobs


class _Scrape:
    """What was counted, and what was looked up for one scrape."""

    def __init__(self, counted: CollectorRegistry, looked_up: Iterable[Metric]) -> None:
        self._counted, self._looked_up = counted, looked_up

    def collect(self) -> Iterator[Metric]:
        yield from self._counted.collect()
        yield from self._looked_up
