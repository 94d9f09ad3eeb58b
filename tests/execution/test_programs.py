"""How a program is run, what it finds, and how its end is judged."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from lxml import etree

from tests.execution.programs import Pipe, directory_of, is_running, shell
from tests.harness import NAMESPACES, job_id, running, text
from uws import (
    BoolParameter,
    FileParameter,
    FloatParameter,
    ResultDeclaration,
    Service,
    StrParameter,
)


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


async def test_children_that_a_program_leaves_are_ended_with_it(tmp_path: Path, ready: Pipe) -> None:
    script = 'sleep 1000 & echo $! > "$READY"; (sleep 1000 & echo $! > "$READY"); exit 0'
    async with running(tmp_path / "data", shell(script, environment={"READY": ready.path})) as site:
        job = await site.run("run")
        assert text(await site.ended(job), "phase") == "COMPLETED"
        assert not any(map(is_running, await ready.numbers(2)))


# Results
