"""Erasing where several share a log: what one node erases is in no read model of any."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.daemon import uwsd
from tests.databases import needs_postgres
from tests.harness import job_id
from tests.nodes.conftest import Start
from tests.nodes.test_nodes import QUICK

pytestmark = needs_postgres
SECRET = b"XSECRETMARKX"
SOON = 30.0


def with_secret(data: Path) -> list[str]:
    """The files of a node's read models, and beside them, in which the secret is."""
    return [path.name for path in (data / "projections").iterdir() if SECRET in path.read_bytes()]


async def test_what_one_node_erases_is_scrubbed_by_all_and_by_those_that_come_back_before_they_serve(
    start: Start, tmp_path: Path, url: str
) -> None:
    declaration = tmp_path / "a.toml"
    declaration.write_text(
        f'data = "a"\nstore = "{url}"\njobs = "jobs"\n[services.quick]\ntitle = "Quick"\ncommand = ["true"]\n'
    )
    async with start("a", QUICK) as a, start("b", QUICK) as b:
        b.node.backend.projector.scrub_seconds = 0.01
        async with start("away", QUICK) as away:
            job = await a.create("quick", RUNID=SECRET.decode())
            for site in (a, b, away):
                await site.node.backend.projector.caught_up()
        assert (await a.request("DELETE", job)).status == 303
        nodes = [tmp_path / name for name in ("a", "b", "away")]
        assert all(with_secret(data) for data in nodes)
        done = await uwsd("audit", "erase", job_id(job), "--reason", "asked for", "--config", declaration)
        assert (done.status, done.err) == (0, "")
        told = " ".join(done.out.split())
        assert f"job {job_id(job)} is erased: " in told
        assert "other nodes take them out of their files in some ten seconds" in told
        assert with_secret(tmp_path / "a") == []
        async with asyncio.timeout(SOON):
            while with_secret(tmp_path / "b"):
                await asyncio.sleep(0.05)
        async with start("away", QUICK):
            assert with_secret(tmp_path / "away") == []
