"""A job that is ordered again by its form, unchanged, is the same job, whatever its values look like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import html

from tests.harness import Site, job_id, running
from tests.web.support import ECHO, FILES, TYPES
from tests.web.test_order_form import BROWSER, order, page_of, problems, submit, values_of
from uws import (
    BoolParameter,
    CircleParameter,
    FloatParameter,
    IntervalParameter,
    IntParameter,
    Parameter,
    PointParameter,
    PolygonParameter,
    Service,
    StrParameter,
    TimestampParameter,
)

NUMBER = re.compile(r"-?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What HTML takes for a floating-point number; a number field drops the rest."""
HTML_BLANKS = " \t\n\f\r"


def kept_by_a_browser(form: html.FormElement) -> Iterator[tuple[str, str]]:
    """Yield what a browser sends for a form that nobody has touched: not all that stands in it."""
    for field in form.xpath(".//input[@name] | .//select[@name] | .//textarea[@name]"):
        name, value = str(field.get("name")), field.get("value") or ""
        match field.tag, field.get("type"):
            case "select", _:
                options = field.xpath("option")
                chosen = next((option for option in options if option.get("selected")), options[0])
                text = " ".join(re.split(f"[{HTML_BLANKS}]+", chosen.text or "")).strip(" ")
                yield name, re.sub("\r\n?|\n", "\r\n", chosen.get("value", text))
            case "textarea", _:
                text = (field.text or "").replace("\r\n", "\n").replace("\r", "\n").removeprefix("\n")
                yield name, text.replace("\n", "\r\n")
            case _, "checkbox":
                if field.get("checked"):
                    yield name, re.sub("\r\n?|\n", "\r\n", value)
            case _, "file":
                pass
            case _, "number":
                yield name, value if NUMBER.fullmatch(value) else ""
            case _:
                yield name, re.sub("[\r\n]", "", value)


async def ordered_again(site: Site, service: str, job: str) -> str:
    """Send the form of a job as it comes, and return the URL of what was made."""
    form = order(await page_of(site, f"/{service}?from-job={job_id(job)}"))
    answer = await submit(site, service, list(kept_by_a_browser(form)))
    assert answer.status == 303, problems(html.fromstring(answer.body))
    return answer.location


async def meaning(site: Site, service: Service, job: str) -> dict[str | None, list[Any]]:
    """Return the values of a job, read."""
    found: dict[str | None, list[Any]] = {}
    for name, value in await values_of(site, job):
        found.setdefault(name, []).append(service.parameters[str(name)].read(value or ""))
    return found


MANY = "SELECT *\n  FROM t\n"
SAME: list[tuple[Parameter, list[str]]] = [
    (IntParameter(), ["+5"]), (IntParameter(), [" 7 "]), (IntParameter(), ["-0"]),
    (IntParameter(multiple=True), ["+1", "2", "+1"]), (IntParameter(values=[1, 2]), ["+1"]),
    (FloatParameter(), ["5."]), (FloatParameter(), ["+.5"]), (FloatParameter(), ["1e-7"]),
    (FloatParameter(), ["\u0661\u0662"]), (FloatParameter(values=[1.0, 2.5]), ["1"]),
    (FloatParameter(values=[1.0, 2.5], multiple=True), ["1.00", "2.5"]),
    (BoolParameter(), ["T"]), (BoolParameter(), ["0"]), (BoolParameter(multiple=True), ["1", "F", "TRUE"]),
    (BoolParameter(values=[True]), ["t"]), (BoolParameter(default=True), ["false"]),
    (StrParameter(), [MANY]), (StrParameter(), ["\n\nafter two"]), (StrParameter(), [" between blanks "]),
    (StrParameter(), ["  "]), (StrParameter(), ["<b> & \"c\" 'd' ?> ]]>"]),
    (StrParameter(), ["\u2028é\u0301"]),
    (StrParameter(multiple=True), ["one", MANY, "one"]),
    (StrParameter(values=["a  b", " c", "\t", "<d>", "a b"]), ["a  b"]),
    (StrParameter(values=["a  b", " c", "\t", "<d>"]), [" c"]),
    (StrParameter(values=["a  b", " c", "\t", "<d>"]), ["\t"]),
    (StrParameter(values=["a  b", " c", "\t", "<d>"], multiple=True), [" c", "<d>"]),
    (TimestampParameter(), ["2000-01-01"]),
    (TimestampParameter(values=["2000-01-01"]), ["2000-01-01T00:00:00Z"]),
    (IntervalParameter(), ["-Inf, 5"]), (IntervalParameter(values=["1 2"]), ["1.0 2e0"]),
    (PointParameter(), ["83,22"]), (CircleParameter(), ["83 22 .5"]), (PolygonParameter(), ["1 2 3 4 5 6"]),
]  # fmt: skip


@pytest.mark.parametrize(("parameter", "values"), SAME)
async def test_a_job_that_is_ordered_again_is_the_same(
    tmp_path: Path, parameter: Parameter, values: list[str]
) -> None:
    service = Service(name="one", title="One", command=["true"], parameters={"p": parameter})
    async with running(tmp_path, service, executes=False) as site:
        job = await site.create("one", p=values)
        again = await ordered_again(site, "one", job)
        assert await meaning(site, service, again) == await meaning(site, service, job)


ONE_LINE = st.text(
    st.characters(codec="utf-8", min_codepoint=32, exclude_categories=["Cc", "Cn"]), max_size=9
)
LINES = st.lists(ONE_LINE, min_size=1, max_size=3).map("\n".join).filter(bool)
NUMBERS = st.floats(-1e3, 1e3).flatmap(lambda x: st.sampled_from([str(x), f" {x:g}", f"{x:+e}", f"{x:.0f}."]))
WHOLE = st.integers(-(2**63), 2**63 - 1).flatmap(lambda n: st.sampled_from([str(n), f"{n:+}", f" {n} "]))
FLAGS = st.sampled_from(["true", "False", "T", "f", "1", "0", " true"])
TIMES = st.datetimes(datetime(1900, 1, 1)).map(lambda time: time.isoformat(timespec="milliseconds"))
POINTS = st.tuples(st.floats(0, 360), st.floats(-90, 90)).map(lambda point: f" {point[0]}, {point[1]}")
LISTED = {StrParameter: LINES, FloatParameter: NUMBERS, IntParameter: WHOLE, BoolParameter: FLAGS}
KINDS = {**LISTED, TimestampParameter: TIMES, PointParameter: POINTS}


@st.composite
def orders(draw: st.DrawFn) -> tuple[dict[str, Parameter], dict[str, list[str]]]:
    """Draw the parameters of a service, and values for some of them that it takes."""
    declared: dict[str, Parameter] = {}
    values: dict[str, list[str]] = {}
    for name in draw(st.sets(st.sampled_from("abcde"), min_size=1)):
        multiple = draw(st.booleans())
        kind: Any = draw(st.sampled_from(list(KINDS)))
        sent = draw(st.lists(KINDS[kind], min_size=1, max_size=3 if multiple else 1))
        made = kind(multiple=multiple, description=draw(ONE_LINE), required=draw(st.booleans()))
        if kind in LISTED and draw(st.booleans()):  # boxes are ticked once, in the order of the declaration
            allowed = sorted({made.read(one) for one in sent})
            made = kind(multiple=multiple, values=allowed)
            sent = [one for one, _ in sorted({made.read(one): one for one in sent}.items())]
        declared[name] = made
        if draw(st.booleans()) or made.required:
            values[name] = sent
    return declared, values


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders())
async def test_whatever_is_declared_a_job_can_be_ordered_again(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[dict[str, Parameter], dict[str, list[str]]]
) -> None:
    parameters, values = drawn
    service = Service(name="any", title="Any", command=["true"], parameters=parameters)
    async with running(tmp_path_factory.mktemp("any"), service, executes=False) as site:
        job = await site.create("any", **values)
        again = await ordered_again(site, "any", job)
        assert await meaning(site, service, again) == await meaning(site, service, job)


async def test_a_form_is_not_filled_in_from_a_job_of_another_service(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FILES, executes=False) as site:
        job = await site.create("echo")
        for headers in (BROWSER, {}):
            answer = await site.get(f"/files?from-job={job_id(job)}", headers=headers)
            assert answer.status == 400
            assert f"from-job: job {job_id(job)} belongs to echo" in answer.text
        assert (await site.get("/files?from-job=nothing", headers=BROWSER)).status == 404
        assert (await site.get("/files?from-job=", headers=BROWSER)).status == 200


async def test_a_link_that_says_nothing_fills_nothing_in(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, executes=False) as site:
        blank = "&".join(f"{name}=%20" for name in TYPES.parameters if name not in ("text", "word", "band"))
        page = await page_of(site, f"/types?{blank}&word=&text=&band=")
        assert problems(page) == {}
        assert list(kept_by_a_browser(order(page))) == list(
            kept_by_a_browser(order(await page_of(site, "/types")))
        )


async def test_what_a_link_fills_in_wrongly_is_said_beside_the_field(tmp_path: Path) -> None:
    service = Service(name="one", title="One", command=["true"], parameters={"n": IntParameter(max=9)})
    async with running(tmp_path, service, executes=False) as site:
        page = await page_of(site, "/one?n=ten")
        assert problems(page) == {"n": "expected a whole number, got 'ten'"}
        assert dict(kept_by_a_browser(order(page)))["n"] == "ten"
        assert problems(await page_of(site, "/one")) == {}


async def test_a_file_that_a_job_does_not_have_is_refused_and_not_looked_for_elsewhere(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = await site.create("files", image=b"data", n="7")
        for below in (
            "parameters/small",
            "parameters/n",
            "parameters/image/2",
            "parameters/image/0",
            "results/out",
        ):
            answer = await site.post("/files/async", {"UPLOAD": f"image,{job}/{below}"})
            assert answer.status == 400
            assert answer.text == f"UsageFault: image: {job}/{below}: job {job_id(job)} has no such file\n"
        other = f"{site.url}/files/examples/none/image"
        answer = await site.post("/files/async", {"UPLOAD": f"image,{other}"})
        assert answer.status == 400
        assert answer.text.startswith(f"UsageFault: image: {other}: files has no such example")
