"""A reader, who types what a page shows, from its first block of code to its last, in one shell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import daemon
from tests.daemon import PATIENCE, UWSD
from tests.documentation.pages import ID, ROOT, TIME, Typed, alike

HERE = Path(__file__).parent
PORT = "8080"
STAND_INS = {
    # What cannot be done in a test: why, and what is done in its place.
    "make": (
        "all but `make run` takes long, and may run this very test",
        'if [ "$1" = run ]; then cd "$ROOT" && \\\n'
        'exec python -m examples ${2#ARGS=} --port "$PORT" --data "$HOME/made"; fi\n'
        'exec /usr/bin/make --dry-run -C "$ROOT" "$@" > "$HOME/made.txt"',
    ),
    "systemctl": ("there is no systemd that is the first process", "exit 0"),
    "useradd": ("who has an account on this machine is not for tests", "exit 0"),
    "podman": ("there is no network from which images come", "exit 0"),
    "ssh": ("the other machine is this one", 'cd "$ROOT_OF_PAGE/$1" && shift && exec "$@"'),
}  # fmt: skip
NOT_HERE = 77
"""How a stage ends that needs what is not installed."""
_PATHS = re.compile(r"(?<![\w./-])(?=/(?:etc|home|nfs|opt|srv|var/lib)\b)")


class Reader:
    """A shell in a directory that its pages know as /home/you, on a machine that begins with it."""

    def __init__(self, process: Process, root: Path, port: int) -> None:
        self.root, self.home = root, root / "home/you"
        self.places: dict[str, str] = {f"127.0.0.1:{PORT}": f"127.0.0.1:{port}"}
        """What the page names, and what it is here; an id or a time from when it is typed or printed."""
        self._process = process

    def here(self, text: str) -> str:
        """Return what the page has a reader type as it is to be typed here."""
        for known, pattern in ((".jobs", ID), (".moments", TIME)):
            for name in pattern.findall(text):
                if name not in self.places and (left := self._next(known)):
                    self.places[name] = left
        return _PATHS.sub(str(self.root), _replaced(text, self.places))

    def _next(self, known: str) -> str | None:
        """Take the next of the jobs, or moments, that the stage has had."""
        file = self.home / known
        taken = set(self.places.values())
        lines = file.read_text().splitlines() if file.exists() else []
        return next((line for line in lines if line not in taken), None)

    async def enters(self, command: str) -> tuple[int, str]:
        """Have the shell do something; return the exit status, and what it printed, as the page has it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\nprintf '\\0%s\\0' $?\n".encode())
        async with asyncio.timeout(PATIENCE):
            printed = (await self._process.stdout.readuntil(b"\0"))[:-1].decode(errors="replace")
            status = int((await self._process.stdout.readuntil(b"\0"))[:-1])
        known = {place: name for name, place in self.places.items() if not ID.fullmatch(name)}
        return status, _replaced(printed, known).replace(str(self.root), "").replace("\r", "")

    async def types(self, typed: Typed, *, shows: bool) -> None:
        """Type a command of a session, which ``shows`` what is printed, or not.

        Raises `AssertionError` when something else is printed than is shown, or the command fails.
        """
        typed = self._asked(typed)
        status, printed = await self.enters(self.here(typed.command))
        printed = f"{printed}\n" if printed and printed[-1] != "\n" else printed
        if typed.command.split()[0] in STAND_INS and not printed:
            return
        if not shows:
            assert not status, f"$ {typed.command}\n{printed}exit status {status}"
            return
        assert alike(typed.shown, printed), f"$ {typed.command}\n{printed}instead of\n{typed.shown}"
        if "…" not in typed.shown:
            for name, here in zip(ID.findall(typed.shown), ID.findall(printed), strict=True):
                assert self.places.setdefault(name, here) == here, (
                    f"{name} is {self.places[name]}, not {here}"
                )

    def _asked(self, typed: Typed) -> Typed:
        """Return it without a terminal, where one asks for a password: it is the first line then."""
        shown = re.sub(r"^(Password|Repeat for confirmation):\n", "", typed.shown, flags=re.MULTILINE)
        if shown == typed.shown:
            return typed
        return Typed(typed.place, f"echo correct-horse | {typed.command}", shown)

    async def begins(self, stage: Path) -> None:
        """Have happened what a page takes for granted."""
        status, printed = await self.enters(f"source {stage}")
        if status == NOT_HERE:
            pytest.skip(printed.strip())
        assert not status, printed
        known = self.home / ".places"
        self.places |= dict(line.split() for line in known.read_text().splitlines()) if known.exists() else {}

    async def runs(self, script: str) -> None:
        """Run lines that show no output. Raises `AssertionError` when one fails."""
        (self.home / ".script").write_text(self.here(script))
        status, printed = await self.enters(f"source {HERE}/sourced.sh {self.home}/.script")
        assert not status, printed


@asynccontextmanager
async def reading(root: Path, database: str) -> AsyncIterator[Reader]:
    """Have a reader begin in ``root``, whose stage is given the URL of a ``database``, if it wants one."""
    home, programs = root / "home/you", root / "bin"
    home.mkdir(parents=True)
    programs.mkdir()
    for name, (_, script) in STAND_INS.items():
        _program(programs / name, f"#!/bin/sh\n{script}\n")
    for name in ("LICENSE", "constraints.txt", "deploy", "examples", "static"):
        (home / name).symlink_to(ROOT / name)
    passed = []
    if daemon.preloaded is not None:
        passed = [daemon.preloaded.fileno()]
        words = f"{sys.executable} -m tests.documentation.shim {passed[0]} {UWSD}"
        _program(programs / "uwsd", f'#!/bin/sh\nPYTHONPATH={ROOT} exec {words} "$@"\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "bash", "--noprofile", "--norc", stdin=PIPE, stdout=PIPE, stderr=STDOUT, cwd=home, pass_fds=passed,
        limit=10_000_000,
        env={
            **os.environ, "HOME": str(home),
            "PATH": f"{programs}:{UWSD.parent}:{os.environ['PATH']}:/usr/sbin",
            "ROOT": str(ROOT), "ROOT_OF_PAGE": str(root), "PORT": str(port), "DATABASE": database,
            "COLUMNS": "140", "LC_ALL": "C.UTF-8",
        },
    )  # fmt: skip
    reader = Reader(process, root, port)
    try:
        await reader.enters(f"source {HERE}/reader.sh")
        yield reader
        assert process.stdin
        process.stdin.write(b"exit\n")
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    finally:
        if (
            process.returncode is None
        ):  # something went wrong; what it has started is found, and ended, as left
            process.kill()
            await process.wait()
        assert process.stdin
        process.stdin.close()


def _replaced(text: str, names: dict[str, str]) -> str:
    """Return it with other names, none of which is taken for one that is to be replaced in turn."""
    if not names:
        return text
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found[0]], text)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def toml(value: Any) -> str:
    """Return a value as TOML has it in a line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)
