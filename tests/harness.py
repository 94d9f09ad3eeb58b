"""What tests run against: a real server in this process, with a clock that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import socket
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver
from lxml import etree

from uws import (
    Authenticator,
    Node,
    QueueSettings,
    QuotaSettings,
    Service,
    UploadSettings,
    make_application,
    run_node,
)
from uws.app import authenticator_of
from uws.clock import Clock
from uws.config import (
    AuditSettings,
    LimitSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
    SlurmSettings,
    StoreSettings,
)
from uws.jobs import make_uws_for_service
from uws.model import Identity, NotAuthenticated
from uws.node import open_backend
from uws.web import answering

SHARED = Path(__file__).parents[2] / "shared"
"""Schemas and real data that lie beside the checkout, where they do."""
NAMESPACES = {
    "uws": "http://www.ivoa.net/xml/UWS/v1.0",
    "xlink": "http://www.w3.org/1999/xlink",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
}
NIL = f"{{{NAMESPACES['xsi']}}}nil"
HREF = f"{{{NAMESPACES['xlink']}}}href"


def tamper(data: Path, kind: str, text: str, by: str) -> None:
    """Change in the log, by hand, what the event of a type holds."""
    with closing(sqlite3.connect(data / "events.db")) as log:
        changed = log.execute(
            "UPDATE event SET data = CAST(replace(CAST(data AS TEXT), :text, :by) AS BLOB), "
            "metadata = CAST(replace(CAST(metadata AS TEXT), :text, :by) AS BLOB) WHERE type = :kind",
            {"text": text, "by": by, "kind": kind},
        )
        assert changed.rowcount == 1
        log.commit()


class ManualClock:
    """A clock that stands still until `advance` moves it."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = now
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._slept = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, time: datetime) -> None:
        if time > self._now:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._sleepers, (time, next(self._order), future))
            self._slept.set()
            await future

    async def until_sleeping_for(self, time: datetime, *, sleepers: int = 1) -> None:
        """Return when somebody sleeps until exactly ``time``, or so many do."""
        while sum(wake == time and not future.done() for wake, _, future in self._sleepers) < sleepers:
            self._slept.clear()
            await self._slept.wait()

    def advance(self, **span: float) -> None:
        """Move on by a `timedelta` (``seconds=…``) and wake those whose time has come."""
        self._now += timedelta(**span)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class BasicUsers(Authenticator):
    """HTTP Basic with any password but ``wrong``: enough to have owners."""

    challenge = 'Basic realm="uws"'

    def challenges(self, base_url: str) -> Sequence[str]:
        return (self.challenge,)

    async def identify(self, request: web.Request) -> Identity:
        header = request.headers.get("Authorization")
        if header is None:
            return Identity()
        try:
            user, _, password = (
                b64decode(header.removeprefix("Basic "), validate=True).decode().partition(":")
            )
        except ValueError:
            raise NotAuthenticated("these are no credentials") from None
        if password == "wrong":
            raise NotAuthenticated("user or password is wrong")
        return Identity(user)


@dataclass
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def xml(self) -> etree._Element:
        return etree.fromstring(self.body)

    @property
    def location(self) -> str:
        return str(self.headers["Location"])


class Site:
    """A client of a running server; no redirect is followed."""

    def __init__(self, node: Node, url: str, session: aiohttp.ClientSession, app: web.Application) -> None:
        self.node, self.url, self.session, self.app = node, url, session, app

    @property
    def data(self) -> Path:
        """The directory below which all jobs are."""
        return self.node.backend.files.of("x").root.parent

    def list_url(self, service: str) -> str:
        return f"{self.url}/{service}/async"

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        if user := options.pop("user", None):
            credentials = b64encode(f"{user}:secret".encode()).decode()
            options["headers"] = {"Authorization": f"Basic {credentials}", **options.get("headers", {})}
        url = url if url.startswith("http") else self.url + url
        async with self.session.request(method, url, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, url: str, **options: Any) -> Answer:
        return await self.request("GET", url, **options)

    async def post(self, url: str, data: Any = None, **options: Any) -> Answer:
        return await self.request("POST", url, data=data, **options)

    async def create(self, service: str, *, user: str | None = None, **parameters: Any) -> str:
        """Create a job and return its URL. A list gives several values; bytes are sent as a file."""
        form = aiohttp.FormData()
        for name, value in parameters.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, bytes):
                    form.add_field(name, item, filename=name)
                else:
                    form.add_field(name, str(item))
        answer = await self.post(self.list_url(service), form, user=user)
        assert answer.status == 303, answer.text
        return answer.location

    async def run(self, service: str, **parameters: Any) -> str:
        """Create a job that is queued at once, and return its URL."""
        return await self.create(service, PHASE="RUN", **parameters)

    async def document(self, job: str, **options: Any) -> etree._Element:
        answer = await self.get(job, **options)
        assert answer.status == 200, answer.text
        return answer.xml

    async def phase(self, job: str, **options: Any) -> str:
        return (await self.get(f"{job}/phase", **options)).text

    async def ended(self, job: str, **options: Any) -> etree._Element:
        """Wait until the job has ended, and return its document."""
        while True:
            document = await self.document(f"{job}?WAIT=30", **options)
            if text(document, "phase") not in ("PENDING", "QUEUED", "EXECUTING"):
                return document

    async def executing(self, job: str, **options: Any) -> etree._Element:
        """Wait until the job executes or has ended, and return its document."""
        document = await self.document(f"{job}?WAIT=30&PHASE=QUEUED", **options)
        while text(document, "phase") == "QUEUED":
            document = await self.document(f"{job}?WAIT=30&PHASE=QUEUED", **options)
        return document


def text(document: etree._Element, name: str) -> str | None:
    """Return the text of the first such UWS element: "" when it is empty, None when it is missing or nil."""
    element = document.find(f".//uws:{name}", NAMESPACES)
    if element is None or element.get(NIL) == "true":
        return None
    return element.text or ""


def job_id(url: str) -> str:
    return url.rpartition("/async/")[2].partition("/")[0]


@asynccontextmanager
async def running(
    data: Path,
    *services: Service,
    clock: Clock | None = None,
    grace: float = 2.0,
    jobs_end_with_server: bool = True,
    base_url: str | None = None,
    authenticator: Authenticator | None = None,
    mount: str | None = None,
    uploads: UploadSettings | None = None,
    resolver: AbstractResolver | None = None,
    longest_wait: float = 30.0,
    sync_seconds: float = 30.0,
    queue: QueueSettings | None = None,
    quotas: QuotaSettings | None = None,
    limits: LimitSettings | None = None,
    retention: RetentionSettings | None = None,
    audit: AuditSettings | None = None,
    store: StoreSettings | None = None,
    listening: socket.socket | None = None,
    slurm: SlurmSettings | None = None,
    executes: bool = True,
) -> AsyncIterator[Site]:
    """Serve ``services`` on a free port of the loopback interface.

    One that does not ``executes`` leaves all jobs as they are: programs are neither started nor looked for.
    """
    limits = limits or LimitSettings()
    settings = Settings(
        data=data,
        services=services,
        server=ServerSettings(grace=grace, jobs_end_with_server=jobs_end_with_server),
        audit=audit or AuditSettings(checkpoint_every=0),
        queue=queue or QueueSettings(),
        quotas=quotas or QuotaSettings(),
        retention=retention or RetentionSettings(),
        store=store or StoreSettings(),
        slurm=slurm or SlurmSettings(),
    )
    executing = run_node(settings, clock=clock)
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(executing if executes else _showing(settings, clock))
        await stack.enter_async_context(authenticator_of(authenticator, node.backend))
        app = make_application(
            node.services,
            base_url=base_url,
            authenticator=authenticator,
            uploads=uploads,
            resolver=resolver,
            longest_wait=longest_wait,
            sync_seconds=sync_seconds,
            waits_per_owner=limits.waits_per_owner,
        )
        outer = app
        if mount:
            outer = web.Application()
            outer.add_subapp(mount, app)
        runner = web.AppRunner(outer, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            listening = stack.enter_context(listening or socket.create_server(("127.0.0.1", 0)))
            url = f"http://127.0.0.1:{listening.getsockname()[1]}{mount or ''}"
            async with answering(runner, [listening], limits), aiohttp.ClientSession() as session:
                yield Site(node, url, session, app)
        finally:
            await runner.cleanup()


@asynccontextmanager
async def _showing(settings: Settings, clock: Clock | None) -> AsyncIterator[Node]:
    async with open_backend(settings, clock=clock) as backend:
        yield Node(
            backend, tuple(make_uws_for_service(service, backend, "") for service in settings.services)
        )
