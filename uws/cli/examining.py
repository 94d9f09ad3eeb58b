"""``uwsd doctor``: whether an installation is as it should be, and what to do where it is not."""

from __future__ import annotations

import asyncio

import typer

from .common import (
    CONFIG,
    FAILED,
    INTERRUPTED,
    AsJson,
    Config,
    Data,
    err,
    harmless,
    is_declared,
    out,
    print_json,
    reported,
    settings_of,
)

_MARKS = {"well": ("ok", "green"), "doubt": ("doubt", "yellow"), "fault": ("FAULT", "bold red")}


def doctor(as_json: AsJson = False, config: Config = CONFIG, data: Data = None) -> None:
    """Look whether all that a server rests on is as it should be, and say what to do where it is not.

    No file of yours is changed, and a server may run meanwhile. The exit status is 1 when there is a fault.
    """
    from uws.doctor import Finding, examine

    findings: list[Finding] = []

    async def look() -> None:
        async for finding in examine(settings, is_declared=is_declared(config)):
            findings.append(finding)
            if not as_json:
                _print(finding.state, f"{finding.subject}: {finding.found}", finding.advice)

    with reported():
        settings = settings_of(config, data)
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


def _print(state: str, found: str, advice: str) -> None:
    mark, style = _MARKS[state]
    out.print(mark.ljust(5), style=style, end=" ")
    out.print(harmless(found), soft_wrap=True)
    if advice:
        out.print(f"      to do: {advice}", soft_wrap=True)
