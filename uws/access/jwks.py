"""The keys with which somebody signs, as a JWK Set (RFC 7517): in a file, or where he publishes them."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from uws.clock import Clock
from uws.model import Unavailable

REFRESH = timedelta(minutes=10)
"""After which published keys are fetched again."""
PAUSE = timedelta(seconds=30)
"""Between two fetches at least, whoever asks for keys that there are not, and whether they succeed."""
MAX_SIZE = 1 << 18
"""Bytes of a JWK Set."""
_KINDS: dict[Any, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_SHORTEST_MODULUS = 342
"""Characters of base64 that 2048 bits have (RFC 7518 section 3.3)."""
_HEADERS = {"User-Agent": "uwsd", "Accept": "application/jwk-set+json, application/json"}
_log = logging.getLogger(__name__)


class Keys(ABC):
    """Public keys that are looked for ``where``; those known last stay when nothing can be had from there."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._keys: tuple[Key, ...] = ()

    @abstractmethod
    async def get(self, *, anew: bool = False) -> tuple[Key, ...]:
        """Return the keys: the same tuple, as long as they were not read again.

        ``anew`` is for whoever misses one among them. Raises `Unavailable` when none are known.
        """

    async def close(self) -> None:
        """Stop looking."""
        return

    def _take(self, raw: bytes) -> None:
        self._keys, others = _read(raw)
        if others or not self._keys:
            _log.info("%s: %d keys, and %d of no use here", self._where, len(self._keys), others)

    def _fail(self, reason: str) -> None:
        kept = "those known before are kept" if self._keys else "nobody can use such tokens"
        _log.warning("%s: the keys of tokens cannot be read: %s; %s", self._where, reason, kept)

    def _known(self) -> tuple[Key, ...]:
        if not self._keys:
            reason = "no tokens of this kind can be verified now: the keys for that are not known"
            raise Unavailable(reason, int(PAUSE.total_seconds()))
        return self._keys


class KeysInFile(Keys):
    """Keys in a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._seen: tuple[int, ...] | None = ()

    async def get(self, *, anew: bool = False) -> tuple[Key, ...]:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                with self._path.open("rb") as file:
                    self._take(file.read(MAX_SIZE + 1))
            except OSError as error:
                self._fail(str(error.strerror))
            except _Unusable as error:
                self._fail(str(error))
        return self._known()

    def _look(self) -> tuple[int, ...] | None:
        with suppress(OSError):
            status = self._path.stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        return None


class KeysAtURL(Keys):
    """Keys that are fetched when they are first needed, when they are old, and when one is missed.

    All who need them wait for one fetch, which takes ``longest`` seconds at most and goes on when one of
    them leaves.
    """

    def __init__(self, url: str, clock: Clock, longest: float) -> None:
        super().__init__(url)
        self._url, self._clock, self._longest = url, clock, longest
        self._tried: datetime | None = None
        self._fetched: datetime | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, *, anew: bool = False) -> tuple[Key, ...]:
        if anew or not self._is_recent(self._fetched, REFRESH):
            if self._fetching is None and not self._is_recent(self._tried, PAUSE):
                self._tried = self._clock.now()
                self._fetching = asyncio.create_task(self._fetch(), name="keys of tokens")
            if self._fetching is not None:
                await asyncio.wait([self._fetching])
        return self._known()

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _is_recent(self, time: datetime | None, span: timedelta) -> bool:
        # A clock that was set back makes nothing recent for longer.
        return time is not None and timedelta() <= self._clock.now() - time < span

    async def _fetch(self) -> None:
        try:
            self._take(await self._download())
            self._fetched = self._tried
        except TimeoutError:
            self._fail(f"nothing came within {self._longest:g} s")
        except (_Unusable, aiohttp.ClientConnectorError) as error:
            self._fail(str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._fail(type(error).__name__)  # whose text may be what the other side has sent
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._longest),
                headers={**_HEADERS, "Accept-Encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.get(self._url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise _Unusable(f"the answer is {response.status}")
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_SIZE:
                    break
            return body


class _Unusable(Exception):
    """Why what was found is no JWK Set."""


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def _read(raw: bytes) -> tuple[tuple[Key, ...], int]:
    """Return the keys that can be used, and how many there are besides (RFC 7517 section 5)."""
    if len(raw) > MAX_SIZE:
        raise _Unusable(f"it is larger than {MAX_SIZE} bytes")
    try:
        entries = msgspec.json.decode(raw, type=_Document).keys
    except (msgspec.MsgspecError, RecursionError):
        raise _Unusable("it is no JWK Set (RFC 7517)") from None
    keys = tuple(key for key in map(_import, entries) if key is not None)
    return keys, len(entries) - len(keys)


def _import(entry: dict[str, Any]) -> Key | None:
    """Return a public key; None for a shared one, and for what is unknown, malformed or weak."""
    kind = _KINDS.get(kty) if isinstance(kty := entry.get("kty"), str) else None
    if kind is None or (kind is RSAKey and len(str(entry.get("n"))) < _SHORTEST_MODULUS):
        return None
    try:
        return kind.import_key(entry)
    except (JoseError, UnsupportedAlgorithm, LookupError, TypeError, ValueError):
        return None
