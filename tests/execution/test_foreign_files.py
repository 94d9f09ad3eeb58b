"""Whatever a program puts in place of its files, and whenever: nobody else's become its results, or go."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from tests.execution.programs import directory_of, shell
from tests.execution.test_programs import results, summary
from tests.harness import job_id, running, text
from tests.swapping import KINDS, MINE, SECRET, Foreign, moments_of, swapped
from uws import FileParameter, ResultDeclaration
from uws.execution.progress import Told, read_progress
from uws.execution.records import End
from uws.execution.results import collect
from uws.files import JobDirectory

R = TypeVar("R")


def a_job(tmp_path: Path) -> JobDirectory:
    directory = JobDirectory(tmp_path / "jobs" / "j")
    directory.root.parent.mkdir()
    directory.make()
    (directory.results / "sub").mkdir()
    for path in (directory.results / "x", directory.results / "sub" / "x", directory.work / "y"):
        path.write_bytes(MINE)
    for path in (directory.progress, directory.logs / "stdout", directory.logs / "stderr"):
        path.write_bytes(MINE)
    return directory


async def at_each_moment(foreign: Foreign, path: Path, kind: str, do: Callable[[], R]) -> list[R]:
    """Return what ``do`` returns when something else is put in ``path``'s place, once for each moment."""
    returned: list[R] = []
    for number in moments_of(do):
        with swapped(number, lambda: foreign.swap(path, kind)):
            doing = asyncio.create_task(asyncio.to_thread(do))
            done, _ = await asyncio.wait([doing], timeout=20)
            if not done:
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # lets it go
            returned.append(await doing)
        assert done, f"a pipe that came at moment {number} holds up all"
        foreign.take_back()
    return returned


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("declared", "path"),
    [("", "results/x"), ("", "results/sub/x"), ("**/x", "results/sub/x"), ("sub/x", "results/sub/x"),
     ("y", "work/y"), ("-", "logs/stdout"), ("-", "logs/stderr")],
)  # fmt: skip
async def test_whenever_a_program_swaps_a_file_the_other_one_is_no_result(
    tmp_path: Path, declared: str, path: str, kind: str
) -> None:
    directory = a_job(tmp_path)
    declarations = [ResultDeclaration(id="r", path=declared)] if declared else []
    service = shell("", results=declarations)
    foreign = Foreign(directory.root, tmp_path)
    endings = await at_each_moment(
        foreign, directory.root / path, kind, lambda: collect(service, directory, End(1, status=1))
    )
    for ending in endings:
        assert all(result.sha256 == hashlib.sha256(MINE).hexdigest() for result in ending.results)
        assert ending.failure
        assert SECRET.decode() not in f"{ending.failure.detail} {ending.failure.message}"


@pytest.mark.parametrize("kind", KINDS)
async def test_whenever_a_program_swaps_its_progress_the_other_one_is_not_told(
    tmp_path: Path, kind: str
) -> None:
    directory = a_job(tmp_path)
    path = directory.logs / "stdout"
    foreign = Foreign(directory.root, tmp_path)
    told = await at_each_moment(
        foreign, path, kind, lambda: read_progress(directory, path, "", whole_lines=False)
    )
    assert set(told) <= {None, Told(0.1, "mine!!")}


async def test_a_file_without_a_name_that_is_text_is_not_moved_from_elsewhere(tmp_path: Path) -> None:
    directory = a_job(tmp_path)
    path = directory.results / "sub" / os.fsdecode(b"a\xff")
    path.write_bytes(MINE)
    foreign = Foreign(directory.root, tmp_path)
    before = sorted(foreign.files())

    def collected() -> None:
        with suppress(OSError):
            collect(shell(""), directory, End(1))

    await at_each_moment(foreign, path, "its directory a link", collected)
    assert sorted(foreign.files()) == before


@pytest.mark.parametrize("kind", ["its directory a link", "the job's directory a link"])
@pytest.mark.parametrize("path", ["results/sub/x", "work/y"])
async def test_whenever_a_directory_is_swapped_nothing_is_deleted_elsewhere(
    tmp_path: Path, path: str, kind: str
) -> None:
    directory = a_job(tmp_path)
    foreign = Foreign(directory.root, tmp_path)
    for inner in (foreign.root, *(each for each in foreign.root.rglob("*") if each.is_dir())):
        inner.chmod(0o755)
    before = {each: each.stat().st_mode for each in foreign.root.rglob("*")}

    def removed() -> bool:
        asyncio.run(directory.remove())
        return os.path.lexists(directory.root)

    def swap_if_there() -> None:
        with suppress(OSError):  # it is deleted already
            foreign.swap(directory.root / path, kind)

    for number in await asyncio.to_thread(moments_of, removed):
        foreign.take_back()
        with swapped(number, swap_if_there):
            left = await asyncio.to_thread(removed)
        assert not left
        assert {each: each.stat().st_mode for each in foreign.root.rglob("*")} == before


async def test_a_link_that_a_program_leaves_in_place_of_its_directory_goes_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    script = f'cd ..; d=$PWD; cd ..; rm -r "$d"; ln -s {outside} "$d"'
    async with running(tmp_path / "data", shell(script)) as site:
        job = await site.run("run")
        await site.ended(job)
        assert directory_of(site, job).is_symlink()
        assert (await site.request("DELETE", job)).status == 303
        assert not os.path.lexists(directory_of(site, job))
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.parametrize("name", ["work", "results", "logs", "starts", "uploads", "."])
async def test_a_program_is_not_started_in_a_directory_that_is_a_link(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "stdout").write_text("kept")
    async with running(tmp_path / "data", shell('echo no > "$UWS_RESULTS/x"; echo no > y')) as site:
        job = await site.create("run")
        root = directory_of(site, job)
        if name != ".":
            root.mkdir(mode=0o700)
        (root / name if name != "." else root).symlink_to(outside)
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        document = await site.ended(job)
        assert text(document, "phase") == "ERROR"
        told = "the program sh could not be started: the job's directory: Not a directory"
        assert summary(document)["message"] == told
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"stdout": "kept"}


async def test_parameters_are_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    async with running(tmp_path / "data", shell("true")) as site:
        job = await site.create("run")
        directory_of(site, job).mkdir(mode=0o700)
        (directory_of(site, job) / "parameters.json").symlink_to(outside)
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        assert text(await site.ended(job), "phase") == "COMPLETED"
    assert outside.read_text() == "kept"


async def test_nobody_else_can_look_into_a_jobs_directories(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        service = shell("true", "{f}", parameters={"f": FileParameter(required=True)})
        async with running(tmp_path / "data", service) as site:
            job = await site.run("run", f=MINE)
            await site.ended(job)
            root = directory_of(site, job)
            private = [site.data, site.data.parent / "spool", root, *root.iterdir()]
            modes = {path.name: path.stat().st_mode & 0o777 for path in private if path.is_dir()}
            assert modes == dict.fromkeys(modes, 0o700)
            assert modes.keys() >= {
                "jobs",
                "spool",
                job_id(job),
                "work",
                "results",
                "uploads",
                "logs",
                "starts",
            }
    finally:
        os.umask(umask)


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o500, 0o750])
async def test_a_start_makes_directories_of_jobs_private_again_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    service = shell('echo 1 > "$UWS_RESULTS/x"')
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        await site.ended(job)
        directories = [site.data, directory_of(site, job)]
    for path in directories:
        path.chmod(mode)
    with caplog.at_level(logging.WARNING, "uws.files"):
        async with running(tmp_path, service) as site:
            assert (await site.get(f"{site.list_url('run')}/{job_id(job)}/results/x")).body == b"1\n"
    assert [path.stat().st_mode & 0o777 for path in directories] == [0o700] * 2
    told = f"2 directories were not the server's alone, and are now: {tmp_path / 'jobs'}"
    assert told in caplog.messages


async def test_a_start_says_of_a_link_among_the_directories_of_jobs_that_it_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = shell('echo 1 > "$UWS_RESULTS/x"')
    async with running(tmp_path / "data", service) as site:
        job = await site.run("run")
        await site.ended(job)
        root = directory_of(site, job)
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o755)
    async with running(tmp_path / "data", service) as site:
        answer = await site.get(f"{site.list_url('run')}/{job_id(job)}/results/x")
        assert (answer.status, answer.text) == (404, "UsageFault: the file x is missing\n")
    assert f"{root} is no directory: nothing is read through it" in caplog.messages
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o755


async def test_a_start_is_refused_while_a_directory_of_a_job_is_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = shell("true")
    async with running(tmp_path, service) as site:
        await site.ended(await site.run("run"))
    owner, user = os.geteuid(), os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    told = (
        rf"it belongs to user {owner}\b.*, and the server is user {user}\b.*: "
        f"run it as that one, or chown -R {user}"
    )
    with pytest.raises(PermissionError, match=told):
        async with running(tmp_path, service):
            pass


async def test_second_names_of_foreign_files_are_no_results(tmp_path: Path) -> None:
    (outside := tmp_path / "outside").write_bytes(SECRET)
    script = f'ln {outside} "$UWS_RESULTS/hard"; echo 1 > "$UWS_RESULTS/own"'
    async with running(tmp_path / "data", shell(script)) as site:
        assert results(await site.ended(await site.run("run"))) == ["own"]
