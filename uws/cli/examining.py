"""``uwsd doctor``: whether an installation is as it should be, and what to do where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from uws.admin import problems_of
from uws.config import Settings
from uws.model import DeclarationError, UsageError

from .common import (
    CONFIG,
    FAILED,
    INTERRUPTED,
    AsJson,
    Config,
    Data,
    bare,
    is_declared,
    reported,
    settings_of,
)
from .output import err, harmless, out, print_json

_MARKS = {"well": ("ok", "green"), "doubt": ("doubt", "yellow"), "fault": ("FAULT", "bold red")}


def doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", readable=False, help="The same as --config FILE.")
    ] = None,
    as_json: AsJson = False,
    config: Config = CONFIG,
    data: Data = None,
) -> None:
    """Look whether all that a server rests on is as it should be, and say what to do where it is not.

    No file of yours is changed, and a server may run meanwhile. The exit status is 1 when there is a fault.
    """
    from uws.doctor import Finding, examine

    findings: list[Finding] = []

    async def look() -> None:
        async for finding in examine(settings, file=declaration, problems=problems):
            findings.append(finding)
            if not as_json:
                _print(finding.state, f"{finding.subject}: {finding.found}", finding.advice)

    with reported():
        config = _one_of(file, config)
        declaration = config if is_declared(config) or data is None else None
        settings, problems = _read(config, data)
        try:
            asyncio.run(look())
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            if as_json:
                print_json(findings, indent=2)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(FAILED)


def _one_of(file: Path | None, config: Path) -> Path:
    """Return the declaration that was named in one of two ways. Raises `UsageError`."""
    if file and config not in (CONFIG, file):
        raise UsageError(f"two declarations are named, {file} and {config}: leave one of them out")
    return file or config


def _read(config: Path, data: Path | None) -> tuple[Settings | None, Sequence[str]]:
    """Return what there is to look at, and what is wrong with the declaration."""
    try:
        return settings_of(config, data), ()
    except (DeclarationError, UsageError) as error:
        return (bare(data) if data else None), problems_of(error)


def _print(state: str, found: str, advice: str) -> None:
    mark, style = _MARKS[state]
    out.print(mark.ljust(5), style=style, end=" ")
    out.print(harmless(found), soft_wrap=True)
    if advice:
        out.print(f"      to do: {advice}", soft_wrap=True)
