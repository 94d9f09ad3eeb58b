"""``uwsd audit retention``: what is kept for how long, what was taken away, and what is to go when."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from uws.audit import Told, tell
from uws.config import Settings
from uws.model.units import format_time

from .common import CONFIG, AsJson, Config, Data, reading, reported, settings_of
from .output import out, print_json


def retention(as_json: AsJson = False, config: Config = CONFIG, data: Data = None) -> None:
    """Tell what the server archives, erases and prunes of its own accord, and when; nothing is changed."""
    with reported():
        settings = settings_of(config, data)
        told = asyncio.run(_told(settings))
    if as_json:
        print_json({"kept": settings.retention, "archives": str(settings.archives), "told": told}, indent=2)
    else:
        _print(settings, told)


async def _told(settings: Settings) -> Told:
    async with reading(settings) as log:
        return await tell(log, settings.retention, settings.projections, datetime.now(UTC))


def _print(settings: Settings, told: Told) -> None:
    retention = settings.retention
    _say(
        f"owners: {_kept(retention.owners)}",
        f"{told.due} jobs are due now" if told.due else "",
        _from(told.next_erasure),
    )
    _say(
        f"histories: {_kept(retention.histories)}",
        f"pruned up to position {told.pruned_up_to}" if told.pruned_up_to else "",
        _from(told.next_pruning),
    )
    _say(
        f"archives: {retention.archive}, in {settings.archives}" if retention.archive else "archives: none",
        f"up to {told.archived_up_to}" if told.archived_up_to else "",
        f"{told.next_month} from {format_time(told.next_archive)} on" if told.next_archive else "",
        f"{told.whole} are to be written anew, without what jobs held" if told.whole else "",
    )
    for duty in told.unfinished:
        _say(f"{duty}: begun, and not done to the end")
    if retention.is_set:
        _say("the server does what is due at midnight (UTC) and when it starts")


def _say(*parts: str) -> None:
    out.print("; ".join(filter(None, parts)), soft_wrap=True)


def _kept(after: int | float | str | None) -> str:
    if after is None:
        return "kept for ever"
    return f"kept for {after}" + ("" if isinstance(after, str) else " s")


def _from(time: datetime | None) -> str:
    return f"the next from {format_time(time)} on" if time else ""
