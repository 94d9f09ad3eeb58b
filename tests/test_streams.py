"""What the command line prints, on terminals, into files, and where nothing can be written."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.daemon import UWSD, Ended, run, uwsd, uwsd_on_terminal
from uws.version import VERSION

LIMITED = """
[services.echo]
title = "Échoes ≤ 3"
command = ["echo", "--", "{text}"]
[services.echo.parameters]
text = { type = "str", required = true, max_length = 3, description = "Said by 🔭" }
"""
COLOUR = re.compile(r"\x1b\[(\d+;)*3[0-7]m")
"""How a terminal is told to write in one of eight colours."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A declaration with characters that few encodings have."""
    path = tmp_path / "uwsd.toml"
    path.write_text(LIMITED)
    return path


async def in_shell(script: str, file: Path, **environment: str) -> Ended:
    """Run a script in which ``$0`` is the command, and ``$1`` the declaration."""
    return await run("sh", "-c", script, UWSD, file, cwd=file.parent, env=os.environ | environment)


@pytest.mark.parametrize("command", ['check "$1"', "jobs list --help"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
async def test_closed_streams_are_as_good_as_dev_null(file: Path, command: str, closed: str) -> None:
    done = await in_shell(f'"$0" {command} {closed}', file)
    assert (done.status, done.err) == (0, "")


async def test_what_is_wrong_ends_with_its_status_though_it_cannot_be_told(file: Path) -> None:
    file.write_text("port = 3")
    assert (await in_shell('"$0" check "$1" 2>&-', file)).status == 2


@pytest.mark.parametrize("command", ['check "$1"', "--help", 'doctor --config "$1"'])
async def test_a_full_disk_is_told_in_one_line(file: Path, command: str) -> None:
    done = await in_shell(f'"$0" {command} > /dev/full', file)
    assert (done.status, done.err) == (2, "the system: No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_characters_that_an_encoding_has_not_are_escaped(file: Path, encoding: str) -> None:
    done = await in_shell('"$0" check "$1" > printed', file, PYTHONIOENCODING=encoding)
    assert (done.status, done.err) == (0, "")
    printed = file.with_name("printed").read_bytes().decode(encoding)
    assert {"ascii": r"\u00c9choes \u2264 3", "latin-1": r"Échoes \u2264 3"}[encoding] in printed
    assert r"\ud83d\udd2d" in printed


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
async def test_json_says_the_same_in_any_encoding(file: Path, encoding: str) -> None:
    done = await in_shell('"$0" check --json "$1"', file, PYTHONIOENCODING=encoding)
    (service,) = json.loads(done.out)["services"]
    assert (service["title"], service["parameters"]["text"]["description"]) == ("Échoes ≤ 3", "Said by 🔭")


async def test_terminals_get_colours_unless_no_color_is_set(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    commands = ("check", file), ("doctor", "--config", file), ("--help",)
    for command in commands:
        assert COLOUR.search((await uwsd_on_terminal(*command, shows="out")).out)
        assert "\x1b" not in (await uwsd(*command)).out, "nor does a file get any"
    monkeypatch.setenv("NO_COLOR", "1")
    for command in commands:
        assert not COLOUR.search((await uwsd_on_terminal(*command, shows="out")).out)


async def test_the_version_is_printed() -> None:
    assert (await uwsd("--version")).out == f"uwsd {VERSION}\n"


async def test_a_fault_of_its_own_is_told_in_one_line_and_where_it_is_when_asked_for(file: Path) -> None:
    faulty = "import sys, uws.cli; uws.cli.load = lambda file: 1 // 0; sys.argv[0] = 'uwsd'; uws.cli.main()"
    done = await run(sys.executable, "-c", faulty, "check", file)
    assert (done.status, done.out) == (70, "")
    cause = "ZeroDivisionError: integer division or modulo by zero"
    assert done.err == f"a fault of uwsd itself: {cause}; uwsd --debug … shows where\n"
    debugged = await run(sys.executable, "-c", faulty, "--debug", "check", file)
    assert debugged.err.startswith("Traceback")
