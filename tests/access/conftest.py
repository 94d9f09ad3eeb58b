"""An issuer of tokens, and what takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.access.issuer import (
    Issuer,
    trusting,
)
from tests.harness import ManualClock
from uws.access.oidc import OIDC


@pytest.fixture
async def issuer(clock: ManualClock) -> AsyncIterator[Issuer]:
    issuer = Issuer(clock)
    application = web.Application()
    application.router.add_get("/jwks", issuer.publish)
    async with TestServer(application) as server:
        issuer.url = str(server.make_url("/jwks"))
        yield issuer
        issuer.open.set()


@pytest.fixture
async def oidc(issuer: Issuer) -> AsyncIterator[OIDC]:
    async with trusting(issuer) as oidc:
        yield oidc
