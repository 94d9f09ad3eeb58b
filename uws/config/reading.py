"""The operator's file: TOML to typed settings, every mistake reported with its place."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from eventstore.addresses import mistakes_in_url
from uws.beneath import whose
from uws.config.access import AuthSettings, OIDCSettings, ProxySettings, RoleSettings
from uws.config.conversion import convert, right_part, without_times
from uws.config.services import declared
from uws.config.settings import (
    AuditSettings,
    LimitSettings,
    NodeSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
    SlurmSettings,
    StoreSettings,
    UploadSettings,
)
from uws.model import DeclarationError, QueueSettings, QuotaSettings, QuotaTable, did_you_mean
from uws.model.quotas import OTHERS


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The top level of the file; tables are read one by one, so that each mistake gets its own place."""

    data: str = "var"
    """The data directory, relative to the file."""
    store: str | None = None
    """The URL of the PostgreSQL database that has the log, where several servers share it; by default the
    log is a file in the data directory.
    """
    jobs: str | None = None
    """The directory of the jobs' files, relative to the file, where all nodes have it in common; by default
    it is in the data directory.
    """
    node: dict[str, Any] = {}
    """What this server is among those that share a log."""
    server: dict[str, Any] = {}
    """Where the server listens, and how it waits and stops."""
    uploads: dict[str, Any] = {}
    """How files are fetched that clients name by URL."""
    audit: dict[str, Any] = {}
    """Checkpoints of the log, and the key that signs them."""
    retention: dict[str, Any] = {}
    """What is kept for how long; by default all, for ever."""
    queue: dict[str, Any] = {}
    """What holds for the jobs of all services together."""
    auth: dict[str, Any] = {}
    """By what somebody says who he is, and what he may do."""
    quotas: dict[str, Any] = {}
    """What one owner may have."""
    limits: dict[str, Any] = {}
    """What one client may take of the server."""
    slurm: dict[str, Any] = {}
    """How the server looks after jobs in Slurm."""
    services: dict[str, Any] = {}
    """What is offered: a table for each service, by its name; at least one."""


def load(path: Path) -> Settings:
    """Read ``path``. Raises `DeclarationError` with one line for each mistake."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeclarationError([f"{path}: {error.strerror}{whose(error)}"]) from None
    except UnicodeDecodeError:
        raise DeclarationError([f"{path}: not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError([f"{path}: {error}"]) from None
    problems: list[str] = []
    file = _File(**right_part(without_times(raw), _File, "", problems))
    if raw.get("services", {}) == {}:
        problems.append(
            "services: there is none; declare one as [services.NAME], or begin with what uwsd init makes"
        )
    directory = str(path.parent.resolve())
    services = [declared(name, table, directory, problems) for name, table in file.services.items()]
    server = convert(file.server, ServerSettings, "server", problems)
    uploads = convert(file.uploads, UploadSettings, "uploads", problems)
    audit = convert(file.audit, AuditSettings, "audit", problems)
    retention = convert(file.retention, RetentionSettings, "retention", problems)
    queue = convert(file.queue, QueueSettings, "queue", problems)
    quotas = _quotas(file.quotas, problems)
    limits = convert(file.limits, LimitSettings, "limits", problems)
    store = _store(file, path.parent, problems)
    if store and store.keeper:
        problems += [
            f'services.{service.name}.executor: got "slurm", whose jobs need a directory that all nodes have '
            'in common: beside store, add jobs = "/nfs/uwsd", which the nodes of Slurm share, too'
            for service in services
            if service and service.executor == "slurm"
        ]
    slurm = convert(file.slurm, SlurmSettings, "slurm", problems)
    auth = _auth(file.auth, path.parent.resolve(), problems)
    # Each of them is None only where a problem was told.
    if problems or not (
        server and uploads and audit and retention and queue and auth and limits and store and slurm
    ):
        raise DeclarationError(problems)
    return Settings(
        data=Path(os.path.realpath(path.parent / file.data)),  # links in a circle are told when it is opened
        services=tuple(service for service in services if service),
        server=server,
        uploads=uploads,
        audit=audit if "origin" in file.audit else _named_after(server.base_url, audit),
        retention=retention,
        queue=queue,
        auth=auth,
        quotas=quotas,
        limits=limits,
        store=store,
        slurm=slurm,
    )


def _store(file: _File, directory: Path, problems: list[str]) -> StoreSettings | None:
    """Read what says where the log and the jobs' files are; paths are relative to ``directory``."""
    if file.store is not None:
        problems += [f"store: {problem}" for problem in mistakes_in_url(file.store)]
    node = convert(file.node, NodeSettings, "node", problems)
    if node is None:
        return None
    if file.node and file.store is None:
        problems.append("node: only servers that share a log are nodes: add store, or leave this out")
    jobs = None if file.jobs is None else Path(os.path.realpath(directory / file.jobs))
    return StoreSettings(url=file.store, jobs=jobs, node=node)


def _auth(table: dict[str, Any], directory: Path, problems: list[str]) -> AuthSettings | None:
    """Read ``[auth]`` and the tables in it, so that each mistake gets its own place.

    A file with keys is relative to ``directory``.
    """
    parts = dict(table)
    for key, kind in (("roles", RoleSettings), ("oidc", OIDCSettings), ("proxy", ProxySettings)):
        if isinstance(parts.get(key), dict):
            parts[key] = convert(parts[key], kind, f"auth.{key}", problems)
            if parts[key] is None:
                del parts[key]
    before = len(problems)
    right = right_part(parts, AuthSettings, "auth", problems)
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
        elif read := convert(part, QuotaTable, f"quotas.{name}", problems):
            others[name] = read
    rest = {name: limit for name, limit in table.items() if not isinstance(limit, dict)}
    return QuotaSettings(convert(rest, QuotaTable, "quotas", problems) or QuotaTable(), others)


def _named_after(base_url: str | None, audit: AuditSettings) -> AuditSettings:
    if base_url is None:
        return audit
    return msgspec.structs.replace(audit, origin=base_url.partition("://")[2].rstrip("/"))
