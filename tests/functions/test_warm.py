"""Functions whose module is kept loaded: jobs are as they are without, and do not import it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.execution.programs import Pipe, directory_of, is_running
from tests.execution.test_programs import info, results, summary
from tests.functions.support import declared, problems
from tests.harness import Site, job_id, running, text
from uws import DeclarationError, Service
from uws.execution import process

MODULE = """
with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
print("something that is no answer")

def look(what: str) -> object:
    "Look."
    return eval(what)
"""


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    """A file to which the module adds a line when it is imported."""
    return tmp_path / "imports"


@asynccontextmanager
async def warm(tmp_path: Path, imports: Path, *keys: str, module: str = MODULE) -> AsyncIterator[Site]:
    """Serve the module's function, whose programs outlive the server."""
    service = declared(tmp_path, module, "warm = true", f'environment = {{ IMPORTS = "{imports}" }}', *keys)
    imports.unlink()  # the declaration was read
    data, outlives = tmp_path / "data", {"jobs_end_with_server": False}
    async with running(data, service, grace=0.5, **outlives) as site:
        yield site


async def looked(site: Site, what: str) -> Any:
    job = await site.run("look", what=what)
    document = await site.ended(job)
    assert text(document, "phase") == "COMPLETED", text(document, "message")
    return json.loads((await site.get(f"{job}/results/result.json")).body)


async def test_the_module_is_imported_once_and_each_job_is_a_process_of_its_own(
    tmp_path: Path, imports: Path
) -> None:
    async with warm(tmp_path, imports, "max_running = 3") as site:
        found = await asyncio.gather(
            *(looked(site, "[os.getpid(), os.getsid(0), os.getcwd()]") for _ in range(5))
        )
        (loaded,) = map(int, imports.read_text().split())
        assert len({pid for pid, _, _ in found}) == 5
        assert all(pid == session != loaded for pid, session, _ in found)
        assert len({directory for _, _, directory in found}) == 5


async def test_what_a_job_does_to_its_process_is_nothing_to_the_others(tmp_path: Path, imports: Path) -> None:
    async with warm(tmp_path, imports) as site:
        for deed, end in {
            "os.kill(os.getpid(), 9)": {"signal": "SIGKILL"},
            "os.abort()": {"signal": "SIGABRT"},
            "os._exit(7)": {"exitCode": "7"},
            "sys.exit(75)": {"exitCode": "75"},
            "os.environ.clear() or os.chdir('/') or sys.modules.clear() or 1 / 0": {"exitCode": "1"},
        }.items():
            assert info(await site.ended(await site.run("look", what=deed))) == end
            assert await looked(site, "sorted(name for name in os.environ if name.startswith('UWS_'))") == [
                "UWS_JOB_ID", "UWS_PARAMETERS", "UWS_PROGRESS", "UWS_RESULTS",
            ]  # fmt: skip
        assert len(imports.read_text().split()) == 1


async def test_what_a_job_says_and_raises_is_its_own(tmp_path: Path, imports: Path) -> None:
    async with warm(tmp_path, imports) as site:
        job = await site.run("look", what="[print('said'), sys.stderr.write('told\\n'), 1 / 0]")
        document = await site.ended(job)
        assert summary(document)["message"] == "ZeroDivisionError: division by zero"
        logs = directory_of(site, job) / "logs"
        assert (logs / "stdout").read_text() == "said\n"
        assert (logs / "stderr").read_text().startswith("told")


async def test_limits_and_aborts_are_as_for_any_program(tmp_path: Path, imports: Path, ready: Pipe) -> None:
    async with warm(tmp_path, imports, 'limits = { cpu = "1s" }') as site:
        document = await site.ended(await site.run("look", what="[1 for _ in iter(int, 1)]"))
        assert summary(document)["message"] == "the program exceeded the limit cpu = 1s"
        job = await site.run(
            "look", what=f"open({ready.path!r}, 'w').write('x\\n') and __import__('time').sleep(1000)"
        )
        await ready.line()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert info(await site.ended(job)) == {"reason": "aborted on request", "signal": "SIGTERM"}


async def test_a_job_ends_as_python_does(tmp_path: Path, imports: Path) -> None:
    module = (
        MODULE
        + """
def write(name: str) -> None:
    Path(os.environ["UWS_RESULTS"], name).write_text("x")

def last() -> None:
    import atexit, threading
    atexit.register(write, "at the end")
    main = threading.main_thread()
    threading.Thread(target=lambda: (main.join(), write("thread"))).start()
"""
    )
    async with warm(tmp_path, imports, module=module) as site:
        document = await site.ended(await site.run("look", what="last()"))
        assert results(document) == ["at_the_end", "thread"]


async def test_what_the_module_has_started_lives_on_with_it(tmp_path: Path, imports: Path) -> None:
    module = "import subprocess\nHELPER = subprocess.Popen(['sleep', '1000'])\n" + MODULE
    async with warm(tmp_path, imports, module=module) as site:
        helper = await looked(site, "HELPER.pid")
        for _ in range(2):
            assert await looked(site, "HELPER.pid") == helper
            assert is_running(helper)
        os.kill(helper, signal.SIGKILL)


async def test_a_program_whose_supervisor_and_server_are_gone_is_found_by_the_next(
    tmp_path: Path, imports: Path, ready: Pipe
) -> None:
    keys = 'on_lost = "requeue"', "requeues = 1"
    wait = f"[open({ready.path!r}, 'w').write(f'{{os.getpid()}}\\n'), __import__('time').sleep(1000)]"
    async with warm(tmp_path, imports, *keys) as site:
        job = await site.run("look", what=wait)
        (program,) = await ready.numbers(1)
    assert is_running(program)
    (record,) = (tmp_path / "data" / "jobs" / job_id(job) / "starts").iterdir()
    os.kill(json.loads(record.read_text().splitlines()[0])["pid"], signal.SIGKILL)
    async with warm(tmp_path, imports, *keys) as site:
        (second,) = await ready.numbers(1)
        assert second != program
        assert not is_running(program)
        await site.request("DELETE", f"{site.list_url('look')}/{job_id(job)}")


async def test_jobs_draw_different_random_numbers(tmp_path: Path, imports: Path) -> None:
    module = "import random, numpy\n" + MODULE
    async with warm(tmp_path, imports, module=module) as site:
        drawn = [await looked(site, "[random.random(), numpy.random.random()]") for _ in range(2)]
        assert not {*drawn[0]} & {*drawn[1]}


async def test_a_module_that_cannot_be_imported_any_more_is_told_by_each_job(
    tmp_path: Path, imports: Path
) -> None:
    module = "if os.path.exists(os.environ['IMPORTS'] + '-not'): raise OSError('not now')\n" + MODULE
    (tmp_path / "imports-not").touch()
    with pytest.raises(DeclarationError, match="not now"):
        async with warm(tmp_path, imports, module=module):
            pass
    (tmp_path / "imports-not").unlink()
    async with warm(tmp_path, imports, module=module) as site:
        (tmp_path / "imports-not").touch()
        for _ in range(2):
            document = await site.ended(await site.run("look", what="1"))
            assert summary(document)["message"] == "OSError: not now"
        (tmp_path / "imports-not").unlink()
        assert await looked(site, "1") == 1


async def test_a_module_that_ends_its_process_costs_its_jobs_and_no_others(
    tmp_path: Path, imports: Path
) -> None:
    module = "if os.path.exists(os.environ['IMPORTS'] + '-not'): os._exit(3)\n" + MODULE
    async with warm(tmp_path, imports, module=module) as site:
        (tmp_path / "imports-not").touch()
        message = summary(await site.ended(await site.run("look", what="1")))["message"]
        assert "could not be started: its launcher ends before it can do anything" in message
        (tmp_path / "imports-not").unlink()
        assert await looked(site, "1") == 1


async def test_a_module_whose_import_has_no_end_is_given_up(
    tmp_path: Path, imports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LONGEST_IMPORT", 1.0)
    module = (
        "import threading\nif os.path.exists(os.environ['IMPORTS'] + '-not'): threading.Event().wait()\n"
        + MODULE
    )
    async with warm(tmp_path, imports, module=module) as site:
        (tmp_path / "imports-not").touch()
        message = summary(await site.ended(await site.run("look", what="1")))["message"]
        assert "could not be started: its launcher ends before it can do anything" in message
        (tmp_path / "imports-not").unlink()
        monkeypatch.undo()
        assert await looked(site, "1") == 1


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="there is no bubblewrap to be in a sandbox")
def test_only_functions_outside_a_sandbox_are_kept_warm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORTS", str(tmp_path / "imports"))
    with pytest.raises(DeclarationError, match=r"services.a.warm: only the module of a function can be kept"):
        Service(name="a", title="A", command=["true"], warm=True)
    keys = f'environment = {{ IMPORTS = "{tmp_path / "imports"}" }}'
    assert problems(tmp_path, MODULE, "warm = true", "sandbox = true", keys) == (
        "services.look.warm: what runs in a sandbox is loaded there: leave out one of the two",
    )
