"""What a function's signature says: its parameters as a declaration has them, and values for a call."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from inspect import Parameter as Argument
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from uws.model import (
    BoolParameter,
    FileParameter,
    FloatParameter,
    IntervalParameter,
    IntParameter,
    StrParameter,
    TimestampParameter,
)
from uws.model.parameters import BaseParameter

from .annotations import Parameter

_KINDS: dict[Any, type[BaseParameter]] = {
    int: IntParameter, float: FloatParameter, bool: BoolParameter, str: StrParameter,
    datetime: TimestampParameter, Path: FileParameter,
}  # fmt: skip
_KNOWN = (
    "int, float, bool, str, datetime, Path, Literal, an Enum, "
    "and Interval, Point, Circle, Polygon of uws.functions; list[…] or tuple[…, ...] for several values"
)
_SEVERAL = (list, tuple, collections.abc.Sequence)


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a function: the keys of its service's table, and where it ``stands``.

    ``problems`` are what is wrong with it, each with its place in that table (``.parameters.ra``).
    """

    title: str
    description: str
    parameters: dict[str, dict[str, Any]]
    problems: list[tuple[str, str]]
    stands: str

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of the service's table that have a value."""
        found = {"title": self.title, "description": self.description, "parameters": self.parameters}
        return {key: value for key, value in found.items() if value}


class _Type:
    """An annotation, taken apart. Raises `ValueError` that says what would be right."""

    def __init__(self, annotation: Any) -> None:
        self.given: dict[str, Any] = {}
        self.values: list[Any] = []
        self.several: Callable[[list[Any]], Any] | None = None
        self.optional = False
        self.kind, self._make = self._take(annotation)

    def make(self, value: Any) -> Any:
        """Turn a value as JSON has it into what the function expects."""
        return self.several([self._make(item) for item in value]) if self.several else self._make(value)

    def _take(self, annotation: Any) -> tuple[type[BaseParameter], Callable[[Any], Any]]:
        origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Annotated:
            return self._take_annotated(*inner)
        if origin in (Union, types.UnionType):
            (*one, other) = (part for part in inner if part is not types.NoneType)
            if one or self.several:
                raise ValueError(f"{_name(annotation)} is a choice of types; a parameter has one")
            self.optional = True
            return self._take(other)
        if origin in _SEVERAL or annotation in _SEVERAL:
            return self._take_several(annotation, origin, inner)
        if origin is Literal:
            return self._take_values(annotation, list(inner), lambda value: value)
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return self._take_values(annotation, [item.value for item in annotation], annotation)
        if annotation in _KINDS:
            makers: dict[Any, Callable[[Any], Any]] = {
                Path: Path,
                datetime: datetime.fromisoformat,
                float: float,
            }
            return _KINDS[annotation], makers.get(annotation, lambda value: value)
        raise ValueError(f"{_name(annotation)} is no type of a parameter; types are {_KNOWN}")

    def _take_annotated(self, base: Any, *told: Any) -> tuple[type[BaseParameter], Callable[[Any], Any]]:
        shapes = [item for item in told if isinstance(item, type) and issubclass(item, BaseParameter)]
        taken = (
            (shapes[0], _interval if shapes[0] is IntervalParameter else tuple)
            if shapes
            else self._take(base)
        )
        for item in told:  # what stands further out wins
            if isinstance(item, Parameter):
                self.given |= item.given
            elif item is Parameter:
                raise ValueError("Parameter says nothing by itself; write Parameter(unit=…) or leave it out")
        return taken

    def _take_several(
        self, annotation: Any, origin: Any, inner: tuple[Any, ...]
    ) -> tuple[type[BaseParameter], Callable[[Any], Any]]:
        if not inner:
            raise ValueError(
                f"{_name(annotation)} of what? write {_name(annotation)}[float{_dots(annotation)}]"
            )
        if self.several:
            raise ValueError("several values of which each is several cannot be sent")
        if origin is tuple and (len(inner) != 2 or inner[1] is not ...):
            raise ValueError(
                f"{_name(annotation)} has a fixed number of values; write tuple[{_name(inner[0])}, ...], "
                "or one of Interval, Point, Circle, Polygon of uws.functions"
            )
        self.several = tuple if origin is tuple else list
        return self._take(inner[0])

    def _take_values(
        self, annotation: Any, values: list[Any], make: Callable[[Any], Any]
    ) -> tuple[type[BaseParameter], Callable[[Any], Any]]:
        kinds = {type(value) for value in values}
        if len(kinds) != 1 or not kinds <= {int, float, bool, str}:
            raise ValueError(
                f"the values of {_name(annotation)} are not all of one type: int, float, bool or str"
            )
        self.values = values
        return _KINDS[kinds.pop()], make


def describe(function: Callable[..., Any]) -> Description:
    """Derive a declaration from a function's signature and docstring.

    The first line of the docstring is the title, the rest the description.
    """
    title, _, description = inspect.cleandoc(function.__doc__ or "").partition("\n")
    problems: list[tuple[str, str]] = []
    parameters = {}
    for name, argument in inspect.signature(function).parameters.items():
        try:
            parameters[name] = _table(argument, _type(function, argument))
        except ValueError as error:
            problems.append((f".parameters.{name}", str(error)))
    return Description(
        title=title.strip().removesuffix("."),
        description=description.strip(),
        parameters=parameters,
        problems=problems,
        stands=_stands(function),
    )


def arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a call, from ``values`` as JSON has them.

    What has no value is left to the function's own default; None, or nothing of several, where it has none.
    """
    found = {}
    for name, argument in inspect.signature(function).parameters.items():
        taken = _type(function, argument)
        value = values.get(name)
        if value is not None and value != []:
            found[name] = taken.make(value)
        elif argument.default is Argument.empty:
            found[name] = taken.several([]) if taken.several else None
    return found


def _type(function: Callable[..., Any], argument: Argument) -> _Type:
    """Take an argument's annotation apart. Raises `ValueError`."""
    if argument.kind in (Argument.VAR_POSITIONAL, Argument.VAR_KEYWORD):
        raise ValueError(f"{argument} takes whatever comes; a parameter has a name and a type")
    if argument.kind is Argument.POSITIONAL_ONLY:
        raise ValueError("is only taken by position, but parameters have names: move the / before it")
    if argument.annotation is Argument.empty:
        raise ValueError(f"has no type; write {argument.name}: float, or what it is; types are {_KNOWN}")
    told = types.SimpleNamespace(__annotations__={argument.name: argument.annotation})
    try:
        hints = typing.get_type_hints(
            told, globalns=getattr(inspect.unwrap(function), "__globals__", {}), include_extras=True
        )
    except Exception as error:  # whatever evaluating a text raises
        raise ValueError(f"the type {argument.annotation!r} cannot be read: {error}") from None
    return _Type(hints[argument.name])


def _table(argument: Argument, taken: _Type) -> dict[str, Any]:
    """Return a parameter's table in a declaration. Raises `ValueError`."""
    table: dict[str, Any] = {"type": str(taken.kind.__struct_config__.tag)}
    if argument.default is Argument.empty:
        table |= {"required": True} if not taken.optional else {}
    elif argument.default is not None:
        table |= _default(argument.default, taken)
    table |= {"multiple": True} if taken.several else {}
    table |= {"values": taken.values} if taken.values else {}
    return table | {key: _written(value) for key, value in taken.given.items()}


def _default(default: Any, taken: _Type) -> dict[str, Any]:
    if taken.several and (isinstance(default, str) or not isinstance(default, collections.abc.Collection)):
        raise ValueError(f"the default {default!r} is one value, of a parameter that takes several")
    if taken.several and not default:
        return {}
    if taken.kind is FileParameter:
        raise ValueError(
            f"the default {default!r} is a file, which clients cannot see; write Path | None = None"
        )
    if taken.several:
        return {"default": [_plain(item, taken.kind) for item in default]}
    return {"default": _plain(default, taken.kind)}


def _plain(value: Any, kind: type[BaseParameter]) -> Any:
    """Write a default value as a declaration has it. Raises `ValueError`."""
    value = _written(value.value if isinstance(value, enum.Enum) else value)
    if isinstance(value, tuple | list):
        return kind().format(tuple(map(float, value)))
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"the default {value} is no finite number; for no value write float | None = None"
                )
            return plain(value)
    raise ValueError(f"the default {value!r} is no {kind.__struct_config__.tag}")


def _written(value: Any) -> Any:
    """Write a time as a declaration has it; one without a zone is UTC."""
    if not isinstance(value, datetime):
        return value
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _interval(bounds: list[float | None]) -> tuple[float, float]:
    low, high = bounds
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _stands(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}" if code else "no file"


def _name(annotation: Any) -> str:
    return (
        annotation.__name__
        if isinstance(annotation, type) and not typing.get_args(annotation)
        else str(annotation)
    )


def _dots(annotation: Any) -> str:
    return ", ..." if annotation is tuple else ""
