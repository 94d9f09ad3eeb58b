"""The operator's file: TOML to typed settings, every mistake reported with its place."""

from __future__ import annotations

import math
import re
import tomllib
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from uws.model import DeclarationError, Parameter, ResultDeclaration, Service, did_you_mean
from uws.model.errors import closest
from uws.model.service import ExecutionDuration, Lifetime
from uws.model.units import parse_duration

T = TypeVar("T")


_BASE_URL = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[\w.~%/-]*)?", re.ASCII)
_ORIGIN = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[server]`` table."""

    host: str = "127.0.0.1"
    port: int = 8080
    base_url: str | None = None
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    longest_wait: float = 60.0
    """Seconds that WAIT blocks at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not between 0 and 65535")
        if self.base_url is not None and not _BASE_URL.fullmatch(self.base_url):
            raise ValueError(f"base_url: expected an http(s) URL, got {self.base_url!r}")
        for field in ("grace", "longest_wait"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field}: {getattr(self, field)} is no number of seconds")


class UploadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[uploads]`` table."""

    allow_hosts: list[str] = []
    """Hosts from which uploads are fetched that clients name by URL."""


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


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that an operator decides."""

    data: Path
    services: tuple[Service, ...]
    server: ServerSettings = ServerSettings()
    uploads: UploadSettings = UploadSettings()
    audit: AuditSettings = AuditSettings()


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The top level of the file; tables are read one by one, so that each mistake gets its own place."""

    data: str = "var"
    server: dict[str, Any] = {}
    uploads: dict[str, Any] = {}
    audit: dict[str, Any] = {}
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
    services = [_service(name, table, problems) for name, table in file.services.items()]
    server = _convert(file.server, ServerSettings, "server", problems)
    uploads = _convert(file.uploads, UploadSettings, "uploads", problems)
    audit = _convert(file.audit, AuditSettings, "audit", problems)
    if problems or server is None or uploads is None or audit is None:
        raise DeclarationError(problems)
    return Settings(
        data=(path.parent / file.data).resolve(),
        services=tuple(service for service in services if service),
        server=server,
        uploads=uploads,
        audit=audit if "origin" in file.audit else _named_after(server.base_url, audit),
    )


def _named_after(base_url: str | None, audit: AuditSettings) -> AuditSettings:
    if base_url is None:
        return audit
    return msgspec.structs.replace(audit, origin=base_url.partition("://")[2].rstrip("/"))


_READ_APART: dict[str, Any] = {
    "environment": dict[str, Any],
    "execution_duration": dict[str, Any],
    "lifetime": dict[str, Any],
    "parameters": dict[str, Any],
    "results": list[Any],
}
"""The parts of a service that are looked into one by one."""


def _service(name: str, table: Any, problems: list[str]) -> Service | None:
    """Read one service: its own keys, its parts, and whether all of it fits together."""
    place = f"services.{name}"
    if not isinstance(table, dict):
        problems.append(f"{place}: expected table, got {_kind(table)}")
        return None
    before = len(problems)
    parts = _right_part(table, Service, place, problems)
    for key, value in parts.get("environment", {}).items():
        problems += _mistakes(value, str, f"{place}.environment.{key}")
    for key, kind in (("execution_duration", ExecutionDuration), ("lifetime", Lifetime)):
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
    if len(problems) > before:
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
