"""What program a job has run is on record: the names and SHA-256 of its files."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.harness import Site, running
from tests.web.support import events_of
from uws import Service, StrParameter
from uws.execution import programs
from uws.functions import PATH, command_of
from uws.model import ProgramFile
from uws.model import events as e


def digest(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


async def started(site: Site, service: str = "own", **parameters: str) -> tuple[ProgramFile, ...]:
    """Run a job to its end, and return what its start says of its program."""
    job = await site.run(service, **parameters)
    await site.ended(job)
    (start,) = [event for event in await events_of(site, job) if isinstance(event, e.JobStarted)]
    return start.program


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_a_start_says_which_executable_it_is_and_not_where(tmp_path: Path) -> None:
    program = script(tmp_path / "bin é", "true")
    service = Service(name="own", title="Own", command=[str(program)])
    async with running(tmp_path / "data", service) as site:
        job = await site.run("own")
        await site.ended(job)
        (start,) = [event for event in await events_of(site, job) if isinstance(event, e.JobStarted)]
        assert start.program == (ProgramFile(name="bin é", sha256=digest(program)),)
        recorded = await site.node.backend.store.read_stream(e.job_stream(job.rpartition("/")[2]))
        assert not [each for each in recorded if str(tmp_path).encode() in each.data]


async def test_a_program_is_found_where_the_job_finds_it(tmp_path: Path) -> None:
    script(tmp_path / "tool", "true")
    path = f"{tmp_path}:{os.environ['PATH']}"
    service = Service(name="own", title="Own", command=["tool"], environment={"PATH": path})
    async with running(tmp_path / "data", service) as site:
        assert await started(site) == (ProgramFile(name="tool", sha256=digest(tmp_path / "tool")),)


async def test_files_that_fixed_arguments_name_belong_to_the_program_and_values_do_not(
    tmp_path: Path,
) -> None:
    code, given = script(tmp_path / "code.sh", "true"), script(tmp_path / "given.sh", "true")
    script(tmp_path / "{file}", "true")
    service = Service(
        name="own",
        title="Own",
        command=["sh", str(code), "{file}", f"{tmp_path}/{{file}}", str(tmp_path), f"{tmp_path}/nothing"],
        parameters={"file": StrParameter(required=True)},
    )
    async with running(tmp_path / "data", service) as site:
        shell = shutil.which("sh")
        assert shell
        assert await started(site, file=str(given)) == (
            ProgramFile(name="sh", sha256=digest(shell)),
            ProgramFile(name="code.sh", sha256=digest(code)),
        )


async def test_of_a_function_the_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sky" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "sky" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "map.py").write_text("def draw() -> str:\n    return 'a map'\n")
    service = Service(
        name="own",
        title="Own",
        command=command_of("sky.deep.map:draw"),
        environment={PATH: str(tmp_path)},
    )
    async with running(tmp_path / "data", service) as site:
        interpreter, module = await started(site)
        assert interpreter.sha256 == digest(sys.executable)
        assert module == ProgramFile(name="map.py", sha256=digest(package / "map.py"))
    assert "sky" not in sys.modules


async def test_a_program_that_was_changed_is_another_one(tmp_path: Path) -> None:
    program = script(tmp_path / "tool", "true #1")
    service = Service(name="own", title="Own", command=[str(program)])
    async with running(tmp_path / "data", service) as site:
        first = await started(site)
        script(program, "true #2")  # as long as before
        (second,) = await started(site)
        assert second.sha256 == digest(program) != first[0].sha256
        other = script(tmp_path / "other", "true #3")
        other.rename(program)
        (third,) = await started(site)
        assert third.sha256 == digest(program)


async def test_a_program_is_read_once_however_many_jobs_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    whole = programs._digest
    monkeypatch.setattr(programs, "_digest", lambda file: read.append(file) or whole(file))
    program = script(tmp_path / "tool", "true")
    service = Service(name="own", title="Own", command=[str(program)], max_running=5)
    async with running(tmp_path / "data", service) as site:
        for _ in range(5):
            assert await started(site)
    assert len(read) == 1


async def test_what_cannot_be_read_keeps_nothing_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "LARGEST", 10)
    program = script(tmp_path / "tool", "true")
    async with running(
        tmp_path / "data",
        Service(name="own", title="Own", command=[str(program)]),
        Service(name="none", title="None", command=["no-such-program"]),
    ) as site:
        assert await started(site) == ()
        assert await started(site, "none") == ()
