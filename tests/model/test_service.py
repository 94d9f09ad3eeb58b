"""Service declarations: their mistakes, each with its place, and the job classes made from sound ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from uws import (
    BoolParameter,
    DeclarationError,
    ExecutionDuration,
    FileParameter,
    FloatParameter,
    IntervalParameter,
    Lifetime,
    MissingParameters,
    Parameter,
    ParameterError,
    RepeatedParameter,
    ResultDeclaration,
    Service,
    StrParameter,
    TimestampParameter,
    Upload,
    make_user_uws_job_class,
    parameters_schema,
)

UPLOAD = Upload(file="image-1.fits", filename="my.fits", size=1, sha256="0" * 64)


def declare(**fields: Any) -> Service:
    return Service(**{"name": "s", "title": "S", "command": ["true"], **fields})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "a b"}, "services.a b: the name 'a b' is not made of letters"),
        ({"name": "static"}, "services.static: the name static is taken by the server itself"),
        ({"name": "availability"}, "services.availability: the name availability is taken by the server"),
        ({"name": "metrics"}, "services.metrics: the name metrics is taken by the server"),
        ({"name": "healthz"}, "services.healthz: the name healthz is taken by the server"),
        ({"name": "readyz"}, "services.readyz: the name readyz is taken by the server"),
        ({"name": "audit"}, "services.audit: the name audit is taken by the server itself"),
        ({"groups": ["staff", "@x"]}, "services.s.groups[1]: '@x' is no group's name; write it without '@'"),
        ({"groups": [""]}, "services.s.groups[0]: '' is no group's name"),
        ({"command": []}, "services.s.command: expected the program to run"),
        ({"command": ["x", "{y}"]}, "services.s.command[1]: there is no parameter y"),
        ({"command": ["{job_id}"]}, "services.s.command[0]: the program itself cannot depend on a parameter"),
        ({"title": "\0"}, "services.s.title: has a character that cannot be part of an XML document"),
        ({"parameters": {"x": StrParameter(unit="\0")}}, "services.s.parameters.x.unit: has a character"),
        ({"max_running": 0}, "services.s.max_running: 0 is below the minimum 1"),
        ({"parameters": {"phase": StrParameter()}}, "services.s.parameters.phase: the name PHASE means"),
        ({"parameters": {"Upload": StrParameter()}}, "services.s.parameters.Upload: the name UPLOAD means"),
        ({"parameters": {"results": StrParameter()}}, "services.s.parameters.results: the name results is"),
        ({"parameters": {"a-b": StrParameter()}}, "services.s.parameters.a-b: a name is made of letters"),
        ({"parameters": {"_a": StrParameter()}}, "services.s.parameters._a: a name is made of letters"),
        ({"parameters": {"a_": StrParameter()}}, "services.s.parameters.a_: a name is made of letters"),
        ({"parameters": {"ra": StrParameter(), "RA": StrParameter()}},
         "services.s.parameters.RA: differs from ra only in case"),
        ({"results": [ResultDeclaration(id="a", path="x"), ResultDeclaration(id="a", path="y")]},
         "services.s.results[1].id: a is taken by another result"),
        ({"environment": {"A=B": "x"}}, "services.s.environment.A=B: no process can have such a variable"),
        ({"environment": {"A": "\0"}}, "services.s.environment.A: no process can have such a variable"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        declare(**fields)
    assert any(found.startswith(problem) for found in refusal.value.problems), refusal.value.problems


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DeclarationError) as refusal:
        declare(max_running=0, command=["x", "{y}", "{z}"])
    assert len(refusal.value.problems) == 3


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"default": "x", "max": 1}, "default: expected a duration"),
        ({"default": 0, "max": 60},
         "default: 0 is not between 1 and the maximum 60; 0 (unlimited) needs max = 0"),
        ({"default": 61, "max": "1min"}, "default: 61 is not between 1 and the maximum 1min"),
        ({"default": 1, "max": "100y"}, "max: above 2147483647 seconds"),
    ],
)  # fmt: skip
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, Any], problem: str) -> None:
    for kind in (ExecutionDuration, Lifetime):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the text is compared below
            kind(**limits)
        assert str(refusal.value).startswith(problem)


@pytest.mark.parametrize(
    ("limits", "asked", "allowed"),
    [
        ((60, 3600), 100, 100), ((60, 3600), 4000, 3600), ((60, 3600), 0, 3600),
        ((60, 0), 0, 0), ((0, 0), 10**9, 10**9), ((0, 0), 10**10, 2**31 - 1),
    ],
)  # fmt: skip
def test_durations_are_clamped_to_what_is_allowed(limits: tuple[int, int], asked: int, allowed: int) -> None:
    assert ExecutionDuration(default=limits[0], max=limits[1]).clamp(asked) == allowed


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_results_lie_below_the_jobs_directory(path: str) -> None:
    with pytest.raises(ValueError, match="does not lead to a file below the job's directory"):
        ResultDeclaration(id="x", path=path)


@pytest.mark.parametrize("mime", ["text", "text/pl\x01ain", "a/b\r\nX: y", "a b/c"])
def test_media_types_are_such(mime: str) -> None:
    with pytest.raises(ValueError, match="mime:"):
        ResultDeclaration(id="x", path="x", mime=mime)


def test_a_pattern_with_flags_makes_a_job_class_like_any_other() -> None:
    service = declare(parameters={"x": StrParameter(pattern="(?i)abc")})
    job_class = make_user_uws_job_class(service)
    assert job_class.check("x", ["ABC"]) == ("x", ("ABC",))
    assert parameters_schema(job_class)["$defs"]["SJob"]["properties"]["x"]


@pytest.mark.parametrize("identifier", ["", "a/b", ".hidden", "a b", "ü"])
def test_ids_of_results_fit_into_a_url(identifier: str) -> None:
    with pytest.raises(ValueError, match="id:"):
        ResultDeclaration(id=identifier, path="x")


@pytest.mark.parametrize("path", ["a**", "**b/c", "x/**y"])
def test_patterns_that_no_file_can_match_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path:"):
        ResultDeclaration(id="x", path=path)


def test_the_digest_changes_with_the_declaration_and_with_nothing_else() -> None:
    one = declare(parameters={"a": StrParameter(), "b": StrParameter()})
    same = msgspec.json.decode(one.canonical, type=Service)
    assert same == one
    assert same.digest == one.digest
    assert declare(parameters={"a": StrParameter(required=True), "b": StrParameter()}).digest != one.digest


def test_names_are_found_whatever_their_case() -> None:
    service = declare(parameters={"Ra": FloatParameter(), "lang": StrParameter()})
    assert [service.find(name) for name in ("ra", "RA", "LANG", "maxrec", "dec")] == [
        "Ra", "Ra", "lang", "MAXREC", None,
    ]  # fmt: skip
    assert service.unknown("raa") == "unknown parameter (did you mean Ra?); s takes: Ra, lang"


# Job classes


CUTOUT = declare(
    name="image-cutout",
    title="Image cutout",
    command=[
        "cut", "{image}", "--ra={ra}", ["--size={size}"], ["--band={band}"], "{job_id}", ["{when}"],
        ["{deep}"],
    ],
    parameters={
        "image": FileParameter(required=True, description="FITS"),
        "ra": FloatParameter(required=True, min=0, max=360, unit="deg", ucd="pos.eq.ra"),
        "size": FloatParameter(default=1.0),
        "band": StrParameter(values=["J", "H", "K"], multiple=True),
        "when": TimestampParameter(),
        "deep": BoolParameter(default=False),
        "range": IntervalParameter(),
    },
)  # fmt: skip
JOB = make_user_uws_job_class(CUTOUT)


def test_a_job_class_has_a_typed_field_for_every_parameter() -> None:
    job = JOB.from_values(
        {"image": (UPLOAD,), "ra": ("266.4",), "band": ("J", "K"), "when": ("2026",), "range": ("-Inf 2",)},
        "/jobs/1/uploads",
    )
    assert JOB.__name__ == "ImageCutoutJob"
    assert msgspec.structs.asdict(job) == {
        "image": "/jobs/1/uploads/image-1.fits",
        "ra": 266.4,
        "size": 1.0,
        "band": ["J", "K"],
        "when": datetime(2026, 1, 1, tzinfo=UTC),
        "deep": False,
        "range": (float("-inf"), 2.0),
    }
    assert job.argv(job_id="1") == [
        "cut", "/jobs/1/uploads/image-1.fits", "--ra=266.4", "--size=1.0", "--band=J", "--band=K", "1",
        "2026-01-01T00:00:00Z", "false",
    ]  # fmt: skip
    assert json.loads(job.to_json()) == {
        "image": "/jobs/1/uploads/image-1.fits", "ra": 266.4, "size": 1.0, "band": ["J", "K"],
        "when": "2026-01-01T00:00:00Z", "deep": False, "range": [None, 2.0],
    }  # fmt: skip


def test_the_json_of_a_job_fits_its_class() -> None:
    job = JOB.from_values({"image": (UPLOAD,), "ra": ("1",), "range": ("1 +Inf",)}, "/u")
    again = msgspec.json.decode(job.to_json(), type=JOB)
    assert again.to_json() == job.to_json()


def test_what_has_no_value_is_left_out_of_the_command() -> None:
    job = JOB.from_values({"image": (UPLOAD,), "ra": ("1",)}, "/u")
    assert job.argv(job_id="7") == ["cut", "/u/image-1.fits", "--ra=1.0", "--size=1.0", "7", "false"]


def test_all_that_is_missing_is_named() -> None:
    assert JOB.missing({"ra": ()}) == ["image", "ra"]
    with pytest.raises(MissingParameters) as refusal:
        JOB.from_values({}, "/u")
    assert refusal.value.names == ("image", "ra")
    assert str(refusal.value) == "required, but not given: image, ra"


def test_values_are_checked_one_by_one() -> None:
    assert JOB.check("RA", ["266.4"]) == ("ra", ("266.4",))
    assert JOB.check("size", [" "]) == ("size", ())
    assert JOB.check("MAXREC", ["5", "6"]) == ("MAXREC", ("5", "6"))
    with pytest.raises(ParameterError, match=r"ra: 400\.0 is above the maximum 360"):
        JOB.check("ra", ["400.0"])
    with pytest.raises(RepeatedParameter, match="ra: takes one value, got 2"):
        JOB.check("ra", ["1", "2"])
    with pytest.raises(ParameterError, match="ra: expected float, got a file"):
        JOB.check("ra", [UPLOAD])
    with pytest.raises(ParameterError, match="image: expected a file"):
        JOB.check("image", ["x"])
    with pytest.raises(KeyError):
        JOB.check("dec", ["1"])


def test_values_that_a_changed_declaration_no_longer_allows_are_found() -> None:
    narrowed = make_user_uws_job_class(declare(parameters={"ra": FloatParameter(max=90)}))
    with pytest.raises(ParameterError, match=r"ra: 266\.4 is above the maximum 90"):
        narrowed.from_values({"ra": ("266.4",)}, "/u")


@pytest.mark.parametrize(
    "name",
    ["lambda", "class", "None", "check", "service", "missing", "argv", "mro", "copy", "x", "self", "cls"],
)
def test_any_declared_name_works_whatever_it_means_to_python(name: str) -> None:
    service = declare(command=["p", f"{{{name}}}"], parameters={name: StrParameter(required=True)})
    job_class = make_user_uws_job_class(service)
    job = job_class.from_values({name: ("v",)}, "/u")
    assert job.argv(job_id="1") == ["p", "v"]
    assert json.loads(job.to_json()) == {name: "v"}
    assert list(parameters_schema(job_class)["$defs"][job_class.__name__]["properties"]) == [name]
    assert job_class.missing({}) == [name]


def test_the_schema_says_what_clients_must_send() -> None:
    schema = parameters_schema(JOB)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$ref"] == "#/$defs/ImageCutoutJob"
    definition = schema["$defs"]["ImageCutoutJob"]
    assert definition["required"] == ["image", "ra"]
    assert definition["additionalProperties"] is False
    properties = definition["properties"]
    assert properties["ra"] == {
        "type": "number", "minimum": 0, "maximum": 360, "x-unit": "deg", "x-ucd": "pos.eq.ra",
    }  # fmt: skip
    assert properties["size"]["default"] == 1.0
    assert properties["deep"]["default"] is False
    assert properties["band"]["items"]["enum"] == ["J", "H", "K"]
    assert properties["image"]["description"] == "FITS"
    assert "default" not in properties["band"]


@pytest.mark.parametrize(
    "parameter", [FloatParameter(multiple=True, default=[1.0, 2.0]), FloatParameter(multiple=True)]
)
def test_several_values_are_a_list_even_when_there_is_none(parameter: Parameter) -> None:
    service = declare(command=["p", ["{x}"]], parameters={"x": parameter})
    job = make_user_uws_job_class(service).from_values({}, "/u")
    assert json.loads(job.to_json()) == {"x": [1.0, 2.0] if parameter.defaults else []}
    assert job.argv() == ["p", *parameter.defaults]
