"""The parameter types: what is accepted and as what, what is refused and in which words."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uws import (
    BoolParameter,
    CircleParameter,
    FileParameter,
    FloatParameter,
    IntervalParameter,
    IntParameter,
    Parameter,
    PointParameter,
    PolygonParameter,
    StrParameter,
    TimestampParameter,
)

RA = FloatParameter(min=0, max=360)

ACCEPTED: list[tuple[Parameter, str, Any]] = [
    (IntParameter(), "3", 3),
    (IntParameter(), " -3\n", -3),
    (IntParameter(), "+007", 7),
    (IntParameter(), "9223372036854775807", 2**63 - 1),
    (IntParameter(), "-9223372036854775808", -(2**63)),
    (IntParameter(min=1, max=3), "1", 1),
    (IntParameter(min=1, max=3), "3", 3),
    (IntParameter(values=[2, 4]), "4", 4),
    (FloatParameter(), "1.5", 1.5),
    (FloatParameter(), "-1e-3", -0.001),
    (FloatParameter(), " 7 ", 7.0),
    (FloatParameter(), ".5", 0.5),
    (RA, "0", 0.0),
    (RA, "360", 360.0),
    (FloatParameter(values=[0.5, 1.0]), "1", 1.0),
    (BoolParameter(), "true", True),
    (BoolParameter(), "T", True),
    (BoolParameter(), "1", True),
    (BoolParameter(), "False", False),
    (BoolParameter(), "f", False),
    (BoolParameter(), "0", False),
    (StrParameter(), "", ""),
    (StrParameter(), " as it came\n", " as it came\n"),
    (StrParameter(), "\U0001f52d", "\U0001f52d"),
    (StrParameter(max_length=3), "\U0001f52d\U0001f52d\U0001f52d", "\U0001f52d" * 3),
    (StrParameter(pattern="[a-z]+"), "abc", "abc"),
    (StrParameter(values=["J", "H"]), "H", "H"),
    (TimestampParameter(), "2026-01-02T03:04:05.678Z", datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)),
    (TimestampParameter(), "2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
    (TimestampParameter(min="2026-01-02"), "2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
    (TimestampParameter(values=["2026-01-02T00:00:00Z"]), "2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
    (IntervalParameter(), "1 2", (1.0, 2.0)),
    (IntervalParameter(), "1 1", (1.0, 1.0)),
    (IntervalParameter(), "-Inf 2.5", (-math.inf, 2.5)),
    (IntervalParameter(), "0 +Inf", (0.0, math.inf)),
    (IntervalParameter(min=0, max=10), "0 10", (0.0, 10.0)),
    (PointParameter(), "266.4 -28.93", (266.4, -28.93)),
    (PointParameter(), "0,-90", (0.0, -90.0)),
    (CircleParameter(), "10 20 0.5", (10.0, 20.0, 0.5)),
    (CircleParameter(), "10 20 180", (10.0, 20.0, 180.0)),
    (PolygonParameter(), "1 2 3 4 5 6", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),
    (PolygonParameter(), "1 2 3 4 5 6 7 8", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),
]

REFUSED: list[tuple[Parameter, str, str]] = [
    (IntParameter(), "3.5", "expected a whole number, got '3.5'"),
    (IntParameter(), "", "expected a whole number, got ''"),
    (IntParameter(), "0x10", "expected a whole number, got '0x10'"),
    (IntParameter(), "1_000", "expected a whole number, got '1_000'"),
    (IntParameter(), "٣", "expected a whole number, got '٣'"),
    (IntParameter(), "9223372036854775808", "9223372036854775808 does not fit into 64 bits"),
    (IntParameter(min=1), "0", "0 is below the minimum 1"),
    (IntParameter(max=3), "4", "4 is above the maximum 3"),
    (IntParameter(values=[2, 4]), "3", "'3' is none of 2, 4"),
    (RA, "400.0", "400.0 is above the maximum 360"),
    (RA, "-1", "-1 is below the minimum 0"),
    (RA, "north", "expected a number, got 'north'"),
    (RA, "1_0", "expected a number, got '1_0'"),
    (RA, "nan", "expected a finite number, got 'nan'"),
    (RA, "inf", "expected a finite number, got 'inf'"),
    (RA, "1e999", "expected a finite number, got '1e999'"),
    (FloatParameter(values=[0.5, 1.0]), "2", "'2' is none of 0.5, 1"),
    (BoolParameter(), "yes", "expected true or false, got 'yes'"),
    (BoolParameter(), "", "expected true or false, got ''"),
    (StrParameter(max_length=3), "abcd", "4 characters are above the maximum 3"),
    (StrParameter(pattern="[a-z]+"), "abc\n", "'abc\\n' does not match the pattern [a-z]+"),
    (StrParameter(pattern="a|bc"), "abcc", "'abcc' does not match the pattern a|bc"),
    (StrParameter(values=["J", "H"]), "j", "'j' is none of J, H"),
    (StrParameter(), "a\0b", "the character U+0000 cannot be part of an XML document"),
    (StrParameter(), "\x1b[0m", "the character U+001B cannot be part of an XML document"),
    (StrParameter(), "\ud800", "the character U+D800 cannot be part of an XML document"),
    (StrParameter(), "\uffff", "the character U+FFFF cannot be part of an XML document"),
    (TimestampParameter(), "yesterday", "'yesterday' is not a UTC time such as 2015-10-26T09:00:00Z"),
    (TimestampParameter(), "2026-02-30", "'2026-02-30' is no time: day is out of range for month"),
    (TimestampParameter(), "2026-01-01T00:00:00+01:00", "is not a UTC time"),
    (
        TimestampParameter(min="2026"),
        "2025-12-31",
        "is below the minimum 2026-01-01T00:00:00Z",
    ),
    (TimestampParameter(max="2026"), "2027", "2027 is above the maximum 2026-01-01T00:00:00Z"),
    (TimestampParameter(values=["2026"]), "2027", "'2027' is none of 2026"),
    (IntervalParameter(), "1", "expected an interval 'lo hi', got '1': 1 numbers"),
    (IntervalParameter(), "2 1", "expected an interval 'lo hi', got '2 1': lo is above hi"),
    (IntervalParameter(), "NaN 1", "expected a finite number, got 'NaN'"),
    (IntervalParameter(min=0), "-1 1", "-1 1 begins below the minimum 0"),
    (IntervalParameter(max=9), "1 +Inf", "1 +Inf ends above the maximum 9"),
    (PointParameter(), "1 2 3", "expected a point 'ra dec' in degrees, got '1 2 3': 3 numbers"),
    (PointParameter(), "361 0", "the longitude 361.0 is not between 0 and 360"),
    (PointParameter(), "0 -90.5", "the latitude -90.5 is not between -90 and 90"),
    (PointParameter(), "0 inf", "expected a finite number"),
    (CircleParameter(), "1 2", "expected a circle 'ra dec radius' in degrees, got '1 2': 2 numbers"),
    (CircleParameter(), "1 2 -3", "the radius -3.0 is not between 0 and 180"),
    (CircleParameter(), "1 2 x", "expected a number, got 'x'"),
    (PolygonParameter(), "1 2 3 4", "4 numbers; at least 3 pairs are needed"),
    (PolygonParameter(), "1 2 3 4 5 6 7", "7 numbers; at least 3 pairs are needed"),
    (PolygonParameter(), "1 2 3 4 5 96", "the latitude 96.0 is not between -90 and 90"),
    (
        FileParameter(),
        "/etc/passwd",
        "expected a file: send it as a part of multipart/form-data",
    ),
]


def _name(case: object) -> str:
    return getattr(case, "type", None) or repr(case)[:40]


@pytest.mark.parametrize(("parameter", "text", "value"), ACCEPTED, ids=_name)
def test_a_good_text_is_read_as_its_value(parameter: Parameter, text: str, value: object) -> None:
    read = parameter.check(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("parameter", "text", "message"), REFUSED, ids=_name)
def test_a_bad_text_is_refused_in_words(parameter: Parameter, text: str, message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is compared below
        parameter.check(text)
    assert message in str(refusal.value)


WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (IntParameter, {"min": 3, "max": 1}, "min: 3 is above max, 1"),
    (FloatParameter, {"min": 3, "max": 1}, "min: 3 is above max, 1"),
    (IntervalParameter, {"min": 3, "max": 1}, "min: 3 is above max, 1"),
    (FloatParameter, {"min": float("nan")}, "min: expected a finite number, got nan"),
    (IntervalParameter, {"max": float("inf")}, "max: expected a finite number, got inf"),
    (TimestampParameter, {"min": "2027", "max": "2026"}, "min: 2027-01-01"),
    (TimestampParameter, {"min": "soon"}, "min: 'soon' is not a UTC time"),
    (IntParameter, {"max": 3, "default": 4}, "default: 4 is above the maximum 3"),
    (FloatParameter, {"max": 3, "values": [4]}, "values: 4 is above the maximum 3"),
    (BoolParameter, {"values": [True], "default": False}, "default: 'false' is none of true"),
    (StrParameter, {"values": ["a"], "default": "b"}, "default: 'b' is none of a"),
    (StrParameter, {"default": "a", "required": True}, "default: a required parameter has none"),
    (StrParameter, {"default": ["a"]}, "default: a list needs multiple = true"),
    (StrParameter, {"max_length": -1}, "max_length: -1 is below the minimum 0"),
    (StrParameter, {"values": []}, "values: nothing would be allowed"),
    (StrParameter, {"pattern": "("}, "pattern: missing ), unterminated subpattern"),
    (PointParameter, {"default": "1"}, "default: expected a point"),
    (FileParameter, {"max_size": 0}, "max_size: 0 lets no file in"),
    (FileParameter, {"max_size": "big"}, "max_size: expected a size"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), WRONG)
def test_a_declaration_that_contradicts_itself_is_refused_by_its_field(
    kind: type[Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is compared below
        kind(**fields)
    assert str(refusal.value).startswith(message)


def test_an_unknown_field_of_a_declaration_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="minimum"):
        msgspec.convert({"type": "float", "minimum": 3}, Parameter)


def test_file_sizes_are_given_in_bytes_or_with_a_unit() -> None:
    assert FileParameter(max_size="2MB").max_bytes == 2_000_000
    assert FileParameter(max_size=10).max_bytes == 10
    assert FileParameter().max_bytes == 10**9


@pytest.mark.parametrize(
    ("parameter", "text", "nothing"),
    [
        (FloatParameter(), "", True),
        (FloatParameter(), "  ", True),
        (FloatParameter(), "0", False),
        (BoolParameter(), "", True),
        (StrParameter(), "", False),
        (StrParameter(values=["J"]), "", True),
        (StrParameter(values=["", "J"]), "", False),
    ],
)
def test_a_blank_field_of_a_form_is_no_value_where_no_value_can_be_blank(
    parameter: Parameter, text: str, nothing: bool
) -> None:
    assert parameter.means_nothing(text) is nothing


_finite = st.floats(allow_nan=False, allow_infinity=False)
_longitude, _latitude = st.floats(0, 360), st.floats(-90, 90)


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_reach_programs_unchanged(number: int) -> None:
    parameter = IntParameter()
    assert parameter.format(parameter.check(str(number))) == str(number)


@given(_finite)
def test_numbers_reach_programs_with_every_digit(number: float) -> None:
    parameter = FloatParameter()
    assert float(parameter.format(parameter.check(repr(number)))) == number


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_intervals_reach_programs_with_every_digit(one: float, other: float) -> None:
    parameter = IntervalParameter()
    text = parameter.format((min(one, other), max(one, other)))
    assert parameter.format(parameter.check(text)) == text
    assert parameter.check(text) == (min(one, other), max(one, other))


@given(st.lists(st.tuples(_longitude, _latitude), min_size=3, max_size=6))
def test_polygons_reach_programs_with_every_digit(vertices: list[tuple[float, float]]) -> None:
    parameter = PolygonParameter()
    numbers = tuple(number for vertex in vertices for number in vertex)
    assert parameter.check(parameter.format(numbers)) == numbers


@given(st.datetimes())
def test_timestamps_reach_programs_to_the_microsecond(naive: datetime) -> None:
    parameter, time = TimestampParameter(), naive.replace(tzinfo=UTC)
    assert parameter.check(parameter.format(time)) == time


@given(st.text())
def test_texts_are_kept_as_they_came_or_refused(text: str) -> None:
    from lxml import etree

    element = etree.Element("x")
    try:
        element.text = text
    except (ValueError, UnicodeEncodeError):
        with pytest.raises(ValueError, match="cannot be part of an XML document"):
            StrParameter().check(text)
    else:
        if not any(character in text for character in "\ufffe\uffff"):  # which lxml lets pass
            assert StrParameter().check(text) == text


@pytest.mark.parametrize(
    "pattern",
    [
        "(?!-).*",
        "[a-z]+",
        "^[A-Z]{2}-.*",
        "[^-].*",
        r"\d+",
        r"\w-?",
        "M31[|]",
        "[]a]x",
        r"\[-",
        "(?!-)(?:a|-)",
    ],
)
def test_a_pattern_can_show_that_no_value_begins_with_a_dash(pattern: str) -> None:
    assert not StrParameter(pattern=pattern).may_begin_with_dash


@pytest.mark.parametrize(
    "pattern",
    [
        ".*",
        "[a-z]*-x",
        "[a-z]?-",
        "a{0,2}-",
        "a{,2}-",
        "a|-b",
        "(?!-)a|-b",
        "-",
        r"\-",
        r"\S+",
        "[^a]",
        "[!-/]",
        "[][^-]*",
        "(-)",
    ],
)
def test_a_pattern_that_lets_a_dash_come_first_does_not(pattern: str) -> None:
    assert StrParameter(pattern=pattern).may_begin_with_dash


_PIECES = st.sampled_from(
    [*"ab-|()[]^.*?+", "(?!-)", "(?:", r"\d", r"\-", r"\b", r"\S", "{0,1}", "{,2}", "[^-]", "[a-z]"]
)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of re, for some of these patterns
@given(st.lists(_PIECES, max_size=7).map("".join), st.sampled_from(["-", "-a", "--", "-b-a", "-1", "--a"]))
@settings(max_examples=1000)
@pytest.mark.filterwarnings("ignore:Possible (nested set|set difference):FutureWarning")
def test_no_pattern_is_taken_to_keep_a_dash_out_that_lets_it_in(pattern: str, value: str) -> None:
    try:
        parameter = StrParameter(pattern=pattern)
    except ValueError:
        return
    if re.fullmatch(pattern, value):
        assert parameter.may_begin_with_dash
