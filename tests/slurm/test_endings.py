"""How jobs end that Slurm runs: every ending that there is in Slurm becomes the right phase, and is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.execution.programs import Pipe, directory_of, shell, until_gone
from tests.execution.test_programs import info, results, summary
from tests.harness import Site, job_id, running, text
from tests.slurm.cluster import Slurm
from tests.slurm.support import SOON, batch_job, in_slurm, state_of, until
from uws import IntParameter, QueueSettings, Service, StrParameter
from uws.model import ExecutionDuration, FileParameter, Limits, ResultDeclaration
from uws.model.service import Slurm as Asked
from uws.model.units import parse_time

pytestmark = pytest.mark.usefixtures("cluster")


async def ended(tmp_path: Path, service: Service, **parameters: object) -> tuple[object, dict[str, str]]:
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        document = await site.ended(await site.run("run", **parameters))
        return document, info(document)


async def test_a_job_runs_in_slurm_and_its_results_logs_and_facts_are_there(tmp_path: Path) -> None:
    script = """
        cat "$UWS_PARAMETERS" > "$UWS_RESULTS/given"; cat "$1" > "$UWS_RESULTS/sent"; echo "$2"
        pwd > "$UWS_RESULTS/where"; echo "0.5 half" > "$UWS_PROGRESS"; echo told >&2
    """
    service = in_slurm(
        script, "{file}", "{word}",
        parameters={"file": FileParameter(required=True), "word": StrParameter(required=True)},
        results=[
            ResultDeclaration(id=name, path=name) for name in ("given", "sent", "where")
        ] + [ResultDeclaration(id="said", path="-")],
    )  # fmt: skip
    word = "-x 'a' \"b\" $HOME \\ % ü"
    async with running(tmp_path / "d%j x", service, slurm=SOON) as site:
        job = await site.run("run", file=b"some bytes", word=word)
        document = await site.ended(job)
        assert text(document, "phase") == "COMPLETED", summary(document)
        assert results(document) == ["given", "sent", "where", "said"]
        assert (await site.get(f"{job}/results/sent")).body == b"some bytes"
        assert (await site.get(f"{job}/results/said")).text == word + "\n"
        assert json.loads((await site.get(f"{job}/results/given")).body)["word"] == word
        assert (await site.get(f"{job}/results/where")).text.strip() == str(directory_of(site, job) / "work")
        assert (await site.get(f"{job}/logs/stderr")).text == "told\n"
        facts = info(document)
        assert facts["batchJob"].isdigit()
        assert facts["host"] in ("n1", "n2", "n3")
        assert (facts["exitCode"], facts["doing"]) == ("0", "half")
        told = json.loads((await site.get(job, headers={"Accept": "application/json"})).body)
        assert told["jobInfo"]["batchJob"] == facts["batchJob"]
        assert told["jobInfo"]["host"] == facts["host"]
        provenance = (await site.get(f"{job}/provenance", headers={"Accept": "application/json"})).text
        assert f'uwsd:host": "{facts["host"]}"' in provenance
        start, end = parse_time(told["startTime"]), parse_time(told["endTime"])
        assert parse_time(told["creationTime"]) <= start <= end


@pytest.mark.parametrize(
    ("script", "phase", "message", "fact"),
    [
        ("echo no >&2; exit 3", "ERROR", "no", ("exitCode", "3")),
        ("kill -9 $$", "ERROR", "the program was ended by signal SIGKILL", ("signal", "SIGKILL")),
        (
            "kill -9 $PPID; sleep 60",
            "ERROR",
            "the program was ended by signal SIGKILL",
            ("signal", "SIGKILL"),
        ),
    ],
    ids=["3", "killed", "killed with its script"],
)
async def test_a_job_ends_as_its_program_does(
    tmp_path: Path, script: str, phase: str, message: str | None, fact: tuple[str, str]
) -> None:
    document, facts = await ended(tmp_path, in_slurm(script))
    assert text(document, "phase") == phase
    assert text(document, "message") == message
    assert facts[fact[0]] == fact[1]


async def test_a_program_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    service = Service(name="run", title="run", command=["no-such-program"], executor="slurm")
    document, _ = await ended(tmp_path, service)
    assert text(document, "phase") == "ERROR"
    assert str(text(document, "message")).startswith("no-such-program: there is no such program on n")


async def test_a_program_over_its_memory_is_an_error_that_says_so(tmp_path: Path) -> None:
    script = "exec python3 -c \"b = b'x' * (300 << 20); import time; time.sleep(60)\""
    document, _ = await ended(tmp_path, in_slurm(script, limits=Limits(memory="64MB")))
    assert text(document, "phase") == "ERROR"
    assert text(document, "message") == "the program exceeded the limit memory = 64MB"


async def test_the_execution_duration_is_kept_to_the_second(tmp_path: Path) -> None:
    service = in_slurm("exec sleep 600", execution_duration=ExecutionDuration(default=1, max=60))
    document, facts = await ended(tmp_path, service)
    assert text(document, "phase") == "ABORTED"
    assert facts["reason"] == "the execution duration of 1 s (1s) was exceeded"
    ran = parse_time(str(text(document, "endTime"))) - parse_time(str(text(document, "startTime")))
    assert 1 <= ran.total_seconds() < 6


async def test_what_somebody_cancels_in_slurm_is_aborted(tmp_path: Path, cluster: Slurm) -> None:
    async with running(tmp_path / "data", in_slurm("exec sleep 600"), slurm=SOON) as site:
        job = await site.run("run")
        document = await site.executing(job)
        cluster.run("scancel", info(document)["batchJob"])
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert info(document)["reason"] == "cancelled in Slurm"


async def test_what_somebody_cancels_that_waits_in_slurm_is_aborted(tmp_path: Path, cluster: Slurm) -> None:
    async with running(tmp_path / "data", in_slurm("true", slurm=Asked(cpus=99)), slurm=SOON) as site:
        job = await site.run("run")
        facts = await waiting(site, job, "PartitionConfig")
        cluster.run("scancel", facts["batchJob"])
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert info(document)["reason"] == "cancelled in Slurm before it started"
        assert text(document, "startTime") is None


async def waiting(site: Site, job: str, reason: str) -> dict[str, str]:
    """Return the facts of a job when it waits for this in Slurm."""

    async def does() -> dict[str, str] | None:
        document = await site.document(job)
        facts = info(document)
        return facts if reason in facts.get("waitsFor", "") and text(document, "phase") == "QUEUED" else None

    return await until(does)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked(partition="none"), "Invalid partition name specified"),
        (Asked(gres="gpu:1"), "Invalid generic resource (gres) specification"),
    ],
)
async def test_a_job_that_slurm_refuses_is_an_error_with_slurms_reason(
    tmp_path: Path, asked: Asked, reason: str
) -> None:
    document, _ = await ended(tmp_path, in_slurm("true", slurm=asked))
    assert text(document, "phase") == "ERROR"
    assert text(document, "message") == f"Slurm refuses the job: {reason}"


async def test_limits_are_what_slurm_is_asked_for(tmp_path: Path, cluster: Slurm) -> None:
    service = in_slurm(
        "exec sleep 600", slurm=Asked(partition="main", cpus=3), limits=Limits(memory="100MB"),
        execution_duration=ExecutionDuration(default="10min", max="1h"),
    )  # fmt: skip
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        facts = info(await site.executing(job))
        found = cluster.run("scontrol", "show", "job", facts["batchJob"])
        assert "Partition=main" in found
        assert "CPUs/Task=3" in found
        assert "MinMemoryNode=96M" in found
        assert "TimeLimit=00:11:00" in found
        assert "Requeue=0" in found
        assert f"JobName=run-{job_id(job)}-" in found


async def test_a_service_with_a_path_of_its_own_has_its_programs_found_there(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "tool").write_text('#!/bin/sh\necho "$PATH"\n')
    (tools / "tool").chmod(0o755)
    service = Service(
        name="run", title="run", command=["tool"], executor="slurm", environment={"PATH": str(tools)}
    )
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        document = await site.ended(job)
        assert text(document, "phase") == "COMPLETED", summary(document)
        assert (await site.get(f"{job}/logs/stdout")).text == f"{tools}\n"
        assert info(document)["exitCode"] == "0"


async def test_the_program_sees_nothing_of_the_servers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_SERVER", "x")
    service = in_slurm('env > "$UWS_RESULTS/env"', environment={"DECLARED": "a b"})
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        await site.ended(job)
        seen = (await site.get(f"{job}/results/env")).text
    assert "DECLARED=a b\n" in seen
    assert f"UWS_JOB_ID={job_id(job)}\n" in seen
    assert "SECRET_OF_SERVER" not in seen


async def test_aborting_a_job_that_waits_in_slurm_ends_it_there_first(tmp_path: Path, cluster: Slurm) -> None:
    async with running(tmp_path / "data", in_slurm("true", slurm=Asked(cpus=99)), slurm=SOON) as site:
        job = await site.run("run")
        facts = await waiting(site, job, "PartitionConfig")
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert state_of(cluster, facts["batchJob"]) == "CANCELLED"
        types = [event.type for event in await site.node.backend.store.read_stream(f"job/{job_id(job)}")]
        assert types[-2:] == ["StopRequested", "JobAborted"]


async def test_aborting_a_job_that_runs_in_slurm_tells_its_program_and_waits_for_it(
    tmp_path: Path, cluster: Slurm, ready: Pipe
) -> None:
    script = "trap 'echo bye > $UWS_RESULTS/last; exit 9' TERM; echo 1 > $READY; sleep 600 & wait"
    async with running(
        tmp_path / "data", in_slurm(script, environment={"READY": ready.path}), slurm=SOON
    ) as site:
        job = await site.run("run")
        await ready.line()
        await site.executing(job)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        document = await site.ended(job)
        facts = info(document)
        assert text(document, "phase") == "ABORTED"
        assert results(document) == ["last"]
        assert (facts["exitCode"], facts["reason"]) == ("9", "aborted on request")
        assert state_of(cluster, facts["batchJob"]) == "CANCELLED"


@pytest.mark.parametrize("cpus", [1, 99], ids=["runs", "waits"])
async def test_a_job_that_is_deleted_is_gone_from_slurm_and_from_the_disk(
    tmp_path: Path, cluster: Slurm, cpus: int
) -> None:
    async with running(
        tmp_path / "data", in_slurm("exec sleep 600", slurm=Asked(cpus=cpus)), slurm=SOON
    ) as site:
        job = await site.run("run")
        facts = await until(lambda: batch_job(site, job))
        assert (await site.request("DELETE", job)).status == 303
        await until_gone(site, job)
        assert state_of(cluster, facts) == "CANCELLED"


async def test_a_job_whose_destruction_time_comes_is_cancelled_in_slurm(
    tmp_path: Path, cluster: Slurm
) -> None:
    async with running(tmp_path / "data", in_slurm("exec sleep 600"), slurm=SOON) as site:
        job = await site.run("run")
        number = info(await site.executing(job))["batchJob"]
        await site.post(f"{job}/destruction", {"DESTRUCTION": "2000-01-01T00:00:00Z"})
        await until_gone(site, job)
        assert state_of(cluster, number) == "CANCELLED"


async def test_a_suspended_job_is_suspended_and_executes_again(tmp_path: Path, cluster: Slurm) -> None:
    async with running(tmp_path / "data", in_slurm("exec sleep 600"), slurm=SOON) as site:
        job = await site.run("run")
        number = info(await site.executing(job))["batchJob"]
        cluster.run("scontrol", "suspend", number)
        await until(lambda: is_in(site, job, "SUSPENDED"))
        cluster.run("scontrol", "resume", number)
        await until(lambda: is_in(site, job, "EXECUTING"))


async def is_in(site: Site, job: str, phase: str) -> bool:
    return await site.phase(job) == phase


async def test_a_job_that_is_held_in_slurm_is_queued_and_says_so(tmp_path: Path, cluster: Slurm) -> None:
    with partition_down(cluster):
        async with running(tmp_path / "data", in_slurm("true"), slurm=SOON) as site:
            job = await site.run("run")
            number = await until(lambda: batch_job(site, job))
            cluster.run("scontrol", "hold", str(number))
            facts = await waiting(site, job, "JobHeldAdmin")
            assert facts["waitsFor"] == f"held by an administrator in Slurm, as job {number} (JobHeldAdmin)"
            shown = await site.node.backend.queueing.show(10)
            assert shown.running == 0
            assert [(one.job.job_id, one.reason) for one in shown.waiting] == [
                (job_id(job), facts["waitsFor"])
            ]
            cluster.run("scontrol", "release", str(number))
            cluster.up()
            assert text(await site.ended(job), "phase") == "COMPLETED"


@pytest.mark.parametrize(("first", "second"), [("far", "near"), ("near", "far")])
async def test_a_job_starts_when_what_it_waits_for_has_ended_in_slurm_or_on_this_machine(
    tmp_path: Path, ready: Pipe, gate: Pipe, first: str, second: str
) -> None:
    script = 'echo 1 > "$READY"; read line < "$GATE"'
    environment = {"READY": ready.path, "GATE": gate.path}
    services = [
        in_slurm(script, name="far", environment=environment),
        shell(script, name="near", environment=environment),
    ]
    one = QueueSettings(max_running=1)
    async with running(tmp_path / "data", *services, slurm=SOON, queue=one) as site:
        runs = await site.run(first)
        await ready.line()
        waits = await site.run(second)
        assert text(await site.document(waits), "phase") == "QUEUED"
        gate.send()
        assert text(await site.ended(runs), "phase") == "COMPLETED"
        await ready.line()
        gate.send()
        assert text(await site.ended(waits), "phase") == "COMPLETED"


@contextmanager
def partition_down(cluster: Slurm) -> Iterator[None]:
    """Have no job started meanwhile."""
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        yield
    finally:
        cluster.up()


async def test_no_more_jobs_are_in_slurm_than_the_service_says(tmp_path: Path, cluster: Slurm) -> None:
    service = in_slurm("exec sleep 600", max_running=2, slurm=Asked(cpus=99))
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        jobs = [await site.run("run") for _ in range(4)]
        for job in jobs[:2]:
            await waiting(site, job, "PartitionConfig")
        told = [info(await site.document(job))["waitsFor"] for job in jobs[2:]]
        assert told == ["2 jobs of run running, at most 2 allowed"] * 2
        assert cluster.run("squeue", "-h", "--me", "-o", "%j").count("run-") == 2
        await site.post(f"{jobs[0]}/phase", {"PHASE": "ABORT"})
        await waiting(site, jobs[2], "PartitionConfig")


async def test_a_number_of_parameters_reaches_the_program_as_it_was_sent(tmp_path: Path) -> None:
    service = in_slurm('printf "%s" "$1"', "{n}", parameters={"n": IntParameter(required=True)})
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run", n=7)
        await site.ended(job)
        assert (await site.get(f"{job}/logs/stdout")).text == "7"
