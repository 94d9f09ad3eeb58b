"""Logs of jobs that never ran, written event by event, and the files that are made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from eventstore import Metadata, SQLiteEventStore
from eventstore.checkpoint import SigningKey
from tests.daemon import Ended, uwsd
from uws import FileParameter, Result, Service, StrParameter
from uws.model import Failure
from uws.model import events as e

ORIGIN = "jobs.example.org/vo"
ECHO = Service(
    name="echo",
    title="Echo",
    command=["echo", "--", "{word}", ["--from", "{image}"]],
    parameters={"word": StrParameter(default="hello"), "image": FileParameter()},
)
COUNT = Service(name="count", title="Count", command=["count", "{results}", "{parameters}"])
ANNA, UWSD = Metadata(actor="anna", client="curl/8"), Metadata(actor="uwsd")
RESULT = Result(id="said", path="logs/stdout", size=6, media_type="text/plain",
                sha256="5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")  # fmt: skip
"""Of ``hello`` and a line break."""


class Log:
    """A data directory, and what is written into its log."""

    def __init__(self, data: Path, store: SQLiteEventStore) -> None:
        self.data, self.store = data, store

    async def declare(self, service: Service) -> None:
        """Put a service on record."""
        declared = e.ServiceDeclared(
            service=service.name, digest=service.digest, declaration=service.canonical.decode()
        )
        await self.store.append(e.service_stream(service.name), [e.encode(declared, UWSD)])

    async def append(self, job: str, *events: e.JobEvent, by: Metadata = UWSD) -> None:
        await self.store.append(e.job_stream(job), [e.encode(event, by) for event in events])

    async def create(self, job: str, service: Service = ECHO, **facts: object) -> None:
        """Have Anna order a job."""
        created = e.JobCreated(
            service=service.name, declaration=service.digest, execution_duration=60, destruction=None,
            owner="anna", **facts,  # type: ignore[arg-type]
        )  # fmt: skip
        await self.append(job, created, e.JobQueued(), by=ANNA)

    async def run(self, job: str, service: Service = ECHO, **facts: object) -> None:
        """Have a job that was completed."""
        await self.create(job, service, **facts)
        await self.append(job, e.JobStarted(declaration=service.digest))
        await self.append(job, e.JobCompleted(results=(RESULT,)))

    async def fail(self, job: str) -> None:
        """Have a job that failed."""
        await self.create(job)
        await self.append(job, e.JobStarted(declaration=ECHO.digest))
        await self.append(job, e.JobFailed(failure=Failure(message="the disk broke"), exit_code=3))


@asynccontextmanager
async def log_in(
    data: Path,
    services: Iterable[Service] = (ECHO,),
    begin: datetime = datetime(2026, 3, 1, tzinfo=UTC),
) -> AsyncIterator[Log]:
    """Give the log of a new data directory, with services on record, and a key; a second for each commit."""
    data.mkdir()
    SigningKey.load_or_create(data / "audit.key", ORIGIN)
    times = (begin + timedelta(seconds=n) for n in range(1_000_000))
    store = await SQLiteEventStore.open(data / "events.db", now=lambda: next(times))
    try:
        log = Log(data, store)
        for service in services:
            await log.declare(service)
        yield log
    finally:
        await store.close()


@asynccontextmanager
async def log_again(data: Path) -> AsyncIterator[Log]:
    """Open the log of a data directory that is there, to go on with it."""
    store = await SQLiteEventStore.open(data / "events.db")
    try:
        yield Log(data, store)
    finally:
        await store.close()


def key_of(data: Path) -> SigningKey:
    return SigningKey.load(data / "audit.key")


async def audit(data: Path, *arguments: str | Path) -> Ended:
    """Run an audit command on a data directory."""
    return await uwsd("audit", *arguments, "--data", data, cwd=data)


async def export(data: Path, path: Path, *arguments: str | Path) -> Path:
    """Export, and return the file."""
    ended = await audit(data, "export", *arguments, "-o", path)
    assert (ended.status, ended.err) == (0, ""), ended.err
    return path


async def verify(path: Path, *arguments: str | Path) -> Ended:
    """Verify a file where there is nothing else."""
    return await uwsd("audit", "verify", path, *arguments, cwd=path.parent)
