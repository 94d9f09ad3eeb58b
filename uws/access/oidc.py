"""JSON Web Tokens of somebody else's, such as an OpenID provider: whom they say their bearers are.

A token is believed when a key that its issuer publishes has signed it, for this server and for now
(RFC 7519 section 7.2, RFC 8725). Nothing in it says where that key is, or that none is needed.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import EdDSAAlgorithm, JWSAlgModel
from joserfc.jwk import Key

from uws.clock import Clock
from uws.config import OIDCSettings
from uws.model import Identity, NotAuthenticated
from uws.model.text import LONGEST_NAME, is_name

from .jwks import KeysAtURL, KeysInFile

MAX_TOKEN = 16_384
"""Characters of a token."""
_LATEST = 253_402_300_799
"""The end of the year 9999, as a NumericDate."""
_TYPES = ("jwt", "at+jwt")
"""Media types of tokens that let somebody in (RFC 7519 section 5.1, RFC 9068 section 2.1)."""
_REMEMBERED = 1000
_REMEMBERED_FOR = 60.0
"""Seconds in which a token is not verified again."""


class _EdDSA(EdDSAAlgorithm):
    security_warning = ""  # the name is ambiguous (RFC 9864), but it is the one that issuers use


_ALGORITHMS: dict[str, JWSAlgModel] = {
    **{name: jws.JWSRegistry.algorithms[name] for name in ("RS256", "PS256", "ES256", "Ed25519")},
    "EdDSA": _EdDSA(),
}
"""Signatures that take a private key: not ``none``, nor HMAC, for which a public key would be the secret."""


class _Registry(jws.JWSRegistry):
    algorithms = _ALGORITHMS
    max_header_length = max_payload_length = MAX_TOKEN


_registry = _Registry(algorithms=tuple(_ALGORITHMS), strict_check_header=False)


@dataclass(frozen=True)
class _Verified:
    """What was found out about a token: good until then, and with these keys only."""

    identity: Identity
    until: float
    keys: tuple[Key, ...]


class OIDC:
    """Verifies the tokens of one issuer."""

    def __init__(self, settings: OIDCSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._keys = (
            KeysAtURL(url, clock, settings.longest_fetch)
            if (url := settings.jwks_url)
            else KeysInFile(Path(settings.jwks))
        )
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def identify(self, token: str) -> Identity:
        """Return who the bearer of ``token`` is, and in which groups.

        Raises `NotAuthenticated`, whose text has nothing of the token, and `Unavailable` when it cannot be
        verified for want of keys.
        """
        if len(token) > MAX_TOKEN:
            raise NotAuthenticated(f"this token is longer than {MAX_TOKEN} characters")
        if not token.isascii():
            raise NotAuthenticated("this is no signed token (RFC 7519)")
        keys = await self._keys.get()
        digest = sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known and known.keys is keys and self._clock.now().timestamp() < known.until:
            return known.identity
        signed = _parse(token)
        verified = await self._verify(signed, keys)
        self._verified[digest] = verified
        while len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return verified.identity

    async def close(self) -> None:
        """Let go of what is open."""
        await self._keys.close()

    async def _verify(self, signed: jws.CompactSignature, keys: tuple[Key, ...]) -> _Verified:
        header = signed.headers()
        kid = header.get("kid")
        if kid is not None and all(key.kid != kid for key in keys):
            keys = await self._keys.get(anew=True)
        named = [key for key in keys if kid is None or key.kid == kid]
        if not named:
            raise NotAuthenticated("this token is signed with a key that its issuer does not publish")
        fitting = [key for key in named if _fits(key, header["alg"])]
        if not fitting:
            raise NotAuthenticated("this token is signed in a way that its issuer's key is not for")
        if len(fitting) > 1:
            raise NotAuthenticated("this token does not say with which of its issuer's keys it is signed")
        if not _is_signed_with(fitting[0], signed):
            raise NotAuthenticated("this token's signature is wrong")
        claims = _claims_in(signed.payload)
        expires = self._check(claims)
        until = min(expires, self._clock.now().timestamp() + _REMEMBERED_FOR)
        return _Verified(self._identity(claims), until, keys)

    def _check(self, claims: dict[str, Any]) -> float:
        """Check that a token is for this server and for now, and return until when it is."""
        settings, now = self._settings, self._clock.now().timestamp()
        if claims.get("iss") != settings.issuer:
            raise NotAuthenticated(f"this token is not from {settings.issuer}")
        audience = claims.get("aud")
        if settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise NotAuthenticated(f"this token is not meant for {settings.audience}")
        expires = _time(claims, "exp")
        if expires is None:
            raise NotAuthenticated("this token does not say until when it is good (exp)")
        if now >= expires + settings.leeway:
            raise NotAuthenticated("this token has expired")
        for name in ("nbf", "iat"):
            if (time := _time(claims, name)) is not None and now < time - settings.leeway:
                raise NotAuthenticated(f"this token is not good yet ({name})")
        return expires + settings.leeway

    def _identity(self, claims: dict[str, Any]) -> Identity:
        user = claims.get(self._settings.user_claim)
        if not is_name(user):
            raise NotAuthenticated(
                f"this token does not say whose it is: {self._settings.user_claim} is to be a name of 1 to "
                f"{LONGEST_NAME} printable characters in Unicode's normal form (NFC), no '@' first"
            )
        groups = claims.get(self._settings.groups_claim, [])
        if not isinstance(groups, list) or not all(map(is_name, groups)):
            raise NotAuthenticated(f"this token's {self._settings.groups_claim} is no list of names")
        return Identity(user, frozenset(groups))


def _parse(token: str) -> jws.CompactSignature:
    """Take a token apart, and check what it says of its signature."""
    try:
        signed = jws.extract_compact(token.encode(), registry=_registry)
    except (JoseError, RecursionError, TypeError, ValueError):
        raise NotAuthenticated("this is no signed token (RFC 7519)") from None
    header = signed.headers()
    if not isinstance(header, dict):
        raise NotAuthenticated("this is no signed token (RFC 7519)")
    if "crit" in header:  # none of its extensions has a meaning here (RFC 7515 section 4.1.11)
        raise NotAuthenticated("this token relies on an extension that is not known here (crit)")
    try:
        _registry.check_header(header)
    except JoseError:
        raise NotAuthenticated("this token's header is malformed (RFC 7515)") from None
    if header["alg"] not in _ALGORITHMS:
        raise NotAuthenticated(f"this token is not signed as is right: {', '.join(_ALGORITHMS)} are taken")
    if header.get("typ", "JWT").lower().removeprefix("application/") not in _TYPES:
        raise NotAuthenticated("this token is of a type (typ) that lets nobody in")
    return signed


def _fits(key: Key, algorithm: str) -> bool:
    """Whether a key is for verifying signatures of this kind."""
    try:
        _registry.get_alg(algorithm).check_key(key)
        key.check_key_op("verify")
    except JoseError:
        return False
    return True


def _is_signed_with(key: Key, signed: jws.CompactSignature) -> bool:
    try:
        return jws.validate_compact(signed, key, registry=_registry)
    except (JoseError, ValueError):
        return False


def _claims_in(payload: bytes) -> dict[str, Any]:
    try:
        claims = json.loads(payload.decode(), object_pairs_hook=_unique)
    except (RecursionError, ValueError):
        claims = None
    if not isinstance(claims, dict):
        raise NotAuthenticated("this token's claims are malformed (RFC 7519)")
    return claims


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, in which nothing stands twice: others may read the other one (RFC 7519 section 4)."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made


def _time(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), None where there is none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise NotAuthenticated(f"this token's {name} is no time (RFC 7519 section 2)")
    return value
