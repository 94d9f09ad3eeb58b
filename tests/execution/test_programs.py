"""How a program is run, how its end is judged, and what of it is served."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import stat
from collections.abc import Iterator
from datetime import timedelta
from errno import EMFILE, ENOENT
from pathlib import Path

import msgspec
import pytest
from lxml import etree

from eventstore.processes import boot_id
from tests.execution.programs import Pipe, directory_of, is_running, shell
from tests.harness import NAMESPACES, ManualClock, job_id, running, text
from uws import (
    BoolParameter,
    Failure,
    FileParameter,
    FloatParameter,
    Limits,
    ResultDeclaration,
    Service,
    StrParameter,
)
from uws.execution import records
from uws.execution.process import Launchers
from uws.execution.records import End, Record, Supervisor
from uws.execution.results import collect, media_type
from uws.execution.scheduler import Run, _Here
from uws.files import JobDirectory


def summary(document: etree._Element) -> dict[str, str]:
    element = document.find("uws:errorSummary", NAMESPACES)
    assert element is not None
    return {
        **{str(name): str(value) for name, value in element.attrib.items()},
        "message": text(document, "message") or "",
    }


USED = ("cpuSeconds", "memoryBytes")


def info(document: etree._Element) -> dict[str, str]:
    """Return what stands in jobInfo, but for what the program has used: see `used`."""
    return {name: fact for name, fact in _info(document).items() if name not in USED}


def used(document: etree._Element) -> tuple[float, int]:
    """Return the seconds of processor time and the bytes of memory that the program has used."""
    found = _info(document)
    return float(found[USED[0]]), int(found[USED[1]])


def _info(document: etree._Element) -> dict[str, str]:
    element = document.find("uws:jobInfo", NAMESPACES)
    return {etree.QName(child).localname: child.text or "" for child in ([] if element is None else element)}


def results(document: etree._Element) -> list[str]:
    return [element.get("id", "") for element in document.iterfind(".//uws:result", NAMESPACES)]


# How it ended


async def test_exit_0_is_completed(tmp_path: Path) -> None:
    async with running(tmp_path, shell("exit 0")) as site:
        document = await site.ended(await site.run("run"))
        assert text(document, "phase") == "COMPLETED"
        assert info(document) == {"exitCode": "0"}
        assert document.find("uws:errorSummary", NAMESPACES) is None


async def test_any_other_exit_is_an_error_with_the_last_line_as_its_message(tmp_path: Path) -> None:
    async with running(
        tmp_path, shell("echo first >&2; echo 'no such <star>' >&2; echo >&2; exit 3")
    ) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "ERROR"
        assert summary(document) == {"type": "fatal", "hasDetail": "true", "message": "no such <star>"}
        assert info(document) == {"exitCode": "3"}
        assert (await site.get(f"{job}/error")).text == "first\nno such <star>\n\n"


async def test_exit_75_is_a_transient_error(tmp_path: Path) -> None:
    async with running(tmp_path, shell("echo busy >&2; exit 75")) as site:
        assert summary(await site.ended(await site.run("run")))["type"] == "transient"


async def test_a_silent_failure_is_told_by_its_exit_status(tmp_path: Path) -> None:
    async with running(tmp_path, shell("exit 4")) as site:
        job = await site.run("run")
        message = "the program ended with exit status 4"
        assert summary(await site.ended(job)) == {"type": "fatal", "hasDetail": "false", "message": message}
        assert (await site.get(f"{job}/error")).text == message


@pytest.mark.parametrize("signal", ["SEGV", "KILL", "TERM"])
async def test_death_by_a_signal_says_which(tmp_path: Path, signal: str) -> None:
    async with running(tmp_path, shell(f"echo deep >&2; kill -{signal} $$")) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "ERROR"
        assert summary(document)["message"] == f"the program was ended by signal SIG{signal}"
        assert info(document) == {"signal": f"SIG{signal}"}
        assert (await site.get(f"{job}/error")).text == "deep\n"


async def test_of_a_long_standard_error_the_last_64_kb_are_the_detail(tmp_path: Path) -> None:
    async with running(tmp_path, shell("seq 100000 >&2; echo last >&2; exit 1")) as site:
        job = await site.run("run")
        assert summary(await site.ended(job))["message"] == "last"
        detail = (await site.get(f"{job}/error")).text
        whole = (directory_of(site, job) / "logs" / "stderr").read_text()
        assert len(whole) > 500_000
        assert detail == whole[-64_000:]


async def test_a_standard_error_that_is_no_text_is_shown_as_text(tmp_path: Path) -> None:
    async with running(tmp_path, shell(r"printf '\033[1m\377\000bad\n' >&2; exit 1")) as site:
        job = await site.run("run")
        assert summary(await site.ended(job))["message"] == "\ufffd[1m\ufffd\ufffdbad"


async def test_a_message_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    async with running(tmp_path, shell("head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1")) as site:
        assert summary(await site.ended(await site.run("run")))["message"] == "x" * 1000


async def test_output_is_kept_as_logs_that_only_the_server_reads(tmp_path: Path) -> None:
    async with running(tmp_path, shell("echo out; echo err >&2")) as site:
        job = await site.run("run")
        await site.ended(job)
        logs = directory_of(site, job) / "logs"
        assert (logs / "stdout").read_text() == "out\n"
        assert (logs / "stderr").read_text() == "err\n"
        assert stat.S_IMODE(directory_of(site, job).stat().st_mode) == 0o700


# What it finds


async def test_a_program_sees_a_short_list_of_variables_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UWSD_SECRET", "hunter2")
    monkeypatch.setenv("TZ", "UTC")
    service = Service(
        name="env",
        title="env",
        command=["env", "-0"],
        environment={"OMP_NUM_THREADS": "1", "ODD": "a\nb=c"},
        results=[ResultDeclaration(id="out", path="-")],
    )
    async with running(tmp_path, service) as site:
        job = await site.run("env")
        await site.ended(job)
        output = (await site.get(f"{job}/results/out")).text
        seen = dict(item.split("=", 1) for item in output.split("\0") if item)
        directory = directory_of(site, job)
        assert seen.keys() - {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR"} == {
            "PATH", "TZ", "OMP_NUM_THREADS", "ODD", "UWS_JOB_ID", "UWS_RESULTS", "UWS_PARAMETERS",
            "UWS_PROGRESS",
        }  # fmt: skip
        assert seen["ODD"] == "a\nb=c"
        assert seen["UWS_JOB_ID"] == job_id(job)
        assert seen["UWS_RESULTS"] == str(directory / "results")
        assert seen["UWS_PARAMETERS"] == str(directory / "parameters.json")
        assert seen["PATH"].endswith(os.environ["PATH"])


async def test_a_program_runs_in_its_own_directory_with_nothing_to_read_from(tmp_path: Path) -> None:
    script = (
        'pwd -P; wc -c; test "$1" = "$UWS_JOB_ID" && test "$2" = "$UWS_RESULTS" && test -d "$2" && echo same'
    )
    service = shell(script, "{job_id}", "{results}", results=[ResultDeclaration(id="out", path="-")])
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        await site.ended(job)
        assert (await site.get(f"{job}/results/out")).text.split() == [
            str(directory_of(site, job) / "work"), "0", "same",
        ]  # fmt: skip


async def test_a_program_finds_all_values_as_json(tmp_path: Path) -> None:
    service = shell(
        'cat "$1"',
        "{parameters}",
        results=[ResultDeclaration(id="out", path="-")],
        parameters={
            "x": FloatParameter(required=True),
            "names": StrParameter(multiple=True),
            "deep": BoolParameter(default=True),
            "absent": StrParameter(),
            "image": FileParameter(),
        },
    )
    async with running(tmp_path, service) as site:
        job = await site.run("run", x="1e3", NAMES=["a\nb", '"ü"'], image=b"bytes")
        await site.ended(job)
        values = json.loads((await site.get(f"{job}/results/out")).body)
        image = Path(values.pop("image"))
        assert values == {"x": 1000.0, "names": ["a\nb", '"ü"'], "deep": True, "absent": None}
        assert image.read_bytes() == b"bytes"
        assert image.parent == directory_of(site, job) / "uploads"


# Programs that cannot be started


async def test_a_program_that_cannot_be_started_is_an_error_of_its_job_and_the_queue_goes_on(
    tmp_path: Path,
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    commands = {
        "missing": (["no-such-program-anywhere"], "No such file or directory"),
        "absent": ([str(tmp_path / "absent")], "No such file or directory"),
        "forbidden": ([str(plain)], "Permission denied"),
        "relative": (["./tool"], "No such file or directory"),
        "directory": ([str(tmp_path)], "Permission denied"),
        "long": (["true", "x" * 200_000], "Argument list too long"),
    }
    services = [Service(name=name, title=name, command=[*argv]) for name, (argv, _) in commands.items()]
    async with running(tmp_path / "data", shell("true"), *services) as site:
        for name, (argv, reason) in commands.items():
            jobs = [await site.run(name) for _ in range(3)]  # max_running is 1: each gives its slot back
            for job in jobs:
                assert summary(await site.ended(job)) == {
                    "type": "fatal",
                    "hasDetail": "false",
                    "message": f"the program {argv[0]} could not be started: {reason}",
                }
        assert text(await site.ended(await site.run("run")), "phase") == "COMPLETED"


def launcher() -> int:
    """Return the process from which programs are started: a child of the server's, which is this process."""
    (pid,) = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
        if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


async def test_limits_that_the_server_itself_may_not_have_are_told(tmp_path: Path) -> None:
    async with running(tmp_path, shell("true", limits=Limits(open_files=1 << 40))) as site:
        assert summary(await site.ended(await site.run("run")))["message"] == (
            "the program sh could not be started: the limits: Operation not permitted"
        )


def test_a_program_of_which_the_record_says_that_it_never_began_did_not_end_well(tmp_path: Path) -> None:
    """Who reads the record while it is being written learns of it as of an end."""
    ending = collect(shell("true"), JobDirectory(tmp_path), End(1, errno=ENOENT, what="the program"))
    assert ending.exit_code is None
    assert ending.failure == Failure(message="the program sh could not be started: No such file or directory")


async def test_a_job_that_was_deleted_when_its_turn_came_leaves_no_directory(tmp_path: Path) -> None:
    async with running(tmp_path / "data", shell("true")) as site:
        job = await site.create("run")
        await site.request("DELETE", job)
        here = _Here(Launchers(), 1.0, asyncio.Event(), restarted=False)
        await Run(site.node.services[0], job_id(job), here).start()
        assert not (site.data / job_id(job)).exists()


async def test_a_supervisor_that_cannot_be_looked_at_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record"
    path.touch()
    who = Supervisor(os.getpid(), 1, boot_id(), path.stat().st_ino, 1)
    path.write_bytes(msgspec.json.encode(who) + b"\n")
    before = os.listdir("/proc/self/fd")

    def none_left(pid: int) -> int:
        raise OSError(EMFILE, os.strerror(EMFILE))

    monkeypatch.setattr(records, "started", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        Record(path).watch()
    assert os.listdir("/proc/self/fd") == before


async def test_too_many_open_files_are_an_error_of_the_job_and_the_queue_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, shell("true")) as site:
        await site.ended(await site.run("run"))
        pid = launcher()
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, hard))
        job = await site.run("run")
        assert summary(await site.ended(job)) == {
            "type": "transient",
            "hasDetail": "false",
            "message": "the program sh could not be started: the supervisor: Too many open files",
        }
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert text(await site.ended(await site.run("run")), "phase") == "COMPLETED"


@pytest.fixture
def pids() -> Iterator[Path]:
    """A control group that limits how many processes there are."""
    group = Path(f"/sys/fs/cgroup/pids/uwsd-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error.strerror}")
    yield group
    group.rmdir()


async def test_a_machine_that_is_full_of_processes_makes_jobs_wait_and_fails_none(
    tmp_path: Path, pids: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, shell("true"), clock=clock) as site:
        await site.ended(await site.run("run"))
        (pids / "pids.max").write_text("1")
        (pids / "cgroup.procs").write_text(str(launcher()))
        job = await site.run("run")
        for _ in range(3):
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
            assert await site.phase(job) == "EXECUTING"
            clock.advance(seconds=1)
        assert "the machine is full; trying again" in caplog.text
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
        (pids / "pids.max").write_text("max")
        clock.advance(seconds=1)
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_children_that_a_program_leaves_are_ended_with_it(tmp_path: Path, ready: Pipe) -> None:
    script = 'sleep 1000 & echo $! > "$READY"; (sleep 1000 & echo $! > "$READY"); exit 0'
    async with running(tmp_path / "data", shell(script, environment={"READY": ready.path})) as site:
        job = await site.run("run")
        assert text(await site.ended(job), "phase") == "COMPLETED"
        assert not any(map(is_running, await ready.numbers(2)))


# Results


async def test_declared_results_are_served_with_type_size_and_digest(tmp_path: Path) -> None:
    service = shell(
        'echo log; printf 1234 > "$UWS_RESULTS/a.fits"; echo {{} > b.json; echo x > c',
        results=[
            ResultDeclaration(id="image", path="a.fits"),
            ResultDeclaration(id="table", path="b.json"),
            ResultDeclaration(id="typed", path="c", mime="text/x-own"),
            ResultDeclaration(id="log", path="-"),
            ResultDeclaration(id="perhaps", path="d", optional=True),
        ],
    )
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        document = await site.ended(job)
        elements = document.findall(".//uws:result", NAMESPACES)
        assert [(e.get("id"), e.get("mime-type"), e.get("size")) for e in elements] == [
            ("image", "application/fits", "4"),
            ("table", "application/json", "3"),
            ("typed", "text/x-own", "2"),
            ("log", "text/plain", "4"),
        ]
        answer = await site.get(f"{job}/results/image")
        assert (answer.body, answer.headers["Content-Type"]) == (b"1234", "application/fits")
        recorded = await site.node.backend.jobs.get(job_id(job))
        assert recorded is not None
        assert recorded.results[0].sha256 == hashlib.sha256(b"1234").hexdigest()
        assert (await site.get(f"{job}/results/perhaps")).status == 404


async def test_a_pattern_gives_one_result_a_file(tmp_path: Path) -> None:
    service = shell(
        'cd "$UWS_RESULTS"; echo 1 > a.csv; echo 2 > b.csv; echo 3 > c.txt; mkdir d; echo 4 > d/e.csv',
        results=[ResultDeclaration(id="t", path="*.csv"), ResultDeclaration(id="all", path="**/*.csv")],
    )
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        assert results(await site.ended(job)) == [
            "t-a.csv", "t-b.csv", "all-a.csv", "all-b.csv", "all-d_e.csv",
        ]  # fmt: skip
        assert (await site.get(f"{job}/results/all-d_e.csv")).body == b"4\n"


async def test_a_declared_result_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    declared = [
        ResultDeclaration(id="there", path="there"),
        ResultDeclaration(id="one", path="one.fits"),
        ResultDeclaration(id="many", path="*.csv"),
    ]
    service = shell('echo warned >&2; echo > "$UWS_RESULTS/there"', results=declared)
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "ERROR"
        assert summary(document)["message"] == (
            "declared result one (one.fits) is missing; declared result many (*.csv) is missing"
        )
        assert results(document) == ["there"]
        assert (await site.get(f"{job}/error")).text == "warned\n"


async def test_a_program_that_failed_keeps_the_results_it_made(tmp_path: Path) -> None:
    async with running(tmp_path, shell('echo 1 > "$UWS_RESULTS/partial"; exit 1')) as site:
        job = await site.run("run")
        assert results(await site.ended(job)) == ["partial"]
        assert (await site.get(f"{job}/results/partial")).body == b"1\n"


async def test_without_a_declaration_every_file_of_the_results_directory_is_a_result(tmp_path: Path) -> None:
    script = """
    echo no > elsewhere; cd "$UWS_RESULTS"; mkdir sub
    echo 1 > "a b.txt"; echo 2 > sub/x; echo 3 > sub_x; echo 4 > .h
    """
    async with running(tmp_path, shell(script)) as site:
        job = await site.run("run")
        assert results(await site.ended(job)) == ["h", "a_b.txt", "sub_x", "sub_x-2"]
        bodies = [
            (await site.get(f"{job}/results/{name}")).body for name in ("h", "a_b.txt", "sub_x", "sub_x-2")
        ]
        assert bodies == [b"4\n", b"1\n", b"2\n", b"3\n"]


async def test_links_pipes_and_devices_are_no_results(tmp_path: Path) -> None:
    script = """
    cd "$UWS_RESULTS"; echo fine > fine
    ln -s /etc/passwd passwd; ln -s /etc etc; ln -s fine alias; mkfifo pipe; mkdir -p "$UWS_RESULTS/dir"
    """
    async with running(tmp_path, shell(script)) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "COMPLETED"
        assert results(document) == ["fine"]


@pytest.mark.parametrize("path", ["out", "out/passwd", "o*", "-"])
async def test_a_declared_result_that_leads_outside_is_missing(tmp_path: Path, path: str) -> None:
    script = """
    ln -s /etc/passwd "$UWS_RESULTS/out"; ln -s /etc out
    ln -sf /etc/passwd ../logs/stdout
    """
    async with running(tmp_path, shell(script, results=[ResultDeclaration(id="x", path=path)])) as site:
        document = await site.ended(await site.run("run"))
        assert text(document, "phase") == "ERROR"
        assert summary(document)["message"] == f"declared result x ({path}) is missing"
        assert results(document) == []


async def test_a_result_that_becomes_a_link_afterwards_is_not_served(tmp_path: Path) -> None:
    async with running(tmp_path, shell('echo 1 > "$UWS_RESULTS/x"')) as site:
        job = await site.run("run")
        await site.ended(job)
        file = directory_of(site, job) / "results" / "x"
        file.unlink()
        file.symlink_to("/etc/passwd")
        answer = await site.get(f"{job}/results/x")
        assert answer.status == 404
        assert b"root:" not in answer.body


async def test_a_result_whose_name_is_no_text_is_served_under_a_name_that_is(tmp_path: Path) -> None:
    async with running(tmp_path, shell(r'echo 1 > "$UWS_RESULTS/$(printf "a\377b")"')) as site:
        job = await site.run("run")
        assert results(await site.ended(job)) == ["a_b"]
        assert (await site.get(f"{job}/results/a_b")).body == b"1\n"


@pytest.mark.parametrize(
    "script",
    [
        'rm -rf "$(dirname "$UWS_RESULTS")"',
        'rm ../logs/*; mkfifo ../logs/stdout ../logs/stderr',
        'rm -r "$UWS_RESULTS"; echo file > "$UWS_RESULTS"',
        'rm -r ../logs; ln -s /var/log ../logs',
    ],
    ids=["the directory deleted", "logs made pipes", "the results directory a file", "logs a link"],
)  # fmt: skip
@pytest.mark.parametrize("code", [0, 1])
async def test_a_program_that_ruins_its_directory_ends_its_job_all_the_same(
    tmp_path: Path, script: str, code: int
) -> None:
    declared = [ResultDeclaration(id="log", path="-", optional=True), ResultDeclaration(id="f", path="f")]
    async with running(tmp_path, shell(f"{script}; exit {code}", results=declared)) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "ERROR"
        assert info(document)["exitCode"] == str(code)
        assert (await site.request("DELETE", job)).status == 303
        assert not directory_of(site, job).exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.fits", "application/fits"),
        ("a.fits.gz", "application/gzip"),
        ("a.csv", "text/csv"),
        ("a.png", "image/png"),
        ("a.vot", "application/x-votable+xml"),
        ("a.tar.xz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_media_types_follow_the_name(name: str, expected: str) -> None:
    assert media_type(name) == expected
