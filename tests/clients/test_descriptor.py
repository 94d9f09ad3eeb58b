"""A service descriptor is all that pyvo needs, and stilts finds nothing wrong with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from tests.daemon import run
from tests.harness import BasicUsers, Site, running
from tests.web.support import ECHO, TYPES
from tests.web.test_documents import schemas
from tests.web.test_examples import service
from uws import (
    BoolParameter,
    Example,
    FileParameter,
    FloatParameter,
    IntParameter,
    ResultDeclaration,
    Service,
    StrParameter,
    TimestampParameter,
)

HERE = Path(__file__).parent
VOTABLE = "{http://www.ivoa.net/xml/VOTable/v1.3}"
STILTS = shutil.which("stilts")
ALL = Service(
    name="all",
    title="Every type",
    description="Says what it was given <all of it> & more.",
    command=["cat", "{parameters}"],
    parameters={
        **TYPES.parameters,
        "ra": FloatParameter(
            required=True, min=0, max=360, unit="deg", ucd="pos.eq.ra;meta.main", description="Where to look."
        ),
        "size": FloatParameter(default=1.5, unit="arcmin", ucd="no ucd/at all", description="How much"),
        "count": IntParameter(values=[1, 2, 3]),
        "yes": BoolParameter(values=[True]),
        "code": StrParameter(pattern="[a-z]{2}"),
        "when": TimestampParameter(min="2000-01-01", max="2030-01-01", multiple=True),
    },
    results=[ResultDeclaration(id="out", path="-", mime="application/json")],
)
FILE = Service(
    name="file",
    title="A file",
    command=["cat", "{image}"],
    parameters={
        "image": FileParameter(required=True, max_size="2MB", description="A FITS image"),
        "more": FileParameter(multiple=True),
    },
    results=[ResultDeclaration(id="out", path="-", mime="text/x-said")],
    examples=[Example(title="This file", parameters={"image": __file__})],
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path / "var", ALL, FILE, ECHO) as site:
        yield site


async def tell(story: str, site: Site, service: str = "all") -> Any:
    """Have a process tell one of the stories; warnings are errors there, too."""
    told = await run(sys.executable, "-W", "error", HERE / "unseen.py", story, f"{site.url}/{service}")
    assert told.status == 0, told.err
    return json.loads(told.out)


def params(resource: etree._Element, group: str = "") -> dict[str, etree._Element]:
    path = f"{VOTABLE}{group}/{VOTABLE}PARAM" if group else f"{VOTABLE}PARAM"
    return {param.get("name", ""): param for param in resource.iterfind(path)}


async def described(site: Site, name: str) -> dict[str, etree._Element]:
    """Return the descriptors of a service, by their id; the document is valid where schemas are at hand."""
    answer = await site.get(f"/{name}/descriptor")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-votable+xml;content=datalink"
    if schemas():
        schemas().assertValid(answer.xml)
    found = answer.xml.iterfind(f"{VOTABLE}RESOURCE[@type='meta'][@utype='adhoc:service']")
    return {resource.get("ID", ""): resource for resource in found}


# pyvo


async def test_pyvo_learns_what_a_service_takes(site: Site) -> None:
    told = await tell("look", site)
    assert list(told) == list(ALL.parameters)
    assert told["ra"] == {
        "unit": "deg",
        "ucd": "pos.eq.ra;meta.main",
        "says": "Where to look. Required.",
        "range": [0, 360],
        "options": [],
    }
    assert told["band"]["options"] == ["J", "H", "K"]
    assert told["band"]["says"] == "May be given several times."
    assert told["size"]["says"] == "How much. Default: 1.5."
    assert told["code"]["says"] == "Matches [a-z]{2}."


async def test_pyvo_calls_a_service_that_it_has_never_seen(site: Site) -> None:
    assert await tell("call", site) == {
        "whole": -3,
        "ra": 10.5,
        "flag": True,
        "word": "ab",
        "text": "ä & < +",
        "band": ["J", "K"],
        "time": "2026-01-02T03:04:05Z",
        "range": [None, 3.5],
        "pos": [10.0, -5.0],
        "circle": [10.0, -5.0, 0.5],
        "polygon": [10.0, 10.0, 12.0, 10.0, 12.0, 12.0],
        "size": 1.5,
        "count": None,
        "yes": None,
        "code": None,
        "when": [],
    }


async def test_pyvo_sends_nothing_that_nobody_gave(site: Site) -> None:
    told = await tell("call_with_less", site)
    assert {name: value for name, value in told.items() if value not in (None, [])} == {
        "ra": 1.0,
        "size": 1.5,
    }


async def test_pyvo_gives_a_file_by_its_url(site: Site) -> None:
    assert await tell("call_with_file", site, "file") == Path(__file__).read_text()


async def test_pyvo_tells_its_user_why_a_call_was_refused(site: Site) -> None:
    assert "UsageFault: ra: 400 is above the maximum 360" in await tell("be_refused", site)


async def test_pyvo_runs_a_job_of_a_service_that_it_has_never_seen(site: Site) -> None:
    told = await tell("run_as_uws", site)
    (result,) = told["results"]
    assert (told["before"], told["phase"]) == ("PENDING", "COMPLETED")
    assert (await site.get(result)).text.startswith('{"whole":null,"ra":10.5,')


async def test_pyvo_reads_capabilities_and_availability(site: Site) -> None:
    base = f"{site.url}/file"
    told = await tell("read_vosi", site, "file")
    assert told["available"] is True
    assert told["capabilities"] == {
        "ivo://ivoa.net/std/VOSI#capabilities": [[[f"{base}/capabilities"], []]],
        "ivo://ivoa.net/std/VOSI#availability": [[[f"{base}/availability"], []]],
        "ivo://ivoa.net/std/DALI#examples": [[[f"{base}/examples"], []]],
        "ivo://ivoa.net/std/UWS#rest-1.1": [[[f"{base}/async"], []]],
        "None": [[[f"{base}/sync"], []]],
    }


# stilts


@pytest.mark.skipif(not STILTS, reason="stilts is not installed: nobody looks whether DataLink is kept to")
@pytest.mark.parametrize("name", ["all", "file", "echo"])
async def test_stilts_finds_nothing_wrong(site: Site, name: str) -> None:
    checked = await run(STILTS or "", "datalinklint", f"votable={site.url}/{name}/descriptor")
    assert "Service descriptors defined: 2 referenceable, 0 anonymous" in checked.out
    assert "Errors: 0; Warnings: 0;" in checked.out, checked.out
    assert "Failures: 0" in checked.out
    assert checked.status == 0


# What others go by


async def test_both_ways_to_call_a_service_are_described(site: Site) -> None:
    found = await described(site, "file")
    assert list(found) == ["sync", "async"]
    assert {name: param.get("value") for name, param in params(found["async"]).items()} == {
        "accessURL": f"{site.url}/file/async",
        "standardID": "ivo://ivoa.net/std/UWS#rest-1.1",
    }
    sync = {name: param.get("value") for name, param in params(found["sync"]).items()}
    # No standard has an identifier for it, and a custom service has none (DataLink 1.1 section 4.2).
    assert set(sync) == {"accessURL", "contentType", "exampleURL"}
    assert (sync["accessURL"], sync["contentType"]) == (f"{site.url}/file/sync", "text/x-said")
    answer = await site.get(str(sync["exampleURL"]))
    assert (await site.ended(answer.location.replace("/sync/", "/async/"))).findtext(
        ".//{*}phase"
    ) == "COMPLETED"


async def test_types_are_those_of_dali(site: Site) -> None:
    inputs = params((await described(site, "all"))["sync"], "GROUP")
    kinds = {
        name: tuple(param.get(key) for key in ("datatype", "arraysize", "xtype"))
        for name, param in inputs.items()
    }
    assert kinds["whole"] == ("long", None, None)
    assert kinds["flag"] == ("boolean", None, None)
    assert kinds["text"] == ("unicodeChar", "*", None)
    assert kinds["time"] == ("char", "*", "timestamp")
    assert kinds["range"] == ("double", "2", "interval")
    assert kinds["pos"] == ("double", "2", "point")
    assert kinds["circle"] == ("double", "3", "circle")
    assert kinds["polygon"] == ("double", "*", "polygon")
    # A client must send a value that stands here (DataLink 1.1 section 4.3).
    assert {param.get("value") for param in inputs.values()} == {""}
    assert "ucd" not in inputs["size"].attrib
    assert inputs["whole"].find(f"{VOTABLE}DESCRIPTION") is None


async def test_limits_and_enumerations_are_told(site: Site) -> None:
    inputs = params((await described(site, "all"))["sync"], "GROUP")

    def values(name: str) -> list[tuple[str, str | None]]:
        return [
            (str(v.tag).removeprefix(VOTABLE), v.get("value"))
            for v in inputs[name].iterfind(f"{VOTABLE}VALUES/*")
        ]

    assert values("whole") == [("MIN", "-5"), ("MAX", "10")]
    assert values("when") == [("MIN", "2000-01-01"), ("MAX", "2030-01-01")]
    assert values("count") == [("OPTION", "1"), ("OPTION", "2"), ("OPTION", "3")]
    assert values("yes") == [("OPTION", "true")]
    assert values("text") == []


async def test_files_are_given_by_upload(site: Site) -> None:
    inputs = params((await described(site, "file"))["sync"], "GROUP")
    assert list(inputs) == ["UPLOAD"]
    assert inputs["UPLOAD"].findtext(f"{VOTABLE}DESCRIPTION") == (
        "Files, each as name,URL. image: A FITS image. Required. At most 2.0 MB. "
        "more: May be given several times. At most 1.0 GB."
    )


async def test_what_operators_wrote_is_kept_as_text(site: Site) -> None:
    sync = (await described(site, "all"))["sync"]
    assert ALL.description in (sync.findtext(f"{VOTABLE}DESCRIPTION") or "")


async def test_a_client_that_holds_it_is_not_sent_it_again(site: Site) -> None:
    held = (await site.get("/all/descriptor")).headers["ETag"]
    assert (await site.get("/all/descriptor", headers={"If-None-Match": held})).status == 304


async def test_addresses_are_those_by_which_clients_reach_the_server(tmp_path: Path) -> None:
    base = "https://jobs.example.org/vo"
    async with running(
        tmp_path / "data", service(tmp_path), base_url=base, authenticator=BasicUsers()
    ) as site:
        for resource in (await described(site, "say")).values():
            assert (params(resource)["accessURL"].get("value") or "").startswith(f"{base}/say/")
        wrong = {"Authorization": "Basic nonsense"}
        assert (await site.get("/say/descriptor", headers=wrong)).status == 401
        assert (await site.get("/nosuch/descriptor")).status == 404
