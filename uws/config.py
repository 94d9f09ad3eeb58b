"""The operator's file: TOML to typed settings, every mistake reported with its place."""

from __future__ import annotations

import math
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import date, datetime, timedelta
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from yarl import URL

from uws import functions
from uws.functions import Description, NoFunction
from uws.model import (
    DeclarationError,
    Example,
    FileParameter,
    Parameter,
    QueueSettings,
    QuotaSettings,
    QuotaTable,
    ResultDeclaration,
    Role,
    Service,
    did_you_mean,
)
from uws.model.errors import closest
from uws.model.examples import Given
from uws.model.quotas import OTHERS
from uws.model.service import ExecutionDuration, Lifetime, Limits
from uws.model.text import is_name
from uws.model.units import parse_duration

T = TypeVar("T")


_BASE_URL = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[\w.~%/-]*)?", re.ASCII)
_HOST = re.compile(r"([\w-][\w.-]*|\[([0-9A-Fa-f:.]+)\])(?::(\d{1,5}))?", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9-]+")
_MEANS_SOMETHING_ELSE = re.compile(
    "accept|authorization|connection|content-.*|cookie|date|expect|forwarded|host|if-.*|origin|range|referer|te"
    "|trailer|transfer-encoding|upgrade|user-agent|via",
    re.IGNORECASE,
)
_DAY, _LONGEST_KEPT = 86400, 1000 * 365 * 86400
_ORIGIN = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[server]`` table."""

    host: str = "127.0.0.1"
    port: int = 8080
    base_url: str | None = None
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

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not between 0 and 65535")
        if self.base_url is not None and not _BASE_URL.fullmatch(self.base_url):
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
            if not _is_host(entry):
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


def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in a URL, is this machine itself."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_host(entry: str) -> bool:
    """Whether this is a host as it stands in a URL, with a port or without."""
    found = _HOST.fullmatch(entry)
    with suppress(ValueError):
        if found and found[2]:
            IPv6Address(found[2])
        return found is not None and int(found[3] or 0) <= 65535
    return False


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[audit]`` table. Paths are relative to the data directory."""

    origin: str = "uwsd"
    """The name under which checkpoints of this log are known; by default from ``base_url``."""
    checkpoint_every: int | float | str = "1d"
    """A duration; 0 writes none."""
    checkpoints: str = "checkpoints"
    """The directory that gets them."""
    key: str = "audit.key"
    """The private key that signs them; made when there is none."""

    def __post_init__(self) -> None:
        if not _ORIGIN.fullmatch(self.origin):
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

    owners: int | float | str | None = None
    """A duration, after which owners, parameters and all else that jobs held is erased from the log."""
    histories: int | float | str | None = None
    """A duration, after which what is left of jobs is taken out of the log, as far as it is archived."""
    archive: str | None = None
    """``monthly``: each month of the log goes into a signed archive when it is over."""
    archives: str = "archives"
    """The directory that gets them, relative to the data directory."""

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


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth.proxy]`` table: a reverse proxy that has found out who somebody is, and says so."""

    addresses: list[str]
    """Addresses or networks of proxies that are believed; from elsewhere the headers mean nothing."""
    header: str | None = None
    """The header with the user's name."""
    groups_header: str | None = None
    """The header with the user's groups, separated by commas."""
    address_header: str | None = None
    """The header to which each proxy adds the address that it has a request from."""

    def __post_init__(self) -> None:
        if not self.header and not self.address_header:
            raise ValueError("header: missing; name the one with the user's name, or an address_header")
        for field in ("header", "groups_header", "address_header"):
            if (name := getattr(self, field)) is not None and not _TOKEN.fullmatch(name):
                raise ValueError(f"{field}: {name!r} is no header's name such as X-Remote-User")
            if name and _MEANS_SOMETHING_ELSE.fullmatch(name):
                raise ValueError(f"{field}: {name} means something else; name one such as X-Remote-User")
        for field in ("groups_header", "address_header"):
            if (name := getattr(self, field)) and name.lower() == (self.header or "").lower():
                raise ValueError(f"{field}: {name} is the header with the user's name")
        if not self.addresses:
            raise ValueError("addresses: there is none; name those from which the header is believed")
        for entry in self.addresses:
            try:
                everywhere = ip_network(entry).prefixlen == 0
            except ValueError as error:
                raise ValueError(f"addresses: {error}") from None
            if everywhere:
                raise ValueError(f"addresses: with {entry} whoever sends the header is believed")

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        """The addresses, as networks."""
        return [ip_network(entry) for entry in self.addresses]


class OIDCSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth.oidc]`` table: an OpenID provider, or whoever signs JSON Web Tokens, that is believed."""

    issuer: str
    """The claim ``iss`` of its tokens, to the letter."""
    audience: str
    """What stands in the claim ``aud`` of those that are meant for this server."""
    jwks: str
    """Its public keys (RFC 7517): an https URL, or the path of a file."""
    user_claim: str = "sub"
    """The claim with the user's name."""
    groups_claim: str = "groups"
    """The claim with the user's groups, a list; without it, one is in none."""
    leeway: float = 30.0
    """Seconds by which the provider's clock may be wrong."""
    longest_fetch: float = 5.0
    """Seconds that fetching the keys may take."""

    def __post_init__(self) -> None:
        for field in ("issuer", "audience", "jwks", "user_claim", "groups_claim"):
            if not (text := getattr(self, field)) or not text.isprintable():
                raise ValueError(f"{field}: expected text, got {text!r}")
        if "://" in self.jwks and (mistake := _no_place_of_keys(self.jwks)):
            raise ValueError(f"jwks: {mistake}")
        if not 0 <= self.leeway <= 300:
            raise ValueError(f"leeway: {self.leeway} s is not between 0 and 300")
        if not 0 < self.longest_fetch <= 60:
            raise ValueError(f"longest_fetch: {self.longest_fetch} s is not above 0 and up to 60")

    @property
    def jwks_url(self) -> str | None:
        """The URL of the keys, where they are not in a file."""
        return self.jwks if "://" in self.jwks else None


def _no_place_of_keys(url: str) -> str | None:
    """Say what is wrong with a URL from which keys are to come."""
    try:
        parsed = URL(url)
    except ValueError:
        return "this is no URL"
    if parsed.raw_user is not None or parsed.raw_password is not None:
        return "there is a user or a password in the URL"  # which is not repeated
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        return f"expected an https URL or the path of a file, got {url!r}"
    if parsed.scheme == "http" and not is_loopback(parsed.raw_host):
        return f"{url!r} is not https: whoever is on the way could put other keys in place of these"
    return None


class RoleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth.roles]`` table: who has which role; users by name, groups as ``@name``."""

    operator: list[str] = []
    auditor: list[str] = []
    admin: list[str] = []

    def __post_init__(self) -> None:
        for role in Role:
            for name in getattr(self, role):
                if not is_name(name.removeprefix("@")):
                    raise ValueError(f"{role}: {name!r} is no user's name, and no group's such as @staff")

    def of(self, user: str, groups: Collection[str]) -> frozenset[Role]:
        """Return the roles of a user who is in these groups."""
        names = {f"@{group}" for group in groups}
        if not user.startswith("@"):  # which is no user's name
            names.add(user)
        return frozenset(role for role in Role if not names.isdisjoint(getattr(self, role)))


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth]`` table. ``users`` is relative to the data directory."""

    allow_anonymous: bool | None = None
    """Whether nobody in particular may use the services; by default only where the server is reached from
    this machine alone and there is no other way to be somebody.
    """
    users: str | None = None
    """The users file: HTTP Basic, and a form for browsers."""
    tokens: bool = False
    """Whether ``uwsd token`` makes tokens that are taken here."""
    session: int | str = "12h"
    """How long a browser stays logged in."""
    roles: RoleSettings = RoleSettings()
    oidc: OIDCSettings | None = None
    proxy: ProxySettings | None = None

    def __post_init__(self) -> None:
        try:
            if parse_duration(self.session) < 60:
                raise ValueError(f"{self.session} is below the minimum 1min")
        except ValueError as error:
            raise ValueError(f"session: {error}") from None
        if self.users is not None and not self.users:
            raise ValueError('users: expected a file such as "users.json"')

    @property
    def identifies(self) -> bool:
        """Whether there is any way to be somebody."""
        by_proxy = self.proxy and self.proxy.header
        return bool(self.users is not None or self.tokens or self.oidc or by_proxy)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that an operator decides."""

    data: Path
    services: tuple[Service, ...]
    server: ServerSettings = ServerSettings()
    uploads: UploadSettings = UploadSettings()
    audit: AuditSettings = AuditSettings()
    retention: RetentionSettings = RetentionSettings()
    queue: QueueSettings = QueueSettings()
    auth: AuthSettings = AuthSettings()
    quotas: QuotaSettings = QuotaSettings()
    limits: LimitSettings = LimitSettings()

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


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The top level of the file; tables are read one by one, so that each mistake gets its own place."""

    data: str = "var"
    server: dict[str, Any] = {}
    uploads: dict[str, Any] = {}
    audit: dict[str, Any] = {}
    retention: dict[str, Any] = {}
    queue: dict[str, Any] = {}
    auth: dict[str, Any] = {}
    quotas: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    services: dict[str, Any]


def load(path: Path) -> Settings:
    """Read ``path``. Raises `DeclarationError` with one line for each mistake."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeclarationError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise DeclarationError([f"{path}: not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError([f"{path}: {error}"]) from None
    problems: list[str] = []
    file = _File(**{"services": {}, **_right_part(_without_times(raw), _File, "", problems)})
    if raw.get("services") == {}:
        problems.append("services: there is none; declare one as [services.NAME]")
    directory = str(path.parent.resolve())
    services = [_declared(name, table, directory, problems) for name, table in file.services.items()]
    server = _convert(file.server, ServerSettings, "server", problems)
    uploads = _convert(file.uploads, UploadSettings, "uploads", problems)
    audit = _convert(file.audit, AuditSettings, "audit", problems)
    retention = _convert(file.retention, RetentionSettings, "retention", problems)
    queue = _convert(file.queue, QueueSettings, "queue", problems)
    quotas = _quotas(file.quotas, problems)
    limits = _convert(file.limits, LimitSettings, "limits", problems)
    auth = _auth(file.auth, path.parent.resolve(), problems)
    # Each of them is None only where a problem was told.
    if problems or not (server and uploads and audit and retention and queue and auth and limits):
        raise DeclarationError(problems)
    return Settings(
        data=(path.parent / file.data).resolve(),
        services=tuple(service for service in services if service),
        server=server,
        uploads=uploads,
        audit=audit if "origin" in file.audit else _named_after(server.base_url, audit),
        retention=retention,
        queue=queue,
        auth=auth,
        quotas=quotas,
        limits=limits,
    )


def _auth(table: dict[str, Any], directory: Path, problems: list[str]) -> AuthSettings | None:
    """Read ``[auth]`` and the tables in it, so that each mistake gets its own place.

    A file with keys is relative to ``directory``.
    """
    parts = dict(table)
    for key, kind in (("roles", RoleSettings), ("oidc", OIDCSettings), ("proxy", ProxySettings)):
        if isinstance(parts.get(key), dict):
            parts[key] = _convert(parts[key], kind, f"auth.{key}", problems)
            if parts[key] is None:
                del parts[key]
    before = len(problems)
    right = _right_part(parts, AuthSettings, "auth", problems)
    if len(problems) > before:
        return None
    try:
        auth = AuthSettings(**right)
    except ValueError as error:
        problems.append(f"auth.{error}")
        return None
    if auth.roles != RoleSettings() and not auth.identifies:
        problems.append("auth.roles: without users, tokens, oidc or proxy nobody can be anybody")
    if auth.oidc and not auth.oidc.jwks_url:
        keys = directory / auth.oidc.jwks
        if not keys.is_file():
            problems.append(f"auth.oidc.jwks: there is no file {keys}")
        auth = msgspec.structs.replace(auth, oidc=msgspec.structs.replace(auth.oidc, jwks=str(keys)))
    return auth


def _quotas(table: dict[str, Any], problems: list[str]) -> QuotaSettings:
    """Read ``[quotas]`` and the tables in it, each for those whom its name tells."""
    others: dict[str, QuotaTable] = {}
    for name, part in table.items():
        if not isinstance(part, dict):
            continue
        if name not in OTHERS and not re.fullmatch("@.+", name):
            known = did_you_mean(name, OTHERS) or f"; expected {', '.join(OTHERS)} or a group such as @staff"
            problems.append(f"quotas.{name}: quotas are nobody's of this name{known}")
        elif read := _convert(part, QuotaTable, f"quotas.{name}", problems):
            others[name] = read
    rest = {name: limit for name, limit in table.items() if not isinstance(limit, dict)}
    return QuotaSettings(_convert(rest, QuotaTable, "quotas", problems) or QuotaTable(), others)


def make_service(function: Callable[..., Any], *, name: str | None = None, **keys: Any) -> Service:
    """Declare an annotated function as a service, under its own name where ``name`` is not given.

    ``keys`` are the other fields of `Service`, or what TOML has for them; those that follow from the
    function (title and description, too) need not be given. Its jobs import it anew, each in a process of
    its own. Examples name files relative to the directory in which its module is found. Raises
    `DeclarationError`.
    """
    named = str(name or getattr(function, "__name__", ""))
    problems: list[str] = []
    service = None
    try:
        reference = functions.reference_of(function)
        service = _from_function(
            named,
            msgspec.to_builtins(keys),
            reference,
            functions.directory_of(function),
            lambda environment: functions.describe(function),
            problems,
        )
    except NoFunction as error:
        problems.append(f"services.{named}: {error}")
    if service is None or problems:
        raise DeclarationError(problems)
    return service


def service_of(reference: str, directory: Path) -> Service:
    """Declare the function ``package.module:name``, as a file in ``directory`` with nothing else would.

    Raises `DeclarationError`.
    """
    problems: list[str] = []
    name = re.split("[.:]", reference)[-1]
    service = _declared(name, {"function": reference}, str(directory.resolve()), problems)
    if service is None or problems:
        raise DeclarationError(problems)
    return service


def _declared(name: str, table: Any, directory: str, problems: list[str]) -> Service | None:
    """Read one service, which is a program, or a function that is looked at in a process of its own."""
    if not isinstance(table, dict) or "function" not in table:
        return _service(name, table, directory, problems)
    rest = {key: value for key, value in table.items() if key != "function"}
    reference = table["function"]
    if not isinstance(reference, str):
        problems.append(f"services.{name}.function: expected str, got {_kind(reference)}")
        return None
    return _from_function(
        name,
        rest,
        reference,
        directory,
        lambda variables: functions.described(str(reference), variables),
        problems,
    )


def _from_function(
    name: str,
    table: dict[str, Any],
    reference: str,
    directory: str | None,
    describe: Callable[[dict[str, str]], Description],
    problems: list[str],
) -> Service | None:
    """Read a service whose command and parameters follow from a function, found in ``directory``."""
    place = f"services.{name}"
    before = len(problems)
    problems += [
        f"{place}.{key}: follows from the function; leave out one of the two"
        for key in ("command", "parameters")
        if key in table
    ]
    variables = table.get("environment", {})
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        problems += _mistakes(variables, dict[str, str], f"{place}.environment")
        return None
    path = [entry for entry in (directory, variables.get(functions.PATH)) if entry]
    variables = {**variables, functions.PATH: os.pathsep.join(path)}
    try:
        found = describe(variables)
    except NoFunction as error:
        problems.append(f"{place}.function: {error}")
        return None
    if not found.title and "title" not in table:
        problems.append(f"{place}.title: missing; give the service one, or {reference} a docstring")
        table = {**table, "title": name}
    about = [f"{place}{where}: {what}" for where, what in found.problems]
    derived = {"command": functions.command_of(reference), "environment": variables}
    service = _service(name, {**found.keys, **table, **derived}, directory or "", about)
    stands = f" (in {reference}, {found.stands})"
    problems += [
        problem + (stands if problem.startswith(f"{place}.parameters.") else "") for problem in about
    ]
    return service if len(problems) == before else None


def _named_after(base_url: str | None, audit: AuditSettings) -> AuditSettings:
    if base_url is None:
        return audit
    return msgspec.structs.replace(audit, origin=base_url.partition("://")[2].rstrip("/"))


_READ_APART: dict[str, Any] = {
    "function": str,
    "environment": dict[str, Any],
    "execution_duration": dict[str, Any],
    "lifetime": dict[str, Any],
    "limits": dict[str, Any],
    "parameters": dict[str, Any],
    "results": list[Any],
    "examples": list[Any],
}
"""The parts of a service that are looked into one by one."""


def _service(name: str, table: Any, directory: str, problems: list[str]) -> Service | None:
    """Read one service: its own keys, its parts, and whether all of it fits together.

    Its examples name files relative to ``directory``.
    """
    place = f"services.{name}"
    if not isinstance(table, dict):
        problems.append(f"{place}: expected table, got {_kind(table)}")
        return None
    before = len(problems)
    parts = _right_part(table, Service, place, problems)
    for key, value in parts.get("environment", {}).items():
        problems += _mistakes(value, str, f"{place}.environment.{key}")
    for key, kind in (
        ("execution_duration", ExecutionDuration),
        ("lifetime", Lifetime),
        ("limits", Limits),
    ):
        if key in parts:
            parts[key] = _convert(parts[key], kind, f"{place}.{key}", problems)
    if "parameters" in parts:
        parts["parameters"] = {
            key: _parameter(value, f"{place}.parameters.{key}", problems)
            for key, value in parts["parameters"].items()
        }
    if "results" in parts:
        parts["results"] = [
            _convert(value, ResultDeclaration, f"{place}.results[{index}]", problems)
            for index, value in enumerate(parts["results"])
        ]
    if "examples" in parts:
        parts["examples"] = [
            _example(value, parts.get("parameters", {}), directory, f"{place}.examples[{index}]", problems)
            for index, value in enumerate(parts["examples"])
        ]
    if len(problems) > before:
        return None
    if parts.get("sandbox") and not shutil.which("bwrap"):
        problems.append(
            f"{place}.sandbox: there is no bwrap in PATH: install bubblewrap, or leave sandbox = true out"
        )
        return None
    try:
        return msgspec.convert({**parts, "name": name}, Service)
    except msgspec.ValidationError as error:
        problems.append(_explain(error, place))
    except DeclarationError as error:
        problems.extend(error.problems)
    return None


_PARAMETER_CLASSES: dict[str, Any] = {str(cls.__struct_config__.tag): cls for cls in Parameter.__args__}


def _parameter(value: Any, place: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f'{place}: expected a table such as {{ type = "float" }}, got {_kind(value)}')
        return None
    known = ", ".join(_PARAMETER_CLASSES)
    match value.get("type"):
        case None:
            problems.append(f"{place}.type: missing; types are {known}")
        case str(name) if name in _PARAMETER_CLASSES:
            return _convert(value, _PARAMETER_CLASSES[name], place, problems)
        case name:
            hint = did_you_mean(str(name), _PARAMETER_CLASSES)
            problems.append(f"{place}.type: there is no type {name!r}{hint}; types are {known}")
    return None


def _example(
    value: Any, parameters: dict[str, Any], directory: str, place: str, problems: list[str]
) -> Example | None:
    """Read one example, and find the files that it names."""
    given = value.get("parameters") if isinstance(value, dict) else None
    before = len(problems)
    for name, what in given.items() if isinstance(given, dict) else ():
        problems += _mistakes(what, Given, f"{place}.parameters.{name}")
    if len(problems) > before or (example := _convert(value, Example, place, problems)) is None:
        return None
    files: dict[str, Given] = {}
    for name, parameter in parameters.items():
        if isinstance(parameter, FileParameter) and name in example.values:
            paths = [Path(directory, text).resolve() for text in example.values[name]]
            for path in paths:
                if not path.is_file():
                    problems.append(f"{place}.parameters.{name}: there is no file {path}")
                elif path.stat().st_size > parameter.max_bytes:
                    limit = parameter.max_size
                    problems.append(f"{place}.parameters.{name}: {path} is larger than the maximum {limit}")
            files[name] = [*map(str, paths)]
    return msgspec.structs.replace(example, parameters={**example.parameters, **files})


def _convert(value: Any, kind: type[T], place: str, problems: list[str]) -> T | None:
    """Turn a table into ``kind``, or add all that is wrong with it to ``problems`` and return None."""
    if not isinstance(value, dict):
        problems.append(f"{place}: expected table, got {_kind(value)}")
        return None
    before = len(problems)
    _right_part(value, kind, place, problems)
    if len(problems) > before:
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(_explain(error, place))
        return None


def _right_part(table: dict[str, Any], kind: Any, place: str, problems: list[str]) -> dict[str, Any]:
    """Return the values of the right type; report the others, unknown keys, and what is missing."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    if kind is Service:
        del types["name"]  # the table's own name
        required.remove("name")
        types |= _READ_APART
    right = {}
    for key, value in table.items():
        if key == kind.__struct_config__.tag_field:
            continue
        if key not in types:
            hint = did_you_mean(key, types) or f"; known are {', '.join(sorted(types))}"
            problems.append(f"{_join(place, key)}: unknown key{hint}")
            required -= {closest(key, types)}  # one mistake is told once
        elif mistakes := _mistakes(value, types[key], _join(place, key)):
            problems += mistakes
        else:
            right[key] = value
    problems += [f"{_join(place, name)}: missing" for name in sorted(required - table.keys())]
    return right


def _mistakes(value: Any, kind: Any, place: str) -> list[str]:
    """Say what is wrong with one value."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return [_explain(error, place)]
    return []


def _explain(error: msgspec.ValidationError, place: str) -> str:
    """Turn msgspec's message, ``Expected `float`, got `str` - at `$.min` ``, into ours: the place first."""
    message, _, path = str(error).partition(" - at ")
    inner = path.strip("`").removeprefix("$").lstrip(".")
    if own := re.fullmatch(r"([a-z_]+): (.*)", message, re.DOTALL):
        return f"{_join(_join(place, inner), own[1])}: {own[2]}"
    text = re.sub(r"`([^`]*)`", lambda kind: _in_toml(kind[1]), message)
    return f"{_join(place, inner) or 'the file'}: {text[0].lower()}{text[1:]}"


def _in_toml(kind: str) -> str:
    """Name a type as TOML does."""
    words = {"object": "table", "array": "list"}
    return " | ".join(words.get(word, word) for word in kind.split(" | ") if word != "null")


def _join(place: str, key: str) -> str:
    separator = "" if not place or not key or key.startswith("[") else "."
    return f"{place}{separator}{key}"


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else type(value).__name__


def _without_times(value: Any) -> Any:
    """Write TOML's own dates as text, the form that all times have here."""
    match value:
        case dict():
            return {key: _without_times(item) for key, item in value.items()}
        case list():
            return [_without_times(item) for item in value]
        case datetime() | date():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return value
