"""`uwsd user`, `uwsd token`, and a server that others reach."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.access.support import basic, bearer
from tests.daemon import serving, uwsd

NAME = "expected 1 to 255 printable characters, no ':', no '@' first"
SHORT = "a password has 8 to 1024 characters: shorter ones are guessed"
SERVERS = "uwsd can be no user: so the server itself is called in the log"
TRUE = '[services.nothing]\ntitle = "Nothing"\ncommand = ["true"]\n'
AUTH = '[auth]\nusers = "users.json"\ntokens = true\n[auth.roles]\noperator = ["@staff"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(AUTH + TRUE)
    return path


async def test_users_and_tokens_that_commands_make_are_good_on_the_server_that_runs(file: Path) -> None:
    made = await uwsd("user", "add", "ann", "--group", "staff", "-c", file, reads="ann's password\n")
    assert (made.status, made.out, made.err) == (0, "ann is a user now\n", "")
    async with serving(file) as server:

        async def status(headers: dict[str, str]) -> int:
            return (await server.get("/nothing/async", headers=headers)).status

        assert [await status(headers) for headers in ({}, basic("ann", "ann's password"), basic("bob"))] == [
            401,
            200,
            401,
        ]
        await uwsd("user", "add", "bob", "-c", file, reads="bob's password\n")
        assert await status(basic("bob", "bob's password")) == 200
        await uwsd("user", "passwd", "bob", "-c", file, reads="another one\n")
        assert [await status(basic("bob", "bob's password")), await status(basic("bob", "another one"))] == [
            401,
            200,
        ]

        created = await uwsd(
            "token", "create", "--user", "bob", "--scope", "read", "--expires", "1h", "-c", file
        )
        token = bearer(created.out.strip())
        assert await status(token) == 200
        assert (await server.post("/nothing/async", headers=token)).status == 403
        (listed,) = json.loads((await uwsd("token", "list", "--user", "bob", "--json", "-c", file)).out)
        assert (listed["scopes"], listed["ended"]) == (["read"], None)
        assert created.out.strip() not in json.dumps(listed)
        revoked = await uwsd("token", "revoke", listed["id"], "--reason", "lost", "-c", file)
        assert revoked.out == f"{listed['id']} is revoked\n"
        assert await status(token) == 401

        await uwsd("user", "remove", "bob", "-c", file)
        assert await status(basic("bob", "another one")) == 401
        (ann,) = json.loads((await uwsd("user", "list", "--json", "-c", file)).out)
        assert (ann["name"], ann["groups"], ann["roles"]) == ("ann", ["staff"], ["operator"])
    assert (file.parent / "var" / "users.json").stat().st_mode & 0o777 == 0o600
    assert "another one" not in server.err, "no password is logged"


@pytest.mark.parametrize(
    ("command", "reads", "says"),
    [
        (
            ["user", "add", "ann"],
            "password of his\n",
            "there is a user ann already; for another password: uwsd user passwd",
        ),
        (["user", "add", "bob"], "\n", SHORT),
        (["user", "add", "bob"], "seven c\n", SHORT),
        (["user", "passwd", "ann"], "x\n", SHORT),
        (["user", "add", "a:b"], "password of his\n", f"'a:b' can be no user: {NAME}"),
        (["user", "add", "uwsd"], "password of his\n", SERVERS),
        (
            ["user", "add", "zoe\N{COMBINING DIAERESIS}"],
            "password of his\n",
            r"'zoe\u0308' can be no user: in Unicode's normal form (NFC) it is zoë ('zo\xeb'): take that",
        ),
        (["token", "create", "--user", "uwsd"], "", "--user: nobody is called 'uwsd'"),
        (["token", "create", "--user", ""], "", "--user: nobody is called ''"),
        (["token", "create", "--user", "a\nb"], "", r"--user: nobody is called 'a\nb'"),
        (["token", "create", "--user", "anne"], "", "--user: there is no user anne (did you mean ann?)"),
        (["user", "add", "bob", "--group", ""], "password of his\n", f"'' can be no group: {NAME}"),
        (["user", "remove", "anne"], "", "there is no user anne (did you mean ann?)"),
        (
            ["token", "create", "--user", "ann", "--scope", "rad"],
            "",
            "--scope: expected read, submit, got 'rad'",
        ),
        (
            ["token", "create", "--user", "ann", "--expires", "20y"],
            "",
            "--expires: expected 1 s to 3660 d, got 630720000 s",
        ),
        (["token", "revoke", "x"], "", "there is no token x"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_line(
    file: Path, command: list[str], reads: str, says: str
) -> None:
    await uwsd("user", "add", "ann", "-c", file, reads="password of his\n")
    refused = await uwsd(*command, "-c", file, reads=reads)
    assert (refused.status, refused.out, refused.err) == (2, "", f"{says}\n")


@pytest.mark.parametrize(
    "more",
    [
        '[auth.proxy]\nheader = "X-Remote-User"\naddresses = ["127.0.0.1"]\n',
        '[auth.oidc]\nissuer = "https://sso.example.org"\naudience = "uwsd"\njwks = "https://sso.example.org/keys"\n',
    ],
    ids=["proxy", "oidc"],
)
async def test_a_token_may_be_for_somebody_who_is_known_elsewhere(file: Path, more: str) -> None:
    file.write_text(file.read_text() + more)
    made = await uwsd("token", "create", "--user", "eve", "-c", file)
    assert (made.status, made.out[:5]) == (0, "uwsd_")


@pytest.mark.parametrize("runs", [False, True], ids=["alone", "beside a server"])
async def test_what_is_no_text_is_refused_in_one_line(file: Path, runs: bool) -> None:
    bad, shown = os.fsdecode(b"\xff"), r"\udcff"
    await uwsd("user", "add", "ann", "-c", file, reads="ann's password\n")
    async with serving(file) if runs else nullcontext():
        for command, says in (
            (["user", "add", bad], f"'{shown}' "),
            (["token", "list", "--user", bad], "is no text in UTF-8"),
            (["token", "revoke", bad], f"'{shown}' is no text in UTF-8"),
            (["token", "revoke", "x", "--reason", bad], ""),
            (["jobs", "show", bad], f"{shown}' is no text in UTF-8"),
            (["jobs", "abort", bad], f"{shown}' is no text in UTF-8"),
            (["queue", "pause", bad], f"{shown}' is no text in UTF-8"),
            (["audit", "log", "--actor", bad], f"'{shown}' is no text in UTF-8"),
        ):
            refused = await uwsd(*command, "-c", file, reads="a password\n")
            assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1), refused.err
            assert says in refused.err


async def test_all_tokens_of_a_user_end_at_once_where_that_is_asked_for(file: Path) -> None:
    await uwsd("user", "add", "ann", "-c", file, reads="ann's password\n")
    made = [(await uwsd("token", "create", "--user", "ann", "-c", file)).out.strip() for _ in range(2)]
    async with serving(file) as server:

        async def statuses() -> list[int]:
            return [(await server.get("/nothing/async", headers=bearer(token))).status for token in made]

        await uwsd("user", "passwd", "ann", "-c", file, reads="another one\n")
        assert await statuses() == [200, 200]
        revoked = await uwsd("token", "revoke", "--user", "ann", "--reason", "a leak", "-c", file)
        assert (revoked.status, revoked.out) == (0, "2 tokens of ann are revoked\n")
        assert await statuses() == [401, 401]
        long = await uwsd("token", "list", "--user", "x" * 5000, "-c", file)
        assert long.status == 0
        assert "x" * 1000 not in server.err, "what somebody types is cut in the log"
    for given in ([], ["x", "--user", "ann"]):
        refused = await uwsd("token", "revoke", *given, "-c", file)
        assert (refused.status, refused.err) == (2, "say which: a token's id, or all with --user\n")


async def test_a_password_is_text(file: Path) -> None:
    refused = await uwsd("user", "add", "ann", "-c", file, reads=os.fsdecode(b"long enough \xff\n"))
    assert (refused.status, refused.err) == (2, "a password is text in UTF-8\n")


async def test_a_users_file_that_is_none_is_told_before_the_server_runs(file: Path) -> None:
    users = file.parent / "var" / "users.json"
    users.parent.mkdir()
    users.write_text('{"ann": {"password": "plain", "changed": "2026-01-01T00:00:00Z"}}')
    refused = await uwsd("serve", file, "--port", "0")
    assert refused.status == 2
    assert refused.err.startswith(f"{users}: no users file: ")
    users.write_text('{"uwsd": {"password": "$argon2id$x", "changed": "2026-01-01T00:00:00Z"}}')
    refused = await uwsd("serve", file, "--port", "0")
    assert (refused.status, refused.err) == (2, f"{users}: no users file: {SERVERS}\n")


@pytest.mark.parametrize(
    ("more", "options", "where"),
    [
        ('[server]\nhost = "0.0.0.0"\n', [], "0.0.0.0"),
        ('[server]\nbase_url = "https://jobs.example.org/vo"\n', [], "https://jobs.example.org/vo"),
        ("", ["--host", "::"], "::"),
    ],
)
async def test_a_server_that_others_reach_does_not_start_before_it_knows_who_they_are(
    file: Path, more: str, options: list[str], where: str
) -> None:
    file.write_text(more + TRUE)
    refused = await uwsd("serve", file, *options, "--port", "0")
    assert refused.status == 2
    assert refused.err == (
        f"auth: {where} is reached by others, who have no way to say who they are: give them one in [auth], "
        'such as users = "users.json", or let everybody in with allow_anonymous = true\n'
    )
    file.write_text(f"{more}[auth]\nallow_anonymous = true\n{TRUE}")
    async with serving(file, "--host", "127.0.0.1") as server:
        assert (await server.get("/nothing/async")).status == 200
