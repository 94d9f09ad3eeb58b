"""Times, durations and sizes as people and standards write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec

Duration = Annotated[
    int | float | str, msgspec.Meta(description="seconds, or text such as `90s`, `2h`, `7d`")
]
"""What `parse_duration` reads."""
Size = Annotated[int | str, msgspec.Meta(description="bytes, or text such as `200MB`, `1GiB`")]
"""What `parse_size` reads."""

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400,
            "mo": 30 * 86400, "y": 365 * 86400}  # fmt: skip
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
_QUANTITY = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]+)\s*", re.ASCII)
_TIME = re.compile(
    r"""(?P<year>\d{4})
        (?:-(?P<month>\d\d)(?:-(?P<day>\d\d))? | (?P<month2>\d\d)(?P<day2>\d\d))?
        (?:[T ](?P<hour>\d\d)
           (?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?
              |(?P<minute2>\d\d)(?:(?P<second2>\d\d)(?:\.(?P<fraction2>\d{1,9}))?)?)?)?
        (?P<zulu>Z)?""",
    re.VERBOSE | re.ASCII,
)


def parse_time(text: str) -> datetime:
    """Parse a UTC time in ISO 8601, such as ``2015``, ``20151026``, ``2015-10-26 09:00``.

    Returns an aware datetime, cut to microseconds. Raises `ValueError` for anything else, an offset
    other than ``Z`` included (UWS 1.1 section 2.2.2.1; DALI 1.1 section 3.3.3).
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a UTC time such as 2015-10-26T09:00:00Z")
    part = {name.rstrip("2"): value for name, value in match.groupdict().items() if value}
    if "hour" in part and "day" not in part:
        raise ValueError(f"{text!r} has a time of day but no day")
    try:
        return datetime(
            year=int(part["year"]),
            month=int(part.get("month", 1)),
            day=int(part.get("day", 1)),
            hour=int(part.get("hour", 0)),
            minute=int(part.get("minute", 0)),
            second=int(part.get("second", 0)),
            microsecond=int(part.get("fraction", "0").ljust(6, "0")[:6]),
            tzinfo=UTC,
        )
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: {error}") from None


def format_time(time: datetime) -> str:
    """Write a UTC time with ``T``, milliseconds and ``Z`` (UWS 1.1 section 2.2.2)."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def parse_duration(value: int | float | str) -> int:
    """Return whole seconds for a number of seconds or a text: ``90s``, ``20min``, ``12h``, ``7d``, ``2w``.

    A month (``6mo``) is 30 days, a year (``2y``) 365, whatever the calendar says. Raises `ValueError`.
    """
    return _quantity(value, _SECONDS, "a duration such as 60 (seconds), 20min, 12h or 7d")


def check_duration(field: str, value: int | float | str, least: str) -> None:
    """Raise `ValueError`, which names the ``field``, unless a value is a duration of at least ``least``."""
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
    if seconds < parse_duration(least):
        raise ValueError(f"{field}: {value} is below the minimum {least}")


def parse_size(value: int | str) -> int:
    """Return bytes for a number of bytes or a text such as ``200MB`` or ``1GiB``. Raises `ValueError`."""
    return _quantity(value, _BYTES, "a size such as 500000 (bytes), 200MB or 1GiB")


def _quantity(value: int | float | str, units: dict[str, int], expected: str) -> int:
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        if match is None or match[2] not in units:
            raise ValueError(f"expected {expected}, got {value!r}")
        return round(float(match[1]) * units[match[2]])
    if value < 0:
        raise ValueError(f"expected {expected}, got {value}")
    return round(value)


def format_duration(seconds: int) -> str:
    """Write seconds for people: ``7d``, ``1h 30min``, ``unlimited`` for 0."""
    if seconds == 0:
        return "unlimited"
    parts = []
    for unit in ("d", "h", "min", "s"):
        count, seconds = divmod(seconds, _SECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def format_size(size: float) -> str:
    """Write a number of bytes for people: ``1.0 MB``."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
