"""Tokens of an issuer elsewhere: who its bearers are, and all that is no token of its."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from tests.access.support import basic, bearer, guarded
from tests.harness import ManualClock
from uws.access.oidc import MAX_TOKEN, OIDC
from uws.config import OIDCSettings, load
from uws.model import Identity, NotAuthenticated, Unavailable

ISSUER, AUDIENCE = "https://login.example.org/realms/vo", "https://jobs.example.org/"


def ec(kid: str | None, curve: Any = "P-256", **parameters: Any) -> ECKey:
    return ECKey.generate_key(curve, {**({"kid": kid} if kid else {}), **parameters})


RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ec("ec")
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
MALLORYS = ec("ec")


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(payload: bytes, header: Any, signature: Callable[[bytes], bytes]) -> str:
    """Return a token with whatever header and payload, as nobody would make it who means well."""
    start = f"{b64(header if isinstance(header, bytes) else json.dumps(header).encode())}.{b64(payload)}"
    return f"{start}.{b64(signature(start.encode()))}"


class Issuer:
    """Signs tokens, and publishes its keys at ``url``; ``asked`` is how often they were fetched."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.keys: list[Key] = [RSA, EC, ED]
        self.asked = 0
        self.url = ""
        self.answer: Callable[[], web.Response] | None = None
        self.open = asyncio.Event()
        self.open.set()

    def token(self, alg: str = "ES256", key: Key = EC, payload: bytes | None = None, **claims: Any) -> str:
        """Return a token with these claims besides the usual ones; those that are None are left out."""
        return self.headed({"alg": alg, "kid": key.kid, "typ": "JWT"}, key, payload, **claims)

    def headed(self, header: Any, key: Key = EC, payload: bytes | None = None, **claims: Any) -> str:
        alg = header.get("alg") if isinstance(header, dict) else "ES256"
        algorithm = jws.JWSRegistry.algorithms[alg]
        payload = self.claims(**claims) if payload is None else payload
        return sign(payload, header, lambda text: algorithm.sign(text, key))

    def claims(self, **claims: Any) -> bytes:
        now = int(self.clock.now().timestamp())
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "mallory",
            "groups": ["astronomers"],
            "iat": now,
            "exp": now + 300,
        }
        return json.dumps({k: v for k, v in {**usual, **claims}.items() if v is not None}).encode()

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(private=isinstance(key, OctKey)) for key in self.keys]}

    async def publish(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.open.wait()
        return self.answer() if self.answer else web.json_response(self.jwks())


@pytest.fixture
async def issuer(clock: ManualClock) -> AsyncIterator[Issuer]:
    issuer = Issuer(clock)
    application = web.Application()
    application.router.add_get("/jwks", issuer.publish)
    async with TestServer(application) as server:
        issuer.url = str(server.make_url("/jwks"))
        yield issuer
        issuer.open.set()


def settings(jwks: str, **more: Any) -> OIDCSettings:
    return OIDCSettings(issuer=ISSUER, audience=AUDIENCE, jwks=jwks, **more)


@asynccontextmanager
async def trusting(issuer: Issuer, jwks: str = "", **more: Any) -> AsyncIterator[OIDC]:
    oidc = OIDC(settings(jwks or issuer.url, **more), issuer.clock)
    try:
        yield oidc
    finally:
        await oidc.close()


@pytest.fixture
async def oidc(issuer: Issuer) -> AsyncIterator[OIDC]:
    async with trusting(issuer) as oidc:
        yield oidc


async def refused(oidc: OIDC, token: str) -> str:
    """Return why a token is refused, in a text that has nothing of it."""
    with pytest.raises(NotAuthenticated) as raised:
        await oidc.identify(token)
    text = str(raised.value)
    parts = [part for part in token.split(".") if len(part) > 3]
    assert not any(part in text for part in parts)
    assert "mallory" not in text
    return text


@pytest.mark.parametrize(
    ("alg", "key"), [("RS256", RSA), ("PS256", RSA), ("ES256", EC), ("EdDSA", ED), ("Ed25519", ED)]
)
async def test_a_token_says_who_its_bearer_is_and_in_which_groups(
    oidc: OIDC, issuer: Issuer, alg: str, key: Key
) -> None:
    token = issuer.token(alg, key, sub="ann", groups=["staff", "/vo/Pulsare ✨"])
    assert await oidc.identify(token) == Identity("ann", frozenset({"staff", "/vo/Pulsare ✨"}))


async def test_the_claims_with_user_and_groups_are_the_operators_choice(issuer: Issuer) -> None:
    async with trusting(issuer, user_claim="preferred_username", groups_claim="roles") as oidc:
        token = issuer.token(preferred_username="ann", roles=["staff"])
        assert await oidc.identify(token) == Identity("ann", frozenset({"staff"}))


async def test_who_is_in_no_group_needs_no_claim_for_that(oidc: OIDC, issuer: Issuer) -> None:
    assert await oidc.identify(issuer.token(groups=None)) == Identity("mallory")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
async def test_id_tokens_and_access_tokens_are_taken(oidc: OIDC, issuer: Issuer, typ: str | None) -> None:
    header = {"alg": "ES256", "kid": "ec", **({"typ": typ} if typ else {})}
    assert (await oidc.identify(issuer.headed(header))).user == "mallory"


async def test_a_token_may_be_for_others_too(oidc: OIDC, issuer: Issuer) -> None:
    assert (await oidc.identify(issuer.token(aud=["https://elsewhere.org/", AUDIENCE]))).user == "mallory"


async def test_headers_of_no_meaning_here_are_passed_over(oidc: OIDC, issuer: Issuer) -> None:
    header = {"alg": "ES256", "kid": "ec", "nonce": "x", "x5t": "AAAA", "x5c": ["A" * 2000]}
    assert (await oidc.identify(issuer.headed(header))).user == "mallory"


# Signatures


async def test_a_token_without_signature_is_refused(oidc: OIDC, issuer: Issuer) -> None:
    for alg in ("none", "None", "NONE"):
        for header in ({"alg": alg}, {"alg": alg, "kid": "ec"}):
            token = sign(issuer.claims(), header, lambda text: b"")
            assert "is not signed as is right" in await refused(oidc, token)
    token = sign(issuer.claims(), {"alg": "ES256", "kid": "ec"}, lambda text: b"")
    assert await refused(oidc, token) == "this token's signature is wrong"


async def test_a_public_key_is_no_secret_that_signs(oidc: OIDC, issuer: Issuer) -> None:
    secrets = [RSA.as_pem(), RSA.as_pem().strip(), RSA.as_der(), json.dumps(RSA.as_dict()).encode()]
    for secret in secrets:
        token = sign(
            issuer.claims(),
            {"alg": "HS256", "kid": "rsa"},
            lambda text, s=secret: hmac.digest(s, text, "sha256"),
        )
        assert "is not signed as is right" in await refused(oidc, token)


async def test_a_shared_key_that_is_published_signs_nothing(oidc: OIDC, issuer: Issuer) -> None:
    shared = OctKey.generate_key(256, {"kid": "oct"})
    issuer.keys.append(shared)
    assert "is not signed as is right" in await refused(oidc, issuer.token("HS256", shared))


async def test_a_token_that_somebody_else_signed_is_refused(oidc: OIDC, issuer: Issuer) -> None:
    assert await refused(oidc, issuer.token(key=MALLORYS)) == "this token's signature is wrong"


async def test_a_key_that_comes_with_the_token_means_nothing(oidc: OIDC, issuer: Issuer) -> None:
    theirs = MALLORYS.as_dict(private=False)
    asked = Issuer(issuer.clock)
    application = web.Application()
    application.router.add_get("/jwks", asked.publish)
    async with TestServer(application) as server:
        url = str(server.make_url("/jwks"))
        for more in ({"jwk": theirs}, {"jku": url}, {"x5u": url}, {"jwk": theirs, "jku": url}):
            token = issuer.headed({"alg": "ES256", "kid": "ec", **more}, MALLORYS)
            assert await refused(oidc, token) == "this token's signature is wrong"
            assert (await oidc.identify(issuer.headed({"alg": "ES256", "kid": "ec", **more}))).user
    assert asked.asked == 0


async def test_a_changed_claim_breaks_the_signature(oidc: OIDC, issuer: Issuer) -> None:
    header, _, signature = issuer.token().split(".")
    token = f"{header}.{b64(issuer.claims(sub='root'))}.{signature}"
    assert await refused(oidc, token) == "this token's signature is wrong"


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_a_signature_of_zeros_is_none(oidc: OIDC, issuer: Issuer, alg: str) -> None:
    kid, size = {"RS256": ("rsa", 256), "ES256": ("ec", 64), "EdDSA": ("ed", 64)}[alg]
    token = sign(issuer.claims(), {"alg": alg, "kid": kid}, lambda text: bytes(size))
    assert await refused(oidc, token) == "this token's signature is wrong"


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec("x", use="enc"), id="for encryption"),
        pytest.param(ec("x", key_ops=["deriveKey"]), id="for operations of another kind"),
        pytest.param(ec("x", alg="ECDH-ES"), id="for another algorithm"),
        pytest.param(ec("x", "P-384"), id="on another curve"),
        pytest.param(RSAKey.import_key(RSA.as_dict(kid="x")), id="of another type"),
    ],
)
async def test_a_key_signs_only_as_it_is_meant_to(oidc: OIDC, issuer: Issuer, key: Key) -> None:
    issuer.keys = [key, ED]
    raw = ECKey.import_key(key.private_key) if isinstance(key, ECKey) else EC

    def signature(text: bytes) -> bytes:
        return jws.JWSRegistry.algorithms["ES256"].sign(text, raw)

    token = sign(issuer.claims(), {"alg": "ES256", "kid": "x"}, signature)
    assert await refused(oidc, token) == "this token is signed in a way that its issuer's key is not for"


async def test_a_weak_rsa_key_is_not_taken(oidc: OIDC, issuer: Issuer) -> None:
    with pytest.warns(UserWarning, match="2048"):
        weak = RSAKey.generate_key(1024, {"kid": "weak"})
    issuer.keys.append(weak)
    assert "a key that its issuer does not publish" in await refused(oidc, issuer.token("RS256", weak))


async def test_a_token_without_key_id_is_verified_where_only_one_key_fits(
    oidc: OIDC, issuer: Issuer, clock: ManualClock
) -> None:
    token = issuer.headed({"alg": "ES256"})
    assert (await oidc.identify(token)).user == "mallory"
    issuer.keys.append(ec("other"))
    clock.advance(minutes=10)
    assert "does not say with which" in await refused(oidc, issuer.headed({"alg": "ES256"}))


# Claims


@pytest.mark.parametrize(
    "aud", ["https://elsewhere.org/", ["a", "b"], [], None, 7, {AUDIENCE: 1}, [[AUDIENCE]]]
)
async def test_a_token_for_others_is_refused(oidc: OIDC, issuer: Issuer, aud: Any) -> None:
    assert await refused(oidc, issuer.token(aud=aud)) == f"this token is not meant for {AUDIENCE}"


async def test_an_audience_that_only_has_ours_in_it_is_another(oidc: OIDC, issuer: Issuer) -> None:
    assert "not meant for" in await refused(oidc, issuer.token(aud=f"{AUDIENCE}other"))


@pytest.mark.parametrize("iss", ["https://evil.org", f"{ISSUER}/", ISSUER.upper(), [ISSUER], None])
async def test_a_token_from_elsewhere_is_refused(oidc: OIDC, issuer: Issuer, iss: Any) -> None:
    assert await refused(oidc, issuer.token(iss=iss)) == f"this token is not from {ISSUER}"


async def test_a_token_ends_when_it_says(oidc: OIDC, issuer: Issuer, clock: ManualClock) -> None:
    token = issuer.token(exp=int(clock.now().timestamp()) + 20)
    clock.advance(seconds=49)  # of which 30 are the leeway
    assert await oidc.identify(token)
    clock.advance(seconds=1)  # though it was verified a second ago
    assert await refused(oidc, token) == "this token has expired"


async def test_a_token_is_not_good_before_it_says(oidc: OIDC, issuer: Issuer, clock: ManualClock) -> None:
    now = int(clock.now().timestamp())
    late = {"nbf": issuer.token(nbf=now + 90), "iat": issuer.token(iat=now + 90)}
    for claim, token in late.items():
        assert await refused(oidc, token) == f"this token is not good yet ({claim})"
    clock.advance(seconds=60)
    for token in late.values():
        assert (await oidc.identify(token)).user == "mallory"


async def test_a_token_without_end_is_refused(oidc: OIDC, issuer: Issuer) -> None:
    assert "until when" in await refused(oidc, issuer.token(exp=None))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", ['"4102444800"', "true", "null", "-1", "1e999", "Infinity", "NaN", "1" + "0" * 400, "[1]", "{}"]
)
async def test_a_time_is_a_number_of_this_age(oidc: OIDC, issuer: Issuer, claim: str, value: str) -> None:
    claims = json.loads(issuer.claims())
    payload = json.dumps({**claims, claim: "HERE"}).replace('"HERE"', value).encode()
    assert f"{claim} is no time" in await refused(oidc, issuer.token(payload=payload))


@pytest.mark.parametrize(
    "sub",
    [
        "",
        " ",
        "ann ",
        7,
        True,
        None,
        ["ann"],
        {"a": 1},
        "a\nb",
        "a\0",
        "\x1b[2J",
        "a\u202eb",
        "\ud800",
        "@staff",
        "a" * 256,
    ],
)
async def test_a_user_has_a_name_that_can_be_shown(oidc: OIDC, issuer: Issuer, sub: Any) -> None:
    assert "does not say whose it is: sub is to be a name" in await refused(oidc, issuer.token(sub=sub))


@pytest.mark.parametrize("groups", ["staff", {"staff": 1}, 7, ["staff", 7], ["staff", ""], ["a\nb"], [["a"]]])
async def test_groups_are_a_list_of_names(oidc: OIDC, issuer: Issuer, groups: Any) -> None:
    assert await refused(oidc, issuer.token(groups=groups)) == "this token's groups is no list of names"


async def test_groups_that_are_null_are_no_list(oidc: OIDC, issuer: Issuer) -> None:
    payload = issuer.claims(groups="HERE").replace(b'"HERE"', b"null")
    assert "no list of names" in await refused(oidc, issuer.token(payload=payload))


@pytest.mark.parametrize("claim", [f'"aud": "{AUDIENCE}"', '"sub": "root"', '"x": {"a": 1, "a": 2}'])
async def test_a_claim_that_stands_twice_is_refused(oidc: OIDC, issuer: Issuer, claim: str) -> None:
    payload = b"{" + claim.encode() + b", " + issuer.claims()[1:]
    assert "claims are malformed" in await refused(oidc, issuer.token(payload=payload))


# Form


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'"x"', b"7", b"{", b"\xff", b"[" * 9000, '{"a": 1}'.encode("utf-16")]
)
async def test_claims_are_an_object(oidc: OIDC, issuer: Issuer, payload: bytes) -> None:
    assert "claims are malformed" in await refused(oidc, issuer.token(payload=payload))


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"{", b"[]", b'["alg"]', b'"alg"', b'"alg b64"', b"7", b"null", b"{}", b"\xff", b"[" * 9000),
        *(b'{"alg": "ES256", "b64": false}', b'{"alg": "ES256", "kid": "ec", "b64": false}'),
    ],
)
async def test_a_header_that_is_none_is_refused(oidc: OIDC, issuer: Issuer, header: bytes) -> None:
    assert "this is no signed token" in await refused(oidc, issuer.headed(header))


@pytest.mark.parametrize("more", [{"kid": 7}, {"kid": ["ec"]}, {"typ": 7}, {"jku": "file:///etc/passwd"}])
async def test_headers_have_their_types(oidc: OIDC, issuer: Issuer, more: dict[str, Any]) -> None:
    token = issuer.headed({"alg": "ES256", "kid": "ec", **more})
    assert "header is malformed" in await refused(oidc, token)


@pytest.mark.parametrize("alg", [None, 7, ["ES256"], {"a": 1}])
async def test_an_algorithm_is_named_by_text(oidc: OIDC, issuer: Issuer, alg: Any) -> None:
    token = sign(issuer.claims(), {"alg": alg, "kid": "ec"}, lambda text: b"x")
    assert "header is malformed" in await refused(oidc, token)


@pytest.mark.parametrize(
    ("crit", "more"),
    [
        (["exp"], {"exp": 1}),
        (["b64"], {"b64": True}),
        (["b64"], {"b64": False}),
        (["kid"], {}),
        (["unknown"], {}),
        ([], {}),
        (None, {}),
        ([["x"]], {}),
        ("kid", {}),
    ],
)
async def test_a_token_that_relies_on_an_extension_is_refused(
    oidc: OIDC, issuer: Issuer, crit: Any, more: dict[str, Any]
) -> None:
    token = issuer.headed({"alg": "ES256", "kid": "ec", "crit": crit, **more})
    assert "extension that is not known here" in await refused(oidc, token)


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "application/jose", ""])
async def test_a_token_of_another_type_lets_nobody_in(oidc: OIDC, issuer: Issuer, typ: str) -> None:
    token = issuer.headed({"alg": "ES256", "kid": "ec", "typ": typ})
    assert "lets nobody in" in await refused(oidc, token)


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "..", "a.b.c.d.e", "é.é.é", "\udcff.a.a", "a\n.b.c", "{}", "null"]
)
async def test_what_is_no_token_is_refused(oidc: OIDC, token: str) -> None:
    assert await refused(oidc, token) == "this is no signed token (RFC 7519)"


async def test_a_token_of_absurd_size_is_refused_before_anything_is_done(oidc: OIDC, issuer: Issuer) -> None:
    assert "is longer than" in await refused(oidc, issuer.token(padding="x" * MAX_TOKEN))
    assert issuer.asked == 0


async def test_other_spellings_of_a_signature_are_refused(oidc: OIDC, issuer: Issuer) -> None:
    token = issuer.token()
    for other in (f"{token}=", f"{token}==", f"{token}A", f"{token} ", f"{token}\n", f" {token}"):
        assert await refused(oidc, other)


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


# Settings


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"issuer": ""}, "issuer: expected text, got ''"),
        ({"audience": "a\nb"}, "audience: expected text, got 'a\\nb'"),
        ({"user_claim": ""}, "user_claim: expected text, got ''"),
        ({"jwks": ""}, "jwks: expected text, got ''"),
        ({"jwks": "http://login.example.org/jwks"}, "jwks: 'http://login.example.org/jwks' is not https"),
        ({"jwks": "http://127.0.0.1.example.org/"}, "jwks: 'http://127.0.0.1.example.org/' is not https"),
        ({"jwks": "file:///etc/jwks"}, "jwks: expected an https URL or the path of a file, got 'file:///"),
        ({"jwks": "https:///jwks"}, "jwks: "),
        ({"jwks": "https://h:99999999/"}, "jwks: "),
        ({"jwks": "https://me:secret@example.org/"}, "jwks: there is a user or a password in the URL"),
        ({"leeway": -1}, "leeway: -1.0 s is not between 0 and 300"),
        ({"leeway": 301}, "leeway: 301.0 s is not between 0 and 300"),
        ({"longest_fetch": 0}, "longest_fetch: 0.0 s is not above 0 and up to 60"),
        ({"jwsk": ""}, "Object contains unknown field `jwsk`"),
        ({"issuer": None}, "Expected `str`, got `null`"),
    ],
)
def test_mistakes_in_the_settings_are_named(changed: dict[str, Any], problem: str) -> None:
    right = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": "https://login.example.org/jwks"}
    msgspec.convert(right, OIDCSettings)
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert({**right, **changed}, OIDCSettings)
    assert str(raised.value).startswith(problem)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_keys_may_be_fetched_from_this_machine_without_tls(host: str) -> None:
    assert settings(f"http://{host}/jwks").jwks_url == f"http://{host}/jwks"


def test_keys_may_be_in_a_file() -> None:
    assert settings("keys/jwks.json").jwks_url is None


# Through the server


async def test_on_the_server_it_says_who_sends_a_request_with_the_roles_of_his_groups(
    tmp_path: Path, issuer: Issuer, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock, oidc=settings(issuer.url)) as (site, _):
        job = (await site.post("/echo/async", {"x": "1"}, headers=basic("ann"))).location
        mallory, operator = issuer.token(), issuer.token(groups=["operators"])
        assert (await site.get("/echo/async", headers=bearer(mallory))).status == 200
        assert (await site.get(job, headers=bearer(mallory))).status == 403
        assert (await site.get(job, headers=bearer(operator))).status == 200
        clock.advance(hours=1)
        assert (await site.get("/echo/async", headers=bearer(mallory))).status == 401
        answer = await site.get("/echo/async", headers=bearer(issuer.token(sub="ann")))
        assert (answer.status, answer.text) == (
            401,
            "AuthenticationError: ann is a user of this server, who logs in here\n",
        )
        assert 'Bearer realm="uwsd"' in answer.headers.getall("WWW-Authenticate")


async def test_the_file_with_keys_lies_beside_the_declaration(tmp_path: Path, issuer: Issuer) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(issuer.jwks()))
    file = tmp_path / "uwsd.toml"
    file.write_text(
        f'[auth.oidc]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks = "keys.json"\n'
        '[services.x]\ntitle = "X"\ncommand = ["true"]\n'
    )
    declared = load(file).auth.oidc
    assert declared is not None
    oidc = OIDC(declared, issuer.clock)
    assert (await oidc.identify(issuer.token())).user == "mallory"
    await oidc.close()
