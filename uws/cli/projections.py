"""``uwsd projections``: look at the read models, make them anew, compare them with the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from projections import Difference, Status
from uws.admin import DoesNotHold, ProjectionsStatus, RebuildProjections, VerifyProjections
from uws.model.units import format_size

from .common import CONFIG, Config, Data, Rate, carried_out, out, place_of, reported, table

projections = typer.Typer(
    help="Look at the read models, make them anew, compare them with the log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Read models; all when none is named.")
]


@projections.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Print how far the read models have come, and what has stopped them."""
    with reported():
        found = carried_out(place_of(config, data), ProjectionsStatus(), "asking")
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
        return
    rows = table("name", "version", "position", "lag", "size", "state")
    for column in rows.columns[1:5]:
        column.justify = "right"
    for each in found:
        numbers = str(each.version), str(each.position), str(each.lag), format_size(each.size)
        rows.add_row(each.name, *numbers, _state(each))
    out.print(rows)
    for each in found:
        for news in _news_of(each):
            out.print(f"{each.name}: {news}", soft_wrap=True)


@projections.command()
def rebuild(names: Names = None, config: Config = CONFIG, data: Data = None) -> None:
    """Make read models anew from the log; what there is serves until they are ready."""
    with reported():
        operation = RebuildProjections(tuple(names or ()))
        interrupted = "interrupted: what was made is kept, and the next rebuild goes on there"
        rebuilt = carried_out(
            place_of(config, data), operation, "rebuilding", Rate("events"), interrupted=interrupted
        )
    for each in rebuilt:
        rate = each.events / each.seconds if each.seconds else 0
        out.print(
            f"{each.name}: {each.events} events in {each.seconds:.1f} s, {rate:,.0f} a second", soft_wrap=True
        )


@projections.command()
def verify(names: Names = None, config: Config = CONFIG, data: Data = None) -> None:
    """Compare read models with what the log makes of them; exit 1 when one differs."""
    with reported():
        operation = VerifyProjections(tuple(names or ()))
        found = carried_out(place_of(config, data), operation, "comparing", Rate("events"))
        for name, difference in found.items():
            if difference is None:
                out.print(f"{name}: as the log says")
        if told := [_told(difference) for difference in found.values() if difference]:
            raise DoesNotHold("\n".join(told))


def _state(status: Status) -> str:
    if status.error:
        return "stopped"
    return "serves" if status.version else "missing"


def _news_of(status: Status) -> Iterator[str]:
    """Say what does not fit into a table."""
    if status.error:
        yield f"stopped {status.error}"
    if making := status.making:
        how = "is being made" if making.going_on else "was being made, until that was interrupted"
        yield f"version {making.version} {how}, at position {making.position}"
        if making.error:
            yield f"version {making.version} stopped {making.error}"


def _told(found: Difference) -> str:
    place = f"{found.table}, {found.key}: " if found.table else ""
    return f"{found.name}: {place}{found.text}"
