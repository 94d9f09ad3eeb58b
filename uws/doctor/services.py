"""What services need: programs, functions, a sandbox, Slurm."""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from uws.config import Settings
from uws.environment import base_environment
from uws.execution.sandbox import trial
from uws.execution.slurm.commands import Commands, Unknown
from uws.model import Service

from .finding import PATIENCE, Finding


def programs(settings: Settings) -> Iterator[Finding]:
    """Look for the programs of services; those in Slurm are another machine's."""
    for service in settings.services:
        yield _program(service)


def _program(service: Service) -> Finding:
    place, name = f"services.{service.name}.command", str(service.command[0])
    if service.function:
        said = f"services.{service.name}.function: {service.function} was imported to read the declaration"
        return Finding("function", "well", said)
    if service.executor == "slurm":
        return Finding("program", "well", f"{place}: {name} is looked for on the nodes of Slurm")
    if "{" in name:
        return Finding("program", "well", f"{place}: {name} is looked for when a job starts")
    if "/" in name and not name.startswith("/"):
        return Finding(
            "program", "fault", f"{place}: {name} is looked for in a job's own directory, which is empty",
            "name its whole path, or only its last part, and set PATH in `environment`",
        )  # fmt: skip
    path = base_environment(service.environment)["PATH"]
    if found := shutil.which(name, path=path):
        return Finding("program", "well", f"{place}: {found}")
    if name.startswith("/"):
        return Finding("program", "fault", f"{place}: {name} is no file that can be executed",
                       "install it, or chmod a+x it")  # fmt: skip
    return Finding(
        "program", "fault", f"{place}: {name} is not a program, or not in PATH: {path}",
        "install it, name its whole path, or set PATH in `environment`",
    )  # fmt: skip


async def sandbox(settings: Settings) -> AsyncIterator[Finding]:
    """Have the sandbox tried, where a service is to run in one."""
    if not any(service.sandbox for service in settings.services):
        return
    program, *arguments = trial()
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    said = b"it does not end"
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        yield Finding(
            "sandbox", "fault", f"{program}: {said.decode(errors='replace').strip()}",
            "let users make namespaces (sysctl kernel.unprivileged_userns_clone, AppArmor) with a bubblewrap "
            "of 0.8 or later, or leave sandbox = true out",
        )  # fmt: skip
    else:
        yield Finding("sandbox", "well", f"{program} works")


async def slurm(settings: Settings) -> AsyncIterator[Finding]:
    """Ask Slurm for its queue, where a service is to run there."""
    if not any(service.executor == "slurm" for service in settings.services):
        return
    try:
        async with asyncio.timeout(PATIENCE):
            await Commands().queue()
    except (Unknown, TimeoutError) as error:
        found = str(error) or f"squeue has not answered for {PATIENCE:.0f} s"
        yield Finding("Slurm", "fault", found, "see docs/slurm.md; jobs wait until it answers")
    else:
        yield Finding("Slurm", "well", "squeue answers")
