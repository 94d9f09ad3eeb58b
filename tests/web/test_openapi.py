"""`/openapi.json` describes every route of the server, and what the declarations say."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from tests.harness import BasicUsers, Site, running
from tests.web.support import FAIL, FILES, NEEDY, TYPES
from uws import Service, make_application
from uws.web.openapi import describe


async def described(site: Site) -> dict[str, Any]:
    answer = await site.get("/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(answer.body)
    return found


def form_of(description: dict[str, Any], service: str, kind: str = "parts") -> dict[str, Any]:
    properties: dict[str, Any] = description["components"]["schemas"][f"{service}.{kind}"]["properties"]
    return properties


@pytest.mark.parametrize("services", [(), (TYPES, FILES, NEEDY)])
async def test_the_description_is_valid_openapi(tmp_path: Path, services: tuple[Service, ...]) -> None:
    async with running(tmp_path, *services) as site:
        validate(await described(site), cls=OpenAPIV31SpecValidator)


@pytest.mark.parametrize("services", [(), (TYPES,), (TYPES, FILES)])
@pytest.mark.parametrize("mount", [None, "/jobs"])
async def test_every_route_is_described(
    tmp_path: Path, services: tuple[Service, ...], mount: str | None
) -> None:
    async with running(tmp_path, *services, mount=mount) as site:
        description = await described(site)
        expected = set()
        for route in site.app.router.routes():
            path = route.resource.canonical.removeprefix(mount or "")
            path = "/static/{path}" if path == "/static" else path
            expected.add((route.method.lower(), path))
    names = [service.name for service in services]
    found = {(method, path) for path, item in description["paths"].items() for method in item}
    for method, path in expected:
        ways = {(method, path.replace("{service}", name)) for name in names}
        assert (method, path) in found or (ways <= found and "{service}" in path), (method, path)
    assert description["servers"] == [{"url": site.url}]


def test_a_route_without_a_description_is_found() -> None:
    app = make_application([])

    async def new(request: web.Request) -> web.Response:
        raise NotImplementedError

    app.router.add_get("/{service}/new", new)
    with pytest.raises(KeyError, match="/new"):
        describe(app, "http://localhost", [])


async def test_parameters_are_described_as_they_are_declared(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, FILES, NEEDY) as site:
        description = await described(site)
    types = form_of(description, "types")
    assert types["whole"] == {"type": "integer", "minimum": -5, "maximum": 10}
    assert types["ra"] == {"type": "number", "minimum": 0, "maximum": 360}
    assert types["flag"] == {"type": "boolean"}
    assert types["word"] == {"type": "string", "pattern": "^(?:[a-z]+)$", "maxLength": 5}
    assert types["band"] == {"type": "array", "items": {"type": "string", "enum": ["J", "H", "K"]}}
    assert types.keys() == TYPES.parameters.keys()
    assert form_of(description, "files")["more"] == {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
    }
    assert form_of(description, "files", "text").keys() == {"n"}
    assert form_of(description, "needy")["c"] == {"type": "integer", "default": 7}
    query = description["paths"]["/needy/sync"]["get"]["parameters"]
    assert {p["name"]: p.get("required", False) for p in query if "name" in p} == {
        "a": True,
        "b": True,
        "c": False,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("range", "-Inf 3.5"), ("pos", "10, -20"), ("circle", "10 20 .5"), ("polygon", "1 2 3 4 5 6e0"),
     ("time", "2015"), ("time", "2015-10-26T09:00:00.5Z")],
)  # fmt: skip
async def test_values_that_are_sent_as_text_match_their_patterns(
    tmp_path: Path, name: str, value: str
) -> None:
    async with running(tmp_path, TYPES) as site:
        job = await site.create("types", **{name: value})
        assert (await site.get(f"{job}/parameters/{name}")).text == value
        pattern = form_of(await described(site), "types")[name]["pattern"]
    assert re.search(pattern, value)
    assert not re.search(pattern, "nonsense")


async def test_only_whoever_must_say_who_he_is_is_told_how(tmp_path: Path) -> None:
    async with running(tmp_path / "open", TYPES) as site:
        assert "security" not in await described(site)
    async with running(tmp_path / "users", TYPES, authenticator=BasicUsers()) as site:
        description = await described(site)
    assert description["components"]["securitySchemes"] == {"basic": {"type": "http", "scheme": "basic"}}
    assert description["security"] == [{}, {"basic": []}]


async def test_a_description_that_is_held_is_304(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        tag = (await site.get("/openapi.json")).headers["ETag"]
        assert (await site.get("/openapi.json", headers={"If-None-Match": tag})).status == 304


@pytest.mark.parametrize(
    ("method", "path", "status", "options"),
    [
        ("GET", "/types/async?PHASE=DONE", 400, {}),
        ("POST", "/types/async", 400, {"data": {"whole": "many"}}),
        ("GET", "/audit", 401, {}),
        ("POST", "/types/async/{job_id}/phase", 403, {"data": {"PHASE": "ABORT"}}),
        ("GET", "/types/async/{job_id}/results/{result_id}", 404, {}),
        ("GET", "/types/async/{gone}/parameters", 410, {}),
        ("DELETE", "/types/async/{gone}", 410, {}),
        ("POST", "/files/async", 413, {"data": {"small": io.BytesIO(bytes(200))}}),
        ("POST", "/types/async", 415, {"data": b"whole=1", "headers": {"Content-Encoding": "gzip"}}),
        ("PUT", "/types/async/{job_id}/parameters/{name}", 415, {"headers": {"Content-Encoding": "gzip"}}),
        ("GET", "/fail/sync/{failed}", 422, {}),
    ],
)  # fmt: skip
async def test_what_a_request_is_refused_by_is_described(
    tmp_path: Path, method: str, path: str, status: int, options: dict[str, Any]
) -> None:
    async with running(tmp_path, TYPES, FILES, FAIL) as site:
        description = await described(site)
        job, gone = await site.run("types"), await site.create("types")
        await site.ended(job)
        await site.request("DELETE", gone)
        failed = await site.run("fail")
        await site.ended(failed)
        about = {
            name: url.rpartition("/")[2]
            for name, url in (("job_id", job), ("gone", gone), ("failed", failed))
        }
        answer = await site.request(method, path.format(**about, name="whole", result_id="none"), **options)
    assert answer.status == status, answer.text
    route = re.sub("{(gone|failed)}", "{job_id}", path.partition("?")[0])
    once = re.sub("^/(types|fail)/", "/{service}/", route)  # what takes no parameter stands there once
    operation = description["paths"].get(route) or description["paths"][once]
    reference = operation[method.lower()]["responses"][str(status)]["$ref"]
    assert reference == f"#/components/responses/{status}"
    assert description["components"]["responses"][str(status)]["description"].count("\n") >= 1
