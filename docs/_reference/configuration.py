"""The keys of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from uws.config import access, reading, services, settings
from uws.model import examples, parameters, queueing, quotas, service

from .described import anchor, attributes, default, doc, line, table, words

_SERVICE = "services.NAME"
_PARAMETERS = f"{_SERVICE}.parameters"
_TABLES: Mapping[str, tuple[type, str]] = {
    "node": (settings.NodeSettings, "nodes.md"),
    "server": (settings.ServerSettings, "declaration.md"),
    "uploads": (settings.UploadSettings, "declaration.md#files-by-url"),
    "audit": (settings.AuditSettings, "auditing.md"),
    "retention": (settings.RetentionSettings, "retention.md"),
    "queue": (queueing.QueueSettings, "operating.md#the-queue"),
    "auth": (access.AuthSettings, "access.md"),
    "auth.roles": (access.RoleSettings, "access.md#roles"),
    "auth.oidc": (access.OIDCSettings, "access.md"),
    "auth.proxy": (access.ProxySettings, "access.md"),
    "quotas": (quotas.QuotaTable, "access.md#quotas"),
    "limits": (settings.LimitSettings, "operating.md"),
    "slurm": (settings.SlurmSettings, "slurm.md"),
    _SERVICE: (service.Service, "declaration.md#a-service"),
    f"{_SERVICE}.execution_duration": (service.ExecutionDuration, "declaration.md#a-service"),
    f"{_SERVICE}.lifetime": (service.Lifetime, "declaration.md#a-service"),
    f"{_SERVICE}.limits": (service.Limits, "declaration.md#limits"),
    f"{_SERVICE}.slurm": (service.Slurm, "slurm.md#what-slurm-is-asked-for"),
    f"{_SERVICE}.results": (service.ResultDeclaration, "declaration.md#results"),
    f"{_SERVICE}.examples": (examples.Example, "declaration.md#examples"),
}
"""What reads each table of the file, and where more is said of it."""
_SEVERAL = (f"{_SERVICE}.results", f"{_SERVICE}.examples")
_HEADS = ("key", "type", "default", "meaning")


def lines() -> Iterator[str]:
    yield "# Configuration\n"
    yield "All keys of the file, as the server reads them. How they work together, with examples, is told in "
    yield "[Declaring services](../declaration.md) and [Who may do what](../access.md). "
    yield "A key without a default may be left out, unless it is required.\n"
    yield "## The top of the file\n"
    yield from _keys("", reading._File)
    for name, (struct, page) in _TABLES.items():
        yield f"## {_heading(name)}\n"
        about = [part for part in doc(struct).split("\n\n") if not part.startswith("Raises ")]
        yield "\n\n".join(about) + f" More in [{page.partition('#')[0]}](../{page}).\n"
        yield from _keys(name, struct)
    yield from _parameters()


def _parameters() -> Iterator[str]:
    yield f"## {_heading(_PARAMETERS)}\n"
    yield "A table for each parameter, by its name. More in [declaration.md](../declaration.md#parameters). "
    yield "All types take:\n"
    kinds = get_args(parameters.Parameter)
    shared = {field.name for field in msgspec.structs.fields(parameters.BaseParameter)}
    names = " or ".join(f"`{_tag(kind)}`" for kind in kinds)
    yield from table(
        _HEADS,
        [
            ("`type`", names, "required", "What values are, and which other keys it takes: see below."),
            *_rows("", parameters.BaseParameter),
        ],
    )
    # What the first type says of a key holds for the others that have it, and say nothing else.
    meanings = {name: text for kind in reversed(kinds) for name, text in attributes(kind).items()}
    for kind in kinds:
        yield f'### `type = "{_tag(kind)}"`\n'
        yield f"{doc(kind)}\n"
        if own := [row for row in _rows("", kind, meanings) if row[0].strip("`") not in shared]:
            yield from table(_HEADS, own)


def _keys(name: str, struct: type) -> Iterator[str]:
    rows = list(_rows(name, struct))
    if struct is service.Service:
        # These stand in the table, too, and other keys follow from them.
        apart = services._READ_APART.keys() - {field.name for field in msgspec.structs.fields(struct)}
        rows[2:2] = [(f"`{key}`", "text", "", line(getattr(struct, key).__doc__)) for key in sorted(apart)]
        rows = [
            (key, kind, told.replace("required", "required, unless there is a `function`"), meaning)
            for key, kind, told, meaning in rows
        ]
    yield from table(_HEADS, rows)


def _rows(name: str, struct: type, others: Mapping[str, str] = {}) -> Iterator[tuple[str, str, str, str]]:
    meanings = {**others, **attributes(struct)}
    for field in msgspec.structs.fields(struct):
        if name != _SERVICE or field.name != "name":  # which is that of the table
            where = f"{name}.{field.name}".removeprefix(".")
            kind = _linked(where) or words(field.type)
            yield f"`{field.encode_name}`", kind, default(field), meanings.get(field.name, "")


def _linked(name: str) -> str | None:
    """Return the type of a key that is a table, or several, of its own."""
    if name == _PARAMETERS:
        return f"[tables]({anchor(_heading(name))}), by name"
    if name in _TABLES:
        return f"[{'list of tables' if name in _SEVERAL else 'table'}]({anchor(_heading(name))})"
    named = f"{name}.NAME"
    return f"[tables]({anchor(_heading(named))}), by name" if named in _TABLES else None


def _heading(name: str) -> str:
    return f"`[[{name}]]`" if name in _SEVERAL else f"`[{name}]`"


def _tag(struct: Any) -> object:
    return struct.__struct_config__.tag
