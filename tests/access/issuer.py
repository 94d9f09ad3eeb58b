"""An issuer of tokens on this machine, with its keys, and what takes them."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from tests.harness import ManualClock
from uws.access.oidc import OIDC
from uws.config import OIDCSettings
from uws.model import NotAuthenticated

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


def settings(jwks: str, **more: Any) -> OIDCSettings:
    return OIDCSettings(issuer=ISSUER, audience=AUDIENCE, jwks=jwks, **more)


@asynccontextmanager
async def trusting(issuer: Issuer, jwks: str = "", **more: Any) -> AsyncIterator[OIDC]:
    oidc = OIDC(settings(jwks or issuer.url, **more), issuer.clock)
    try:
        yield oidc
    finally:
        await oidc.close()


async def refused(oidc: OIDC, token: str) -> str:
    """Return why a token is refused, in a text that has nothing of it."""
    with pytest.raises(NotAuthenticated) as raised:
        await oidc.identify(token)
    text = str(raised.value)
    parts = [part for part in token.split(".") if len(part) > 3]
    assert not any(part in text for part in parts)
    assert "mallory" not in text
    return text
