"""The queue over HTTP: operators see who waits and why, pause it, and have it go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from lxml import html

from tests.access.support import basic, guarded
from tests.harness import Site, job_id
from uws import Service

ANN, OPS, AUD = basic("ann"), basic("ops"), basic("aud")
TRUE = Service(name="true", title="T", command=["true"])


async def asked(site: Site) -> Any:
    answer = await site.get("/queue?RESPONSEFORMAT=json", headers=OPS)
    return msgspec.json.decode(answer.body)


@pytest.mark.parametrize("service", ["", "true"])
async def test_a_paused_queue_says_so_and_starts_nothing_until_it_is_resumed(
    tmp_path: Path, service: str
) -> None:
    async with guarded(tmp_path, TRUE) as (site, _):
        paused = await site.post("/queue", {"ACTION": "PAUSE", "SERVICE": service}, headers=OPS)
        assert (paused.status, paused.location) == (303, f"{site.url}/queue")
        job = (await site.post("/true/async", {"PHASE": "RUN"}, headers=ANN)).location
        told = await asked(site)
        assert [pause["service"] for pause in told["paused"]] == [service or None]
        (waits,) = told["waiting"]
        assert (waits["job"], waits["owner"], waits["place"]) == (job_id(job), "ann", 1)
        assert waits["reason"] == ("the queue of true is paused" if service else "the queue is paused")
        then = await site.get("/audit/state?RESPONSEFORMAT=json", headers=AUD)
        assert msgspec.json.decode(then.body)["waiting"] == [waits], "in the record as in the queue"
        page = html.fromstring((await site.get("/queue", headers={**OPS, "Accept": "text/html"})).body)
        assert page.xpath("//tbody//a/@href") == [f"./true/async/{job_id(job)}"]
        (form,) = page.xpath("//form[.//button[@value='RESUME']]")
        assert form.fields == {"SERVICE": service}
        await site.post("/queue", {"ACTION": "RESUME", **dict(form.fields)}, headers=OPS)
        await site.ended(job, headers=ANN)
        assert (await asked(site)) == {"paused": [], "running": 0, "waiting": [], "more": False}


async def test_who_may_only_look_finds_no_button(tmp_path: Path) -> None:
    async with guarded(tmp_path, TRUE) as (site, _):
        await site.post("/queue", {"ACTION": "PAUSE"}, headers=OPS)
        page = html.fromstring((await site.get("/queue", headers={**AUD, "Accept": "text/html"})).body)
        assert "The queue is paused since" in " ".join(page.text_content().split())
        assert not page.xpath("//button")


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"ACTION": "STOP"}, "ACTION: expected PAUSE or RESUME, got 'STOP'"),
        ({"ACTION": "PAUSE", "SERVICE": "tru"}, "there is no service tru (did you mean true?)"),
        ({"ACTION": "PAUSE", "SERVCE": "true"}, "SERVCE: expected ACTION, SERVICE (did you mean SERVICE?)"),
    ],
)
async def test_what_is_not_understood_pauses_nothing(
    tmp_path: Path, form: dict[str, str], reason: str
) -> None:
    async with guarded(tmp_path, TRUE) as (site, _):
        answer = await site.post("/queue", form, headers=OPS)
        assert answer.status == 400
        assert answer.text.startswith(f"UsageFault: {reason}")
        assert not (await asked(site))["paused"]
