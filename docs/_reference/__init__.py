"""The pages of the reference, written from the code that they describe."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec
from typer.main import get_command

import eventstore
import projections
import uws
from uws.cli import app
from uws.config import access, settings
from uws.model import events, examples, parameters, queueing, quotas, service
from uws.web.openapi import OPERATIONS

TABLES: Mapping[str, type] = {
    "server": settings.ServerSettings,
    "auth": access.AuthSettings,
    "auth.roles": access.RoleSettings,
    "auth.oidc": access.OIDCSettings,
    "auth.proxy": access.ProxySettings,
    "limits": settings.LimitSettings,
    "uploads": settings.UploadSettings,
    "queue": queueing.QueueSettings,
    "quotas": quotas.QuotaTable,
    "retention": settings.RetentionSettings,
    "audit": settings.AuditSettings,
    "node": settings.NodeSettings,
    "slurm": settings.SlurmSettings,
    "services.NAME": service.Service,
    "services.NAME.execution_duration": service.ExecutionDuration,
    "services.NAME.lifetime": service.Lifetime,
    "services.NAME.limits": service.Limits,
    "services.NAME.slurm": service.Slurm,
    "services.NAME.results": service.ResultDeclaration,
    "services.NAME.examples": examples.Example,
}
"""The tables of the file; of the last two, there are several."""
FILE = (
    ("data", "str", '"var"', "The data directory, relative to the file."),
    (
        "store",
        "str",
        "",
        "The URL of the PostgreSQL database that has the log, where several servers share it.",
    ),
    ("jobs", "str", "", "The directory of the jobs' files, where all nodes have it in common."),
)
"""The keys that stand in no table."""
_LONG = 30
"""Characters of a default that are shown."""
STORES_OWN = {kind.type: kind for kind in (eventstore.Erased, eventstore.Pruned)}


def write(directory: Path) -> None:
    """Write all pages; one that is the same already is left alone, so that nothing is built for nothing."""
    directory.mkdir(exist_ok=True)
    pages = {
        "configuration": _configuration,
        "commands": _commands,
        "http": _http,
        "events": _events,
        "python": _python,
    }
    for name, lines in pages.items():
        text, path = "\n".join(lines()) + "\n", directory / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# Configuration


def _configuration() -> Iterator[str]:
    yield "# Configuration\n"
    yield "All keys of the file, as the server reads them. What they are for, with examples, is told in "
    yield "[Declaring services](../declaration.md) and [Who may do what](../access.md).\n"
    yield "## The top of the file\n"
    yield from _table(("key", "type", "default", "meaning"), FILE)
    for name, struct in TABLES.items():
        yield f"\n## `[{name}]`\n"
        yield f"{_doc(struct)}\n"
        meanings = _attribute_docs(struct)
        yield from _table(
            ("key", "type", "default", "meaning"),
            [
                (*_told(field), meanings.get(field.name, ""))
                for field in msgspec.structs.fields(struct)
                if field.name != "name"
            ],
        )
    yield "\n## `[services.NAME.parameters]`\n"
    yield "Each parameter has a `type`, and what that understands.\n"
    for kind in get_args(parameters.Parameter):
        yield f'\n### `type = "{_tag(kind)}"`\n'
        yield f"{_doc(kind)}\n"
        yield from _table(
            ("key", "type", "default"),
            map(_told, msgspec.structs.fields(kind)),
        )


def _tag(struct: type[msgspec.Struct]) -> object:
    return struct.__struct_config__.tag


def _told(field: msgspec.structs.FieldInfo) -> tuple[str, str, str]:
    return f"`{field.encode_name}`", f"`{_type(field.type)}`", _default(field)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "must be there"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value in (None, "") or value is msgspec.UNSET:
        return ""
    if isinstance(value, msgspec.Struct):
        return "see there"
    return f"`{msgspec.json.encode(value).decode()}`"


def _attribute_docs(struct: type) -> dict[str, str]:
    """Return what is said of each field, below it."""
    found = {}
    for kind in reversed(struct.__mro__):
        if kind.__module__.partition(".")[0] not in ("uws", "eventstore", "projections"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[field.target.id] = " ".join(_paragraphs(after.value.value).split())
    return found


# The command line


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "What `uwsd --help` says of all commands. "
    yield "[Exit statuses](../operating.md#exit-statuses) are the same for all.\n"
    yield from _command(get_command(app), "uwsd")


def _command(command: Any, name: str) -> Iterator[str]:
    """Tell of a command, and of those below it; groups that do nothing by themselves are left out."""
    children = getattr(command, "commands", {})
    if name != "uwsd" and (not children or command.invoke_without_command):
        yield f"\n## `{name}`\n"
        yield f"{_paragraphs(command.help)}\n"
        rows = [
            (f"`{_shown(parameter)}`", _paragraphs(parameter.help))
            for parameter in command.params
            if parameter.name != "help"
        ]
        if rows:
            yield from _table(("argument, option", "meaning"), rows)
    for child, each in children.items():
        yield from _command(each, f"{name} {child}")


def _shown(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {parameter.metavar or parameter.name.upper()}"


# HTTP


def _http() -> Iterator[str]:
    yield "# Resources\n"
    yield "What can be asked, as `/openapi.json` of a server tells for its own services. "
    yield "How it is meant is told in [the HTTP interface](../http.md).\n"
    rows = []
    for route, operation in OPERATIONS.items():
        method, _, path = route.partition(" ")
        given = [*operation.query, *(operation.fields or ()), *operation.headers]
        answers = ", ".join(f"{status} {HTTPStatus(status).phrase}" for status in operation.answers)
        rows.append(
            (f"`{method}`", f"`{path}`", operation.summary, " ".join(f"`{each}`" for each in given), answers)
        )
    yield from _table(("method", "path", "what", "takes", "answers"), rows)


# Events


def _events() -> Iterator[str]:
    yield "# Events\n"
    yield f"{_paragraphs(events.__doc__)}\n"
    yield "Fields that have a default are left out where they have it.\n"
    for name in sorted(events.EVENT_TYPES):
        struct = STORES_OWN.get(name) or getattr(events, name)
        yield f"\n## `{name}`\n"
        yield f"{_doc(struct)}\n"
        if fields := msgspec.structs.fields(struct):
            yield from _table(("field", "type", "default"), map(_told, fields))


# Python


def _python() -> Iterator[str]:
    yield "# Python\n"
    yield "What may be imported. All else may change without notice.\n"
    for module in (uws, eventstore, projections):
        yield f"\n## `{module.__name__}`\n"
        yield f"{_paragraphs(module.__doc__)}\n"
        for name in sorted(module.__all__, key=str.lower):
            yield from _member(module, name)


def _member(module: ModuleType, name: str) -> Iterator[str]:
    value = getattr(module, name)
    yield f"\n### `{name}`\n"
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        yield f"`{_type(type(value))}`\n"
        return
    yield f"```python\n{_signature(name, value)}\n```\n"
    yield f"{_doc(value)}\n"
    if inspect.isclass(value) and value.__module__.partition(".")[0] in ("uws", "eventstore", "projections"):
        for method_name, method in vars(value).items():
            if method_name.startswith("_"):
                continue
            is_value = isinstance(method, property | cached_property)
            function = getattr(method, "fget", None) or getattr(method, "func", None)
            function = function or getattr(method, "__func__", method)
            if inspect.isroutine(function) and function.__doc__:
                shown = method_name if is_value else _signature(method_name, function)
                yield f"\n```python\n{shown}\n```\n"
                yield f"{_doc(function)}\n"


def _signature(name: str, value: Callable[..., Any]) -> str:
    begin = "class" if inspect.isclass(value) else "def"
    if inspect.iscoroutinefunction(value):
        begin = "async def"
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return f"{begin} {name}(...)"
    given = [
        each.replace(annotation=_annotation(each.annotation), default=_default_of(each.default))
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    returned = _annotation(signature.return_annotation)
    return f"{begin} {name}{inspect.Signature(given, return_annotation=returned)}"


class _Words(str):
    """Text that is shown without quotes."""

    __repr__ = str.__str__


def _annotation(kind: Any) -> Any:
    if kind is inspect.Parameter.empty:
        return kind
    text = kind if isinstance(kind, str) else getattr(kind, "__forward_arg__", None)
    return _Words(text or _type(kind))


def _default_of(value: Any) -> Any:
    """Return what is shown of a default: the same at each build, and no more than is read at a glance."""
    if value is inspect.Parameter.empty:
        return value
    told = repr(value)
    return _Words("…" if " at 0x" in told or len(told) > _LONG else told)


# Markdown


def _doc(value: object) -> str:
    return _paragraphs(inspect.getdoc(value))


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("``", "`")


def _type(kind: object) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    for module in ("typing.", "datetime.", "msgspec.", "_core.", "builtins."):
        text = text.replace(module, "")
    return text.replace(" | UnsetType", "").replace("<class '", "").replace("'>", "")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (heads, [":--"] * len(heads), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
