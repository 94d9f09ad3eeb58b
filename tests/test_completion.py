"""What a shell offers for the word that is typed, as its completion asks for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.daemon import UWSD, run, serving
from tests.harness import job_id

TWO = """
[services.echo]
title = "Echo"
command = ["echo"]
[services.edit]
title = "Edit"
command = ["true"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(TWO)
    return path


async def offered(line: str, cwd: Path) -> list[str]:
    """Return what bash is told for the last word of a line, which may be empty."""
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_UWSD_COMPLETE": "complete_bash"}
    done = await run(UWSD, cwd=cwd, env=os.environ | asked)
    assert (done.status, done.err) == (0, "")
    return done.out.split()


async def test_services_are_offered_by_their_names(file: Path, tmp_path: Path) -> None:
    assert await offered("uwsd jobs list --service ", tmp_path) == ["echo", "edit"]
    assert await offered("uwsd queue pause ed", tmp_path) == ["edit"]
    (tmp_path / "other.toml").write_text(TWO.replace("edit", "other"))
    assert await offered("uwsd jobs list --config other.toml --service o", tmp_path) == ["other"]


async def test_read_models_and_phases_are_offered(file: Path, tmp_path: Path) -> None:
    assert await offered("uwsd projections rebuild job", tmp_path) == ["job_list"]
    assert await offered("uwsd jobs list --phase ER", tmp_path) == ["ERROR"]


async def test_jobs_are_offered_by_their_ids_the_newest_first(file: Path, tmp_path: Path) -> None:
    async with serving(file) as server:
        made = [job_id((await server.post("/echo/async", {})).location) for _ in range(3)]
        newest_first = made[::-1]
        assert await offered("uwsd jobs show ", tmp_path) == newest_first
        beginning = made[0][:8]
        assert await offered(f"uwsd audit log {beginning}", tmp_path) == [
            name for name in newest_first if name.startswith(beginning)
        ]
    assert await offered("uwsd jobs abort ", tmp_path) == newest_first, "without a server, too"


@pytest.mark.parametrize("line", ["uwsd jobs list --service ", "uwsd jobs show ", "uwsd audit replay x"])
async def test_nothing_is_offered_where_nothing_can_be_found_out(tmp_path: Path, line: str) -> None:
    assert await offered(line, tmp_path) == []
    (tmp_path / "uwsd.toml").write_text("[services")
    assert await offered(line, tmp_path) == []
