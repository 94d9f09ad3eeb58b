"""Times, durations and sizes, read and written."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws.model.units import (
    format_duration,
    format_size,
    format_time,
    parse_duration,
    parse_size,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2015", datetime(2015, 1, 1, tzinfo=UTC)),
        ("2015-10", datetime(2015, 10, 1, tzinfo=UTC)),
        ("2015-10-26", datetime(2015, 10, 26, tzinfo=UTC)),
        ("20151026", datetime(2015, 10, 26, tzinfo=UTC)),
        ("2015-10-26 09:00", datetime(2015, 10, 26, 9, tzinfo=UTC)),
        ("2015-10-26T09", datetime(2015, 10, 26, 9, tzinfo=UTC)),
        ("20151026T0900", datetime(2015, 10, 26, 9, tzinfo=UTC)),
        ("20151026T090102Z", datetime(2015, 10, 26, 9, 1, 2, tzinfo=UTC)),
        ("2015-10-26T09:01:02.5Z", datetime(2015, 10, 26, 9, 1, 2, 500_000, tzinfo=UTC)),
        ("2015-10-26T09:01:02.123456789", datetime(2015, 10, 26, 9, 1, 2, 123_456, tzinfo=UTC)),
        (" 2015-10-26Z\n", datetime(2015, 10, 26, tzinfo=UTC)),
    ],
)
def test_short_forms_of_times_are_understood(text: str, time: datetime) -> None:
    assert parse_time(text) == time


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "15", "2015-1-1", "2015-10-26T09:00+01:00", "2015-10-26T09:00-00:00", "2015-10-26T",
        "2015-10-26T9:00", "2015-10-26T25:00", "2015-13", "2015-02-29", "0000-01-01", "2015T09:00",
        "2015-10T09:00", "2015-10-26T09:00:00.", "٢٠١٥", "2015-10-26t09:00", "1445850000",
    ],
)  # fmt: skip
def test_what_is_no_utc_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(text)


@given(st.datetimes())
def test_times_come_back_to_the_millisecond(naive: datetime) -> None:
    time = naive.replace(tzinfo=UTC)
    text = format_time(time)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert parse_time(text) == time.replace(microsecond=time.microsecond // 1000 * 1000)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (60, 60), (0, 0), (1.5, 2), ("90s", 90), ("20min", 1200), ("12h", 43200), ("7d", 604800),
        ("2w", 1209600), ("6mo", 15552000), ("1y", 31536000), (" 1.5 h ", 5400),
    ],
)  # fmt: skip
def test_durations_are_seconds_or_have_a_unit(value: float | str, seconds: int) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "7", "d", "7 days", "-7d", "1h30min", "7D", -1, "9" * 400 + "d", "٣d"], ids=repr
)
def test_what_is_no_duration_is_refused(value: float | str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(500, 500), ("1B", 1), ("200MB", 200 * 10**6), ("1GiB", 2**30), ("1.5kB", 1500), ("2TiB", 2 * 2**40)],
)
def test_sizes_are_bytes_or_have_a_unit(value: int | str, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "200", "200mb", "1GB!", -5, "MB"], ids=repr)
def test_what_is_no_size_is_refused(value: int | str) -> None:
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_size(value)


@given(
    st.integers(0, 10**9), st.sampled_from([("s", 1), ("min", 60), ("h", 3600), ("d", 86400), ("w", 604800)])
)
def test_a_duration_with_a_unit_is_exact(count: int, unit: tuple[str, int]) -> None:
    assert parse_duration(f"{count}{unit[0]}") == count * unit[1]


@given(st.integers(1, 2**31))
def test_a_written_duration_adds_up_to_itself(seconds: int) -> None:
    assert sum(parse_duration(part) for part in format_duration(seconds).split()) == seconds


def test_no_limit_is_written_in_words() -> None:
    assert format_duration(0) == "unlimited"
    assert format_duration(5400) == "1h 30min"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (200 * 10**6, "200.0 MB"), (1.5 * 10**9, "1.5 GB"),
     (10**12, "1.0 TB"), (5 * 10**15, "5000.0 TB")],
)  # fmt: skip
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert format_size(size) == text
