"""The parameter types a service can declare, and how their values are read (DALI 1.1 section 3.3).

Each class is one type of the declaration (``type = "float"`` is `FloatParameter`). It knows how to read a
client's text, how to write a value for a program, and how the value looks in the generated job class.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, ClassVar

import msgspec

from .text import first_foreign
from .units import Size, parse_size, parse_time

DEFAULT_MAX_SIZE = 10**9


class BaseParameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
                    omit_defaults=True, tag_field="type", dict=True):  # fmt: skip
    """What all types share."""

    required: bool = False
    """Whether no job runs without a value."""
    multiple: bool = False
    """Whether it takes any number of values; else one."""
    unit: str = ""
    """The unit of values, for people and clients (VOUnits)."""
    ucd: str = ""
    """What a value is, as a UCD such as ``pos.eq.ra``."""
    description: str = ""
    """What it is for, for people."""

    python_type: ClassVar[Any]

    def __post_init__(self) -> None:
        """Raises `ValueError` beginning with the name of the field that is wrong."""
        if self.required and self.defaults:
            raise ValueError("default: a required parameter has none; leave out one of the two")
        if not self.multiple and isinstance(getattr(self, "default", None), list):
            raise ValueError("default: a list needs multiple = true")
        if getattr(self, "values", None) == []:
            raise ValueError("values: nothing would be allowed")
        for field, texts in (("values", self._texts("values")), ("default", self.defaults)):
            for text in texts:
                try:
                    self.check(text)
                except ValueError as error:
                    raise ValueError(f"{field}: {error}") from None

    @property
    def type(self) -> str:
        """The type's name in a declaration."""
        return str(self.__struct_config__.tag)

    @property
    def defaults(self) -> tuple[str, ...]:
        """The default values as a client would have sent them; empty when there is none."""
        return self._texts("default")

    def _texts(self, field: str) -> tuple[str, ...]:
        raw = getattr(self, field, None)
        if raw is None:
            return ()
        return tuple(self.format(item) for item in (raw if isinstance(raw, list) else [raw]))

    @property
    def options(self) -> tuple[str, ...]:
        """The values that are enumerated, as a client would send them; empty when none are."""
        return self._texts("values")

    @property
    def has_value(self) -> bool:
        """Whether a job that can run always has a value for this."""
        return self.required or bool(self.defaults)

    def read(self, text: str) -> Any:
        """Turn a client's text into a value. Raises `ValueError` that says what would be right."""
        raise NotImplementedError

    def format(self, value: Any) -> str:
        """Write a value as a program gets it."""
        return str(value)

    def check(self, text: str) -> Any:
        """Read ``text`` and hold it against the declaration. Returns the value; raises `ValueError`."""
        if foreign := first_foreign(text):
            raise ValueError(f"the character U+{ord(foreign):04X} cannot be part of an XML document")
        value = self.read(text)
        self._check_limits(text.strip(), value)
        if self._allowed and value not in self._allowed:
            allowed = ", ".join(self._show(item) for item in self._allowed)
            raise ValueError(f"{text!r} is none of {allowed}")
        return value

    @cached_property
    def _allowed(self) -> tuple[Any, ...]:
        """The values that are enumerated, read."""
        return tuple(self.read(text) for text in self._texts("values"))

    def _check_limits(self, text: str, value: Any) -> None:
        """Raise `ValueError` when ``value``, sent as ``text``, is beyond the limits."""

    def _show(self, value: Any) -> str:
        """Write a value for people."""
        return self.format(value)

    def means_nothing(self, text: str) -> bool:
        """Whether ``text`` is what a form sends for a field that was left blank."""
        return not text.strip()

    @property
    def annotation(self) -> Any:
        """The type of one value in the generated job class."""
        return Annotated[self.python_type, msgspec.Meta(**self._constraints())]

    def _constraints(self) -> dict[str, Any]:
        constraints: dict[str, Any] = {"description": self.description} if self.description else {}
        schema = self._schema()
        return constraints | ({"extra_json_schema": schema} if schema else {})

    def _schema(self) -> dict[str, Any]:
        """What the JSON Schema says beyond what follows from the type."""
        schema: dict[str, Any] = {
            f"x-{key}": value for key in ("unit", "ucd") if (value := getattr(self, key))
        }
        if self._allowed:
            schema["enum"] = msgspec.to_builtins(list(self._allowed))
        return schema


class OrderedParameter(BaseParameter, frozen=True):
    """A type with ``min``, ``max`` and ``values``."""

    def __post_init__(self) -> None:
        low, high = self._bounds
        if low is not None and high is not None and low > high:
            raise ValueError(f"min: {self._show(low)} is above max, {self._show(high)}")
        super().__post_init__()

    @property
    def _bounds(self) -> tuple[Any, Any]:
        return getattr(self, "min", None), getattr(self, "max", None)

    def _check_limits(self, text: str, value: Any) -> None:
        low, high = self._bounds
        if low is not None and value < low:
            raise ValueError(f"{text} is below the minimum {self._show(low)}")
        if high is not None and value > high:
            raise ValueError(f"{text} is above the maximum {self._show(high)}")


class IntParameter(OrderedParameter, frozen=True, tag="int"):
    """A whole number of 64 bits."""

    min: int | None = None
    """The least value that is let in."""
    max: int | None = None
    """The greatest value that is let in."""
    values: list[int] | None = None
    """The values that are let in, and no others."""
    default: int | list[int] | None = None
    """What a job has for which none is given; several where it takes several."""
    python_type: ClassVar[Any] = int

    def read(self, text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", text):
            raise ValueError(f"expected a whole number, got {text!r}")
        value = int(text)
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{text.strip()} does not fit into 64 bits")
        return value

    def _constraints(self) -> dict[str, Any]:
        return super()._constraints() | _limits(ge=self.min, le=self.max)


class FloatParameter(OrderedParameter, frozen=True, tag="float"):
    """A finite number of double precision."""

    min: float | None = None
    max: float | None = None
    values: list[float] | None = None
    default: float | list[float] | None = None
    python_type: ClassVar[Any] = float

    def __post_init__(self) -> None:
        _check_finite(self.min, self.max)
        super().__post_init__()

    def read(self, text: str) -> float:
        return _number(text)

    def _show(self, value: float) -> str:
        return repr(value).removesuffix(".0")

    def _constraints(self) -> dict[str, Any]:
        return super()._constraints() | _limits(ge=self.min, le=self.max)


class BoolParameter(BaseParameter, frozen=True, tag="bool"):
    """``true`` or ``false``; 1, 0, T and F are understood (DALI 1.1 section 3.3.1)."""

    values: list[bool] | None = None
    default: bool | list[bool] | None = None
    python_type: ClassVar[Any] = bool

    def read(self, text: str) -> bool:
        match text.strip().lower():
            case "true" | "t" | "1":
                return True
            case "false" | "f" | "0":
                return False
        raise ValueError(f"expected true or false, got {text!r}")

    def format(self, value: bool) -> str:
        return "true" if value else "false"


_CLASS = r"\[\^?+\]?+(?:\\.|[^\\\]])*+\]"
_FIRST = re.compile(
    rf"\^?(\(\?!-\)|{_CLASS}|\\[dDsSwW]|\\[^\w]|[^\\\[(){{}}*+?|^$])(?![*?]|\{{0|\{{,)", re.DOTALL
)
"""What a pattern begins with and must match: a class, a character, or that no dash follows."""
_BESIDE_GROUPS = re.compile(rf"{_CLASS}|\\.", re.DOTALL)


def _excludes_dash(pattern: str) -> bool:
    """Whether a pattern begins so that nothing which it matches begins with a dash."""
    flat = _BESIDE_GROUPS.sub("", pattern)
    while (fewer := re.sub(r"\([^()]*\)", "", flat)) != flat:
        flat = fewer
    first = _FIRST.match(pattern)
    return "|" not in flat and first is not None and not re.fullmatch(first[1], "-")


class StrParameter(BaseParameter, frozen=True, tag="str"):
    """Text, kept as it came."""

    pattern: str | None = None
    """A Python regular expression that must match all of it."""
    max_length: int | None = None
    """Characters that it has at most."""
    values: list[str] | None = None
    default: str | list[str] | None = None
    python_type: ClassVar[Any] = str

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 0:
            raise ValueError(f"max_length: {self.max_length} is below the minimum 0")
        try:
            self._compiled  # noqa: B018 - compiled for its errors
        except re.error as error:
            raise ValueError(f"pattern: {error}") from None
        super().__post_init__()

    @cached_property
    def _compiled(self) -> re.Pattern[str] | None:
        return re.compile(self.pattern) if self.pattern is not None else None

    def read(self, text: str) -> str:
        if self.max_length is not None and len(text) > self.max_length:
            raise ValueError(f"{len(text)} characters are above the maximum {self.max_length}")
        if self._compiled and not self._compiled.fullmatch(text):
            raise ValueError(f"{text!r} does not match the pattern {self.pattern}")
        return text

    @property
    def may_begin_with_dash(self) -> bool:
        """Whether values are such that a program can take one for an option, unless the pattern's beginning
        shows that none is.
        """
        return self.values is None and (self.pattern is None or not _excludes_dash(self.pattern))

    def means_nothing(self, text: str) -> bool:
        return bool(self.values) and text == "" and text not in (self.values or ())

    def _constraints(self) -> dict[str, Any]:
        return super()._constraints() | _limits(max_length=self.max_length)

    def _schema(self) -> dict[str, Any]:
        # For readers only: the server's own check is the one in `read`.
        return super()._schema() | ({"pattern": f"^(?:{self.pattern})$"} if self.pattern is not None else {})


class TimestampParameter(OrderedParameter, frozen=True, tag="timestamp"):
    """A UTC time, ``YYYY-MM-DD['T'hh:mm:ss[.SSS]['Z']]`` (DALI 1.1 section 3.3.3)."""

    min: str | None = None
    """The earliest time that is let in."""
    max: str | None = None
    """The latest time that is let in."""
    values: list[str] | None = None
    default: str | list[str] | None = None
    python_type: ClassVar[Any] = datetime

    def __post_init__(self) -> None:
        for field in ("min", "max"):
            try:
                self._moment(getattr(self, field))
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
        super().__post_init__()

    def _moment(self, value: str | None) -> datetime | None:
        return parse_time(value) if value is not None else None

    @property
    def _bounds(self) -> tuple[Any, Any]:
        return self._moment(self.min), self._moment(self.max)

    def read(self, text: str) -> datetime:
        return parse_time(text)

    def format(self, value: str | datetime) -> str:
        return value if isinstance(value, str) else value.isoformat().replace("+00:00", "Z")


class _Numbers(BaseParameter, frozen=True):
    """Several numbers in one value, separated by blanks (commas are understood)."""

    values: list[str] | None = None
    default: str | list[str] | None = None
    python_type: ClassVar[Any] = tuple[float, ...]
    form: ClassVar[str]

    def read(self, text: str) -> tuple[float, ...]:
        words = text.replace(",", " ").split()
        try:
            numbers = tuple(self._one(word) for word in words)
            self._shape(numbers)
        except ValueError as error:
            raise ValueError(f"expected {self.form}, got {text!r}: {error}") from None
        return numbers

    def format(self, value: str | tuple[float | None, ...]) -> str:
        return value if isinstance(value, str) else " ".join(map(repr, value))

    def _one(self, word: str) -> float:
        return _number(word)

    def _shape(self, numbers: tuple[float, ...]) -> None:
        """Raise `ValueError` when these numbers are no such value."""
        raise NotImplementedError


class IntervalParameter(_Numbers, frozen=True, tag="interval"):
    """``lo hi``; either may be infinite, ``-Inf`` and ``+Inf`` (DALI 1.1 section 3.3.4)."""

    min: float | None = None
    """The least number at which it may begin."""
    max: float | None = None
    """The greatest number at which it may end."""
    form: ClassVar[str] = "an interval 'lo hi'"
    # JSON has no infinities: a missing bound is null.
    python_type: ClassVar[Any] = tuple[float | None, float | None]

    def __post_init__(self) -> None:
        _check_finite(self.min, self.max)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min: {self.min} is above max, {self.max}")
        super().__post_init__()

    def _one(self, word: str) -> float:
        if re.fullmatch(r"[+-]?inf(inity)?", word, re.IGNORECASE):
            return -math.inf if word.startswith("-") else math.inf
        return _number(word)

    def _shape(self, numbers: tuple[float, ...]) -> None:
        if len(numbers) != 2:
            raise ValueError(f"{len(numbers)} numbers")
        low, high = numbers
        if low > high:
            raise ValueError("lo is above hi")

    def _check_limits(self, text: str, value: tuple[float, float]) -> None:
        if self.min is not None and value[0] < self.min:
            raise ValueError(f"{text} begins below the minimum {self.min}")
        if self.max is not None and value[1] > self.max:
            raise ValueError(f"{text} ends above the maximum {self.max}")

    def format(self, value: str | tuple[float | None, ...]) -> str:
        if isinstance(value, str):
            return value
        return " ".join(
            f"{bound:+}".replace("inf", "Inf") if math.isinf(bound) else repr(bound)
            for bound in value
            if bound is not None
        )


class PointParameter(_Numbers, frozen=True, tag="point"):
    """``ra dec`` in degrees (DALI 1.1 section 3.3.5)."""

    form: ClassVar[str] = "a point 'ra dec' in degrees"
    python_type: ClassVar[Any] = tuple[float, float]

    def _shape(self, numbers: tuple[float, ...]) -> None:
        if len(numbers) != 2:
            raise ValueError(f"{len(numbers)} numbers")
        _check_vertices(numbers)


class CircleParameter(_Numbers, frozen=True, tag="circle"):
    """``ra dec radius`` in degrees (DALI 1.1 section 3.3.6)."""

    form: ClassVar[str] = "a circle 'ra dec radius' in degrees"
    python_type: ClassVar[Any] = tuple[float, float, float]

    def _shape(self, numbers: tuple[float, ...]) -> None:
        if len(numbers) != 3:
            raise ValueError(f"{len(numbers)} numbers")
        _check_vertices(numbers[:2])
        if not 0 <= numbers[2] <= 180:
            raise ValueError(f"the radius {numbers[2]} is not between 0 and 180")


class PolygonParameter(_Numbers, frozen=True, tag="polygon"):
    """``ra1 dec1 ra2 dec2 …``, at least three vertices, in degrees (DALI 1.1 section 3.3.7)."""

    form: ClassVar[str] = "a polygon 'ra1 dec1 ra2 dec2 ra3 dec3 …' in degrees"

    def _shape(self, numbers: tuple[float, ...]) -> None:
        if len(numbers) % 2 or len(numbers) < 6:
            raise ValueError(f"{len(numbers)} numbers; at least 3 pairs are needed")
        _check_vertices(numbers)


class FileParameter(BaseParameter, frozen=True, tag="file"):
    """An uploaded file; programs get its local path."""

    max_size: Size = DEFAULT_MAX_SIZE
    """The size of the largest file that is let in."""
    python_type: ClassVar[Any] = str

    def __post_init__(self) -> None:
        try:
            if parse_size(self.max_size) == 0:
                raise ValueError("0 lets no file in")
        except ValueError as error:
            raise ValueError(f"max_size: {error}") from None
        super().__post_init__()

    @property
    def max_bytes(self) -> int:
        """The largest file accepted, in bytes."""
        return parse_size(self.max_size)

    def read(self, text: str) -> str:
        raise ValueError("expected a file: send it as a part of multipart/form-data, or by UPLOAD")


Parameter = (
    IntParameter | FloatParameter | BoolParameter | StrParameter | TimestampParameter
    | IntervalParameter | PointParameter | CircleParameter | PolygonParameter | FileParameter
)  # fmt: skip
"""A parameter, of any type."""


def _number(text: str) -> float:
    try:
        if "_" in text:
            raise ValueError
        value = float(text)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text!r}")
    return value


def _check_finite(low: float | None, high: float | None) -> None:
    for field, limit in (("min", low), ("max", high)):
        if limit is not None and not math.isfinite(limit):
            raise ValueError(f"{field}: expected a finite number, got {limit}")


def _check_vertices(numbers: tuple[float, ...]) -> None:
    for ra, dec in zip(numbers[::2], numbers[1::2], strict=True):
        if not 0 <= ra <= 360:
            raise ValueError(f"the longitude {ra} is not between 0 and 360")
        if not -90 <= dec <= 90:
            raise ValueError(f"the latitude {dec} is not between -90 and 90")


def _limits(**limits: Any) -> dict[str, Any]:
    return {name: limit for name, limit in limits.items() if limit is not None}
