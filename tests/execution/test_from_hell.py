"""Programs that do what no program should: their jobs end, their limits hold, and nothing is left of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.daemon import has_ended
from tests.execution.programs import Pipe, directory_of, is_running, shell
from tests.execution.test_programs import info, results, summary, used
from tests.harness import running, text
from uws import FileParameter, Limits, ResultDeclaration, Service

DAEMON = """
import os
reading, writing = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(os.environ["READY"], "w").write(f"{os.getpid()}\\n")
        os.execve("/bin/sleep", ["sleep", "1000"], {})  # which closes the pipe
    os._exit(0)
os.wait()
os.close(writing)
os.read(reading, 1)
"""
"""A daemon by the book, which takes even its environment off."""

RUNAWAY = """
import os, time
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    if os.fork():
        os._exit(0)
"""
"""A process that is another one at each moment, while nobody stops it for a minute."""

BREEDER = """
import os, time
open(os.environ["READY"], "w").write("0\\n")
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except OSError:
        pass
"""


def python(code: str, ready: Pipe, *, then: str = "", **fields: object) -> Service:
    """Declare a service that runs Python code, and a line of shell after it."""
    return Service(
        name="run",
        title="run",
        command=["sh", "-c", f'python3 -I -S -c "$CODE"; {then}'],
        environment={"READY": ready.path, "CODE": code},
        **fields,  # type: ignore[arg-type]
    )


def processes() -> set[int]:
    """Return all that descends from this process, which adopts whoever has lost his parents."""
    found: set[int] = set()
    ahead = [os.getpid()]
    while ahead:
        with suppress(OSError):  # it has just ended
            for task in Path(f"/proc/{ahead.pop()}/task").iterdir():
                children = {int(pid) for pid in (task / "children").read_text().split()}
                found |= children
                ahead += children
    return {pid for pid in found if is_running(pid)}


async def test_nothing_is_left_of_a_daemon_when_its_program_ends(tmp_path: Path, ready: Pipe) -> None:
    async with running(tmp_path / "data", python(DAEMON, ready, then="exit 3")) as site:
        job = await site.run("run")
        (pid,) = await ready.numbers(1)
        assert info(await site.ended(job)) == {"exitCode": "3"}
        assert not is_running(pid)


async def test_nothing_is_left_of_a_daemon_when_its_program_is_stopped(tmp_path: Path, ready: Pipe) -> None:
    service = python(DAEMON, ready, then="sleep 1000")
    async with running(tmp_path / "data", service, grace=0.2) as site:
        job = await site.run("run")
        (pid,) = await ready.numbers(1)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert text(await site.ended(job), "phase") == "ABORTED"
        assert not is_running(pid)


async def test_who_forks_faster_than_he_is_killed_is_caught(tmp_path: Path, ready: Pipe) -> None:
    service = python(RUNAWAY, ready, then='echo 0 > "$READY"; sleep 1000')
    async with running(tmp_path / "data", service, grace=0.2) as site:
        before = processes()
        job = await site.run("run")
        await ready.line()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert text(await site.ended(job), "phase") == "ABORTED"
        assert len(processes() - before) <= 1  # the launcher


async def test_who_kills_his_supervisor_is_lost_with_all_he_has_started(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    """They have taken their environment off, and left the session."""
    script = """
    env -i READY="$READY" setsid sh -c 'echo $$ > "$READY"; sleep 1000; true' &
    env -i READY="$READY" sh -c 'echo $$ > "$READY"; sleep 1000; true' &
    read line < "$GATE"; kill -KILL $PPID; sleep 1000
    """
    environment = {"READY": ready.path, "GATE": gate.path}
    service = shell(script, environment=environment, on_lost="requeue", requeues=1)
    async with running(tmp_path / "data", service) as site:
        before = processes()
        job = await site.run("run")
        for _ in range(2):
            pids = await ready.numbers(2)
            assert len(processes() - before) <= 7, "something of an earlier start is there"
            gate.send()
            for pid in pids:
                await has_ended(pid)
        document = await site.ended(job)
        assert summary(document)["message"] == "the program was lost: its supervisor is gone"
        assert len(processes() - before) <= 1


@pytest.mark.parametrize("deed", ["rm -rf ../starts", "rm -rf ../../$UWS_JOB_ID",
                                  'for record in ../starts/*; do echo x > $record; done',
                                  'for record in ../starts/*; do echo "{{}}" >> $record; done',
                                  'for f in ../starts/*; do rm $f; mkfifo $f; done',
                                  'for f in ../starts/*; do ln -sf /dev/zero $f; done'])  # fmt: skip
async def test_who_spoils_his_record_at_once_ends_as_he_does(tmp_path: Path, deed: str) -> None:
    async with running(tmp_path, shell(f"{deed}; exit 3", max_running=4)) as site:
        jobs = [await site.run("run") for _ in range(8)]
        for job in jobs:
            assert info(await site.ended(job)) == {"exitCode": "3"}


async def test_who_stops_his_supervisor_is_held_to_his_limits(tmp_path: Path) -> None:
    script = "kill -STOP $PPID; while true; do :; done"
    async with running(tmp_path, shell(script, limits=Limits(cpu="1s"))) as site:
        document = await site.ended(await site.run("run"))
        assert summary(document)["message"] == "the program exceeded the limit cpu = 1s"


async def test_a_pipe_in_the_place_of_a_record_holds_up_nobody(tmp_path: Path) -> None:
    script = "for record in ../starts/*; do rm $record; mkfifo $record; done; kill -KILL $PPID; sleep 1000"
    async with running(tmp_path / "data", shell(script)) as site:
        document = await site.ended(await site.run("run"))
        assert summary(document)["message"] == "the program was lost: its supervisor is gone"


async def test_few_open_files_are_enough_to_measure_deep_directories(tmp_path: Path) -> None:
    limits = Limits(open_files=16, disk="20MB", file_size="1MB")
    script = "for i in $(seq 18); do mkdir d; cd d; done; exit 3"
    async with running(tmp_path, shell(script, limits=limits)) as site:
        assert info(await site.ended(await site.run("run"))) == {"exitCode": "3"}


DEEP = """
import os
for _ in range(300):
    os.mkdir("d" * 30)
    os.chdir("d" * 30)
open("zeros", "wb").write(bytes(30_000_000))
"""


async def test_what_lies_deeper_than_paths_can_name_counts_and_goes(tmp_path: Path) -> None:
    service = shell('python3 -I -S -c "$CODE"', environment={"CODE": DEEP}, limits=Limits(disk="20MB"))
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        assert summary(await site.ended(job))["message"] == "the program exceeded the limit disk = 20MB"
        assert (await site.request("DELETE", job)).status == 303
        assert not directory_of(site, job).exists()


async def test_who_breeds_beyond_the_limit_is_ended_with_all_the_brood(tmp_path: Path, ready: Pipe) -> None:
    service = python(BREEDER, ready, limits=Limits(processes=30))
    async with running(tmp_path / "data", service) as site:
        before = processes()
        document = await site.ended(await site.run("run"))
        assert summary(document)["message"] == "the program exceeded the limit processes = 30"
        assert info(document) == {"signal": "SIGKILL"}
        assert len(processes() - before) <= 1


@pytest.mark.parametrize(
    ("limits", "script"),
    [
        (Limits(memory="80MB"), "python3 -I -S -c 'x = bytearray(10**9); import time; time.sleep(1000)'"),
        (Limits(memory="80MB"), "for i in 1 2 3 4; do python3 -I -S -c 'x = bytearray(4 * 10**7)\n"
                                "import time; time.sleep(1000)' & done; wait"),
        (Limits(memory="80MB"), "python3 -I -c 'import mmap, time\nm = mmap.mmap(-1, 10**9)\n"
                                "for i in range(0, 10**9, 4096): m[i] = 1\ntime.sleep(1000)'"),
        (Limits(cpu="1s"), "while true; do :; done"),
        (Limits(cpu="1s"), "while true; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; done"),
        (Limits(disk="20MB"), 'cat /dev/zero > "$UWS_RESULTS/zeros"'),
        (Limits(disk="20MB"), "cat /dev/zero >&2"),
        (Limits(disk="20MB"), 'head -c 30000000 /dev/zero > "$UWS_RESULTS/zeros"'),
        (Limits(file_size="1MB"), 'cat /dev/zero > "$UWS_RESULTS/zeros"'),
        (Limits(file_size="1MB"), "python3 -I -S -c 'open(\"x\", \"wb\").write(bytes(2 * 10**6))'"),
    ],
    ids=["memory", "memory of several", "memory that may be shared", "cpu", "cpu of many", "disk",
         "disk of output", "disk at the end", "file_size", "file_size, told by an error"],
)  # fmt: skip
async def test_who_exceeds_a_limit_is_ended_and_told_which(
    tmp_path: Path, limits: Limits, script: str
) -> None:
    async with running(tmp_path, shell(script.replace("{", "{{"), limits=limits)) as site:
        document = await site.ended(await site.run("run"))
        ((name, given),) = ((n, getattr(limits, n)) for n in limits.numbers)
        assert text(document, "phase") == "ERROR"
        assert summary(document)["message"] == f"the program exceeded the limit {name} = {given}"
        if name == "memory":
            assert 40e6 < used(document)[1] < 2e9
        if name == "cpu":
            assert 1 <= used(document)[0] < 3


async def test_a_large_file_that_was_uploaded_exceeds_no_limit_of_the_program(tmp_path: Path) -> None:
    parameters = {"large": FileParameter(required=True)}
    service = shell("exit 3", limits=Limits(file_size="100kB"), parameters=parameters)
    async with running(tmp_path, service) as site:
        job = await site.run("run", large=bytes(200_000))
        assert info(await site.ended(job)) == {"exitCode": "3"}


async def test_who_keeps_the_limits_is_not_bothered(tmp_path: Path) -> None:
    limits = Limits(memory="200MB", cpu="10s", disk="50MB", processes=20, file_size="10MB", open_files=64)
    script = 'ulimit -n > "$UWS_RESULTS/files"; ulimit -f > "$UWS_RESULTS/size"; nice > "$UWS_RESULTS/nice"'
    async with running(tmp_path, shell(script, limits=limits, nice=7)) as site:
        job = await site.run("run")
        assert text(await site.ended(job), "phase") == "COMPLETED"
        found = [(await site.get(f"{job}/results/{name}")).text.strip() for name in ("files", "nice")]
        assert found == ["64", "7"]


async def test_of_a_gigabyte_on_standard_error_the_end_is_told(tmp_path: Path) -> None:
    script = "head -c 1000000000 /dev/zero | tr '\\0' '\\n' >&2; echo the end >&2; exit 1"
    async with running(tmp_path, shell(script)) as site:
        job = await site.run("run")
        assert summary(await site.ended(job))["message"] == "the end"
        assert len((await site.get(f"{job}/error")).body) < 100_000
        assert (directory_of(site, job) / "logs" / "stderr").stat().st_size > 10**9
        await site.request("DELETE", job)


@pytest.mark.parametrize(
    "script",
    [
        "exec 2>&-; exec 1>&-; exec 0<&-",
        "cd /; true",
        "(sleep 1000 &)",
        "sleep 1000 & exit 0",
        "exec 3>&1; (sleep 1000 >&3 &)",
        "trap '' TERM HUP INT QUIT USR1 USR2 PIPE CHLD; true",
    ],
)
async def test_who_closes_moves_or_leaves_things_completes(tmp_path: Path, script: str) -> None:
    async with running(tmp_path, shell(script)) as site:
        before = processes()
        assert text(await site.ended(await site.run("run")), "phase") == "COMPLETED"
        assert len(processes() - before) <= 1


async def test_who_deletes_his_directory_is_told_apart_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, shell('cd /; rm -rf "$(dirname "$UWS_RESULTS")"; exit 3')) as site:
        document = await site.ended(await site.run("run"))
        assert info(document) == {"exitCode": "3"}


async def test_who_stopped_himself_can_be_aborted(tmp_path: Path, ready: Pipe) -> None:
    script = 'echo > "$READY"; kill -STOP $$; exit 3'
    async with running(tmp_path / "data", shell(script, environment={"READY": ready.path})) as site:
        job = await site.run("run")
        await ready.line()
        assert await site.phase(job) == "EXECUTING"
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert info(await site.ended(job)) == {"reason": "aborted on request", "signal": "SIGTERM"}


async def test_ten_thousand_results_are_served(tmp_path: Path) -> None:
    script = 'python3 -I -S -c \'for i in range(10_000): open(f"{i:05}.txt", "w").write(str(i))\''
    service = shell(script.replace("{", "{{"),
                    results=[ResultDeclaration(id="n", path="*.txt")])  # fmt: skip
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "COMPLETED", summary(document)
        assert len(results(document)) == 10_000
        assert (await site.get(f"{job}/results/n-09999.txt")).text == "9999"


async def test_what_is_not_the_programs_own_is_no_result(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    script = f"""
    cd "$UWS_RESULTS"; echo mine > mine
    ln -s /etc/passwd link; mkfifo pipe; mknod device c 1 3; ln {outside} hard; ln -s / root
    """
    async with running(tmp_path / "data", shell(script)) as site:
        assert results(await site.ended(await site.run("run"))) == ["mine"]
