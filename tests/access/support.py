"""Servers whose users log in."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

from tests.harness import ManualClock, Site, running
from tests.web.support import ECHO
from uws.access.users import Users
from uws.config import AuthSettings, RoleSettings
from uws.model import QuotaSettings, QuotaTable, Service
from uws.web import Authentication

_HASTY = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORDS = {name: _HASTY.hash(f"{name}'s") for name in ("ann", "bob", "ops", "aud", "adm")}
"""Users, and what the file has of their passwords: hashes that take no time, as the server's own do."""
ROLES = RoleSettings(operator=["@operators"], auditor=["aud"], admin=["adm"])


def basic(user: str, password: str | None = None) -> dict[str, str]:
    """Return the header of HTTP Basic."""
    secret = f"{user}'s" if password is None else password
    credentials = f"{user}:{secret}"
    return {"Authorization": "Basic " + b64encode(credentials.encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def guarded(
    data: Path,
    *services: Service,
    clock: ManualClock | None = None,
    anonymous: bool = False,
    **settings: Any,
) -> AsyncIterator[tuple[Site, Authentication]]:
    """Serve with a users file and tokens; ``settings`` are others of `AuthSettings`."""
    auth = AuthSettings(**{"users": "users.json", "tokens": True, "roles": ROLES, **settings})
    authentication = Authentication(auth, data, anonymous=anonymous)
    data.mkdir(mode=0o700, exist_ok=True)
    if not (file := data / "users.json").exists():
        file.write_text("{}")
        file.chmod(0o600)
    async with running(data, *(services or (ECHO,)), clock=clock, authenticator=authentication) as site:
        users = Users(data / "users.json", site.node.backend.clock)
        for name, password in PASSWORDS.items():
            users.add(name, password, ("operators",) if name == "ops" else ())
        yield site, authentication


@asynccontextmanager
async def limited(
    data: Path, *services: Service, clock: ManualClock | None = None, others: Any = None, **limits: Any
) -> AsyncIterator[Site]:
    """Serve users of a file: ``limits`` hold for everybody, ``others`` for roles and groups."""
    auth = AuthSettings(users="users.json", roles=ROLES)
    authentication = Authentication(auth, data, anonymous=True)
    allowed = QuotaSettings(QuotaTable(**limits), {n: QuotaTable(**o) for n, o in (others or {}).items()})
    async with running(data, *services, clock=clock, authenticator=authentication, quotas=allowed) as site:
        users = Users(data / "users.json", site.node.backend.clock)
        for name, password in PASSWORDS.items():
            if users.find(name) is None:
                users.add(name, password, {"ops": ("operators", "staff"), "bob": ("staff",)}.get(name, ()))
        yield site
