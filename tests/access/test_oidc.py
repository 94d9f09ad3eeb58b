"""Tokens of an issuer elsewhere: who its bearers are, and all that is no token of its."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, RSAKey

from tests.access.issuer import (
    AUDIENCE,
    EC,
    ED,
    ISSUER,
    MALLORYS,
    RSA,
    Issuer,
    b64,
    ec,
    refused,
    settings,
    sign,
    trusting,
)
from tests.access.support import basic, bearer, guarded
from tests.harness import ManualClock
from uws.access.oidc import MAX_TOKEN, OIDC
from uws.config import OIDCSettings, load
from uws.model import Identity


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
        assert (await site.get("/echo/async", headers=bearer(issuer.token(sub="uwsd")))).status == 401
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
