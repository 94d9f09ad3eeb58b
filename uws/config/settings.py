"""All that an operator decides, but for who may do what: the tables of the file, typed."""

from __future__ import annotations

import math
import re
import socket
from datetime import timedelta
from pathlib import Path

import msgspec
from yarl import URL

from eventstore.checkpoint import SigningKey, VerifierKey
from uws.config.access import AuthSettings
from uws.config.hosts import is_host, is_loopback, url_of
from uws.model import DeclarationError, QueueSettings, QuotaSettings, Service
from uws.model.units import Duration, check_duration, parse_duration

_BASE_URL = re.compile(r"https?://([^/]+)(/[\w.~%/-]*)?", re.ASCII)
_DAY, _LONGEST_KEPT = 86400, 1000 * 365 * 86400
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", re.ASCII)
_SOONEST_GONE = "3s"
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - they are looked for, not listened at
_ORIGIN = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")


def _is_base_url(text: str) -> bool:
    found = _BASE_URL.fullmatch(text)
    return found is not None and is_host(found[1])


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[server]`` table: where the server listens, and how it waits and stops."""

    host: str = "127.0.0.1"
    """The address at which it listens; that of this machine alone, unless another is named."""
    port: int = 8080
    """The port there; 0 takes one that is free."""
    base_url: str | None = None
    """Where clients reach it, where that is not where it listens: behind a proxy."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    jobs_end_with_server: bool = False
    """Whether stopping the server stops what runs; else it goes on, and the next server takes it over."""
    longest_wait: float = 60.0
    """Seconds that WAIT blocks at most."""
    sync_seconds: float = 60.0
    """Seconds after which a synchronous request is answered with the job instead of its result."""
    log: str | None = None
    """What the server's log is made of, ``json`` or ``text``; by default text on a terminal, else JSON."""
    access_log: bool = True
    """Whether the log has a line for each request."""

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return self.base_url or url_of(self.host, self.port)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not between 0 and 65535")
        if self.base_url is not None and not _is_base_url(self.base_url):
            raise ValueError(f"base_url: expected an http(s) URL, got {self.base_url!r}")
        if self.log not in (None, "json", "text"):
            raise ValueError(f"log: expected json or text, got {self.log!r}")
        for field in ("grace", "longest_wait", "sync_seconds"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field}: {getattr(self, field)} is no number of seconds")


class UploadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[uploads]`` table: how files are fetched that clients name by URL."""

    public_hosts: bool = True
    """Whether they are from any host with a public address."""
    allow_hosts: list[str] = []
    """Hosts, each with a port or without, from which they are whatever its address."""
    longest_fetch: float = 60.0
    """Seconds that all files of one request may take."""
    longest_silence: float = 10.0
    """Seconds in which at least a byte must come."""
    redirects: int = 5
    """How many are followed for one file."""

    def __post_init__(self) -> None:
        for entry in self.allow_hosts:
            if not is_host(entry):
                raise ValueError(f"allow_hosts: expected HOST, HOST:PORT or [IPv6]:PORT, got {entry!r}")
        for field in ("longest_fetch", "longest_silence"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field}: {getattr(self, field)} is no number of seconds above 0")
        if not 0 <= self.redirects <= 20:
            raise ValueError(f"redirects: {self.redirects} is not between 0 and 20")


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[limits]`` table: what one client may take of the server."""

    connections: int = 20_000
    """Those that are open at one time; a third of the files that the process may open at most."""
    waits_per_owner: int = 200
    """Requests of one user that wait for a job at one time; of one address where nobody is known."""
    head_seconds: float = 20.0
    """Seconds in which the head of a request comes, from its first byte on."""
    slowest: int = 500
    """Bytes a second that a client sends of a body, and takes of an answer, at least."""
    patience: float = 30.0
    """Seconds over which that is counted."""
    keep_alive: float = 75.0
    """Seconds that a connection stays open without a request."""
    line_bytes: int = 8190
    """Of the request line, and of each header."""
    headers: int = 128
    """Headers of one request."""

    def __post_init__(self) -> None:
        for field, least in (
            ("connections", 10), ("waits_per_owner", 1), ("slowest", 1), ("line_bytes", 1024), ("headers", 16)
        ):  # fmt: skip
            if (value := getattr(self, field)) < least:
                raise ValueError(f"{field}: {value} is below the minimum {least}")
        for field in ("head_seconds", "patience", "keep_alive"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field}: {getattr(self, field)} is no number of seconds above 0")


class SlurmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[slurm]`` table: how the server looks after jobs of services with ``executor = "slurm"``."""

    every: float = 5.0
    """Seconds between two looks at Slurm's queue; one look is for all jobs."""
    unknown_after: float = 60.0
    """Seconds after which a job that runs is UNKNOWN when Slurm cannot be asked."""
    lost_after: float = 60.0
    """Seconds after which a job is lost that Slurm, asked again and again, does not know."""

    def __post_init__(self) -> None:
        for field in ("every", "unknown_after", "lost_after"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field}: {getattr(self, field)} is no number of seconds above 0")


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[audit]`` table: checkpoints of the log. Paths are relative to the data directory."""

    origin: str | None = "uwsd"
    """The name under which checkpoints of this log are known; by default that of ``base_url``, where there is
    one.
    """
    checkpoint_every: Duration = "1d"
    """How often a checkpoint is written; 0: never."""
    checkpoints: str = "checkpoints"
    """The directory that gets checkpoints."""
    key: str = "audit.key"
    """The file with the private key that signs them; made when there is none."""

    def __post_init__(self) -> None:
        if self.origin is not None and not _ORIGIN.fullmatch(self.origin):
            raise ValueError(f"origin: expected a name such as jobs.example.org/vo, got {self.origin!r}")
        try:
            parse_duration(self.checkpoint_every)
        except ValueError as error:
            raise ValueError(f"checkpoint_every: {error}") from None

    @property
    def seconds(self) -> int:
        """The seconds between checkpoints."""
        return parse_duration(self.checkpoint_every)


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[retention]`` table: what is kept for how long after a job is destroyed; by default for ever."""

    owners: Duration | None = None
    """After which owners, parameters and all else that jobs held is erased from the log; 1d to 1000y."""
    histories: Duration | None = None
    """After which what is left of jobs is taken out of the log, once it is archived: needs ``archive``."""
    archive: str | None = None
    """``monthly``: each month of the log goes into a signed archive when it is over; by default none does."""
    archives: str = "archives"
    """The directory that gets archives, relative to the data directory."""

    def __post_init__(self) -> None:
        for field in ("owners", "histories"):
            if (value := getattr(self, field)) is None:
                continue
            try:
                seconds = parse_duration(value)
            except ValueError:
                raise ValueError(
                    f"{field}: expected a duration such as 90d, 6mo or 2y, got {value!r}"
                ) from None
            if not _DAY <= seconds <= _LONGEST_KEPT:
                raise ValueError(f"{field}: {value} is not between 1d and 1000y")
        if self.archive not in (None, "monthly"):
            raise ValueError(f'archive: expected "monthly", got {self.archive!r}')
        if not self.archives or "\0" in self.archives:
            raise ValueError(f'archives: expected a directory such as "archives", got {self.archives!r}')
        if self.histories is None:
            return
        if self.archive is None:
            raise ValueError(
                f"histories: after {self.histories} only what is archived is taken out of the log: "
                'add archive = "monthly", or leave histories out'
            )
        if self.owners is not None and parse_duration(self.owners) > parse_duration(self.histories):
            raise ValueError(
                f"owners: {self.owners} is longer than histories, {self.histories}, after which there is "
                "nothing left to be erased: make it shorter, or leave it out"
            )

    @property
    def owners_kept(self) -> timedelta | None:
        """For how long what jobs held is kept, None for ever."""
        return None if self.owners is None else timedelta(seconds=parse_duration(self.owners))

    @property
    def histories_kept(self) -> timedelta | None:
        """For how long what is left of jobs is kept, None for ever."""
        return None if self.histories is None else timedelta(seconds=parse_duration(self.histories))

    @property
    def is_set(self) -> bool:
        """Whether there is anything to do."""
        return any(each is not None for each in (self.owners, self.histories, self.archive))


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[node]`` table: what a server is among those that share a log."""

    name: str | None = None
    """What it is called; by default as its machine is."""
    url: str | None = None
    """Where the others reach it, without any proxy between them; by default where it listens."""
    gone_after: Duration = "1min"
    """After which this one is gone when it is not heard of, and its jobs are lost; at least 3s."""

    def __post_init__(self) -> None:
        if self.name is not None and not _NODE.fullmatch(self.name):
            raise ValueError(f"name: expected up to 64 letters, digits, dots and dashes, got {self.name!r}")
        if self.url is not None and not _is_base_url(self.url):
            raise ValueError(f"url: expected an http(s) URL such as http://10.0.0.2:8080, got {self.url!r}")
        check_duration("gone_after", self.gone_after, _SOONEST_GONE)

    @property
    def seconds(self) -> int:
        """The seconds after which it is gone."""
        return parse_duration(self.gone_after)

    @property
    def called(self) -> str:
        """What it is called."""
        return self.name or socket.gethostname()[:64]


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log and the jobs' files are, if not in the data directory."""

    url: str | None = None
    """The URL of a PostgreSQL database that has the log."""
    jobs: Path | None = None
    """The directory of the jobs' own directories, which nodes may have in common."""
    node: NodeSettings = NodeSettings()

    @property
    def keeper(self) -> str | None:
        """The name of this node as who has files of jobs for itself; None where they are not its own."""
        return self.node.called if self.url is not None and self.jobs is None else None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that an operator decides. ``data`` is the data directory."""

    data: Path
    services: tuple[Service, ...] = ()
    server: ServerSettings = ServerSettings()
    uploads: UploadSettings = UploadSettings()
    audit: AuditSettings = AuditSettings()
    retention: RetentionSettings = RetentionSettings()
    queue: QueueSettings = QueueSettings()
    auth: AuthSettings = AuthSettings()
    quotas: QuotaSettings = QuotaSettings()
    limits: LimitSettings = LimitSettings()
    store: StoreSettings = StoreSettings()
    slurm: SlurmSettings = SlurmSettings()

    @property
    def log(self) -> Path | str:
        """Where the log is: a file, or the URL of a database."""
        return self.store.url or self.data / "events.db"

    @property
    def projections(self) -> Path:
        """The file by which the read models are found."""
        return self.data / "projections.db"

    @property
    def archives(self) -> Path:
        """The directory that gets parts of the log."""
        return self.data / self.retention.archives

    @property
    def key(self) -> Path:
        """The file with the key that signs."""
        return self.data / self.audit.key

    def signing_key(self) -> SigningKey:
        """Return the key that signs, made when there is none and the log has a name.

        Raises `eventstore.checkpoint.CheckpointError`.
        """
        origin = self.audit.origin
        return SigningKey.load_or_create(self.key, origin) if origin else SigningKey.load(self.key)

    def verifier_key(self) -> VerifierKey:
        """Return the key that verifies. Raises `eventstore.checkpoint.CheckpointError`."""
        return SigningKey.load(self.key, self.audit.origin).verifier

    @property
    def node_url(self) -> str:
        """Where other nodes reach this one: at its address, or by its machine's name where that is any."""
        host = socket.gethostname() if self.server.host in _EVERYWHERE else self.server.host
        return self.store.node.url or url_of(host, self.server.port)

    @property
    def is_private(self) -> bool:
        """Whether the server is reached from this machine alone, going by what it says of itself."""
        told = URL(self.server.base_url).host if self.server.base_url else None
        return all(is_loopback(host) for host in (self.server.host, told) if host is not None)

    @property
    def allows_anonymous(self) -> bool:
        """Whether nobody in particular may use the services."""
        if self.auth.allow_anonymous is None:
            return not self.auth.identifies and self.is_private
        return self.auth.allow_anonymous

    @property
    def doubts(self) -> list[str]:
        """What is hardly meant, though nothing forbids it."""
        if self.store.url is None or (self.data / self.audit.key).parent != self.data:
            return []
        return [
            f"audit.key: each node makes a key of its own, as {self.data / self.audit.key}, and none "
            "verifies what another has signed: name a file that all have in common, "
            "or of which each has a copy, such as "
            'key = "/etc/uwsd/audit.key"'
        ]

    def check_access(self) -> None:
        """Raise `DeclarationError` where nobody could use the services, or everybody could unawares."""
        if self.auth.identifies or self.allows_anonymous:
            return
        where = self.server.base_url if is_loopback(self.server.host) else self.server.host
        raise DeclarationError(
            [
                f"auth: {where} is reached by others, who have no way to say who they are: give them one in "
                '[auth], such as users = "users.json", or let everybody in with allow_anonymous = true'
            ]
        )
