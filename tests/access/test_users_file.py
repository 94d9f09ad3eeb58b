"""Changes of the users file: on record before they are made, by whomever, and what they end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from eventstore import EventStore, SQLiteEventStore
from tests.access.issuer import Issuer, settings
from tests.access.support import PASSWORDS, ROLES, basic, bearer, guarded
from tests.daemon import serving, uwsd
from tests.harness import ManualClock, running
from tests.web.support import ECHO, PATIENCE
from uws.access.tokens import Tokens
from uws.access.users import Users, digest_of
from uws.admin import Administered, Operation
from uws.admin.access import AddUser, RemoveUser, SetGroups, SetPassword
from uws.clock import SystemClock
from uws.commands import SERVER
from uws.config import AuthSettings, Settings
from uws.model import events as e
from uws.node import administer
from uws.web import Authentication

AUTH = AuthSettings(users="users.json", tokens=True)


async def done(data: Path, operation: Operation[object]) -> object:
    return await administer(Settings(data=data, auth=AUTH), operation, lambda done, of: None)


async def recorded(data: Path, stream: str = e.USERS_STREAM) -> list[tuple[str, str, str | None]]:
    """Return who was changed, in which way, and whose entry that is which he then has."""
    store = await SQLiteEventStore.open(data / "events.db")
    try:
        events = [e.decode_security(event) for event in await store.read_stream(stream)]
    finally:
        await store.close()
    return [(event.user, event.change, event.entry) for event in events if isinstance(event, e.UserChanged)]


async def until_changed(store: EventStore, user: str) -> None:
    """Return when it is on record that a user was changed."""
    async with asyncio.timeout(PATIENCE):
        async for batch in store.subscribe(after=0):
            found = [e.decode_security(event) for event in batch if event.stream == e.USERS_STREAM]
            if any(isinstance(event, e.UserChanged) and event.user == user for event in found):
                return


def entry(data: Path, name: str) -> str | None:
    """Return what the log has of an entry that the file has."""
    return digest_of(Users(data / "users.json", SystemClock()).find(name))


async def test_each_change_is_on_record_with_what_becomes_of_the_entry(tmp_path: Path) -> None:
    expected = []
    for change, operation in (
        ("added", AddUser("ann", PASSWORDS["ann"], ("staff",))),
        ("password", SetPassword("ann", PASSWORDS["bob"])),
        ("groups", SetGroups("ann", ("night",))),
        ("removed", RemoveUser("ann")),
    ):
        await done(tmp_path, operation)
        expected.append(("ann", change, entry(tmp_path, "ann")))
    assert await recorded(tmp_path) == expected
    assert len({digest for _, _, digest in expected}) == 4
    assert expected[-1][2] is None


async def test_a_change_that_breaks_off_is_on_record_can_be_asked_for_again_and_leaves_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(file: int) -> None:
        raise OSError(28, "No space left on device")

    async def broken_off(operation: Operation[object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("uws.access.users.os", _WithoutSync(breaks))
            with pytest.raises(OSError, match="No space"):
                await done(tmp_path, operation)

    add, remove = AddUser("kim", PASSWORDS["ann"]), RemoveUser("kim")
    await broken_off(add)
    assert entry(tmp_path, "kim") is None
    await done(tmp_path, add)
    there = entry(tmp_path, "kim")
    await broken_off(remove)
    assert entry(tmp_path, "kim") == there
    async with guarded(tmp_path):
        pass  # a server that starts finds out how it is
    changes = [change[1:] for change in await recorded(tmp_path) if change[0] == "kim"]
    assert [change for change, _ in changes] == ["added", "added", "removed", "edited"]
    assert changes[-1] == ("edited", there)
    await done(tmp_path, remove)
    assert (await recorded(tmp_path))[-1] == ("kim", "removed", None)


def cut_off(file: Path) -> None:
    file.write_text('{"sam": {')


def with_a_malformed_hash(file: Path) -> None:
    users = json.loads(file.read_text()) if file.exists() else {}
    users["sam"] = {"password": "$argon2id$x", "changed": "2026-01-01T00:00:00Z"}
    file.write_text(json.dumps(users))


def a_directory(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def a_pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


DAMAGES = pytest.mark.parametrize("damage", [cut_off, with_a_malformed_hash, a_directory, a_pipe])


@DAMAGES
async def test_a_users_file_that_is_damaged_changes_nobody_and_is_told_once_to_operators(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "users.json"
    async with guarded(tmp_path) as (site, _):
        backend = site.node.backend
        tokens = Tokens(backend.store, backend.clock)
        _, token = await tokens.issue("ann", SERVER, lasts=timedelta(days=1), listed=True)
        ways = basic("ann"), bearer(token)
        assert [(await site.get("/echo/async", headers=way)).status for way in ways] == [200, 200]
        good = file.read_text()
        damage(file)
        assert [(await site.get("/echo/async", headers=way)).status for way in ways * 2] == [200] * 4
        known = "the users file cannot be read: they are as they were when it could be read"
        ready = await site.get("/readyz")
        assert (ready.status, ready.text) == (200, f"the server is ready\n{known}\n")
        assert known in (await site.get("/availability")).text
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert [error.startswith(f"{file}: no users file: ") for error in errors] == [True]
        file.rmdir() if file.is_dir() else file.unlink()
        file.write_text(good)
        assert (await site.get("/readyz")).text == "the server is ready\n"


def others_may_write(path: Path) -> str:
    path.chmod(path.stat().st_mode | 0o020)
    return "others may write it: chmod go-w this"


def somebody_elses(path: Path) -> str:
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(path, 1234, -1)
    return (
        "it belongs to user 1234, and the server is user 0 (root): "
        "run it as that one, sudo -u '#1234' uwsd …, or chown 0 this"
    )


@pytest.mark.parametrize("make", [others_may_write, somebody_elses])
@pytest.mark.parametrize("which", ["var", "var/users.json"])
async def test_what_others_could_change_is_not_relied_on(
    tmp_path: Path, which: str, make: Callable[[Path], str]
) -> None:
    declaration = tmp_path / "uwsd.toml"
    declaration.write_text(
        '[auth]\nusers = "users.json"\n[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'
    )
    await uwsd("user", "add", "ann", "-c", declaration, reads="ann's password\n")
    says = f"{tmp_path / which}: {make(tmp_path / which)}\n"
    for command in (["serve", declaration, "--port", "0"], ["user", "remove", "ann", "-c", declaration]):
        refused = await uwsd(*command)
        assert (refused.status, refused.err) == (2, says)


async def test_only_the_server_reads_what_it_keeps_in_its_data_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    async with guarded(tmp_path):
        assert (tmp_path / "boot").stat().st_mode & 0o777 == 0o600


@DAMAGES
async def test_where_no_users_were_ever_known_nobody_is_refused_for_who_he_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    authentication = Authentication(AUTH, tmp_path, anonymous=False)
    async with running(tmp_path, ECHO, authenticator=authentication) as site:
        damage(tmp_path / "users.json")
        answer = await site.get("/echo/async", headers=basic("ann"))
        assert (answer.status, answer.text) == (
            503,
            "ServiceUnavailable: the users file cannot be read\n",
        )
        ready = await site.get("/readyz")
        assert (ready.status, ready.text) == (503, "the users file cannot be read\n")


async def test_while_there_is_no_users_file_nobody_known_elsewhere_may_have_the_name_of_a_user(
    tmp_path: Path, clock: ManualClock, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "users.json"
    auth = AuthSettings(users="users.json", tokens=True, oidc=settings(issuer.url), roles=ROLES)
    authentication = Authentication(auth, tmp_path, anonymous=False)
    token = bearer(issuer.token(sub="adm"))
    async with running(tmp_path, ECHO, clock=clock, authenticator=authentication) as site:
        assert f"{file}: there is no users file: uwsd user add makes it" in caplog.text
        refused = await site.get("/echo/async", headers=token)
        assert refused.status == 503
        assert "there is no users file" in refused.text
        assert (await site.get("/readyz")).status == 503
        file.write_text("{}")
        assert (await site.get("/echo/async", headers=token)).status == 200
        Users(file, clock).add("adm", PASSWORDS["adm"], ())
        assert (await site.get("/echo/async", headers=token)).status == 401
        file.unlink()
        assert (await site.get("/echo/async", headers=token)).status == 503


async def test_a_users_file_that_is_missing_or_damaged_is_told_by_check(tmp_path: Path) -> None:
    declaration, file = tmp_path / "uwsd.toml", tmp_path / "var" / "users.json"
    declaration.write_text(
        '[auth]\nusers = "users.json"\n[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'
    )
    checked = await uwsd("check", declaration)
    missing = f"warning: {file}: there is no users file: uwsd user add makes it\n"
    assert (checked.status, checked.err) == (0, missing)
    file.parent.mkdir()
    a_pipe(file)
    checked = await uwsd("check", declaration)
    assert (checked.status, checked.err) == (
        0,
        f"warning: {file}: no users file: this is no regular file\n",
    )


class _WithoutSync:
    """The module `os`, in which nothing reaches the disk."""

    def __init__(self, fsync: object) -> None:
        self.fsync = fsync

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


async def test_what_is_edited_by_hand_is_on_record_while_the_server_runs(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        assert (await site.get("/echo/async", headers=basic("bob"))).status == 200
        await until_changed(site.node.backend.store, "bob")
        file = tmp_path / "users.json"
        users = json.loads(file.read_text())
        users["eve"] = {**users["ann"], "groups": ["staff"]}
        del users["bob"]
        file.write_text(json.dumps(users))
        assert (await site.get("/echo/async", headers=basic("bob"))).status == 401
        await until_changed(site.node.backend.store, "eve")
    changes = {user: (change, digest) for user, change, digest in await recorded(tmp_path)}
    assert changes["eve"] == ("edited", entry(tmp_path, "eve"))
    assert changes["bob"] == ("edited", None)


async def test_a_change_that_is_on_record_is_made_also_when_its_client_has_gone(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        backend = site.node.backend
        add = AddUser("kim", PASSWORDS["ann"])
        here = Administered(Settings(data=tmp_path, auth=AUTH), backend, lambda name: asyncio.Future())
        asked = asyncio.create_task(add.carry_out(here, SERVER, lambda done, of: None))
        await until_changed(backend.store, "kim")
        asked.cancel()
        await asyncio.wait([asked])
        assert entry(tmp_path, "kim") is not None
    assert [change for user, *change in await recorded(tmp_path) if user == "kim"] == [
        ["added", entry(tmp_path, "kim")]
    ]


async def test_the_tokens_of_a_user_who_is_removed_stay_over_when_there_is_another_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(
        '[auth]\nusers = "users.json"\ntokens = true\n'
        '[auth.proxy]\nheader = "X-Remote-User"\naddresses = ["127.0.0.1"]\n'
        '[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'
    )
    async with serving(file) as server:

        async def token() -> dict[str, str]:
            made = await uwsd("token", "create", "--user", "bob", "-c", file)
            return {"Authorization": f"Bearer {made.out.strip()}"}

        async def statuses(*tokens: dict[str, str]) -> list[int]:
            return [(await server.get("/nothing/async", headers=headers)).status for headers in tokens]

        before = await token()  # when there is no such user: a proxy may know him
        await uwsd("user", "add", "bob", "-c", file, reads="bob's password\n")
        listed = await token()
        assert await statuses(before, listed) == [200, 200]
        await uwsd("user", "remove", "bob", "-c", file)
        assert await statuses(before, listed) == [401, 401]
        await uwsd("user", "add", "bob", "-c", file, reads="another one\n")
        assert await statuses(before, listed) == [401, 401]
        shown = await uwsd("token", "list", "--user", "bob", "--json", "-c", file)
        assert {entry["ended"] for entry in json.loads(shown.out)} == {"the user was removed"}
        assert await statuses(await token()) == [200]
