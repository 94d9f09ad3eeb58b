"""Copies of read models, as operators make them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.daemon import UWSD, serving, uwsd

SERVICE = """
data = "var"

[services.echo]
title = "Echo"
command = ["echo", "hello"]
"""


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A declaration, and read models of its log."""
    file = tmp_path / "uwsd.toml"
    file.write_text(SERVICE)
    async with serving(file) as server:
        await server.create("echo")
    return file


async def test_only_their_owner_can_read_what_has_the_jobs_of_all(tmp_path: Path, file: Path) -> None:
    new, old = tmp_path / "new.tar", tmp_path / "old.tar"
    old.touch(mode=0o644)
    for packed in (new, old):
        assert (await uwsd("projections", "pack", packed, "--config", file)).status == 0
        assert packed.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("name", "told"), [("-", "standard output"), ("/dev/full", "/dev/full")])
async def test_what_could_not_be_written_is_named(file: Path, name: str, told: str) -> None:
    with Path("/dev/full").open("wb") as full:
        packing = await asyncio.create_subprocess_exec(
            UWSD, "projections", "pack", name, "--config", file, stdout=full, stderr=asyncio.subprocess.PIPE
        )
        _, err = await packing.communicate()
    assert (packing.returncode, err.decode()) == (2, f"{told}: No space left on device\n")
