"""The operator's file: TOML to typed settings, every mistake reported with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from uws.model import DeclarationError, Parameter, ResultDeclaration, Service, did_you_mean
from uws.model.service import ExecutionDuration, Lifetime

T = TypeVar("T")


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
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
                raise ValueError(f"base_url: expected an http(s) URL, got {self.base_url!r}")
        for field in ("grace", "longest_wait"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}: {getattr(self, field)} is below the minimum 0")


class UploadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[uploads]`` table."""

    allow_hosts: list[str] = []
    """Hosts from which uploads are fetched that clients name by URL."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that an operator decides."""

    data: Path
    services: tuple[Service, ...]
    server: ServerSettings = ServerSettings()
    uploads: UploadSettings = UploadSettings()


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The top level of the file; tables are read one by one, so that each mistake gets its own place."""

    data: str = "var"
    server: dict[str, Any] = {}
    uploads: dict[str, Any] = {}
    services: dict[str, dict[str, Any]]


def load(path: Path) -> Settings:
    """Read ``path``. Raises `DeclarationError` with one line for each mistake."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise DeclarationError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise DeclarationError([f"{path}: not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError([f"{path}: {error}"]) from None
    problems: list[str] = []
    file = _convert(_without_times(raw), _File, "", problems)
    services = [_service(name, table, problems) for name, table in (file.services if file else {}).items()]
    server = _convert(file.server, ServerSettings, "server", problems) if file else None
    uploads = _convert(file.uploads, UploadSettings, "uploads", problems) if file else None
    if file and not file.services:
        problems.append("services: there is none; declare one as [services.NAME]")
    if problems:
        raise DeclarationError(problems)
    assert file is not None
    assert server is not None
    assert uploads is not None
    return Settings(
        data=(path.parent / file.data).resolve(),
        services=tuple(service for service in services if service),
        server=server,
        uploads=uploads,
    )


def _service(name: str, table: dict[str, Any], problems: list[str]) -> Service | None:
    """Read one service, its parts first."""
    place = f"services.{name}"
    before = len(problems)
    parts = dict(table)
    for key, kind in (("execution_duration", ExecutionDuration), ("lifetime", Lifetime)):
        if key in table:
            parts[key] = _convert(table[key], kind, f"{place}.{key}", problems)
    if isinstance(table.get("parameters"), dict):
        parts["parameters"] = {
            key: _parameter(value, f"{place}.parameters.{key}", problems)
            for key, value in table["parameters"].items()
        }
    if isinstance(table.get("results"), list):
        parts["results"] = [
            _convert(value, ResultDeclaration, f"{place}.results[{index}]", problems)
            for index, value in enumerate(table["results"])
        ]
    if len(problems) > before:
        # What is wrong inside the parts must not hide what is wrong beside them.
        _check_keys(table, Service, place, problems, also_not={"name"})
        return None
    if "name" in table:
        problems.append(f"{place}.name: unknown key; the name is the one in [services.{name}]")
        return None
    try:
        return _convert({**parts, "name": name}, Service, place, problems)
    except DeclarationError as error:
        problems.extend(error.problems)
        return None


_PARAMETER_CLASSES: dict[str, Any] = {str(cls.__struct_config__.tag): cls for cls in Parameter.__args__}


def _parameter(value: Any, place: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        problems.append(f'{place}: expected a table such as {{ type = "float" }}, got {_kind(value)}')
        return None
    kind = value.get("type")
    known = ", ".join(_PARAMETER_CLASSES)
    if kind is None:
        problems.append(f"{place}.type: missing; types are {known}")
        return None
    if kind not in _PARAMETER_CLASSES:
        hint = did_you_mean(str(kind), _PARAMETER_CLASSES)
        problems.append(f"{place}.type: there is no type {kind!r}{hint}; types are {known}")
        return None
    return _convert(value, _PARAMETER_CLASSES[kind], place, problems)


def _convert(value: Any, kind: type[T], place: str, problems: list[str]) -> T | None:
    """Turn plain data into ``kind``; what is wrong with it is added to ``problems``."""
    if isinstance(value, dict) and not _check_keys(value, kind, place, problems):
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(_explain(error, place))
        return None


def _check_keys(
    value: dict[str, Any], kind: Any, place: str, problems: list[str], also_not: Iterable[str] = ()
) -> bool:
    """Report keys that ``kind`` does not have."""
    known = set(kind.__struct_fields__) - set(also_not)
    allowed = known | {kind.__struct_config__.tag_field or ""}
    unknown = [key for key in value if key not in allowed]
    for key in unknown:
        hint = did_you_mean(key, known) or f"; known are {', '.join(sorted(known))}"
        problems.append(f"{_join(place, key)}: unknown key{hint}")
    return not unknown


def _explain(error: msgspec.ValidationError, place: str) -> str:
    """Turn msgspec's message, ``Expected `float`, got `str` - at `$.min` ``, into ours: the place first."""
    message, _, path = str(error).partition(" - at ")
    inner = path.strip("`").removeprefix("$").lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", message):
        return f"{_join(_join(place, inner), missing[1])}: missing"
    if own := re.fullmatch(r"([a-z_]+): (.*)", message, re.DOTALL):
        return f"{_join(_join(place, inner), own[1])}: {own[2]}"
    text = message.replace("`", "").replace(" | null", "").replace("object", "table").replace("array", "list")
    return f"{_join(place, inner) or 'the file'}: {text[0].lower()}{text[1:]}"


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
