"""The tutorial, typed as it stands: each command prints what it shows."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.daemon import PATIENCE

TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.md"
PORT = "8080"


async def test_each_command_of_the_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    commands = _typed(TUTORIAL.read_text())
    assert commands
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # Typed in one shell, as by a reader: what it prints after each command ends with a mark.
    shell = await asyncio.create_subprocess_exec(
        "bash", "--noprofile", "--norc", stdin=PIPE, stdout=PIPE, stderr=STDOUT, cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"},
    )  # fmt: skip
    assert shell.stdin
    assert shell.stdout
    try:
        shell.stdin.write(b"set -m\n")  # so that jobs are known by %1, as on a terminal
        for command, shown in commands:
            text = command.replace(f":{PORT}", f":{port}")
            shell.stdin.write(f"{text}\nprintf '\\0'\n".encode())
            async with asyncio.timeout(PATIENCE):
                printed = (await shell.stdout.readuntil(b"\0"))[:-1].decode()
            if command.startswith("uwsd init"):
                declaration = tmp_path / "sky/uwsd.toml"
                declaration.write_text(declaration.read_text().replace(PORT, port))
            printed = "".join(
                line
                for line in printed.replace(f":{port}", f":{PORT}").splitlines(keepends=True)
                if not re.match(r"\[1\][ +-]", line)  # what bash says of its jobs
            )
            expected = "[^\n]*".join(map(re.escape, re.split(" *… *", shown)))
            assert re.fullmatch(expected, printed), f"$ {command}\n{printed}instead of\n{shown}"
        shell.stdin.write(b"exit\n")
        async with asyncio.timeout(PATIENCE):
            await shell.wait()
    finally:
        shell.stdin.close()
        if shell.returncode is None:  # something went wrong; what it has started is found, and ended, as left
            shell.kill()
            await shell.wait()


def _typed(page: str) -> list[tuple[str, str]]:
    """Return what is typed, or pasted as a whole, each with what is shown to be printed."""
    found: list[tuple[str, str]] = []
    for kind, text in re.findall(r"```(console|sh)\n(.*?)```", page, re.DOTALL):
        if kind == "sh":
            found.append((text.rstrip("\n"), ""))
            continue
        for line in text.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].rstrip("\n"), ""))
            else:
                command, shown = found[-1]
                found[-1] = command, shown + line
    return found
