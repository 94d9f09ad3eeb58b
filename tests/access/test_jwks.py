"""The keys of an issuer elsewhere: by URL or in a file, rotated, withdrawn, out of reach."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jws
from joserfc.jwk import Key

from tests.access.issuer import (
    EC,
    ED,
    MALLORYS,
    Issuer,
    ec,
    refused,
    trusting,
)
from tests.harness import ManualClock
from uws.access.oidc import OIDC
from uws.model import Unavailable

# Keys by URL


async def test_keys_are_fetched_when_needed_and_when_they_are_old(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    assert issuer.asked == 0
    for _ in range(5):
        await oidc.identify(issuer.token())
    assert issuer.asked == 1
    clock.advance(minutes=9, seconds=59)
    await oidc.identify(issuer.token())
    assert issuer.asked == 1
    clock.advance(seconds=1)
    await oidc.identify(issuer.token())
    assert issuer.asked == 2


async def test_a_new_key_is_known_with_its_first_token(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    await oidc.identify(issuer.token())
    new = ec("new")
    issuer.keys = [new]
    clock.advance(seconds=30)
    assert (await oidc.identify(issuer.token(key=new))).user == "mallory"
    assert "does not publish" in await refused(oidc, issuer.token(key=EC))


async def test_unknown_keys_have_keys_fetched_once_in_30_seconds(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    tokens = [issuer.token(key=ec(f"unknown-{number}")) for number in range(20)]
    for expected in (1, 2, 3):
        for token in tokens:
            assert "a key that its issuer does not publish" in await refused(oidc, token)
        await asyncio.gather(*(refused(oidc, token) for token in tokens))
        assert issuer.asked == expected
        clock.advance(seconds=30)


async def test_a_token_is_not_remembered_longer_than_its_key_is_published(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    token = issuer.token(exp=int(clock.now().timestamp()) + 7200)
    clock.advance(minutes=1)
    await oidc.identify(issuer.token(key=ED, alg="EdDSA"))
    clock.advance(minutes=9, seconds=30)
    await oidc.identify(token)
    issuer.keys = [ED]
    clock.advance(seconds=30)  # less than a token is remembered
    assert await refused(oidc, token) == "this token is signed with a key that its issuer does not publish"


async def test_a_key_that_is_withdrawn_because_of_another_one_takes_its_tokens_with_it(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    token = issuer.token()
    await oidc.identify(token)
    new = ec("new")
    issuer.keys = [new]
    clock.advance(seconds=30)
    await oidc.identify(issuer.token(key=new))
    assert "does not publish" in await refused(oidc, token)


async def test_a_token_is_verified_once_in_a_minute(
    oidc: OIDC, issuer: Issuer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    genuine = jws.validate_compact
    monkeypatch.setattr(
        jws, "validate_compact", lambda signed, *a, **k: verified.append(signed) or genuine(signed, *a, **k)
    )
    token = issuer.token()
    for _ in range(10):
        await oidc.identify(token)
    assert len(verified) == 1
    clock.advance(seconds=60)
    await oidc.identify(token)
    assert len(verified) == 2


async def test_a_token_that_was_refused_is_refused_again(oidc: OIDC, issuer: Issuer) -> None:
    token = issuer.token(key=MALLORYS)
    for _ in range(2):
        assert await refused(oidc, token) == "this token's signature is wrong"


async def test_all_who_wait_for_keys_wait_for_one_fetch(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    issuer.open.clear()
    waiting = [asyncio.create_task(oidc.identify(issuer.token(sub=f"user-{number}"))) for number in range(20)]
    while not issuer.asked:
        await asyncio.sleep(0)
    waiting[0].cancel()  # who began it, and goes away
    await asyncio.wait(waiting[:1])
    clock.advance(seconds=30)  # as long as it may take
    late = asyncio.create_task(oidc.identify(issuer.token()))
    await asyncio.sleep(0)
    issuer.open.set()
    found = await asyncio.gather(*waiting[1:])
    assert [identity.user for identity in found] == [f"user-{number}" for number in range(1, 20)]
    assert (await late).user == "mallory"
    assert issuer.asked == 1


async def test_who_needs_no_new_keys_waits_for_none(oidc: OIDC, issuer: Issuer, clock: ManualClock) -> None:
    await oidc.identify(issuer.token())
    clock.advance(seconds=30)
    issuer.open.clear()
    unknown = asyncio.create_task(refused(oidc, issuer.token(key=ec("unknown"))))
    while issuer.asked < 2:
        await asyncio.sleep(0)
    assert (await oidc.identify(issuer.token(sub="ann"))).user == "ann"
    assert not unknown.done()
    issuer.open.set()
    await unknown


async def test_closing_ends_a_fetch(issuer: Issuer) -> None:
    issuer.open.clear()
    async with asyncio.timeout(20), trusting(issuer, longest_fetch=60) as oidc:
        waiting = asyncio.create_task(oidc.identify(issuer.token()))
        while not issuer.asked:
            await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await waiting


def many() -> web.Response:
    return web.json_response({"keys": [], "padding": "x" * (1 << 18)})


FAILURES: dict[str, Callable[[], web.Response]] = {
    "the answer is 500": lambda: web.Response(status=500, text="no"),
    "the answer is 302": lambda: web.Response(status=302, headers={"Location": "/jwks?again"}),
    "it is no JWK Set": lambda: web.Response(text="<html>"),
    "it is no JWK Set (RFC 7517)": lambda: web.json_response({"keys": {"ec": 1}}),
    "no JWK Set": lambda: web.Response(body=b'{"keys": [{"kty": ' + b"[" * 9000),
    "it is larger than 262144 bytes": many,
}


@pytest.mark.parametrize("reason", FAILURES)
async def test_keys_that_cannot_be_fetched_leave_those_known_before(
    oidc: OIDC, issuer: Issuer, clock: ManualClock, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    await oidc.identify(issuer.token())
    issuer.answer = FAILURES[reason]
    clock.advance(minutes=10)
    for expected in (2, 3):
        for _ in range(3):
            assert (await oidc.identify(issuer.token())).user == "mallory"
        assert issuer.asked == expected
        clock.advance(seconds=30)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2
    assert reason in told[0]
    assert issuer.url in told[0]
    assert told[0].endswith("those known before are kept")


@pytest.mark.parametrize("reason", FAILURES)
async def test_without_any_keys_nobody_can_be_identified_now(
    oidc: OIDC, issuer: Issuer, clock: ManualClock, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    issuer.answer = FAILURES[reason]
    for _ in range(3):
        with pytest.raises(Unavailable, match="the keys for that are not known") as raised:
            await oidc.identify(issuer.token())
        assert raised.value.retry_after == 30
        assert issuer.url not in str(raised.value)
    assert issuer.asked == 1
    assert "nobody can use such tokens" in caplog.text
    issuer.answer = None
    clock.advance(seconds=30)
    assert (await oidc.identify(issuer.token())).user == "mallory"


async def test_a_clock_that_is_set_back_keeps_nobody_from_keys(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    issuer.answer = FAILURES["the answer is 500"]
    with pytest.raises(Unavailable):
        await oidc.identify(issuer.token())
    issuer.answer = None
    clock.advance(days=-1)
    assert (await oidc.identify(issuer.token())).user == "mallory"


async def test_an_issuer_that_publishes_no_keys_has_withdrawn_all(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    await oidc.identify(issuer.token())
    issuer.keys = []
    clock.advance(minutes=10)
    with pytest.raises(Unavailable):
        await oidc.identify(issuer.token())


async def test_an_issuer_that_says_nothing_is_not_waited_for_long(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.open.clear()
    async with trusting(issuer, longest_fetch=0.05) as oidc:
        with pytest.raises(Unavailable):
            await oidc.identify(issuer.token())
    assert "nothing came within 0.05 s" in caplog.text


async def test_an_issuer_that_is_not_there_is_told_in_the_log(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    async with trusting(issuer, f"http://127.0.0.1:{unused_tcp_port}/jwks") as oidc:
        with pytest.raises(Unavailable):
            await oidc.identify(issuer.token())
    assert "Cannot connect to host" in caplog.text


async def test_keys_without_end_are_not_read_on(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" " * (1 << 16))
        return response

    application = web.Application()
    application.router.add_get("/jwks", endless)
    async with TestServer(application) as server, trusting(issuer, str(server.make_url("/jwks"))) as oidc:
        with pytest.raises(Unavailable):
            await oidc.identify(issuer.token())
    assert "it is larger than 262144 bytes" in caplog.text


async def test_keys_are_not_unpacked(oidc: OIDC, issuer: Issuer) -> None:
    def packed() -> web.Response:
        response = web.json_response({**issuer.jwks(), "padding": "x" * 100_000})
        response.enable_compression(web.ContentCoding.gzip)
        response.headers["Content-Encoding"] = "gzip"
        return response

    issuer.answer = packed
    with pytest.raises(Unavailable):
        await oidc.identify(issuer.token())


async def test_keys_that_are_not_understood_do_not_hide_the_others(oidc: OIDC, issuer: Issuer) -> None:
    good = EC.as_dict(private=False)
    others: list[dict[str, Any]] = [
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "new"},
        {"kty": "EC", "crv": "P-999", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": 7, "x": [], "y": None},
        {"kty": "RSA", "n": "*" * 400, "e": "AQAB"},
        {"kty": "RSA", "n": 7},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": ["EC"]},
        {**good, "kid": 7},
        {**good, "use": "x"},
        {**good, "use": ["sig"], "key_ops": ["verify"]},
        {},
    ]
    issuer.answer = lambda: web.json_response({"keys": [*others, good]})
    assert (await oidc.identify(issuer.token())).user == "mallory"


# Keys in a file


def put(path: Path, keys: list[Key]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))
    new.replace(path)


async def test_keys_in_a_file_are_read_again_when_it_changes(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    put(path, [EC])
    token = issuer.token()
    async with trusting(issuer, str(path)) as oidc:
        assert (await oidc.identify(token)).user == "mallory"
        new = ec("new")
        put(path, [new])
        assert "does not publish" in await refused(oidc, token)
        assert (await oidc.identify(issuer.token(key=new))).user == "mallory"


async def test_a_file_that_is_broken_or_gone_leaves_the_keys_known_before(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jwks.json"
    put(path, [EC])
    async with trusting(issuer, str(path)) as oidc:
        await oidc.identify(issuer.token())
        path.write_text("{")
        for _ in range(3):
            await oidc.identify(issuer.token())
        path.unlink()
        for _ in range(3):
            await oidc.identify(issuer.token())
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        kept = "those known before are kept"
        assert told == [
            f"{path}: the keys of tokens cannot be read: it is no JWK Set (RFC 7517); {kept}",
            f"{path}: the keys of tokens cannot be read: No such file or directory; {kept}",
        ]
        put(path, [ED])
        assert "does not publish" in await refused(oidc, issuer.token())


async def test_a_file_that_is_not_there_yet_is_found_when_it_is(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    async with trusting(issuer, str(path)) as oidc:
        with pytest.raises(Unavailable):
            await oidc.identify(issuer.token())
        put(path, [EC])
        assert (await oidc.identify(issuer.token())).user == "mallory"


async def test_a_file_that_is_too_large_is_not_read_to_its_end(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    put(path, [EC])
    os.truncate(path, 1 << 40)
    async with trusting(issuer, str(path)) as oidc:
        with pytest.raises(Unavailable):
            await oidc.identify(issuer.token())
