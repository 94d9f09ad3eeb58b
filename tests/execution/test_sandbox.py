"""Programs in a sandbox: no network, nothing to write to but the job's own directory, nothing left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.daemon import UWSD, run, uwsd
from tests.execution.programs import Pipe, directory_of, shell
from tests.execution.test_programs import info, results, summary
from tests.harness import job_id, running, text
from uws import FileParameter, Limits

TRY = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None or subprocess.run(TRY, check=False, capture_output=True).returncode != 0,
    reason="bubblewrap is missing, or may not make sandboxes here",
)


async def test_a_sandboxed_program_does_its_work(tmp_path: Path) -> None:
    script = 'cat "$1" > "$UWS_RESULTS/copy"; wc -c < "$UWS_PARAMETERS" > length; echo out; exit 3'
    service = shell(script, "{f}", parameters={"f": FileParameter(required=True)}, sandbox=True)
    async with running(tmp_path, service) as site:
        job = await site.run("run", f=b"bytes")
        document = await site.ended(job)
        assert info(document) == {"exitCode": "3"}
        assert (await site.get(f"{job}/results/copy")).body == b"bytes"
        assert (directory_of(site, job) / "logs" / "stdout").read_text() == "out\n"


@pytest.fixture
def outside() -> Iterator[Path]:
    """A file that is neither the job's nor below the system's directory for temporary ones."""
    with TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory) / "file"


@pytest.mark.parametrize("sandbox", [True, False])
@pytest.mark.parametrize(
    "deed",
    [
        'echo > "$OUTSIDE"',
        'echo > "$(dirname "$UWS_RESULTS")/starts/3-1"',
        'echo > "$(dirname "$UWS_RESULTS")/logs/stdout"',
        'cat "$(dirname "$UWS_RESULTS")/../../events.db"',
        'ls "$(dirname "$UWS_RESULTS")/../$OTHER"',
        'python3 -c \'import os, socket; socket.create_connection(("127.0.0.1", int(os.environ["PORT"])))\'',
        "kill -0 $TEST",
    ],
    ids=[
        "write elsewhere",
        "forge a record",
        "forge a log",
        "read the log",
        "look at others",
        "phone",
        "kill",
    ],
)
async def test_only_in_a_sandbox_a_program_can_do_no_harm(
    tmp_path: Path, outside: Path, deed: str, sandbox: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        values = {"OUTSIDE": str(outside), "PORT": str(listening.getsockname()[1]), "TEST": str(os.getpid())}
        async with running(tmp_path, shell("true", name="before")) as site:
            other = await site.run("before")
            await site.ended(other)
            values["OTHER"] = job_id(other)
        service = shell(f"set -e; {deed}; touch $UWS_RESULTS/done", environment=values, sandbox=sandbox)
        async with running(tmp_path, service) as site:
            done = results(await site.ended(await site.run("run")))
            assert done == ([] if sandbox else ["done"])
            assert outside.exists() == (not sandbox and "OUTSIDE" in deed)


@pytest.mark.parametrize(
    "deed",
    [
        'umount -l "$(dirname "$UWS_RESULTS")/../.."; ls "$(dirname "$UWS_RESULTS")/../../events.db"',
        'mount -o remount,rw,bind /; echo > "$OUTSIDE"',
        'chown 1 "$UWS_RESULTS"',
        'echo > "$(dirname "$UWS_RESULTS")/../../x"',
        "echo > /dev/x",
    ],
    ids=["unmount", "remount", "chown", "write beside the data", "write beside the devices"],
)
async def test_a_server_that_is_root_gives_no_rights_to_sandboxed_programs(
    tmp_path: Path, outside: Path, deed: str
) -> None:
    script = f"set -e; {deed}; touch $UWS_RESULTS/done"
    service = shell(script, environment={"OUTSIDE": str(outside)}, sandbox=True)
    async with running(tmp_path, service) as site:
        assert results(await site.ended(await site.run("run"))) == []
        assert not outside.exists()


async def test_what_a_sandboxed_program_keeps_in_memory_as_files_is_limited(tmp_path: Path) -> None:
    script = "head -c 30000000 /dev/zero > $ROOM/zeros"
    for room in ("/tmp", "/dev/shm"):
        service = shell(script, environment={"ROOM": room}, sandbox=True, limits=Limits(memory="20MB"))
        async with running(tmp_path, service) as site:
            message = summary(await site.ended(await site.run("run")))["message"]
            assert "No space left on device" in message


async def test_a_sandboxed_program_may_clean_up_and_is_stopped_as_a_whole(
    tmp_path: Path, ready: Pipe
) -> None:
    script = 'trap \'echo x > "$UWS_RESULTS/note"; exit 0\' TERM; touch "$UWS_RESULTS/up"; sleep 1000 & wait'
    async with running(tmp_path / "data", shell(script, sandbox=True), grace=20) as site:
        job = await site.run("run")
        while not (directory_of(site, job) / "results" / "up").exists():
            await site.phase(job)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert "note" in results(document)


async def test_limits_hold_in_a_sandbox(tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait"
    service = shell(script, sandbox=True, limits=Limits(processes=5))
    async with running(tmp_path, service) as site:
        document = await site.ended(await site.run("run"))
        assert summary(document)["message"] == "the program exceeded the limit processes = 5"


async def test_a_missing_bubblewrap_is_found_by_uwsd_check(tmp_path: Path) -> None:
    (tmp_path / "uwsd.toml").write_text(
        '[services.s]\ntitle = "S"\ncommand = ["true"]\nsandbox = true\n', encoding="utf-8"
    )
    assert (await uwsd("check", cwd=tmp_path)).status == 0
    found = await run(UWSD, "check", cwd=tmp_path, env={"PATH": str(tmp_path)})
    assert (found.status, found.err) == (
        2,
        "services.s.sandbox: there is no bwrap in PATH: install bubblewrap, or leave sandbox = true out\n",
    )
