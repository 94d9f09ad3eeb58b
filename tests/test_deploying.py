"""The systemd unit: systemd understands all of it, and rates it well."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"
OPERATING = Path(__file__).parents[1] / "docs/operating.md"
pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(directory: Path, *, sandbox: bool) -> Path:
    """Put the unit where nothing else is, with what sandboxes need or without."""
    unit = directory / "uwsd.service"
    unit.write_text((DEPLOY / "uwsd.service").read_text().replace("/opt/uwsd/bin/uwsd", "/bin/true"))
    if sandbox:
        shutil.copytree(DEPLOY / "uwsd.service.d", directory / "uwsd.service.d")
    return unit


@pytest.mark.parametrize("sandbox", [False, True])
def test_systemd_understands_every_line(tmp_path: Path, sandbox: bool) -> None:
    assert analyze("verify", "--man=no", "--recursive-errors=no", installed(tmp_path, sandbox=sandbox)) == ""


@pytest.mark.parametrize(("sandbox", "most"), [(False, 20), (True, 35)])
def test_systemd_rates_it_well(tmp_path: Path, sandbox: bool, most: int) -> None:
    unit = installed(tmp_path, sandbox=sandbox)
    assert "OK" in analyze("security", "--offline=true", f"--threshold={most}", unit)


def test_what_systemd_finds_fault_with_is_documented(tmp_path: Path) -> None:
    found = analyze("security", "--offline=true", installed(tmp_path, sandbox=False))
    faults = re.findall(r"✗\S* +(?:\x1b\[[\d;]*m)?(\w+=)(?:~(\S+))?", found)
    names = {value.replace("(INET|INET6)", "INET") or setting for setting, value in faults}
    documented = OPERATING.read_text()
    assert names
    assert not {name for name in names if f"`{name}`" not in documented}


def test_programs_are_left_when_the_server_stops() -> None:
    assert "\nKillMode=process\n" in (DEPLOY / "uwsd.service").read_text()
