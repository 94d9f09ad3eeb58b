"""Quotas: what an owner may have, in words when it is more, and counted right whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.access.support import basic, limited
from tests.daemon import serving
from tests.execution.programs import shell
from tests.harness import Answer, BasicUsers, ManualClock, Site, running, text
from tests.web.support import ECHO, FIELD, MULTIPART, PATIENCE, multipart, raw
from uws import (
    FileParameter,
    Lifetime,
    QuotaSettings,
    QuotaTable,
    ResultDeclaration,
    Service,
    StrParameter,
)
from uws.model.units import format_time

FILES = Service(
    name="files",
    title="Files",
    command=["true"],
    parameters={"f": FileParameter(multiple=True), "x": StrParameter()},
)
PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


def quotas(**limits: Any) -> QuotaSettings:
    return QuotaSettings(QuotaTable(**limits))


def files(*sizes: int, **fields: str) -> aiohttp.FormData:
    form = aiohttp.FormData(fields)
    for size in sizes:
        form.add_field("f", bytes(size), filename="f")
    return form


async def make(site: Site, *sizes: int, user: str | None = None, **options: Any) -> Answer:
    """Ask for a job with files of these sizes."""
    headers = {**options.pop("headers", {}), **(basic(user) if user else {})}
    form = files(*sizes, **options) if sizes else options
    return await site.post(site.list_url("files"), form, headers=headers)


# Stored


async def test_what_jobs_have_stored_is_all_that_an_owner_may_and_deleting_makes_room(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(stored="1kB"), authenticator=BasicUsers()) as site:

        async def ask(user: str, *sizes: int) -> Answer:
            return await site.post(site.list_url("files"), files(*sizes), user=user)

        first = await ask("ada", 400, 200)
        assert first.status == 303
        refused = await ask("ada", 401)
        assert (refused.status, refused.text) == (
            403,
            "UsageFault: 600 B of results and uploads of the same owner stored and more than 400 B to come, "
            "at most 1.0 kB allowed: delete jobs that are not needed any more\n",
        )
        assert (await ask("bob", 1000)).status == 303
        assert (await ask("ada", 400)).status == 303
        refused = await ask("ada")
        assert refused.status == 403
        assert (
            "1.0 kB of results and uploads of the same owner stored, at most 1.0 kB allowed" in refused.text
        )
        assert (await site.request("DELETE", first.location, user="ada")).status == 303
        assert (await ask("ada", 600)).status == 303
        assert list((tmp_path / "spool").iterdir()) == []


async def test_what_comes_at_the_same_time_counts_together_while_it_comes(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes((1 << 20) + 100_000)
        await go_on.wait()

    async with running(tmp_path, FILES, quotas=quotas(stored=1_600_000), authenticator=BasicUsers()) as site:
        form = aiohttp.FormData()
        form.add_field("f", slow(), filename="f")
        first = asyncio.create_task(site.post(site.list_url("files"), form, user="ada"))
        async with asyncio.timeout(PATIENCE):
            while not sum(file.stat().st_size for file in (tmp_path / "spool").iterdir()):
                await asyncio.sleep(0.01)
        refused = await site.post(site.list_url("files"), files(1_000_000), user="ada")
        assert refused.status == 403
        assert (await site.post(site.list_url("files"), files(1_000_000), user="bob")).status == 303
        go_on.set()
        assert (await first).status == 303
        assert (await site.post(site.list_url("files"), files(400_000), user="ada")).status == 303


async def test_results_count_and_who_has_too_many_runs_nothing_more(tmp_path: Path) -> None:
    service = shell(
        'head -c 700 /dev/zero > "$UWS_RESULTS/out"',
        name="files",
        results=[ResultDeclaration(id="o", path="out")],
    )
    async with running(tmp_path, service, quotas=quotas(stored=1000)) as site:
        waiting = await site.create("files")
        for _ in range(2):  # whoever has room begins; what then comes is his
            assert text(await site.ended(await site.run("files")), "phase") == "COMPLETED"
        refused = await site.post(f"{waiting}/phase", {"PHASE": "RUN"})
        assert refused.status == 403
        assert "1.4 kB of results and uploads of the same owner stored, at most 1.0 kB" in refused.text
        assert await site.phase(waiting) == "PENDING"
        assert (await site.post(site.list_url("files"))).status == 403
        assert (await site.post(f"{waiting}/phase", {"PHASE": "ABORT"})).status == 303


async def test_a_file_in_the_place_of_another_counts_once(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(stored=1000)) as site:
        job = await site.create("files", f=bytes(900))
        assert (await site.request("PUT", f"{job}/parameters/f", data=bytes(1000))).status == 204
        refused = await site.request("PUT", f"{job}/parameters/f", data=bytes(1001))
        assert refused.status == 403
        other = await site.post(f"{job}/parameters", files(500))
        assert other.status == 303
        assert (await make(site, 500)).status == 303
        assert (await site.post(f"{job}/parameters", files(501))).status == 403


async def test_two_requests_at_the_same_time_do_not_store_more_than_one_may(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(stored=1000)) as site:
        answers = await asyncio.gather(*(make(site, 300) for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [303] * 3 + [403] * 5


async def test_what_is_stored_is_known_after_a_restart_and_to_a_rebuild(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(stored=1000)) as site:
        await site.create("files", f=bytes(900))
    for rebuilt in (False, True):
        if rebuilt:
            for file in (tmp_path / "projections").glob("usage*"):
                file.unlink()
        async with running(tmp_path, FILES, quotas=quotas(stored=1000)) as site:
            assert (await make(site, 101)).status == 403


async def test_what_an_admin_puts_into_a_job_is_its_owners(tmp_path: Path) -> None:
    others = {"admin": {"stored": "unlimited"}, "@staff": {"stored": 1000}}
    async with limited(tmp_path, FILES, stored=100, others=others) as site:
        assert (await make(site, 2000, user="adm")).status == 303
        job = (await make(site, 600, user="bob")).location
        other = (await make(site, user="bob")).location
        for size, status in ((401, 403), (400, 204)):
            answer = await site.request(
                "PUT", f"{other}/parameters/f", data=bytes(size), headers=basic("adm")
            )
            assert answer.status == status, answer.text
        for path, data in ((f"{job}/parameters", files(601)), (f"{job}/phase", {"PHASE": "RUN"})):
            refused = await site.post(path, data, headers=basic("adm"))
            assert (refused.status, "1.0 kB of results and uploads" in refused.text) == (403, True)


# Uploads


async def test_a_request_that_brings_too_much_is_refused_while_it_comes_in(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(uploads="1MB")) as site:
        head = multipart(FIELD + b'"f"; filename="f"\r\n\r\n', end=b"")
        refused = await raw(
            site, "POST", "/files/async", head + bytes(1_100_000), bytes(9_000_000), Content_Type=MULTIPART
        )  # the answer has come before the rest is sent
        assert (refused.status, refused.text) == (
            403,
            "UsageFault: the files of this request are larger than 1.0 MB, which one may bring at most\n",
        )
        assert list((tmp_path / "spool").iterdir()) == []
        assert (await make(site, 500_000, 500_000)).status == 303
        refused = await make(site, 500_000, 500_001)
        assert refused.status == 403
        job = await site.create("files")
        refused = await site.request("PUT", f"{job}/parameters/f", data=bytes(1_000_001))
        assert refused.status == 403


async def test_a_file_by_url_is_one_that_a_request_brings(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(uploads=1000)) as site:
        job = await site.create("files", f=bytes(600))
        url = f"{job}/parameters/f"
        answer = await site.post(site.list_url("files"), {"UPLOAD": f"f,{url}"})
        assert answer.status == 303
        refused = await site.post(site.list_url("files"), {"UPLOAD": f"f,{url};f,{url}"})
        assert refused.status == 403


# Lifetime


async def test_no_job_is_kept_longer_than_its_owner_may_have_it(tmp_path: Path, clock: ManualClock) -> None:
    forever = Service(name="files", title="For ever", command=["true"], lifetime=Lifetime(default=0, max=0))
    others = {"operator": {"lifetime": "2d"}, "anonymous": {"lifetime": "unlimited"}}
    async with limited(tmp_path, forever, clock=clock, lifetime="1d", others=others) as site:
        for user, days in (("ann", 1), ("ops", 2), (None, None)):
            headers = basic(user) if user else {}
            job = (await make(site, user=user)).location
            ends = format_time(clock.now() + timedelta(days=days)) if days else ""
            assert (await site.get(f"{job}/destruction", headers=headers)).text == ends
            late = {"DESTRUCTION": format_time(clock.now() + timedelta(days=9))}
            assert (await site.post(f"{job}/destruction", late, headers=headers)).status == 303
            shown = (await site.get(f"{job}/destruction", headers=headers)).text
            assert shown == (ends or late["DESTRUCTION"])
        late_from_the_start = await make(site, user="ann", **late)
        job = late_from_the_start.location
        assert (await site.get(f"{job}/destruction", headers=basic("ann"))).text == format_time(
            clock.now() + timedelta(days=1)
        )


async def test_an_admin_gives_a_job_of_another_no_longer_life_than_its_owner_may(
    tmp_path: Path, clock: ManualClock
) -> None:
    others = {"admin": {"lifetime": "9d"}, "@staff": {"lifetime": "3d"}}
    async with limited(tmp_path, FILES, clock=clock, lifetime="1d", others=others) as site:
        job = (await make(site, user="bob")).location
        late = {"DESTRUCTION": format_time(clock.now() + timedelta(days=8))}
        assert (await site.post(f"{job}/destruction", late, headers=basic("adm"))).status == 303
        shown = (await site.get(f"{job}/destruction", headers=basic("bob"))).text
        assert shown == format_time(clock.now() + timedelta(days=3))


# Jobs per day


async def test_too_many_jobs_in_a_day_are_429_until_the_next_is_free(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with limited(tmp_path, FILES, clock=clock, jobs_per_day=2) as site:
        first = await make(site, user="ann")
        clock.advance(hours=1)
        assert (await make(site, user="ann")).status == 303
        assert (await site.request("DELETE", first.location, headers=basic("ann"))).status == 303
        refused = await make(site, user="ann")  # a job that is gone was made all the same
        assert (refused.status, refused.headers["Retry-After"]) == (429, str(23 * 3600))
        assert refused.text == (
            "UsageFault: 2 jobs of the same owner made within 24 h, at most 2 allowed: "
            "the next can be made in 23h, at 2026-01-02T00:00:00.000Z\n"
        )
        assert (await make(site, user="bob")).status == 303
        clock.advance(seconds=23 * 3600 - 1)
        refused = await make(site, user="ann")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        clock.advance(seconds=1)
        assert (await make(site, user="ann")).status == 303
        refused = await make(site, user="ann")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "3600")


async def test_synchronous_jobs_count_as_others_do(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, quotas=quotas(jobs_per_day=1)) as site:
        assert (await site.get("/echo/sync")).status == 303
        assert (await site.get("/echo/sync")).status == 429
        assert (await site.post("/echo/async")).status == 429


async def test_two_requests_at_the_same_time_make_no_more_jobs_than_one_may(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, quotas=quotas(jobs_per_day=3)) as site:
        answers = await asyncio.gather(*(make(site) for _ in range(10)))
        assert sorted(answer.status for answer in answers) == [303] * 3 + [429] * 7


async def test_a_command_that_comes_again_is_answered_as_before_whatever_the_quota_says(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, FILES, quotas=quotas(jobs_per_day=1, stored=100)) as site:
        key = {"Idempotency-Key": "once"}
        answers = await asyncio.gather(*(make(site, 100, headers=key) for _ in range(5)))
        answers.append(await make(site, 100, headers=key))
        assert {(answer.status, answer.headers.get("Location")) for answer in answers} == {
            (303, answers[0].location)
        }


# Whose they are


async def test_who_is_in_several_has_the_largest_and_nobody_in_particular_his_own(tmp_path: Path) -> None:
    others = {
        "@staff": {"jobs_per_day": 2, "uploads": 10},
        "operator": {"jobs_per_day": 3},
        "anonymous": {"jobs_per_day": 1},
        "admin": {"jobs_per_day": "unlimited"},
    }
    async with limited(tmp_path, FILES, jobs_per_day=4, uploads=20, others=others) as site:
        for user, most, size in (("ann", 4, 20), ("bob", 2, 10), ("ops", 3, 10), (None, 1, 20)):
            assert (await make(site, size + 1, user=user)).status == 403
            statuses = [(await make(site, user=user)).status for _ in range(most + 1)]
            assert statuses == [303] * most + [429], user
        assert [(await make(site, user="adm")).status for _ in range(6)] == [303] * 6


# What is told


async def test_pages_tell_what_one_may_have_and_what_one_has(tmp_path: Path) -> None:
    limits = {
        "queued": 5, "running": 2, "stored": "1kB", "uploads": "2MB", "lifetime": "7d", "jobs_per_day": 3,
    }  # fmt: skip
    async with limited(tmp_path, FILES, **limits, others={"anonymous": {"queued": 1}}) as site:
        assert (await make(site, 600, user="ann")).status == 303
        told = [
            "0 of 5 jobs queued",
            "0 of 2 jobs running",
            "1 of 3 jobs made within 24 h",
            "600 B of 1.0 kB of results and uploads stored",
            "files of 2.0 MB at most in one request",
            "jobs are kept for 7d at most",
        ]
        for path in ("/files", "/login"):
            page = (await site.get(path, headers={**PAGE, **basic("ann")})).text
            assert [line for line in told if f"<li>{line}</li>" not in page] == []
        assert "<li>0 of 1 job queued</li>" in (await site.get("/files", headers=PAGE)).text
        refused = await make(site, 401, x="kept", user="ann", headers=PAGE)
        assert refused.status == 403
        assert "600 B of results and uploads of the same owner stored" in refused.text
        assert "<li>600 B of 1.0 kB of results and uploads stored</li>" in refused.text
        assert 'value="kept"' in refused.text
        for _ in range(2):
            assert (await make(site, user="ann")).status == 303
        refused = await make(site, user="ann", x="kept", headers=PAGE)
        assert (refused.status, int(refused.headers["Retry-After"]) > 86000) == (429, True)
        assert "the next can be made in" in refused.text
        assert 'value="kept"' in refused.text


async def test_pages_tell_nothing_where_nothing_is_limited(tmp_path: Path) -> None:
    async with limited(tmp_path, FILES) as site:
        for path in ("/files", "/login"):
            assert "What you may have" not in (await site.get(path, headers={**PAGE, **basic("ann")})).text


# As it is declared


DECLARED = """
[queue]
max_queued_per_owner = 7
[quotas]
jobs_per_day = 1
lifetime = "1h"
[quotas.anonymous]
jobs_per_day = 2
stored = "1kB"
[services.echo]
title = "Echo"
command = ["true"]
"""


async def test_what_the_file_says_holds_also_for_the_next_server(tmp_path: Path) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(DECLARED)
    statuses = []
    for _ in range(2):
        async with serving(file) as server:
            statuses += [(await server.post("/echo/async")).status for _ in range(2)]
            page = (await server.get("/echo", headers=PAGE)).text
            told = ("0 of 7 jobs queued", "2 of 2 jobs made within 24 h", "jobs are kept for 1h at most")
            assert [line for line in told if f"<li>{line}</li>" not in page] == []
    assert statuses == [303, 303, 429, 429]


# Counting, whatever happens


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.lists(st.integers(0, 60), max_size=3)),
        st.tuples(st.just("put"), st.integers(0, 5), st.integers(0, 80)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("rebuild")),
    ),
    min_size=8,
    max_size=25,
)


def test_whatever_happens_exactly_what_is_allowed_is_done(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=25, deadline=None)
    @given(STEPS)
    def check(steps: list[Any]) -> None:
        asyncio.run(_told_from_outside(tmp_path_factory.mktemp("counting"), steps))

    check()


async def _told_from_outside(data: Path, steps: list[Any]) -> None:
    """Take steps, and foretell each answer from those before it, going by nothing but the answers."""
    clock, most, per_day = ManualClock(), 150, 5
    jobs: list[tuple[str, int]] = []
    made: list[Any] = []

    def serving() -> Any:
        far = Service(**{**vars_of(FILES), "lifetime": Lifetime(default="1y", max="1y")})
        return running(data, far, clock=clock, quotas=quotas(stored=most, jobs_per_day=per_day))

    async with _Restarted(serving) as server:
        for step in steps:
            site = server.site
            stored = sum(size for _, size in jobs)
            match step:
                case ("make", sizes):
                    recent = [time for time in made if clock.now() - time < timedelta(days=1)]
                    answer = await site.post(site.list_url("files"), files(*sizes, x="1"))
                    expected = 303
                    if stored >= most or stored + sum(sizes) > most:
                        expected = 403
                    elif len(recent) >= per_day:
                        expected = 429
                        free = recent[-per_day] + timedelta(days=1) - clock.now()
                        assert answer.headers["Retry-After"] == str(int(free.total_seconds()))
                    if len(recent) >= per_day and expected == 403:
                        assert answer.status in (403, 429)
                    else:
                        assert answer.status == expected, answer.text
                    if answer.status == 303:
                        jobs.append((answer.location, sum(sizes)))
                        made.append(clock.now())
                case ("put", which, size) if which < len(jobs):
                    url, had = jobs[which]
                    path = url.partition("/files/")[2]
                    answer = await site.request("PUT", f"/files/{path}/parameters/f", data=bytes(size))
                    fits = size <= had or stored - had + size <= most
                    assert answer.status == (204 if fits else 403), answer.text
                    if fits:
                        jobs[which] = url, size
                case ("delete", which) if which < len(jobs):
                    path = jobs.pop(which)[0].partition("/files/")[2]
                    assert (await site.request("DELETE", f"/files/{path}")).status == 303
                case ("wait", hours):
                    clock.advance(hours=hours)
                case ("restart",):
                    await server.restart()
                case ("rebuild",):
                    await site.node.backend.projector.rebuild(["usage"])


def vars_of(service: Service) -> dict[str, Any]:
    return {name: getattr(service, name) for name in service.__struct_fields__}


class _Restarted:
    """A server that can be restarted."""

    def __init__(self, serving: Any) -> None:
        self._serving = serving

    async def __aenter__(self) -> _Restarted:
        self._running = self._serving()
        self.site: Site = await self._running.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._running.__aexit__(None, None, None)

    async def restart(self) -> None:
        await self.__aexit__()
        await self.__aenter__()
