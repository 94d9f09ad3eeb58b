"""Parameters: names, types (DALI 1.1 section 3), and what clients are told that get them wrong."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness import Answer, Site, running, text
from tests.web.support import FIELD, FILES, FORM, MULTIPART, NEEDY, TYPES, child, multipart, raw
from uws import FloatParameter, IntParameter, Service, StrParameter, TimestampParameter

RANGED = Service(
    name="cutout",
    title="Cutout",
    command=["true"],
    parameters={"ra": FloatParameter(required=True, min=0, max=360), "dec": FloatParameter(min=-90, max=90)},
)
SHOW = Service(
    name="show",
    title="Shows what its program gets",
    command=["sh", "-c", 'cat "$1" > "$UWS_RESULTS/out"', "show", "{parameters}"],
    parameters={
        "count": IntParameter(default=3),
        "names": StrParameter(multiple=True, default=["a", "b"]),
        "when": TimestampParameter(),
    },
)
IGNORING = Service(
    name="lax", title="Lax", command=["true"], parameters={"x": IntParameter()}, unknown_parameters="ignore"
)


async def shown(site: Site, job: str) -> list[tuple[str | None, str | None]]:
    """Return the parameters that a job's document shows."""
    parameters = child(await site.document(job), "uws:parameters")
    return [(p.get("id"), p.text) for p in parameters]


async def refusal(site: Site, job: str, name: str, value: str) -> str:
    """Return how a value is refused, which must be the same by POST and by PUT, and change nothing."""
    before = await shown(site, job)
    posted = await site.post(f"{job}/parameters", {name: value})
    put = await site.request("PUT", f"{job}/parameters/{name}", data=value.encode())
    assert (posted.status, put.status) == (400, 400)
    assert posted.text == put.text
    assert await shown(site, job) == before
    return posted.text


# Names


@pytest.mark.parametrize("name", ["ra", "RA", "Ra", "rA"])
async def test_names_are_case_insensitive(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, RANGED) as site:
        job = await site.create("cutout", **{name: "1"})
        assert await shown(site, job) == [("ra", "1")]
        await site.post(job, {name: "2"})
        await site.request("PUT", f"{job}/parameters/{name.swapcase()}", data=b"3")
        assert await shown(site, job) == [("ra", "3")]
        assert (await site.get(f"{job}/parameters/{name}")).text == "3"


@pytest.mark.parametrize("value", ["j", "H ", "k"])
async def test_values_are_case_sensitive(tmp_path: Path, value: str) -> None:
    async with running(tmp_path, TYPES) as site:
        assert (await site.post("/types/async", {"band": value})).text == (
            f"UsageFault: band: {value!r} is none of J, H, K\n"
        )


async def test_a_repeated_name_is_a_multi_valued_parameter(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        answer = await raw(site, "POST", "/types/async?band=K", b"band=J&BAND=H", Content_Type=FORM)
        job = str(answer.location)
        assert await shown(site, job) == [("band", "K"), ("band", "J"), ("band", "H")]
        assert (await site.get(f"{job}/parameters/band")).text == "K\nJ\nH"
        assert (await site.get(f"{job}/parameters/band/2")).text == "J"
        assert (await site.get(f"{job}/parameters/band/4")).status == 404


@pytest.mark.parametrize("body", ["ra=1&ra=2", "ra=1&RA=1"])
async def test_a_repeated_name_is_refused_where_one_value_is_taken(tmp_path: Path, body: str) -> None:
    async with running(tmp_path, RANGED) as site:
        answer = await site.post("/cutout/async", body, headers={"Content-Type": FORM})
        assert (answer.status, answer.text) == (
            400,
            "MultiValuedParamNotSupported: ra: takes one value, got 2\n",
        )


@pytest.mark.parametrize(
    "body", ["PHASE=RUN&phase=RUN", "RUNID=1&RUNID=2", "EXECUTIONDURATION=1&ExecutionDuration=2",
             "DESTRUCTION=2030&DESTRUCTION=2031", "ACTION=DELETE&ACTION=DELETE"],
)  # fmt: skip
async def test_a_repeated_control_parameter_is_refused(tmp_path: Path, body: str) -> None:
    async with running(tmp_path, RANGED) as site:
        job = await site.create("cutout", ra=1)
        answer = await site.post(job, body, headers={"Content-Type": FORM})
        assert (answer.status, answer.text) == (
            400,
            f"UsageFault: {body.partition('=')[0]} takes one value, got 2\n",
        )
        assert await site.phase(job) == "PENDING"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("dc", "dc: unknown parameter (did you mean dec?); cutout takes: ra, dec"),
        ("DEK", "DEK: unknown parameter (did you mean dec?); cutout takes: ra, dec"),
        ("nonsense", "nonsense: unknown parameter; cutout takes: ra, dec"),
        ("", ": unknown parameter; cutout takes: ra, dec"),
        ("ra ", "ra : unknown parameter (did you mean ra?); cutout takes: ra, dec"),
    ],
)
async def test_an_unknown_name_is_refused_with_the_known_ones_and_a_hint(
    tmp_path: Path, name: str, complaint: str
) -> None:
    async with running(tmp_path, RANGED) as site:
        job = await site.create("cutout")
        for url in ("/cutout/async", job, f"{job}/parameters"):
            answer = await site.post(url, f"ra=1&{quote(name)}=1", headers={"Content-Type": FORM})
            assert (answer.status, answer.text) == (400, f"UsageFault: {complaint}\n")
        assert await shown(site, job) == []


async def test_an_unknown_name_is_refused_by_put_too(tmp_path: Path) -> None:
    async with running(tmp_path, RANGED) as site:
        job = await site.create("cutout")
        answer = await site.request("PUT", f"{job}/parameters/dek", data=b"1")
        assert (
            answer.text == "UsageFault: dek: unknown parameter (did you mean dec?); cutout takes: ra, dec\n"
        )
        assert answer.status == 400


async def test_a_service_may_ignore_unknown_names(tmp_path: Path) -> None:
    async with running(tmp_path, IGNORING) as site:
        job = await site.create("lax", x=1, y=2, nonsense=["a", "b"])
        assert await shown(site, job) == [("x", "1")]
        assert (await site.post(job, {"other": "1"})).status == 303
        assert (await site.post("/lax/async", {"x": "one"})).status == 400


async def test_a_service_that_ignores_unknown_names_ignores_unknown_files(tmp_path: Path) -> None:
    async with running(tmp_path, IGNORING) as site:
        job = await site.create("lax", file=b"content", x=1)
        assert await shown(site, job) == [("x", "1")]


@pytest.mark.parametrize("name", ["RESPONSEFORMAT", "MAXREC", "REQUEST", "VERSION", "LANG", "responseformat"])
async def test_the_standard_names_are_never_unknown(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, RANGED) as site:
        job = await site.create("cutout", **{name: "some"})
        assert await shown(site, job) == [(name.upper(), "some")]
        assert (await site.request("PUT", f"{job}/parameters/{name}", data=b"other")).status == 204
        assert (await site.get(f"{job}/parameters/{name}")).text == "other"


# Values


ACCEPTED = {
    "whole": ["0", "-5", "10", "+3", " 7 "],
    "ra": ["0", "360", "1.5", "1e2", "+2.", ".5"],
    "flag": ["true", "false", "TRUE", "1", "0", "T", "f"],
    "word": ["a", "abcde"],
    "text": ["anything", "", " ", "-x", "$(id)", "'\"\\", "a\tb", "ü🔭", "a&b=c;d%", "{x}"],
    "band": ["J", "H", "K"],
    "time": [
        "2015-10-26",
        "2015-10-26T09:00:01",
        "2015-10-26 09:00:01",
        "2015-10-26T09:00:01.123Z",
        "2000-01-01Z",
    ],
    "range": ["1 2", "-Inf 2", "1 +Inf", "-Inf +Inf", "1 1", "1e-3 1e3", "-2 -1"],
    "pos": ["0 0", "266.4 -28.93", "360 90"],
    "circle": ["10 20 0.5", "0 -90 180", "10 20 0"],
    "polygon": ["0 0 1 0 1 1", "0 0 1 0 1 1 0 1"],
}
_SIMPLE = {
    ("whole", "1.0"): "expected a whole number, got '1.0'",
    ("whole", "1e3"): "expected a whole number, got '1e3'",
    ("whole", "0x10"): "expected a whole number, got '0x10'",
    ("whole", "1_0"): "expected a whole number, got '1_0'",
    ("whole", "٣"): "expected a whole number, got '٣'",
    ("whole", "9223372036854775808"): "9223372036854775808 does not fit into 64 bits",
    ("whole", "11"): "11 is above the maximum 10",
    ("whole", "-6"): "-6 is below the minimum -5",
    ("ra", "400.0"): "400.0 is above the maximum 360",
    ("ra", "-0.1"): "-0.1 is below the minimum 0",
    ("ra", "north"): "expected a number, got 'north'",
    ("ra", "1,5"): "expected a number, got '1,5'",
    ("ra", "1_0"): "expected a number, got '1_0'",
    ("ra", "nan"): "expected a finite number, got 'nan'",
    ("ra", "inf"): "expected a finite number, got 'inf'",
    ("ra", "1e999"): "expected a finite number, got '1e999'",
    ("flag", "yes"): "expected true or false, got 'yes'",
    ("flag", "2"): "expected true or false, got '2'",
    ("word", "abcdef"): "6 characters are above the maximum 5",
    ("word", "a1"): "'a1' does not match the pattern [a-z]+",
    ("word", "a\n"): "'a\\n' does not match the pattern [a-z]+",
    ("band", "L"): "'L' is none of J, H, K",
    ("band", "JH"): "'JH' is none of J, H, K",
    ("time", "now"): "'now' is not a UTC time such as 2015-10-26T09:00:00Z",
    ("time", "2015-10-26+01:00"): "'2015-10-26+01:00' is not a UTC time such as 2015-10-26T09:00:00Z",
    ("time", "2015-02-29"): "'2015-02-29' is no time: day is out of range for month",
    ("time", "1999-12-31"): "1999-12-31 is below the minimum 2000-01-01T00:00:00Z",
}  # fmt: skip
_FORMS = {
    "range": "an interval 'lo hi'",
    "pos": "a point 'ra dec' in degrees",
    "circle": "a circle 'ra dec radius' in degrees",
    "polygon": "a polygon 'ra1 dec1 ra2 dec2 ra3 dec3 …' in degrees",
}
_SHAPES = {
    ("range", "1"): "1 numbers",
    ("range", "1 2 3"): "3 numbers",
    ("range", "2 1"): "lo is above hi",
    ("range", "NaN 1"): "expected a finite number, got 'NaN'",
    ("range", "low high"): "expected a number, got 'low'",
    ("pos", "1"): "1 numbers",
    ("pos", "1 2 3"): "3 numbers",
    ("pos", "361 0"): "the longitude 361.0 is not between 0 and 360",
    ("pos", "-1 0"): "the longitude -1.0 is not between 0 and 360",
    ("pos", "0 91"): "the latitude 91.0 is not between -90 and 90",
    ("pos", "0 Inf"): "expected a finite number, got 'Inf'",
    ("circle", "1 2"): "2 numbers",
    ("circle", "1 2 -1"): "the radius -1.0 is not between 0 and 180",
    ("circle", "1 95 1"): "the latitude 95.0 is not between -90 and 90",
    ("polygon", "0 0 1 1"): "4 numbers; at least 3 pairs are needed",
    ("polygon", "0 0 1 0 1 1 2"): "7 numbers; at least 3 pairs are needed",
    ("polygon", "0 0 1 0 1 100"): "the latitude 100.0 is not between -90 and 90",
}
REFUSED = _SIMPLE | {
    (name, value): f"expected {_FORMS[name]}, got {value!r}: {reason}"
    for (name, value), reason in _SHAPES.items()
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_every_type_takes_its_values_and_keeps_them_as_they_came(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, TYPES) as site:
        for value in ACCEPTED[name]:
            posted = await site.post("/types/async", {name: value})
            assert posted.status == 303, posted.text
            put = await site.create("types")
            assert (await site.request("PUT", f"{put}/parameters/{name}", data=value.encode())).status == 204
            for job in (posted.location, put):
                assert (await site.get(f"{job}/parameters/{name}")).text == value
                assert [(key, found or "") for key, found in await shown(site, job)] == [(name, value)]


@pytest.mark.parametrize(("name", "value"), REFUSED)
async def test_every_type_refuses_what_is_none_of_its_values(tmp_path: Path, name: str, value: str) -> None:
    async with running(tmp_path, TYPES) as site:
        expected = f"UsageFault: {name}: {REFUSED[name, value]}\n"
        answer = await site.post("/types/async", {name: value})
        assert (answer.status, answer.text) == (400, expected)
        assert len((await site.get("/types/async")).xml) == 0
        job = await site.create("types", **{name: ACCEPTED[name][0]})
        assert await refusal(site, job, name, value) == expected


async def test_values_are_checked_one_by_one_when_they_come(tmp_path: Path) -> None:
    async with running(tmp_path, RANGED) as site:
        answer = await site.post("/cutout/async", {"ra": "400.0"})
        assert (answer.status, answer.text) == (400, "UsageFault: ra: 400.0 is above the maximum 360\n")
        job = await site.create("cutout", dec=5)
        assert await refusal(site, job, "ra", "400.0") == "UsageFault: ra: 400.0 is above the maximum 360\n"
        assert await refusal(site, job, "dec", "91") == "UsageFault: dec: 91 is above the maximum 90\n"


@pytest.mark.parametrize("code", [0, 1, 8, 0xB, 0xC, 0x1F, 0xFFFE, 0xFFFF])
async def test_what_xml_cannot_carry_is_refused(tmp_path: Path, code: int) -> None:
    async with running(tmp_path, TYPES) as site:
        job = await site.create("types")
        complaint = f"text: the character U+{code:04X} cannot be part of an XML document"
        assert await refusal(site, job, "text", f"a{chr(code)}b") == f"UsageFault: {complaint}\n"
        answer = await site.post(job, {"RUNID": f"a{chr(code)}b"})
        assert answer.status == 400
        assert answer.text == "UsageFault: RUNID: has a character that cannot be part of an XML document\n"


async def test_what_xml_can_carry_comes_back_from_every_way_in(tmp_path: Path) -> None:
    value = "\t-line\r\nnext\rlast 'q' \"d\" <&]]> \x85\u2028 ünïcode 🔭 %41 + {x}"
    async with running(tmp_path, TYPES) as site:
        posted = await raw(site, "POST", "/types/async", b"text=" + quote(value).encode(), Content_Type=FORM)
        query = await raw(site, "POST", f"/types/async?text={quote(value)}")
        parts = multipart(FIELD + b'"text"\r\n\r\n' + value.encode())
        part = await raw(site, "POST", "/types/async", parts, Content_Type=MULTIPART)
        for answer in (posted, query, part):
            job = answer.location
            assert (await site.get(f"{job}/parameters/text")).body == value.encode()
            assert await shown(site, job) == [("text", value)]


async def test_a_value_is_changed_by_giving_it_again_and_others_stay(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        job = await site.create("types", whole=1, band=["J", "H"], text="stays")
        await site.post(job, {"whole": "2", "band": "K"})
        assert dict(await shown(site, job)) == {"whole": "2", "band": "K", "text": "stays"}


@pytest.mark.parametrize("name", ["whole", "ra", "time", "pos"])
async def test_a_field_left_blank_is_no_value(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, TYPES) as site:
        assert await shown(site, await site.create("types", **{name: ""})) == []
        job = await site.create("types", **{name: ACCEPTED[name][0]})
        assert (await site.request("PUT", f"{job}/parameters/{name}", data=b"")).status == 204
        assert await shown(site, job) == []
        assert (await site.get(f"{job}/parameters/{name}")).status == 404


async def test_put_sets_one_value_while_pending(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        job = await site.create("types", whole=1)
        answer = await site.request("PUT", f"{job}/parameters/text", data="grüße".encode())
        assert (answer.status, answer.body) == (204, b"")
        assert await shown(site, job) == [("whole", "1"), ("text", "grüße")]
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        assert (await site.request("PUT", f"{job}/parameters/text", data=b"late")).status == 403
        assert (await site.get(f"{job}/parameters/text")).text == "grüße"


async def test_a_put_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        answer = await site.request("PUT", f"{await site.create('types')}/parameters/text", data=b"\xff")
        assert (answer.status, answer.text) == (400, "UsageFault: a value is not UTF-8 text\n")


# Completeness


async def run(site: Site, job: str) -> Answer:
    return await site.post(f"{job}/phase", {"PHASE": "RUN"})


async def test_run_names_all_that_is_missing_and_the_job_stays_pending(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY) as site:
        job = await site.create("needy")
        answer = await run(site, job)
        assert (answer.status, answer.text) == (400, "UsageFault: required, but not given: a, b\n")
        assert await site.phase(job) == "PENDING"
        await site.post(job, {"a": "1"})
        assert (await run(site, job)).text == "UsageFault: required, but not given: b\n"
        assert await site.phase(job) == "PENDING"
        await site.post(job, {"b": "x"})
        assert (await run(site, job)).status == 303
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_a_creation_with_run_that_lacks_something_creates_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY) as site:
        answer = await site.post("/needy/async", {"PHASE": "RUN", "a": "1"})
        assert (answer.status, answer.text) == (400, "UsageFault: required, but not given: b\n")
        assert len((await site.get("/needy/async")).xml) == 0


async def test_the_last_values_may_come_with_run(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY) as site:
        job = await site.create("needy", a=1)
        assert (await site.post(f"{job}/phase", {"PHASE": "RUN", "b": "x"})).status == 303
        assert text(await site.ended(job), "phase") == "COMPLETED"


# What the program gets


async def test_defaults_are_filled_in_for_the_program(tmp_path: Path) -> None:
    async with running(tmp_path, SHOW) as site:
        job = await site.run("show")
        await site.ended(job)
        assert json.loads((await site.get(f"{job}/results/out")).body) == {
            "count": 3,
            "names": ["a", "b"],
            "when": None,
        }


async def test_given_values_take_the_place_of_defaults(tmp_path: Path) -> None:
    async with running(tmp_path, SHOW) as site:
        job = await site.run("show", COUNT=0, names="c", when="2015-10-26 09:00")
        await site.ended(job)
        assert json.loads((await site.get(f"{job}/results/out")).body) == {
            "count": 0,
            "names": ["c"],
            "when": "2015-10-26T09:00:00Z",
        }


# The schema


async def test_the_json_schema_of_the_parameters_is_served(tmp_path: Path) -> None:
    async with running(tmp_path, RANGED, NEEDY, FILES, IGNORING, SHOW) as site:
        answer = await site.get("/cutout/parameters.json")
        assert answer.headers["Content-Type"] == "application/schema+json"
        schema = json.loads(answer.body)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["title"] == "Cutout"
        definition = schema["$defs"][schema["$ref"].rpartition("/")[2]]
        assert definition["required"] == ["ra"]
        assert definition["additionalProperties"] is False
        assert definition["properties"]["ra"] == {"type": "number", "minimum": 0, "maximum": 360}

        async def properties(service: str) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
            schema = json.loads((await site.get(f"/{service}/parameters.json")).body)
            definition = schema["$defs"][schema["$ref"].rpartition("/")[2]]
            return definition, definition["properties"]

        definition, found = await properties("needy")
        assert definition["required"] == ["a", "b"]
        assert found["c"] == {"type": "integer", "default": 7}
        definition, _ = await properties("lax")
        assert definition["additionalProperties"] is True
        _, found = await properties("show")
        assert found["names"]["type"] == "array"
        assert found["names"]["default"] == ["a", "b"]
