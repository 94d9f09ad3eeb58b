"""What lies in deploy/: each file is what its tool takes, and does what the documentation says of it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nginx import FILE
from tests.test_packaging import PYTHON, pip

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs/deploying.md"
CONTAINERFILE = DEPLOY / "Containerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)
UNITS = ("uwsd.service", "uwsd@8080.service")


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(directory: Path, name: str, *, sandbox: bool = False) -> Path:
    """Put a unit where nothing else is, as the documentation has it, with what sandboxes need or without."""
    template = re.sub("@.*[.]", "@.", name)
    (directory / template).write_text((DEPLOY / "uwsd.service").read_text())
    shutil.copytree(DEPLOY / "uwsd.service.d", directory / f"{template}.d")
    if not sandbox:
        (directory / f"{template}.d/sandbox.conf").unlink()
    if "@" in template:
        shutil.copy(DEPLOY / f"{template}.d/node.conf", directory / f"{template}.d")
    for file in directory.rglob("*"):
        if file.is_file():
            file.write_text(file.read_text().replace("/opt/uwsd/bin/uwsd", "/bin/true"))
    return directory / name


def test_no_file_is_here_of_which_no_test_knows() -> None:
    files = {path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file()}
    assert files == {
        "Containerfile",
        FILE.name,
        "uwsd.service",
        "uwsd.service.d/sandbox.conf",
        "uwsd.service.d/shared.conf",
        "uwsd@.service.d/node.conf",
    }
    linked = set(re.findall(r"\]\(\.\./deploy/([^)]+)\)", PAGE.read_text()))
    assert linked == files


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("sandbox", [False, True])
def test_systemd_understands_every_line(tmp_path: Path, name: str, sandbox: bool) -> None:
    unit = installed(tmp_path, name, sandbox=sandbox)
    assert analyze("verify", "--man=no", "--recursive-errors=no", unit) == ""


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(("sandbox", "most"), [(False, 20), (True, 35)])
def test_systemd_rates_it_well(tmp_path: Path, name: str, sandbox: bool, most: int) -> None:
    unit = installed(tmp_path, name, sandbox=sandbox)
    assert "OK" in analyze("security", "--offline=true", f"--threshold={most}", unit)


@needs_systemd
def test_what_systemd_finds_fault_with_is_documented(tmp_path: Path) -> None:
    found = analyze("security", "--offline=true", installed(tmp_path, "uwsd.service"))
    faults = re.findall(r"✗\S* +(?:\x1b\[[\d;]*m)?(\w+=)(?:~(\S+))?", found)
    names = {value.replace("(INET|INET6)", "INET") or setting for setting, value in faults}
    documented = PAGE.read_text()
    assert names
    assert not {name for name in names if f"`{name}`" not in documented}


def test_programs_are_left_when_the_server_stops() -> None:
    assert "\nKillMode=process\n" in (DEPLOY / "uwsd.service").read_text()


@pytest.mark.skipif(
    not HADOLINT.exists(), reason="hadolint is not installed: the Containerfile is not linted"
)
def test_the_containerfile_is_as_hadolint_would_have_it() -> None:
    done = subprocess.run(
        [HADOLINT, "--no-color", CONTAINERFILE], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(PYTHON is None, reason="there is no pip: neither here nor in python3")
async def test_what_the_containerfile_copies_is_enough_to_build_the_program_of(tmp_path: Path) -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE.read_text(), re.MULTILINE):
        *sources, target = shlex.split(line)
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / "src" / target)
            else:
                (tmp_path / "src").mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "src" / target)
    await pip("wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", tmp_path / "src")
    assert [path.suffix for path in (tmp_path / "dist").iterdir()] == [".whl"]
