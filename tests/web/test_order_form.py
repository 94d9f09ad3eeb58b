"""The form in which a job is ordered: made from the declaration, filled in, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import html

from tests.harness import NAMESPACES, Answer, BasicUsers, Site, job_id, running
from tests.web.support import FILES, NEEDY, TYPES
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
    ResultDeclaration,
    Service,
    StrParameter,
    TimestampParameter,
)

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
KINDS = Service(
    name="kinds",
    title="Every kind of field",
    command=["true"],
    parameters={
        "whole": IntParameter(min=-5, max=10, required=True, unit="pixel", description="How many"),
        "real": FloatParameter(min=0.5, default=1.5),
        "flag": BoolParameter(default=True),
        "word": StrParameter(pattern="[a-z]+", max_length=5),
        "odd": StrParameter(pattern="(?i)x"),
        "one": StrParameter(values=["J", "H"], default="H"),
        "some": StrParameter(values=["J", "H", "K"], multiple=True, default=["J", "K"]),
        "many": FloatParameter(multiple=True, default=[1.0, 2.0]),
        "time": TimestampParameter(),
        "image": FileParameter(max_size="2MB"),
        "images": FileParameter(multiple=True),
    },
)
LATER = Service(name="later", title="Later", command=["true"], when_full="refuse", max_queued_per_owner=1)


async def page_of(site: Site, url: str, **options: Any) -> html.HtmlElement:
    answer = await site.get(url, headers=BROWSER, **options)
    assert answer.status == 200, answer.text
    return html.fromstring(answer.body)


def order(page: html.HtmlElement) -> html.FormElement:
    (form,) = [form for form in page.forms if form.method == "POST"]
    return form


def field(page: html.HtmlElement, name: str) -> dict[str, str]:
    """Return the attributes of the one control of a parameter."""
    (found,) = page.xpath(f"//*[@name='{name}']")
    return {"tag": found.tag, **found.attrib}


async def submit(site: Site, service: str, pairs: list[tuple[str, str | bytes]], **options: Any) -> Answer:
    """Send a form as a browser does."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in pairs:
        if isinstance(value, bytes):  # nothing chosen is a file without a name
            form.add_field(name, value, filename="file.dat" if value else "")
        else:
            form.add_field(name, value)
    return await site.post(f"/{service}/async", form, headers=BROWSER | options.pop("headers", {}), **options)


def problems(page: html.HtmlElement) -> dict[str, str]:
    """Return what is said beside each field."""
    return {p.get("id", "").removeprefix("e-"): p.text_content() for p in page.find_class("problem")}


async def values_of(site: Site, job: str) -> list[tuple[str | None, str | None]]:
    return [(value.get("id"), value.text) for value in (await site.get(f"{job}/parameters")).xml]


async def test_each_parameter_has_the_control_of_its_type_with_its_limits(tmp_path: Path) -> None:
    async with running(tmp_path, KINDS) as site:
        page = await page_of(site, "/kinds")
        form = order(page)
        assert (form.get("enctype"), form.get("action")) == ("multipart/form-data", "./kinds/async")
        whole = field(page, "whole")
        assert (whole["type"], whole["min"], whole["max"], whole["step"]) == ("number", "-5", "10", "1")
        assert "required" in whole
        real = field(page, "real")
        assert (real["type"], real["min"], real["step"], real["value"]) == ("number", "0.5", "any", "1.5")
        assert "required" not in real
        assert form.inputs["flag"].value_options == ["", "true", "false"]
        assert form.inputs["flag"].value == "true"
        word = field(page, "word")
        assert (word["type"], word["pattern"], word["maxlength"]) == ("text", "[a-z]+", "5")
        assert "pattern" not in field(page, "odd"), "a browser may understand it otherwise"
        assert (form.inputs["one"].value_options, form.inputs["one"].value) == (["", "J", "H"], "H")
        boxes = page.xpath("//input[@type='checkbox'][@name='some']")
        assert [(box.get("value"), box.checked) for box in boxes] == [("J", True), ("H", False), ("K", True)]
        assert [one.get("value") for one in page.xpath("//input[@name='many']")] == ["1.0", "2.0", "", ""]
        assert field(page, "image")["type"] == "file"
        assert "multiple" in field(page, "images")
        assert not page.xpath("//input[@type='file'][@required]")


TEXT, NUMBER = {"tag": "input", "type": "text"}, {"tag": "input", "type": "number"}
CONTROLS: list[tuple[Parameter, dict[str, str], str]] = [
    (IntParameter(), NUMBER | {"step": "1"}, ""),
    (IntParameter(min=-5), NUMBER | {"min": "-5"}, "at least -5"),
    (IntParameter(max=2**62), NUMBER | {"max": str(2**62)}, f"at most {2**62}"),
    (IntParameter(default=7), NUMBER | {"value": "7"}, "left empty: 7"),
    (FloatParameter(), NUMBER | {"step": "any"}, ""),
    (FloatParameter(min=0, max=1e300), NUMBER | {"min": "0", "max": "1e+300"}, "0 to 1e+300"),
    (
        FloatParameter(default=-1e-9, description="How"),
        NUMBER | {"value": "-1e-09"},
        "How; left empty: -1e-09",
    ),
    (BoolParameter(), {"tag": "select"}, ""),
    (StrParameter(), TEXT, ""),
    (StrParameter(pattern="[a-z]+"), TEXT | {"pattern": "[a-z]+", "title": "Has to match [a-z]+"}, ""),
    (StrParameter(max_length=5), TEXT | {"maxlength": "5"}, "at most 5 characters"),
    (StrParameter(default="<b>"), TEXT | {"value": "<b>"}, "left empty: <b>"),
    (StrParameter(values=["J"]), {"tag": "select"}, ""),
    (TimestampParameter(min="2000-01-01"), TEXT, "at least 2000-01-01, for example 2030-01-31T12:00:00Z"),
    (IntervalParameter(max=1, description="Band"), TEXT, "Band; at most 1, for example 4.5e-7 8.0e-7"),
    (PointParameter(default="1 2"), TEXT | {"value": "1 2"}, "for example 83.633 22.014; left empty: 1 2"),
    (CircleParameter(), TEXT, "for example 83.633 22.014 0.5"),
    (PolygonParameter(), TEXT, "for example 83.5 21.9 83.8 21.9 83.8 22.2"),
    (BoolParameter(default=False), {"tag": "select"}, "left empty: false"),
    (StrParameter(default=""), TEXT, ""),
    (StrParameter(values=["J", "H"], default="H"), {"tag": "select"}, "left empty: H"),
    (FileParameter(max_size="2MB"), {"tag": "input", "type": "file"}, "at most 2.0 MB"),
]


def in_a_service(parameter: Parameter) -> Service:
    return Service(name="one", title="One", command=["true"], parameters={"p": parameter})


@pytest.mark.parametrize(("parameter", "expected", "hint"), CONTROLS)
async def test_a_control_and_its_hint_follow_from_the_declaration(
    tmp_path: Path, parameter: Parameter, expected: dict[str, str], hint: str
) -> None:
    async with running(tmp_path, in_a_service(parameter)) as site:
        page = await page_of(site, "/one")
        found = field(page, "p")
        assert found | expected == found
        assert not {"required", "multiple", "min", "max", "pattern", "maxlength"} & set(found) - set(expected)
        assert page.get_element_by_id(found["aria-describedby"]).text_content() == hint


@pytest.mark.parametrize("kind", {type(parameter): None for parameter, _, _ in CONTROLS})
async def test_what_is_required_and_what_a_number_measures_is_said_with_every_type(
    tmp_path: Path, kind: type[Any]
) -> None:
    async with running(tmp_path, in_a_service(kind(required=True, unit="<mm>"))) as site:
        page = await page_of(site, "/one")
        assert "required" in field(page, "p")
        assert page.xpath("string(//label[@for='p-p'])") == "p (<mm>) * (required)"
        answer = await submit(site, "one", [("PHASE", "RUN")])
        assert (answer.status, problems(html.fromstring(answer.body))) == (400, {"p": "a value is required"})


async def test_every_field_says_what_it_is_for_to_those_who_cannot_see_it_too(tmp_path: Path) -> None:
    async with running(tmp_path, KINDS) as site:
        page = await page_of(site, "/kinds")
        for control in order(page).xpath(".//input | .//select"):
            names = page.xpath("//label[@for=$id] | //label[.//*[@id=$id]]", id=control.get("id") or "none")
            assert names or control.get("aria-label") or control.xpath("ancestor::label"), control.get("name")
        hint = page.get_element_by_id(field(page, "whole")["aria-describedby"]).text_content()
        assert hint == "How many; -5 to 10"
        assert "(pixel)" in page.xpath("string(//label[@for='p-whole'])")
        assert page.get_element_by_id("h-image").text_content() == "at most 2.0 MB"
        assert page.get_element_by_id("h-some").text_content() == "left empty: J, K"
        assert page.get_element_by_id("h-real").text_content() == "at least 0.5; left empty: 1.5"
        assert "2030-01-31T12:00:00Z" in page.get_element_by_id("h-time").text_content()


async def test_a_form_as_it_stands_makes_a_job_of_the_defaults(tmp_path: Path) -> None:
    async with running(tmp_path, KINDS, executes=False) as site:
        form = order(await page_of(site, "/kinds"))
        pairs = [(name, value) for name, value in form.form_values() if name != "whole"]
        answer = await submit(site, "kinds", [*pairs, ("whole", "3"), ("image", b"")])
        assert answer.status == 303
        found = await values_of(site, answer.location)
        assert ("whole", "3") in found
        assert [text for name, text in found if name == "some"] == ["J", "K"]
        assert [text for name, text in found if name == "many"] == ["1.0", "2.0"]
        assert not {"word", "odd", "time"} & {name for name, _ in found}, "what was left blank is not given"


async def test_fields_that_are_emptied_make_a_job_of_what_their_hints_say(tmp_path: Path) -> None:
    service = Service(
        name="says",
        title="Says",
        command=["echo", "{n}", ["{band}"]],
        parameters={
            "n": IntParameter(default=7),
            "band": StrParameter(values=["J", "H", "K"], multiple=True, default=["J", "K"]),
        },
        results=[ResultDeclaration(id="said", path="-")],
    )
    async with running(tmp_path, service) as site:
        page = await page_of(site, "/says")
        hints = [page.get_element_by_id(f"h-{name}").text_content() for name in ("n", "band")]
        answer = await submit(site, "says", [("n", ""), ("PHASE", "RUN")])
        await site.ended(answer.location)
        assert (await site.get(f"{answer.location}/results/said")).text == "7 J K\n"
        assert hints == ["left empty: 7", "left empty: J, K"]


async def test_a_refused_form_comes_back_as_it_was_sent_with_all_that_is_wrong_beside_the_fields(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, KINDS) as site:
        answer = await submit(
            site, "kinds",
            [("whole", "many"), ("real", "0.1"), ("word", "ABC"), ("some", "H"), ("some", "Z"),
             ("many", "x"), ("many", "3"), ("flag", "false"), ("RUNID", "<mine>"), ("image", b"data"),
             ("EXECUTIONDURATION", "77")],
        )  # fmt: skip
        assert (answer.status, answer.headers["Content-Type"]) == (400, "text/html; charset=utf-8")
        page = html.fromstring(answer.body)
        assert problems(page) == {
            "whole": "expected a whole number, got 'many'",
            "real": "0.1 is below the minimum 0.5",
            "word": "'ABC' does not match the pattern [a-z]+",
            "some": "'Z' is none of J, H, K",
            "many": "expected a number, got 'x'",
        }
        whole = field(page, "whole")
        assert (whole["type"], whole["value"], whole["aria-invalid"]) == ("text", "many", "true")
        assert whole["aria-describedby"].split() == ["h-whole", "e-whole"]
        assert [one.get("value") for one in page.xpath("//input[@name='many']")] == ["x", "3", "", ""]
        form = order(page)
        assert form.get("action") == "../kinds/async"
        assert (form.inputs["flag"].value, form.inputs["RUNID"].value) == ("false", "<mine>")
        assert form.inputs["EXECUTIONDURATION"].value == "77"
        assert page.xpath("//section[@role='alert']//a[@href='#p-whole']")
        assert len((await site.get("/kinds/async")).xml) == 0


async def test_what_is_missing_is_said_beside_its_field(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY, FILES) as site:
        answer = await submit(site, "needy", [("PHASE", "RUN"), ("a", ""), ("b", ""), ("c", "8")])
        assert answer.status == 400
        page = html.fromstring(answer.body)
        assert problems(page) == {"a": "a value is required", "b": "a value is required"}
        assert field(page, "c")["value"] == "8"
        answer = await submit(site, "files", [("PHASE", "RUN"), ("image", b""), ("n", "7")])
        assert problems(html.fromstring(answer.body)) == {"image": "a value is required"}


async def test_nothing_is_called_missing_that_has_not_come_yet_or_may_be_given_later(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        large = ("image", b"x" * 1_000_001)
        answer = await submit(site, "files", [("PHASE", "RUN"), ("n", "x"), large, ("small", b"1")])
        page = html.fromstring(answer.body)
        assert (answer.status, problems(page)) == (413, {"n": "expected a whole number, got 'x'"})
        assert "1.0 MB" in page.xpath("string(//section[@role='alert'])")
        answer = await submit(site, "files", [("n", "x")])
        assert problems(html.fromstring(answer.body)) == {"n": "expected a whole number, got 'x'"}
        assert (await submit(site, "files", [("n", "7"), ("image", b"")])).status == 303


async def test_a_field_that_is_left_blank_changes_nothing_of_a_job(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, executes=False) as site:
        job = await site.create("types", ra="1", text="a", RUNID="mine")
        answer = await site.post(job, {"ra": "2", "text": "", "RUNID": ""}, headers=BROWSER)
        assert answer.status == 303
        assert await values_of(site, job) == [("ra", "2"), ("text", "a")]
        assert (await site.document(job)).findtext("uws:runId", namespaces=NAMESPACES) == "mine"
        answer = await site.post(f"{job}/executionduration", {"EXECUTIONDURATION": ""}, headers=BROWSER)
        assert answer.status == 400
        assert "EXECUTIONDURATION is missing" in answer.text


async def test_an_order_that_comes_again_is_one_job_and_another_under_its_key_is_refused_in_the_form(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, TYPES, executes=False) as site:
        key = {"Idempotency-Key": "one"}
        first = await submit(site, "types", [("ra", "1"), ("text", "")], headers=key)
        again = await submit(site, "types", [("ra", "1"), ("word", "")], headers=key)
        assert (first.status, again.location) == (303, first.location)
        answer = await submit(site, "types", [("ra", "2")], headers=key)
        page = html.fromstring(answer.body)
        assert (answer.status, field(page, "ra")["value"]) == (422, "2")
        assert "another command" in page.xpath("string(//section[@role='alert'])")


async def test_what_is_wrong_with_no_field_is_said_above_them(tmp_path: Path) -> None:
    async with running(tmp_path, LATER, FILES, executes=False) as site:
        await site.run("later")
        answer = await submit(site, "later", [("PHASE", "RUN")])
        assert answer.status == 403
        (alert,) = html.fromstring(answer.body).xpath("//section[@role='alert']")
        plain = await site.post("/later/async", {"PHASE": "RUN"})
        assert plain.text.strip().removeprefix("UsageFault: ") in alert.text_content()
        answer = await submit(site, "files", [("small", b"x" * 101), ("n", "7")])
        assert answer.status == 413
        assert "100" in html.fromstring(answer.body).xpath("string(//section[@role='alert'])")


async def test_others_are_refused_in_plain_text(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY) as site:
        answer = await site.post("/needy/async", {"a": "x"})
        assert (answer.status, answer.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
        assert answer.text == "UsageFault: a: expected a whole number, got 'x'\n"


async def test_a_link_can_fill_the_form_in(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        form = order(await page_of(site, "/types?RA=83.6&band=J&band=K&text=%3Cb%3E&whole=many&RUNID=m31"))
        values = [(name, value) for name, value in form.form_values() if value]
        assert ("ra", "83.6") in values
        assert [value for name, value in values if name == "band"] == ["J", "K"]
        assert ("text", "<b>") in values
        assert ("RUNID", "m31") in values


# What an earlier job had


async def test_a_job_can_be_ordered_again_with_what_it_had(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, authenticator=BasicUsers(), executes=False) as site:
        job = await site.create(
            "files", user="ada", image=b"the image", n="7", RUNID="mine", EXECUTIONDURATION="99"
        )
        page = await page_of(site, f"/files?from-job={job_id(job)}", user="ada")
        form = order(page)
        assert (form.inputs["n"].value, form.inputs["RUNID"].value) == ("7", "mine")
        assert form.inputs["EXECUTIONDURATION"].value == "99"
        (box,) = page.xpath("//input[@name='UPLOAD']")
        assert (box.get("value"), box.checked) == (f"image,{job}/parameters/image", True)
        pairs = [(name, value) for name, value in form.form_values() if name != "n"]
        answer = await submit(site, "files", [*pairs, ("n", "8"), ("image", b"")], user="ada")
        again = answer.location
        assert (await site.get(f"{again}/parameters/image", user="ada")).body == b"the image"
        assert (await site.get(f"{again}/parameters/n", user="ada")).text == "8"
        await site.request("DELETE", job, user="ada")
        assert (await site.get(f"{again}/parameters/image", user="ada")).body == b"the image"
        for who, status in (("bob", 403), (None, 401)):
            answer = await site.get(f"/files?from-job={job_id(again)}", user=who, headers=BROWSER)
            assert answer.status == status
        assert (await site.get(f"/files?from-job={job_id(job)}", user="ada")).status == 410


async def test_a_refused_form_still_offers_the_files_of_the_earlier_job(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = await site.create("files", image=b"the image")
        named = ("UPLOAD", f"image,{job}/parameters/image")
        answer = await submit(site, "files", [named, ("n", "x"), ("PHASE", "RUN")])
        page = html.fromstring(answer.body)
        assert problems(page) == {"n": "expected a whole number, got 'x'"}
        (box,) = page.xpath("//input[@name='UPLOAD']")
        assert (box.get("value"), box.checked) == (named[1], True)


async def test_files_of_ones_own_jobs_are_taken_from_where_they_are(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, authenticator=BasicUsers()) as site:
        job = await site.create("files", user="ada", image=b"the image", more=[b"one", b"two"], PHASE="RUN")
        await site.ended(job, user="ada")
        for source, content in (
            ("parameters/image", b"the image"), ("parameters/IMAGE", b"the image"),
            ("parameters/more/2", b"two"), ("results/out", b"the image"),
        ):  # fmt: skip
            again = await site.create("files", user="ada", UPLOAD=f"image,{job}/{source}")
            assert (await site.get(f"{again}/parameters/image", user="ada")).body == content


@pytest.mark.parametrize("below", ["parameters/image", "results/out", "parameters/nothing", "phase", ""])
async def test_files_of_others_are_not_had_that_way(tmp_path: Path, below: str) -> None:
    async with running(tmp_path, FILES, authenticator=BasicUsers()) as site:
        job = await site.create("files", user="ada", image=b"secret", PHASE="RUN")
        await site.ended(job, user="ada")
        sent = {"UPLOAD": f"image,{job}/{below}"}
        for user in ("bob", None):
            answer = await site.post("/files/async", sent, user=user)
            assert answer.status == 400
            assert answer.text.startswith("UsageFault: image: ")
        assert len((await site.get("/files/async", user="bob")).xml) == 0


async def test_a_file_that_is_gone_or_too_large_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = await site.create("files", image=b"x" * 101)
        answer = await site.post("/files/async", {"UPLOAD": f"small,{job}/parameters/image"})
        assert (answer.status, "small" in answer.text) == (413, True)
        await site.request("DELETE", job)
        answer = await site.post("/files/async", {"UPLOAD": f"image,{job}/parameters/image"})
        assert answer.status == 400
        assert "was destroyed" in answer.text


async def test_a_command_that_comes_again_needs_the_earlier_file_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = await site.create("files", image=b"the image")
        sent, key = {"UPLOAD": f"image,{job}/parameters/image"}, {"Idempotency-Key": "one"}
        first = await site.post("/files/async", sent, headers=key)
        await site.request("DELETE", job)
        assert (await site.post("/files/async", sent, headers=key)).location == first.location


# Any declaration


NAMES = st.sampled_from(["a", "b", "c"])
PARAMETERS = st.one_of(
    st.builds(IntParameter, multiple=st.booleans(), description=st.text(alphabet="a<&\"'", max_size=5)),
    st.builds(FloatParameter, min=st.none() | st.floats(-10, 0), max=st.none() | st.floats(1, 10)),
    st.builds(BoolParameter),
    st.builds(StrParameter, multiple=st.booleans(), max_length=st.none() | st.integers(1, 9)),
    st.builds(StrParameter, values=st.just(["x", "<y>"]), multiple=st.booleans()),
)
VALUES = st.text(alphabet="0123456789.-xy<> ", max_size=5)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, PARAMETERS, min_size=1), st.lists(st.tuples(NAMES, VALUES), max_size=4))
async def test_what_a_form_sends_is_accepted_or_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, Any], pairs: list[tuple[str, str]]
) -> None:
    service = Service(name="any", title="Any", command=["true"], parameters=parameters)
    async with running(tmp_path_factory.mktemp("any"), service, executes=False) as site:
        await page_of(site, "/any")
        plain = aiohttp.FormData([(name, value) for name, value in pairs if value])
        expected = await site.post("/any/async", plain)
        answer = await submit(site, "any", list(pairs))
        assert answer.status == expected.status
        if answer.status == 400:
            page = html.fromstring(answer.body)
            shown = [one.get("value") for one in page.xpath("//input") if one.get("type") != "checkbox"]
            for name, value in pairs:
                declared = parameters.get(name)
                if not declared or declared.options or isinstance(declared, BoolParameter):
                    continue
                assert not declared.multiple or not value.strip() or value in shown
        else:
            kept = (await site.get(f"{answer.location}/parameters")).xml
            assert sorted((p.get("id") or "", p.text or "") for p in kept) == sorted(
                (p.get("id") or "", p.text or "")
                for p in (await site.get(f"{expected.location}/parameters")).xml
            )
