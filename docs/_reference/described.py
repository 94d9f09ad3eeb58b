"""What the code says of itself, as Markdown."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

OURS = ("uws", "eventstore", "projections")
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", datetime: "time",
          Path: "path", Any: "anything"}  # fmt: skip
_NOTHING = (NoneType, msgspec.UnsetType)


def is_ours(value: Any) -> bool:
    """Whether a class or a function is made here."""
    return str(value.__module__).partition(".")[0] in OURS


def prose(text: str | None) -> str:
    """Return a docstring as it stands, in Markdown."""
    return inspect.cleandoc(text or "").replace("``", "`")


def line(text: str | None) -> str:
    """Return a docstring as one line."""
    return " ".join(prose(text).split())


def doc(value: Any) -> str:
    """Return what is said of a function, or of a class; what is said of its base is not."""
    return prose(vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value))


@cache
def attributes(value: type | ModuleType) -> dict[str, str]:
    """Return what is said of each field of a class, or of each name of a module, below it."""
    found: dict[str, str] = {}
    for body in [tree(value).body] if isinstance(value, ModuleType) else map(_body, reversed(value.__mro__)):
        for named, after in pairwise(body):
            targets = named.targets if isinstance(named, ast.Assign) else [getattr(named, "target", None)]
            match targets, after:
                case [ast.Name(id=name)], ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = line(text)
    return found


@cache
def tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _body(kind: type) -> list[ast.stmt]:
    module = tree(sys.modules[kind.__module__]).body if is_ours(kind) else []
    return next((each.body for each in module if getattr(each, "name", None) == kind.__name__), [])


def words(kind: Any, named: Callable[[Any], str] = lambda kind: kind.__name__) -> str:
    """Return what a type lets in; of a class, what it is ``named``."""
    match get_origin(kind):
        case origin if origin is Annotated:
            told = [each.description for each in kind.__metadata__ if isinstance(each, msgspec.Meta)]
            return told[0] if told else words(kind.__origin__, named)
        case origin if origin in (Union, UnionType):
            return " or ".join(words(part, named) for part in get_args(kind) if part not in _NOTHING)
        case origin if origin is Literal:
            return " or ".join(f"`{part}`" for part in get_args(kind))
        case origin if origin is dict:
            return f"{words(get_args(kind)[1], named)}, by name"
        case origin if origin in (list, tuple, frozenset):
            return f"list of {words(get_args(kind)[0], named)}"
        case _ if kind in _WORDS:
            return _WORDS[kind]
        case _ if isinstance(kind, type) and issubclass(kind, Enum):
            return " or ".join(f"`{each.value}`" for each in kind)
    return named(kind)


def fields(struct: type, named: Callable[[Any], str], but: Sequence[str] = ()) -> Iterator[str]:
    """Make a table of the fields of a struct."""
    meanings = attributes(struct)
    rows = [
        (f"`{each.encode_name}`", words(each.type, named), default(each), meanings.get(each.name, ""))
        for each in msgspec.structs.fields(struct)
        if each.name not in but
    ]
    if rows:
        yield from table(("field", "type", "default", "meaning"), rows)


def default(field: msgspec.structs.FieldInfo) -> str:
    """Return what a field is where none is given, unless that is nothing, or has a table of its own."""
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value in (None, "", [], {}, ()) or value is msgspec.UNSET or isinstance(value, msgspec.Struct):
        return ""
    return f"`{msgspec.json.encode(value).decode()}`"


def anchor(heading: str) -> str:
    """Return the name by which links lead to a heading."""
    return "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (heads, [":--"] * len(heads), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""
