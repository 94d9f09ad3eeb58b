"""``uwsd user`` and ``uwsd token``: who may say that he is somebody."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from uws.access.users import hashed
from uws.admin.access import (
    AddUser,
    CreateToken,
    ListTokens,
    ListUsers,
    RemoveUser,
    RevokeToken,
    RevokeTokensOf,
    SetGroups,
    SetPassword,
)
from uws.model import Scope, UsageError
from uws.model.units import format_time, parse_duration

from .common import CONFIG, AsJson, Config, Data, carried_out, reported, settings_of
from .output import out, print_json, print_whole, table

user: typer.Typer = typer.Typer(
    help="Add, change, remove and list those who have a password here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
token: typer.Typer = typer.Typer(
    help="Make, list and revoke bearer tokens.", no_args_is_help=True, pretty_exceptions_enable=False
)
Name = Annotated[str, typer.Argument(metavar="USER", help="The user's name.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="GROUP", help="A group he is in; may be repeated.")
]


@user.command("add")
def add(name: Name, group: Groups = None, config: Config = CONFIG, data: Data = None) -> None:
    """Make a user. The password is asked for, or read from standard input where that is no terminal."""
    with reported():
        settings = settings_of(config, data)
        carried_out(settings, AddUser(name, hashed(_password()), tuple(group or ())), "adding")
    out.print(f"{name} is a user now", soft_wrap=True)


@user.command("passwd")
def passwd(name: Name, config: Config = CONFIG, data: Data = None) -> None:
    """Give a user another password, read as `add` does. His sessions are over."""
    with reported():
        carried_out(settings_of(config, data), SetPassword(name, hashed(_password())), "changing")
    out.print(f"{name} has another password now", soft_wrap=True)


@user.command("groups")
def groups(name: Name, group: Groups = None, config: Config = CONFIG, data: Data = None) -> None:
    """Have a user in the groups that are given, and in no others."""
    with reported():
        carried_out(settings_of(config, data), SetGroups(name, tuple(group or ())), "changing")
    out.print(f"{name} is in {', '.join(group or ()) or 'no group'} now", soft_wrap=True)


@user.command("remove")
def remove(name: Name, config: Config = CONFIG, data: Data = None) -> None:
    """Take a user out of the users file. His jobs stay; his sessions and tokens are over."""
    with reported():
        carried_out(settings_of(config, data), RemoveUser(name), "removing")
    out.print(f"{name} is no user any more", soft_wrap=True)


@user.command("list")
def list_users(as_json: AsJson = False, config: Config = CONFIG, data: Data = None) -> None:
    """Print who has a password here."""
    with reported():
        found = carried_out(settings_of(config, data), ListUsers(), "asking")
    if as_json:
        print_json(found, indent=2)
        return
    rows = table("user", "groups", "roles", "password of")
    for entry in found:
        rows.add_row(entry.name, ", ".join(entry.groups), ", ".join(entry.roles), format_time(entry.changed))
    out.print(rows)


@token.command("create")
def create(
    name: Annotated[str, typer.Option("--user", help="Whose it is.")],
    scope: Annotated[
        str | None, typer.Option(help="What it is good for: read, submit, or both with a comma; else all.")
    ] = None,
    expires: Annotated[str, typer.Option(help="How long it is good, such as 90d.")] = "90d",
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Make a token and print it, which is the only time that anybody can see it."""
    with reported():
        operation = CreateToken(name, _seconds(expires), _scopes(scope))
        made = carried_out(settings_of(config, data), operation, "making")
    out.print(made.token, soft_wrap=True)
    sys.stderr.write(f"token {made.id}, good until {format_time(made.expires)}\n")


@token.command("list")
def list_tokens(
    name: Annotated[str, typer.Option("--user", help="Whose they are.")],
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print the tokens of a user, also those that are good no longer."""
    with reported():
        found = carried_out(settings_of(config, data), ListTokens(name), "asking")
    if as_json:
        print_json(found, indent=2)
        return
    rows = table("token", "made", "expires", "scope", "ended")
    for entry in found:
        scopes = "all" if entry.scopes is None else ", ".join(entry.scopes)
        rows.add_row(entry.id, format_time(entry.made), format_time(entry.expires), scopes, entry.ended or "")
    print_whole(rows, "token")


@token.command("revoke")
def revoke(
    token_id: Annotated[
        str | None, typer.Argument(metavar="TOKEN", help="The token's id, as list prints it.")
    ] = None,
    name: Annotated[str | None, typer.Option("--user", help="Whose tokens are all to end.")] = None,
    reason: Annotated[str, typer.Option(help="Goes on record.")] = "revoked",
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """End a token, or all tokens of a user, at once."""
    with reported():
        match token_id, name:
            case str(), None:
                new = carried_out(settings_of(config, data), RevokeToken(token_id, reason), "revoking")
                told = f"{token_id} is revoked" if new else f"{token_id} was revoked already"
            case None, str():
                count = carried_out(settings_of(config, data), RevokeTokensOf(name, reason), "revoking")
                told = f"{count} tokens of {name} are revoked"
            case _:
                raise UsageError("say which: a token's id, or all with --user")
    out.print(told, soft_wrap=True)


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


def _seconds(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from None


def _scopes(text: str | None) -> tuple[Scope, ...] | None:
    if text is None:
        return None
    named = [name.strip() for name in text.split(",")]
    try:
        return tuple(Scope(name) for name in named)
    except ValueError:
        raise UsageError(f"--scope: expected {', '.join(Scope)}, got {text!r}") from None
