"""``uwsd migrate``, ``uwsd store copy``, ``uwsd nodes``: the log in a database, and who shares it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from eventstore.addresses import mistakes_in_url
from eventstore.membership import Member
from eventstore.opening import copy_log
from eventstore.opening import forget as forget_node
from eventstore.opening import members as members_of
from eventstore.opening import migrate as migrate_database
from eventstore.scanning import parse_place
from uws.config import Settings
from uws.model import DeclarationError, UsageError
from uws.model.units import format_duration, format_time

from .common import CONFIG, INTERRUPTED, AsJson, Config, faults, reported, settings_of
from .output import Rate, bar, err, out, print_json, print_whole, table

storing: typer.Typer = typer.Typer(
    help="Copy the log to another place, from a file into a database and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
nodes: typer.Typer = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
_WHERE = "a data directory, its events.db, or the URL of a database, postgresql://…"


@storing.callback()
def _of_logs() -> None:
    """Move the log."""


@storing.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help=f"The log: {_WHERE}.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where to: the same. Nobody may use it yet.")],
) -> None:
    """Copy a log to another place, its chain whole, and verify it there. It goes on where it was interrupted.

    A server may write FROM meanwhile; stop it and repeat this, and TO has all of it.
    """
    with reported(), faults():
        try:
            places = _log_at("FROM", source), _log_at("TO", target, new=True)
            with bar("copying", None, Rate("events")) as report:
                verified = asyncio.run(copy_log(*places, report))
        except KeyboardInterrupt:
            err.print("interrupted: the next one goes on there")
            raise typer.Exit(INTERRUPTED) from None
    out.print(
        f"{verified.events} events up to position {verified.head.position}, {verified.erased} erased, "
        f"{verified.pruned} pruned: the chain holds",
        soft_wrap=True,
    )


def migrate(config: Config = CONFIG) -> None:
    """Bring the database that has the log to the schema of this program; older programs refuse it then."""
    with reported():
        applied = asyncio.run(migrate_database(_database_of(settings_of(config, None))))
    for number in applied:
        out.print(f"migration {number}: applied")
    if not applied:
        out.print("nothing to do: the schema is this program's")


@nodes.callback()
def _nodes(
    context: typer.Context,
    as_json: AsJson = False,
    config: Config = CONFIG,
) -> None:
    """Print which servers share the log, and which of them leads."""
    if context.invoked_subcommand:
        return
    with reported():
        found = asyncio.run(members_of(_database_of(settings_of(config, None))))
    if as_json:
        print_json([each._asdict() for each in found], indent=2)
        return
    now, rows = datetime.now(UTC), table("name", "heard of", "leads", "URL", "program")
    for each in found:
        ago = f"{max(0.0, (now - each.seen).total_seconds()):.0f} s ago, {format_time(each.seen)}"
        ago = f"stopped {ago}" if each.stopped else ago
        rows.add_row(each.name, ago, _leads(each), each.url, each.program)
    print_whole(rows, "URL")


def _leads(member: Member) -> str:
    if member.may_lead:
        return "yes" if member.leads else ""
    ahead = format_duration(round(abs(member.ahead)))
    return f"not while its clock is {ahead} {'ahead' if member.ahead > 0 else 'behind'}"


@nodes.command()
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node, as uwsd nodes calls it.")],
    config: Config = CONFIG,
) -> None:
    """Take a node that will not come back from those that share the log: nobody waits for its files any more.

    One that is heard of is refused; one that comes back is there again.
    """
    with reported():
        settings = settings_of(config, None)
        asyncio.run(forget_node(_database_of(settings), name, gone_after=settings.store.node.seconds))
    out.print(f"{name} is no node of this log any more", soft_wrap=True)


def _database_of(settings: Settings) -> str:
    if not isinstance(settings.log, str):
        raise UsageError(
            f"the log is {settings.log}, which no others share: for several, set store in the file"
        )
    return settings.log


def _log_at(option: str, text: str, *, new: bool = False) -> Path | str:
    """Return the place that was typed. What is ``new`` is a directory, unless it is named like a file."""
    place = parse_place(text)
    if isinstance(place, str):
        scheme = place.partition("://")[0]
        if scheme not in ("postgres", "postgresql"):  # the rest may have a password in it
            raise UsageError(f"{option}: expected {_WHERE}, got {scheme}://…")
        if problems := [*mistakes_in_url(place)]:
            raise DeclarationError([f"{option}: {problem}" for problem in problems])
        return place
    makes_one = new and place.suffix != ".db" and not place.exists()
    return place / "events.db" if place.is_dir() or makes_one else place
