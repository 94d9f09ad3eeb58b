"""`uwsd init`: what it writes works as it stands, and nothing of anybody's is overwritten."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.daemon import UWSD, run, serving, uwsd

MADE = ["separation.py", "stars.txt", "uwsd.toml"]


async def test_what_is_made_is_right_and_its_examples_hold(tmp_path: Path) -> None:
    made = await uwsd("init", tmp_path / "a" / "site")
    assert (made.status, made.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "a" / "site").iterdir()) == MADE
    *_, check, serve = made.out.splitlines()
    assert serve == f"then: uwsd serve {tmp_path}/a/site/uwsd.toml"
    checked = await uwsd(*check.removeprefix("next: uwsd ").split())
    assert (checked.status, checked.err) == (0, "")
    assert checked.out.count("COMPLETED") == 2


async def test_the_services_that_are_made_are_offered(tmp_path: Path) -> None:
    await uwsd("init", tmp_path)
    async with serving(tmp_path / "uwsd.toml") as server:
        answer = await server.post("/separation/sync", {"ra1": "10", "dec1": "0", "ra2": "350", "dec2": "0"})
        while answer.status == 303:
            answer = await server.get(answer.location)
        assert msgspec.json.decode(answer.body) == {"degrees": pytest.approx(20)}


@pytest.mark.parametrize("name", MADE)
async def test_nothing_is_written_where_a_file_of_that_name_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    done = await uwsd("init", tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"{tmp_path / name} is there already: name another directory; nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


async def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "uwsd.toml").symlink_to(tmp_path / "elsewhere")
    assert (await uwsd("init", tmp_path)).status == 2
    assert not (tmp_path / "elsewhere").exists()


async def test_a_directory_that_looks_like_an_option_is_told_as_a_path(tmp_path: Path) -> None:
    made = await uwsd("init", "--", "-site", cwd=tmp_path)
    assert made.out.splitlines()[-1] == "then: uwsd serve ./-site/uwsd.toml"
    assert (await uwsd("check", "./-site/uwsd.toml", cwd=tmp_path)).status == 0


async def test_no_name_is_no_directory(tmp_path: Path) -> None:
    done = await uwsd("init", "", cwd=tmp_path)
    assert (done.status, done.err) == (2, "DIR: expected a directory, got ''; the one you are in is .\n")
    assert not list(tmp_path.iterdir())


async def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = await uwsd("init", tmp_path / "file")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"{tmp_path}/file is there already, and no directory: name another one\n"


async def test_all_is_written_though_it_cannot_be_told(tmp_path: Path) -> None:
    await run("sh", "-c", '"$0" init site > /dev/full', UWSD, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == MADE


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = await uwsd("init", tmp_path / "file" / "site")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"{tmp_path}/file/site: Not a directory\n"
