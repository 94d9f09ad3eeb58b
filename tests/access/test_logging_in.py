"""Passwords, sessions and tokens: who has one is somebody, who has a wrong one is nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from threading import Event

import msgspec
import pytest
from argon2 import PasswordHasher
from multidict import CIMultiDict

from tests.access.issuer import Issuer, settings
from tests.access.support import PASSWORDS, basic, bearer, guarded
from tests.harness import ManualClock, Site, job_id, running, text
from tests.web.support import ECHO, FILES
from uws.access.tokens import Tokens
from uws.access.users import hashed
from uws.commands import SERVER
from uws.config import AuthSettings, ProxySettings
from uws.model import Scope
from uws.model import events as e
from uws.web.authentication import SESSION, Authentication

PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


async def token_for(
    site: Site, user: str, *, lasts: timedelta = timedelta(days=1), **more: object
) -> tuple[str, str]:
    backend = site.node.backend
    tokens = Tokens(backend.store, backend.clock)
    return await tokens.issue(user, SERVER, lasts=lasts, **more)  # type: ignore[arg-type]  # by name


async def logged_in(site: Site, user: str) -> dict[str, str]:
    """Log in as a browser does; return the cookie as it is sent."""
    answer = await site.post("/login", {"username": user, "password": f"{user}'s"}, headers=PAGE)
    assert answer.status == 303, answer.text
    cookie = answer.headers["Set-Cookie"]
    site.session.cookie_jar.clear()
    return {"Cookie": cookie.partition(";")[0]}


async def test_a_password_makes_somebody_and_a_wrong_one_nobody(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        answer = await site.post("/echo/async", {"x": "1"}, headers=basic("ann"))
        assert answer.status == 303
        job = answer.location
        assert text((await site.get(job, headers=basic("ann"))).xml, "ownerId") == "ann"
        for headers, says in (
            ({}, "say who you are"),
            (basic("ann", "bob's"), "user or password is wrong"),
            (basic("nobody"), "user or password is wrong"),
            ({"Authorization": "Basic !"}, "these are no credentials of HTTP Basic"),
            (
                {"Authorization": "Digest x"},
                "this is no way to say who you are here; expected Basic, Bearer, ivoa_bearer",
            ),
        ):
            answer = await site.get(job, headers=headers)
            assert (answer.status, answer.text) == (401, f"AuthenticationError: {says}\n")
        assert (await site.get(job, headers=basic("bob"))).status == 403


async def test_who_must_say_who_he_is_is_told_all_ways(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        challenges = (await site.get("/echo/async")).headers.getall("WWW-Authenticate")
        assert challenges == [
            'Basic realm="uwsd", charset="UTF-8"',
            f'ivoa_bearer standard_id="ivo://ivoa.net/sso#tls-with-password", access_url="{site.url}/login"',
            'Bearer realm="uwsd"',
        ]
        # A browser would ask for a password in a window of its own; it is led to the form.
        page = await site.get("/echo/async?PHASE=ERROR", headers=PAGE)
        assert page.status == 401
        assert not any("Basic" in value for value in page.headers.getall("WWW-Authenticate"))
        assert "login?next=/echo/async%3FPHASE%3DERROR" in page.text


async def test_a_browser_logs_in_by_a_form_and_out_again(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        form = await site.get("/login?next=/echo/async", headers=PAGE)
        assert form.status == 200
        assert 'value="/echo/async"' in form.text
        sent = {"username": "ann", "password": "ann's", "next": "/echo/async"}
        answer = await site.post("/login", sent, headers=PAGE)
        assert (answer.status, answer.location) == (303, f"{site.url}/echo/async")
        attributes = answer.headers["Set-Cookie"].split("; ")
        assert attributes[0].startswith(f"{SESSION}=uwsd_")
        assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=43200"} <= {*attributes}
        cookie = {"Cookie": attributes[0]}
        site.session.cookie_jar.clear()
        assert (await site.get("/echo/async", headers=cookie)).status == 200
        assert "You are <strong>ann</strong>" in (await site.get("/login", headers={**PAGE, **cookie})).text
        assert (await site.post("/logout", headers={**PAGE, **cookie})).status == 303
        assert (await site.get("/echo/async", headers=cookie)).status == 401, "a copy is good no longer"


async def test_a_session_is_sent_over_tls_only_where_the_server_is_reached_so(tmp_path: Path) -> None:
    auth = AuthSettings(users="users.json")
    authentication = Authentication(auth, tmp_path, anonymous=False)
    async with running(
        tmp_path, ECHO, authenticator=authentication, base_url="https://jobs.example.org/vo"
    ) as site:
        assert authentication.users
        authentication.users.add("ann", PASSWORDS["ann"], ())
        answer = await site.post("/login", {"username": "ann", "password": "ann's"}, headers=PAGE)
        assert {"Secure", "Path=/vo"} <= {*answer.headers["Set-Cookie"].split("; ")}
        site.session.cookie_jar.clear()
        page = await site.get("/echo/async", headers=PAGE)
        assert 'href="/vo/login?next=/vo/echo/async"' in page.text, "it leads back to where it was asked for"
        sent = {"username": "ann", "password": "ann's", "next": "/vo/echo/async"}
        answer = await site.post("/login", sent, headers=PAGE)
        assert answer.location == "https://jobs.example.org/vo/echo/async"


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "javascript:alert(1)",
        "/x\r\nA: b",
        "evil",
        "",
    ],
)
async def test_a_log_in_leads_to_this_server_only(tmp_path: Path, elsewhere: str) -> None:
    async with guarded(tmp_path) as (site, _):
        sent = {"username": "ann", "password": "ann's", "next": elsewhere}
        answer = await site.post("/login", sent, headers=PAGE)
        assert (answer.status, answer.location) == (303, f"{site.url}/")


async def test_a_wrong_password_is_told_in_the_form_which_keeps_the_name(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        answer = await site.post("/login", {"username": "ann", "password": "x"}, headers=PAGE)
        assert answer.status == 401
        assert "user or password is wrong" in answer.text
        assert 'value="ann"' in answer.text
        assert "Set-Cookie" not in answer.headers


async def test_a_program_logs_in_as_ivoa_sso_has_it(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        answer = await site.post("/login", {"username": "ann", "password": "ann's"})
        assert answer.status == 200
        site.session.cookie_jar.clear()
        token = answer.headers["X-VO-Bearer"]
        assert (await site.get("/echo/async", headers=bearer(token))).status == 200


async def test_a_program_logs_out_with_what_it_was_given_and_ends_no_token_so(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        answer = await site.post("/login", {"username": "ann", "password": "ann's"})
        site.session.cookie_jar.clear()
        session, (_, token) = bearer(answer.headers["X-VO-Bearer"]), await token_for(site, "ann")
        crossing = await site.post("/logout", headers={**session, "Sec-Fetch-Site": "cross-site"})
        assert crossing.status == 403
        assert (await site.get("/echo/async", headers=session)).status == 200
        assert (await site.post("/logout", headers=session)).status == 303
        over = await site.get("/echo/async", headers=session)
        assert (over.status, over.text) == (401, "AuthenticationError: this session was revoked\n")
        assert (await site.post("/logout", headers=bearer(token))).status == 303
        assert (await site.get("/echo/async", headers=bearer(token))).status == 200


async def test_another_site_cannot_log_its_visitors_in(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        sent = {"username": "ann", "password": "ann's"}
        answer = await site.post("/login", sent, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers


async def test_a_session_ends_with_its_time_its_password_and_its_user(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock) as (site, authentication):
        users = authentication.users
        assert users
        ann, bob, ops = [await logged_in(site, name) for name in ("ann", "bob", "ops")]
        clock.advance(hours=1)
        users.set_password("bob", hashed("another one"))
        users.remove("ops")
        assert (await site.get("/echo/async", headers=ann)).status == 200
        assert "the password was changed" in (await site.get("/echo/async", headers=bob)).text
        assert "no such user" in (await site.get("/echo/async", headers=ops)).text
        clock.advance(hours=11)
        assert "this session has expired" in (await site.get("/echo/async", headers=ann)).text


async def test_a_session_is_for_the_password_that_was_verified_and_no_later_one(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go, verify = Event(), Event(), PasswordHasher.verify

    def held(self: PasswordHasher, *given: str) -> bool:
        begun.set()
        let_go.wait(60)
        return verify(self, *given)

    async with guarded(tmp_path, clock=clock) as (site, authentication):
        assert authentication.users
        monkeypatch.setattr(PasswordHasher, "verify", held)
        logging_in = asyncio.create_task(logged_in(site, "ann"))
        await asyncio.to_thread(begun.wait, 60)
        authentication.users.set_password("ann", hashed("another one"))
        let_go.set()
        answer = await site.get("/echo/async", headers=await logging_in)
        assert (answer.status, "the password was changed" in answer.text) == (401, True)


async def test_a_token_is_good_until_it_is_revoked_or_expires(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, authentication):
        token_id, token = await token_for(site, "ann", listed=True)
        _, short = await token_for(site, "eve", lasts=timedelta(hours=1))
        for good in (token, short):
            assert (await site.get("/echo/async", headers=bearer(good))).status == 200
        clock.advance(hours=1)
        assert "has expired" in (await site.get("/echo/async", headers=bearer(short))).text
        await authentication.tokens.revoke(token_id, "lost", SERVER)
        assert "was revoked" in (await site.get("/echo/async", headers=bearer(token))).text


@pytest.mark.parametrize("change", ["cut", "other secret", "other id", "upper", "nonsense", "empty"])
async def test_what_is_not_quite_a_token_is_none(tmp_path: Path, change: str) -> None:
    async with guarded(tmp_path) as (site, _):
        token_id, token = await token_for(site, "ann")
        spoilt = {
            "cut": token[:-1],
            "other secret": token[:-1] + ("A" if token[-1] != "A" else "B"),
            "other id": token.replace(token_id, "0" * 32),
            "upper": token.upper(),
            "nonsense": "nonsense",
            "empty": "",
        }[change]
        answer = await site.get("/echo/async", headers=bearer(spoilt))
        assert (answer.status, answer.text) == (
            401,
            "AuthenticationError: this is no token that is good here\n",
        )


@pytest.mark.parametrize(
    ("scopes", "reads", "submits"),
    [({"read"}, 200, 403), ({"submit"}, 403, 303), ({"read", "submit"}, 200, 303), (set(), 403, 403)],
)
async def test_a_token_is_good_for_what_its_scope_says(
    tmp_path: Path, scopes: set[str], reads: int, submits: int
) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", {"x": "1"}, headers=basic("ann"))).location
        _, token = await token_for(site, "ann", scopes=frozenset(Scope(scope) for scope in scopes))
        for path in (job, f"{job}/phase", "/echo/async", f"{job}/history"):
            assert (await site.get(path, headers=bearer(token))).status == reads
        for method, path, data in (
            ("POST", "/echo/async", {"x": "1"}),
            ("POST", f"{job}/parameters", {"x": "2"}),
            ("POST", f"{job}/phase", {"PHASE": "ABORT"}),
            ("DELETE", job, None),
        ):
            answer = await site.request(method, path, data=data, headers=bearer(token))
            assert answer.status == submits, (method, path, answer.text)


async def test_the_log_holds_no_secret(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        _, token = await token_for(site, "ann")
        cookie = await logged_in(site, "ann")
        await site.get("/echo/async", headers=basic("ann", "wrong and secret"))
        await site.get("/echo/async", headers=bearer(token))
        secrets = (
            token.rpartition("_")[2],
            cookie["Cookie"].rpartition("_")[2],
            "ann's",
            "wrong and secret",
            PASSWORDS["ann"],
        )
    for file in tmp_path.glob("events.db*"):
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content]


async def security(site: Site, clock: ManualClock, count: int) -> list[e.SecurityEvent]:
    """Return the security decisions, once there are so many."""
    store = site.node.backend.store
    decided: list[e.SecurityEvent] = []
    async for batch in store.subscribe(after=0):
        decided += [e.decode_security(event) for event in batch if event.stream.startswith("security/")]
        if len(decided) >= count:
            break
    return decided


async def test_what_is_decided_is_on_record(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        await logged_in(site, "ann")
        job = (await site.post("/echo/async", {"x": "1"}, headers=basic("ann"))).location
        await site.get("/echo/async", headers=basic("ann", "wrong"))
        await site.get("/echo/async", headers=basic("no user but a password"))
        await site.get(job, headers=basic("bob"))
        token_id, token = await token_for(site, "ann")
        for hours in (0, 0, 1):
            clock.advance(hours=hours)
            await site.get(job, headers=bearer(token))
        await site.get("/echo/async")  # says nothing: no decision
        address, expected = "127.0.0.1", f"/echo/async/{job_id(job)}"
        decided = await security(site, clock, 8)
        wrong = "user or password is wrong"
        assert decided == [
            e.LoggedIn(user="ann", address=address),
            e.LoggedIn(user="ann", address=address, by="basic"),
            e.LogInRefused(reason=wrong, user="ann", address=address),
            e.LogInRefused(reason=wrong, user=None, address=address),
            e.LoggedIn(user="bob", address=address, by="basic"),
            e.AccessRefused(
                reason=f"job {job_id(job)} is not yours", method="GET", path=expected, address=address
            ),
            e.TokenUsed(token=token_id, address=address),
            e.TokenUsed(token=token_id, address=address),
        ]


async def test_who_says_who_he_is_is_on_record_once_an_hour_for_each_way_and_address(
    tmp_path: Path, clock: ManualClock, issuer: Issuer
) -> None:
    proxy = ProxySettings(header="X-Remote-User", address_header="X-From", addresses=["127.0.0.1"])
    async with guarded(tmp_path, clock=clock, proxy=proxy, oidc=settings(issuer.url)) as (site, _):
        for minutes in (0, 59, 1):
            clock.advance(minutes=minutes)
            for headers in (
                basic("ann"),
                bearer(issuer.token(sub="eve")),
                {"X-Remote-User": "kim"},
                {"X-Remote-User": "kim", "X-From": "2001:db8::1"},
                {"X-Remote-User": "kim", "X-From": "2001:db8::2"},
            ):
                assert (await site.get("/echo/async", headers=headers)).status == 200
        here, there = "127.0.0.1", "2001:db8::1"
        assert await security(site, clock, 8) == 2 * [
            e.LoggedIn(user="ann", address=here, by="basic"),
            e.LoggedIn(user="eve", address=here, by="jwt"),
            e.LoggedIn(user="kim", address=here, by="proxy"),
            e.LoggedIn(user="kim", address=there, by="proxy"),
        ]


@pytest.mark.parametrize("anonymous", [True, False])
async def test_a_session_that_is_sent_after_its_end_is_on_record(
    tmp_path: Path, clock: ManualClock, anonymous: bool
) -> None:
    async with guarded(tmp_path, clock=clock, anonymous=anonymous) as (site, _):
        ended = await logged_in(site, "ann")
        await site.post("/logout", headers={**PAGE, **ended})
        assert (await site.get("/echo/async", headers=ended)).status == (200 if anonymous else 401)
        assert await security(site, clock, 2) == [
            e.LoggedIn(user="ann", address="127.0.0.1"),
            e.AccessRefused(
                reason="this session was revoked", method="GET", path="/echo/async", address="127.0.0.1"
            ),
        ]


async def test_a_command_that_refers_to_somebody_elses_file_is_on_record(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, FILES, clock=clock) as (site, _):
        job = (await site.post("/files/async", {"image": BytesIO(b"x")}, headers=basic("ann"))).location
        sent = {"UPLOAD": f"image,{job}/parameters/image"}
        assert (await site.post("/files/async", sent, headers=basic("bob"))).status == 400
        *_, refused = await security(site, clock, 3)
        reason = f"job {job_id(job)} is not yours"
        assert refused == e.AccessRefused(
            reason=reason, method="POST", path="/files/async", address="127.0.0.1"
        )


async def test_who_guesses_passwords_is_made_to_wait(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        for _ in range(10):
            assert (await site.get("/echo/async", headers=basic("ann", "x"))).status == 401
        answer = await site.get("/echo/async", headers=basic("ann"))
        assert (answer.status, answer.headers["Retry-After"]) == (429, "61")
        wrong, *_, last = await security(site, clock, 10)
        assert isinstance(wrong, e.LogInRefused)
        assert isinstance(last, e.LogInRefused)
        assert wrong.reason == "user or password is wrong"
        assert last.reason == f"{wrong.reason}, once too often: others are not looked at for a while"
        assert (await site.get("/echo/async", headers=basic("bob"))).status == 200, "others do not wait"
        clock.advance(seconds=61)
        assert (await site.get("/echo/async", headers=basic("ann"))).status == 200


async def test_of_passwords_that_come_at_once_as_few_are_looked_at_as_one_after_the_other(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):

        async def at_once(*passwords: str) -> Counter[int]:
            tries = (site.get("/echo/async", headers=basic("ann", password)) for password in passwords)
            return Counter(answer.status for answer in await asyncio.gather(*tries))

        assert await at_once(*["ann's"] * 30) == {200: 30}, "who has the right one is kept from nothing"
        assert await at_once(*[f"guess {number}" for number in range(30)]) == {401: 10, 429: 20}


async def test_who_tries_many_names_at_once_keeps_nobody_else_from_logging_in(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, begun = Event(), list[bytes]()

    def held(self: PasswordHasher, known: str, password: bytes) -> bool:
        begun.append(password)
        let_go.wait(60)
        return password == b"bob's"

    def asked(user: str, address: str) -> dict[str, str]:
        return {**basic(user), "X-Forwarded-For": address}

    proxies = ProxySettings(address_header="X-Forwarded-For", addresses=["127.0.0.1"])
    async with guarded(tmp_path, clock=clock, proxy=proxies) as (site, authentication):
        monkeypatch.setattr(PasswordHasher, "verify", held)
        names = [f"u{number}" for number in range(90)]
        tries = [asyncio.create_task(site.get("/echo/async", headers=asked(n, "203.0.113.1"))) for n in names]
        while len(authentication.guesses._turns) < len(names):
            await asyncio.sleep(0)  # until all are here
        genuine = asyncio.create_task(site.get("/echo/async", headers=asked("bob", "203.0.113.2")))
        while ("203.0.113.2", "bob") not in authentication.guesses._turns:
            await asyncio.sleep(0)
        let_go.set()
        assert (await genuine).status == 200
        assert begun.index(b"bob's") <= 4, "few are before him"
        answers = Counter(answer.status for answer in await asyncio.gather(*tries))
        assert answers[401] <= 60 + 3
        assert answers[401] + answers[429] == 90
        assert (await site.get("/echo/async", headers=asked("ann", "203.0.113.1"))).status == 429
        clock.advance(seconds=61)
        assert (await site.get("/echo/async", headers=asked("ann", "203.0.113.1"))).status == 401


async def test_names_that_nobody_can_have_are_one_to_guess_and_nothing_of_them_is_kept(
    tmp_path: Path, clock: ManualClock
) -> None:
    names = ["x" * 300, "a\nb", "@group", *("y" * (1000 + number) for number in range(7))]
    async with guarded(tmp_path, clock=clock) as (site, authentication):
        for name in names:
            assert (await site.post("/login", {"username": name, "password": "x"})).status == 401
        assert (await site.post("/login", {"username": "z" * 500, "password": "x"})).status == 429
        assert [*authentication.guesses._wrong] == [("127.0.0.1", None), ("127.0.0.1", "")]
        clock.advance(minutes=1)
        assert (await site.get("/echo/async", headers=basic("eve", "x"))).status == 401
        last = [("127.0.0.1", None), ("127.0.0.1", "eve")]
        assert [*authentication.guesses._wrong] == last, "they end with their minute"


async def test_behind_a_proxy_each_client_has_an_address_of_its_own(
    tmp_path: Path, clock: ManualClock
) -> None:
    def asked(password: str, *came_from: str) -> CIMultiDict[str]:
        headers = CIMultiDict(basic("ann", password))
        for value in came_from:
            headers.add("X-Forwarded-For", value)
        return headers

    guesser = "203.0.113.9, 2001:db8::1", "10.0.0.2"  # what he says himself, his own, and a proxy's
    proxies = ProxySettings(address_header="X-Forwarded-For", addresses=["127.0.0.1", "10.0.0.0/8"])
    async with guarded(tmp_path / "believed", clock=clock, proxy=proxies) as (site, _):
        for _ in range(10):
            assert (await site.get("/echo/async", headers=asked("wrong", *guesser))).status == 401
        for came_from, status in (
            (guesser, 429),
            (("2001:db8::2",), 429),  # one client's network
            (("2001:db8:0:1::1",), 200),
            (("203.0.113.9",), 200),
            (("nonsense, 203.0.113.9",), 200),
            ((), 200),
        ):
            assert (await site.get("/echo/async", headers=asked("ann's", *came_from))).status == status
        decided = await security(site, clock, 10)
        assert {event.address for event in decided if isinstance(event, e.LogInRefused)} == {"2001:db8::1"}
    proxies = ProxySettings(address_header="X-Forwarded-For", addresses=["10.0.0.0/8"])
    async with guarded(tmp_path / "not", clock=clock, proxy=proxies) as (site, _):
        for number in range(10):
            headers = asked("wrong", f"203.0.113.{number}")
            assert (await site.get("/echo/async", headers=headers)).status == 401
        assert (await site.get("/echo/async", headers=asked("ann's", "203.0.113.77"))).status == 429


async def test_a_proxy_is_believed_at_its_address_only(tmp_path: Path) -> None:
    said = {"X-Remote-User": "ann", "X-Groups": "staff, operators"}
    for addresses, status in ((["127.0.0.0/8"], 200), (["10.0.0.1"], 401)):
        proxy = ProxySettings(header="X-Remote-User", groups_header="X-Groups", addresses=addresses)
        async with guarded(tmp_path / str(status), proxy=proxy) as (site, _):
            assert (await site.get("/echo/async", headers=said)).status == status
            if status == 200:
                assert (
                    "<strong>ann</strong>, operator"
                    in (await site.get("/login", headers={**PAGE, **said})).text
                )
                for name in ("@operators", "a\u202eb", "x" * 256):
                    answer = await site.get("/echo/async", headers={"X-Remote-User": name})
                    assert answer.text == "AuthenticationError: X-Remote-User has no name of a user\n"


async def test_of_two_headers_that_say_who_somebody_is_none_is_believed(tmp_path: Path) -> None:
    proxy = ProxySettings(header="X-Remote-User", groups_header="X-Groups", addresses=["127.0.0.1"])
    one, other = basic("ann")["Authorization"], basic("bob")["Authorization"]
    async with guarded(tmp_path, proxy=proxy) as (site, _):
        for twice, besides in (
            (("X-Remote-User", "bob", "ann"), {}),
            (("X-Remote-User", "ann", "ann"), {}),
            (("X-Groups", "operators", "staff"), {"X-Remote-User": "ann"}),
            (("Authorization", one, other), {}),
        ):
            name, first, second = twice
            headers = CIMultiDict([(name, first), (name, second), *besides.items()])
            answer = await site.get("/echo/async", headers=headers)
            assert answer.status == 401, twice
            assert answer.text.endswith(" came 2 times, and is believed only once\n")


async def test_a_proxy_that_passes_on_what_it_has_looked_at_is_believed_all_the_same(tmp_path: Path) -> None:
    proxy = ProxySettings(header="X-Remote-User", addresses=["127.0.0.1"])
    async with guarded(tmp_path, proxy=proxy) as (site, _):
        said = {**basic("known to the proxy", "secret"), "X-Remote-User": "eve"}
        job = (await site.post("/echo/async", {"x": "1"}, headers=said)).location
        assert text((await site.get(job, headers=said)).xml, "ownerId") == "eve"
        # Whom it lets through without a word says himself who he is.
        assert (await site.get("/echo/async", headers={**basic("ann"), "X-Remote-User": ""})).status == 200


async def test_nobody_goes_by_the_name_of_the_server(tmp_path: Path) -> None:
    proxy = ProxySettings(header="X-Remote-User", addresses=["127.0.0.1"])
    async with guarded(tmp_path, proxy=proxy) as (site, _):
        _, token = await token_for(site, "uwsd")
        for headers in ({"X-Remote-User": "uwsd"}, bearer(token)):
            answer = await site.get("/echo/async", headers=headers)
            assert (answer.status, answer.text) == (
                401,
                "AuthenticationError: uwsd is the server itself, and nobody else\n",
            )


async def test_a_list_of_others_jobs_is_for_those_whose_role_says_so(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", {"x": "1"}, headers=basic("ann"))).location
        for user, status, listed in (
            ("ops", 200, 1),
            ("aud", 200, 1),
            ("adm", 200, 1),
            ("ann", 200, 1),
            ("bob", 403, 0),
        ):
            for form in ("", "&LIMIT=5", "&RESPONSEFORMAT=json"):
                answer = await site.get(f"/echo/async?OWNERID=ann{form}", headers=basic(user))
                assert answer.status == status, (user, form)
                assert answer.text.count(job_id(job)) >= listed
        assert len((await site.get("/echo/async", headers=basic("ops"))).xml) == 0, "his own are none"


async def test_a_list_of_everybodys_jobs_is_one_list_that_changes_with_each_of_them(tmp_path: Path) -> None:
    async with guarded(tmp_path, anonymous=True) as (site, _):
        jobs = [
            job_id((await site.post("/echo/async", {"x": "1"}, headers=basic(user))).location)
            for user in ("ann", "bob", "adm", "ann")
        ]
        jobs.append(job_id((await site.post("/echo/async", {"x": "1"})).location))
        whole = await site.get("/echo/async?OWNERID=*", headers=basic("ops"))
        assert [entry.get("id") for entry in whole.xml] == jobs[::-1]
        held = {**basic("ops"), "If-None-Match": whole.headers["ETag"]}
        assert (await site.get("/echo/async?OWNERID=*", headers=held)).status == 304
        first = await site.get("/echo/async?OWNERID=*&LIMIT=2&RESPONSEFORMAT=json", headers=basic("ops"))
        found, page = [], msgspec.json.decode(first.body)
        while True:
            found += [job["jobId"] for job in page["jobs"]]
            if not page["next"]:
                break
            page = msgspec.json.decode((await site.get(page["next"], headers=basic("ops"))).body)
        assert found == jobs[::-1]
        for whose, there in (("*", jobs), ("", jobs[4:]), ("ann", [jobs[0], jobs[3]])):
            shown = await site.get(f"/echo/async?OWNERID={whose}", headers={**basic("ops"), **PAGE})
            assert [job for job in jobs if job in shown.text] == there
        await site.post(f"/echo/async/{jobs[1]}", {"ACTION": "DELETE"}, headers=basic("bob"))
        changed = await site.get("/echo/async?OWNERID=*", headers=held)
        assert changed.status == 200
        assert [entry.get("id") for entry in changed.xml] == [jobs[4], jobs[3], jobs[2], jobs[0]]
        assert (await site.get("/echo/async?OWNERID=*", headers=basic("ann"))).status == 403
