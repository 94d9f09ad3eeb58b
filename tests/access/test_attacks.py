"""What attackers try on who has an account, on the record of it, and with files that are looked at."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from threading import Event

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from argon2 import PasswordHasher

from eventstore import SQLiteEventStore
from tests.access.support import basic, bearer, guarded
from tests.access.test_logging_in import PAGE, logged_in, security, token_for
from tests.harness import ManualClock, Site, running
from tests.test_logs import logged, records
from tests.web.support import ECHO, FORM, keeping, raw
from uws.access import users
from uws.config import ProxySettings
from uws.model import events as e
from uws.web.authentication import SESSION

# Sessions


async def test_a_session_that_was_ended_is_good_no_more_however_it_is_sent(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        ended, other = await logged_in(site, "ann"), await logged_in(site, "ann")
        secret = ended["Cookie"].partition("=")[2]
        assert (await site.get("/echo/async", headers=ended)).status == 200
        assert (await site.post("/logout", headers={**PAGE, **ended})).status == 303
        for replayed in (ended, bearer(secret), {**PAGE, **ended}):
            for method, path in (("GET", "/echo/async"), ("POST", "/echo/async"), ("GET", "/echo/sync")):
                answer = await site.request(method, path, headers=replayed)
                assert (answer.status, "this session was revoked" in answer.text) == (401, True), method
        assert (await site.get("/echo/async", headers=other)).status == 200, "another browser is still in"


async def test_a_session_that_somebody_else_has_chosen_is_none_and_does_not_become_one(
    tmp_path: Path,
) -> None:
    planted = {"Cookie": f"{SESSION}=uwsd_{'0' * 32}_{'A' * 43}"}
    async with guarded(tmp_path) as (site, _):
        sent = {"username": "ann", "password": "ann's"}
        answer = await site.post("/login", sent, headers={**PAGE, **planted})
        assert answer.status == 303
        assert planted["Cookie"] not in answer.headers["Set-Cookie"]
        site.session.cookie_jar.clear()
        assert (await site.get("/echo/async", headers=planted)).status == 401


@pytest.mark.parametrize("said", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
async def test_a_page_of_another_site_logs_nobody_in_or_out(tmp_path: Path, said: dict[str, str]) -> None:
    async with guarded(tmp_path) as (site, _):
        evil = {"Accept": "text/html", **said}
        answer = await site.post("/login", {"username": "bob", "password": "bob's"}, headers=evil)
        assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)
        cookie = await logged_in(site, "ann")
        assert (await site.post("/logout", headers={**evil, **cookie})).status == 403
        assert (await site.get("/echo/async", headers=cookie)).status == 200


async def test_a_token_in_the_place_of_a_session_is_none_and_logging_out_does_not_end_it(
    tmp_path: Path,
) -> None:
    async with guarded(tmp_path) as (site, _):
        _, token = await token_for(site, "ann", listed=True)
        cookie = {"Cookie": f"{SESSION}={token}"}
        assert (await site.get("/echo/async", headers=cookie)).status == 401
        assert (await site.post("/logout", headers={**PAGE, **cookie})).status == 303
        assert (await site.get("/echo/async", headers=bearer(token))).status == 200


async def test_who_is_nobody_yet_sends_no_more_than_a_log_in_needs(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        answer = await site.post("/login", {"username": "ann", "password": "x" * 20_000})
        assert (answer.status, answer.text) == (
            413,
            "UsageFault: the parameters are more than 16384 bytes\n",
        )


# Who there is


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is computed from now on that takes long."""
    done: list[str] = []

    def counted(name: str) -> None:
        compute = getattr(PasswordHasher, name)

        def count(self: PasswordHasher, *given: object) -> object:
            done.append(f"{name} {given[0]}".rsplit("$", 2)[0] if name == "verify" else name)
            return compute(self, *given)

        monkeypatch.setattr(PasswordHasher, name, count)

    counted("hash")
    counted("verify")
    return done


@pytest.mark.parametrize("way", ["header", "form"])
async def test_a_refusal_takes_the_same_work_whether_there_is_such_a_user_or_not(
    tmp_path: Path, work: list[str], way: str
) -> None:
    seen = []
    for name in ("ann", "eve"):
        users.of_nobody.cache_clear()
        async with guarded(tmp_path / name) as (site, authentication):
            authentication.users.set_password("ann", users.hashed("ann's own"))
            for password in ("first", "second", "x" * 2000, ""):
                del work[:]
                if way == "header":
                    answer = await site.get("/echo/async", headers=basic(name, password))
                else:
                    sent = {"username": name, "password": password}
                    answer = await site.post("/login", sent, headers=PAGE)
                seen.append((answer.status, answer.text.replace(name, "NAME"), tuple(work)))
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert seen[1][2] == ("verify $argon2id$v=19$m=65536,t=3,p=4",)


async def test_many_passwords_keep_nobody_else_waiting_and_are_not_all_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, verify = Event(), PasswordHasher.verify

    def held(self: PasswordHasher, *given: str) -> bool:
        let_go.wait(60)
        return verify(self, *given)

    proxy = ProxySettings(address_header="X-From", addresses=["127.0.0.1"])
    async with guarded(tmp_path, proxy=proxy) as (site, _):
        monkeypatch.setattr(PasswordHasher, "verify", held)
        async with asyncio.TaskGroup() as group:
            guesses = [
                group.create_task(site.get("/echo/async", headers={**basic("ann", "x"), "X-From": address}))
                for address in (f"203.0.113.{number}" for number in range(60))
            ]
            done, _ = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 10:
                done, _ = await asyncio.wait(guesses, timeout=0.01)
            assert {task.result().status for task in done} == {503}
            assert (await site.get("/healthz")).status == 200
            let_go.set()
        assert sorted(task.result().status for task in guesses) == [401] * 50 + [503] * 10


# The log and the record

HOSTILE = "innocent\n2026-01-01T00:00:00Z [info] all is well\r\x1b[2J\x1b]0;title\x07\u0085\u2028\u202e"
ONE_LINE = HOSTILE.replace("\n", "\t").replace("\r", "").replace("\x1b", "").replace("\x07", "")
"""As much of it as a header can hold."""


async def hostile_requests(site: Site) -> int:
    """Send line breaks and escapes wherever something can be sent; returns the number of requests."""
    quoted = "".join(f"%{byte:02x}" for byte in HOSTILE.encode())
    credentials = b64encode(f"{HOSTILE}:x".encode()).decode()
    file = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\nx\r\n'
    run_id = f'--b\r\nContent-Disposition: form-data; name="RUNID"\r\n\r\n{HOSTILE}\r\n--b--\r\n'
    parts = "multipart/form-data; boundary=b"
    form = f"username={quoted}&password={quoted}&next={quoted}"
    sent = [
        await raw(site, "GET", f"/echo/async/{quoted}", Authorization=basic("ann")["Authorization"]),
        await raw(site, "GET", f"/{quoted}?{quoted}={quoted}"),
        await raw(site, "GET", "/echo/async", Authorization=f"Basic {credentials}"),
        await raw(site, "GET", f"/echo/async/{quoted}/phase", Authorization=f"Bearer {ONE_LINE}"),
        await raw(site, "GET", "/echo/async", Authorization=ONE_LINE),
        await raw(site, "GET", "/echo/async", X_Remote_User=ONE_LINE, User_Agent=ONE_LINE),
        await raw(site, "GET", "/echo/async", Cookie=f"{SESSION}={quoted}"),
        await raw(site, "POST", "/login", form.encode(), Content_Type=FORM),
        await raw(
            site, "POST", "/keep/async", (file + run_id).encode(), X_Remote_User="ann", Content_Type=parts
        ),
    ]
    assert {answer.status for answer in sent} <= {200, 303, 400, 401, 404}, sent
    return len(sent)


async def recorded(data: Path, clock: ManualClock) -> list[e.SecurityEvent]:
    """Return what a server that has ended has put on record."""
    store = await SQLiteEventStore.open(data / "events.db")
    try:
        return [e.decode_security(event) for event in await store.read_stream(e.security_stream(clock.now()))]
    finally:
        await store.close()


@pytest.mark.parametrize("is_json", [True, False], ids=["json", "text"])
async def test_no_request_writes_a_line_of_its_own_into_the_log_or_the_record(
    tmp_path: Path, clock: ManualClock, is_json: bool
) -> None:
    proxy = ProxySettings(header="X-Remote-User", addresses=["127.0.0.1"])
    with logged(is_json=is_json) as written:
        async with guarded(tmp_path, ECHO, keeping("text/plain"), clock=clock, proxy=proxy) as (site, _):
            count = await hostile_requests(site)
    lines = written.getvalue().split("\n")[:-1]
    assert len(lines) == count
    assert all(line.isprintable() for line in lines)
    if is_json:
        assert all(line.isascii() for line in lines)
        assert {record["logger"] for record in records(written.getvalue())} == {"uws.access"}
    else:
        time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \[info +\] (GET|POST) /\S+ \d{3} "
        assert all(re.match(time, line) for line in lines)
    events = await recorded(tmp_path, clock)
    texts = [text for event in events for text in msgspec.structs.astuple(event) if isinstance(text, str)]
    assert "/echo/async" in texts
    assert all(text.isprintable() for text in texts), texts


async def test_the_record_lists_some_refusals_in_a_minute_and_counts_the_others(
    tmp_path: Path, clock: ManualClock
) -> None:
    proxy = ProxySettings(address_header="X-From", addresses=["127.0.0.1"])
    async with guarded(tmp_path, clock=clock, proxy=proxy) as (site, _):
        for _ in range(70):
            assert (await site.get("/echo/async", headers=bearer("nonsense"))).status == 401
        elsewhere = {**bearer("nonsense"), "X-From": "203.0.113.1"}
        assert (await site.get("/echo/async", headers=elsewhere)).status == 401
        assert (await site.get("/echo/async", headers=basic("ann", "wrong"))).status == 401
        await clock.until_sleeping_for(clock.now() + timedelta(minutes=1))
        clock.advance(minutes=1)
        *_, omitted = await security(site, clock, 63)  # told without another refusal
        assert omitted == e.RefusalsOmitted(count=10)
    refused, *rest = await recorded(tmp_path, clock)
    assert isinstance(refused, e.AccessRefused)
    assert rest[:59] == [refused] * 59
    others = [getattr(event, "address", None) for event in rest[59:]]
    assert others == ["203.0.113.1", "127.0.0.1", None], "nobody is hidden by what others do"


async def test_many_who_are_refused_do_not_fill_the_record_nor_hide_who_guesses(
    tmp_path: Path, clock: ManualClock
) -> None:
    proxy = ProxySettings(address_header="X-From", addresses=["127.0.0.1"])
    async with guarded(tmp_path, clock=clock, proxy=proxy) as (site, _):
        for number in range(610):
            headers = {**bearer("nonsense"), "X-From": f"203.0.113.{number % 200}"}
            assert (await site.get("/echo/async", headers=headers)).status == 401
        assert (await site.get("/echo/async", headers=basic("ann", "wrong"))).status == 401
    *refused, guess, omitted = await recorded(tmp_path, clock)
    assert len(refused) == 600
    assert isinstance(guess, e.LogInRefused)
    assert omitted == e.RefusalsOmitted(count=10)


# XML that others made: VOTables that are looked at

TABLE = (
    '{dtd}<VOTABLE xmlns:xi="http://www.w3.org/2001/XInclude"><RESOURCE><TABLE><FIELD name="{name}"/>'
    "<DATA><TABLEDATA><TR><TD>seen</TD><TD>{cell}</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
)
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
SECRET = "what only the server may read"
HOSTILE_TABLES = {
    "an entity that is a file": ('<!DOCTYPE x [<!ENTITY f SYSTEM "file://{secret}">]>', "", "&f;"),
    "an entity that is elsewhere": ('<!DOCTYPE x [<!ENTITY f SYSTEM "{url}">]>', "", "&f;"),
    "a document type that is elsewhere": ('<!DOCTYPE x SYSTEM "{url}">', "", "&f;"),
    "a document type that is a file": ('<!DOCTYPE x SYSTEM "file://{secret}.dtd">', "&f;", "&f;"),
    "a parameter entity": ('<!DOCTYPE x [<!ENTITY % p SYSTEM "{url}"> %p;]>', "", "&f;"),
    "an inclusion": ("", "", '<xi:include href="file://{secret}" parse="text"/>'),
    "laughs": (f'<!DOCTYPE x [<!ENTITY l0 "laugh">{LAUGHS}]>', "", "&l3;"),
    "a billion laughs": (f'<!DOCTYPE x [<!ENTITY l0 "laugh">{LAUGHS}]>', "", "&l9;"),
    "a billion laughs in a name": (f'<!DOCTYPE x [<!ENTITY l0 "laugh">{LAUGHS}]>', "&l9;", ""),
    "laughs about themselves": ('<!DOCTYPE x [<!ENTITY l9 "&l8;"><!ENTITY l8 "&l9;">]>', "&l9;", "&l9;"),
}


@pytest.mark.parametrize("kind", HOSTILE_TABLES)
async def test_a_table_that_is_looked_at_brings_in_nothing_and_grows_no_larger(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret.dtd").write_text(f"<!ENTITY f '{SECRET}'>")
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=f"<!ENTITY f '{SECRET}'>")

    app = web.Application()
    app.router.add_get("/{any:.*}", elsewhere)
    async with (
        TestServer(app, host="127.0.0.1") as other,
        running(tmp_path / "data", keeping("application/x-votable+xml")) as site,
    ):
        dtd, name, cell = (
            part.replace("{secret}", str(tmp_path / "secret")).replace("{url}", str(other.make_url("/x")))
            for part in HOSTILE_TABLES[kind]
        )
        job = await site.run("keep", file=TABLE.format(dtd=dtd, name=name, cell=cell).encode())
        await site.ended(job)
        for headers in ({}, PAGE):
            answer = await site.get(f"{job}/results/kept/preview", headers=headers)
            assert answer.status == 200
            assert "seen" in answer.text
            assert SECRET not in answer.text
            assert "laughlaugh" not in answer.text
            assert len(answer.body) < 20_000
    assert not asked


@pytest.mark.parametrize("credentials", ["\udc86", "\u00e4", "=", "!!", "/w=="])
async def test_credentials_that_are_no_base64_are_nobodys(tmp_path: Path, credentials: str) -> None:
    async with guarded(tmp_path) as (site, _):
        sent = b"Basic " + credentials.encode("utf-8", "surrogateescape")
        answer = await raw(site, "GET", "/echo/async", Authorization=sent)
        assert answer.status == 401
        assert answer.text.startswith("AuthenticationError: these are no credentials of HTTP Basic")
