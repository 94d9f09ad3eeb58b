"""What may be imported."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

import eventstore
import projections
import uws

from .described import anchor, attributes, doc, is_ours, line, prose, table, tree

_LONG = 30
"""Characters of a default that are shown."""


def lines() -> Iterator[str]:
    yield "# Python\n"
    yield "What may be imported, by what it is for. All else may change without notice. "
    yield "How services are mounted in an application is told in [Embedding](../embedding.md).\n"
    for module in (uws, eventstore, projections):
        yield f"## `{module.__name__}`\n"
        yield f"{prose(module.__doc__)}\n"
        rooms: dict[str, dict[str, str]] = {}
        for name in sorted(module.__all__, key=str.lower):
            room, own = _home(module, name)
            rooms.setdefault(room.__name__, {})[name] = own
        titles = {
            room: line(sys.modules[room].__doc__).partition(". ")[0].rstrip(".") for room in sorted(rooms)
        }
        for room, title in titles.items():
            names = ", ".join(f"[`{name}`]({anchor(f'{module.__name__}.{name}')})" for name in rooms[room])
            yield f"- {title}: {names}"
        yield ""
        for room, title in titles.items():
            yield f"### {title}\n"
            for name, own in rooms[room].items():
                yield from _member(module, name, sys.modules[room], own)


def _home(module: ModuleType, name: str) -> tuple[ModuleType, str]:
    """Return the module in which something is made that a package has, and what it is called there."""
    imports = ast.walk(tree(module)) if hasattr(module, "__path__") else ()
    for node in imports:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            source = f"{module.__name__}.{node.module}" if getattr(node, "level", 0) else str(node.module)
            if source.partition(".")[0] != module.__name__.partition(".")[0]:
                continue
            found = import_module(source)
            if (alias.asname or alias.name) == name:
                return _home(found, alias.name)
            if alias.name == "*" and name in found.__all__:
                return _home(found, name)
    return module, name


def _member(module: ModuleType, name: str, room: ModuleType, own: str) -> Iterator[str]:
    value = getattr(module, name)
    yield f"#### `{module.__name__}.{name}`\n"
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        yield f"```python\n{name} = {_constant(value)}\n```\n"
        yield f"{attributes(room).get(own, '')}\n"
        return
    if inspect.isclass(value) and issubclass(value, Enum):
        yield f"{doc(value)}\n"
        meanings = attributes(value)
        rows = [(f"`{each.name}`", f"`{each.value!r}`", meanings.get(each.name, "")) for each in value]
        yield from table(("name", "value", "meaning"), rows)
        return
    yield f"```python\n{_signature(name, value)}\n```\n"
    yield f"{doc(value)}\n"
    if inspect.isclass(value) and is_ours(value):
        yield from _inside(value)


def _inside(value: type) -> Iterator[str]:
    """Tell of the fields of a class, and of its methods."""
    if meanings := attributes(value):
        yield from table(("field", "meaning"), [(f"`{name}`", text) for name, text in meanings.items()])
    for name, method in vars(value).items():
        if name.startswith("_"):
            continue
        is_value = isinstance(method, property | cached_property)
        function = getattr(method, "fget", None) or getattr(method, "func", None)
        function = function or getattr(method, "__func__", method)
        if inspect.isroutine(function) and function.__doc__:
            yield f"```python\n{name if is_value else _signature(name, function)}\n```\n"
            yield f"{doc(function)}\n"


def _constant(value: Any) -> str:
    """Return a constant, or a type that has another name, as it could be written."""
    if isinstance(value, frozenset):
        return f"frozenset({{{', '.join(sorted(map(_constant, value)))}}})"
    if isinstance(value, dict):
        rows = "".join(f"    {_constant(key)}: {_constant(each)},\n" for key, each in value.items())
        return f"{{\n{rows}}}"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str | int):
        return repr(value)
    if isinstance(value, type) and not hasattr(value, "__args__"):
        return value.__name__
    return _type(value) if hasattr(value, "__args__") else str(_default(value))


def _signature(name: str, value: Callable[..., Any]) -> str:
    begin = "class" if inspect.isclass(value) else "def"
    if inspect.iscoroutinefunction(value):
        begin = "async def"
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return f"{begin} {name}(...)"
    own = signature.return_annotation if not inspect.isclass(value) else inspect.Signature.empty
    given = [
        each.replace(annotation=_annotation(each.annotation), default=_default(each.default))
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    return f"{begin} {name}{inspect.Signature(given, return_annotation=_annotation(own))}"


class _Words(str):
    """Text that is shown without quotes."""

    __repr__ = str.__str__


def _annotation(kind: Any) -> Any:
    if kind is inspect.Parameter.empty:
        return kind
    text = kind if isinstance(kind, str) else getattr(kind, "__forward_arg__", None)
    return _Words(text or _type(kind))


def _default(value: Any) -> Any:
    """Return what is shown of a default: the same at each build, and no more than is read at a glance."""
    if value is inspect.Parameter.empty:
        return value
    told = repr(value)
    return _Words("…" if " at 0x" in told or len(told) > _LONG else told)


def _type(kind: object) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"<class '([^']+)'>", r"\1", text.replace(" | UnsetType", ""))
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)
