"""The wheel: what is in it, and that a server runs from it and from nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.daemon import run, serving
from tests.harness import text

ROOT = Path(__file__).parents[1]
ROOMS = ("eventstore", "projections", "uws")


def with_pip() -> str | None:
    """Return a Python that has pip; the environment of the tests, made as the Makefile does, has none."""
    for candidate in (sys.executable, os.environ.get("PYTHON", ""), "python3", "/usr/bin/python3"):
        python = shutil.which(candidate)
        asked = python and subprocess.run(
            [python, "-m", "pip", "--version"], check=False, capture_output=True
        )
        if asked and asked.returncode == 0:
            return python
    return None


PYTHON = with_pip()
pytestmark = pytest.mark.skipif(PYTHON is None, reason="there is no pip: neither here nor in python3")


async def pip(*arguments: str | Path) -> None:
    constraints = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = await run(str(PYTHON), "-m", "pip", *arguments, env={**os.environ, **constraints})
    assert done.status == 0, done.out + done.err


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    directory = tmp_path_factory.mktemp("dist")
    asyncio.run(pip("wheel", "--quiet", "--no-deps", "--wheel-dir", directory, ROOT))
    (built,) = directory.iterdir()
    return built


def test_the_wheel_holds_the_rooms_with_their_sql_and_stylesheets_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    static = {f"uws/{path.relative_to(ROOT)}" for path in (ROOT / "static").rglob("*") if path.is_file()}
    for needed in (
        "eventstore/py.typed",
        "eventstore/schema.sql",
        "projections/py.typed",
        "projections/job_list.sql",
        "uws/py.typed",
    ):
        assert needed in sources
    for name in ("useruws-job-to-html.xsl", "useruws-joblist-to-html.xsl"):
        assert f"uws/static/xsl/{name}" in static
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == sources | static
    metadata = {name.partition(".dist-info/")[2] for name in names - packaged}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= metadata


async def test_the_wheel_serves_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    made = await run(str(PYTHON), "-m", "venv", "--without-pip", environment)
    assert made.status == 0, made.err
    await pip("--python", environment / "bin" / "python", "install", "--quiet", wheel)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = elsewhere / "uwsd.toml"
    file.write_text(
        '[services.where]\ntitle = "Where"\n'
        'command = ["python", "-c", "import uws; print(uws.__file__)"]\n'
        'results = [{ id = "file", path = "-", mime = "text/plain" }]\n'
    )
    uwsd = environment / "bin" / "uwsd"
    async with serving(file, command=uwsd, cwd=elsewhere, env={"HOME": str(elsewhere)}) as server:
        job = await server.run("where")
        document = await server.ended(job)
        assert text(document, "phase") == "COMPLETED"
        imported = Path((await server.get(f"{job}/results/file")).text.strip())
        assert imported.is_relative_to(environment), "not the checkout"
        static = ROOT / "static"
        for file in filter(Path.is_file, static.rglob("*")):
            answer = await server.get(f"/static/{file.relative_to(static)}")
            assert (answer.status, answer.body) == (200, file.read_bytes())
        named = document.xpath("string(preceding-sibling::processing-instruction('xml-stylesheet'))")
        assert f"{server.url}/static/xsl/useruws-job-to-html.xsl" in str(named)
        page = await server.get(job, headers={"Accept": "text/html"})
        assert page.text.startswith("<!DOCTYPE html>")
        assert await server.stop() == 0
