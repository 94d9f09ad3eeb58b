"""What holds for any text and for any sequence of commands, seen from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.execution.programs import shell
from tests.harness import HREF, NAMESPACES, Site, job_id, running, text
from uws import ExecutionDuration, Job, Phase, ResultDeclaration, Service, StrParameter, fold
from uws.model.units import format_time

Check = Callable[[Site, Any], Awaitable[None]]


@contextmanager
def one_server_for_all_examples(*services: Service, data: Path) -> Iterator[Callable[[Check, Any], None]]:
    """Give a function that runs one example against a server that they all share."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        site = runner.run(stack.enter_async_context(running(data, *services, grace=0.5)))
        try:
            yield lambda check, example: runner.run(check(site, example))  # type: ignore[arg-type]  # any check
        finally:
            runner.run(stack.aclose())


# Texts

XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
        lambda character: character >= " " or character in "\t\n\r"
    )
)
NASTY = st.sampled_from(
    [
        "", " ", "\n", "a\nb\r\nc\rd", "\t", "-rf", "--help", "--", "$(touch pwned)", "`id`", "${HOME}", "$1",
        "; exit 3", "a'b",
        'a"b', "\\", "\\n", "%s%n", "{x}", "{{", "}", "*", "~", "&amp;", "<a/>", "]]>", "é",
        "\u0301", "\u202e",
        "\U0001f52d", "\U0010fffd", "\x7f", "\x85", "\u2028", "\ufeff", "a" * 5000, "=", "&x=1",
        "+", "%41", "None", "true",
    ]
)  # fmt: skip
ECHO = shell(
    'for value; do printf "%s\\0" "$value"; done',
    "{one}",
    "--one={one}",
    ["{many}"],
    results=[ResultDeclaration(id="argv", path="-")],
    parameters={"one": StrParameter(required=True), "many": StrParameter(multiple=True)},
    max_running=2,
)


def test_any_text_reaches_the_program_byte_for_byte_and_comes_back_in_the_document(tmp_path: Path) -> None:
    async def check(site: Site, values: list[str]) -> None:
        one, *many = values
        form = [("PHASE", "RUN"), ("one", one), *(("many", value) for value in many)]
        answer = await site.post(site.list_url("run"), form)
        assert answer.status == 303, answer.text
        document = await site.ended(answer.location)
        assert text(document, "phase") == "COMPLETED"
        output = (await site.get(f"{answer.location}/results/argv")).body
        assert output == b"".join(value.encode() + b"\0" for value in [one, f"--one={one}", *many])
        shown = document.findall(".//uws:parameter", NAMESPACES)
        expected = [("one", one)] + [("many", value) for value in many]
        assert [(element.get("id"), element.text or "") for element in shown] == expected

    with one_server_for_all_examples(ECHO, data=tmp_path) as run:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(NASTY | XML_TEXT, min_size=1, max_size=25))
        def example(values: list[str]) -> None:
            run(check, values)

        example()


def test_what_xml_cannot_carry_is_refused_and_makes_no_job(tmp_path: Path) -> None:
    async def check(site: Site, value: str) -> None:
        before = await site.node.backend.store.head()
        for form in ({"one": value}, {"one": "x", "many": value}, {"one": "x", "RUNID": value}):
            answer = await site.post(site.list_url("run"), form)
            assert answer.status == 400
            assert answer.text.startswith("UsageFault: ")
        assert await site.node.backend.store.head() == before

    controls = [chr(code) for code in range(32) if chr(code) not in "\t\n\r"]
    with one_server_for_all_examples(ECHO, data=tmp_path) as run:

        @settings(max_examples=60, deadline=None)
        @given(st.tuples(XML_TEXT, st.sampled_from([*controls, "\ufffe", "\uffff"]), XML_TEXT).map("".join))
        def example(value: str) -> None:
            run(check, value)

        example()


# Commands

ENDS = shell(
    'echo "$1" > "$UWS_RESULTS/x"; case $1 in wait) sleep 1000;; esac; exit "$1"',
    "{x}",
    name="ends",
    parameters={"x": StrParameter(required=True)},
    max_running=3,
    execution_duration=ExecutionDuration(default=600, max=3600),
)
KEEPS = shell("exit 0", name="keeps", archive=True, parameters={"x": StrParameter()}, max_running=2)

_form = st.fixed_dictionaries(
    {},
    optional={
        "x": st.sampled_from(["0", "3", "wait", "", "\x00", "a\nb"]),
        "X": st.just("0"),
        "RUNID": st.sampled_from(["r", "s"]),
        "EXECUTIONDURATION": st.sampled_from(["0", "100", "-1", "1e9", "9999999"]),
        "DESTRUCTION": st.sampled_from(["2001", "2099-01-01", "soon"]),
        "PHASE": st.sampled_from(["RUN", "ABORT", "run"]),
        "nonsense": st.just("1"),
    },
)
_command = st.one_of(
    st.tuples(st.just("create"), _form),
    st.tuples(
        st.just("create"), st.sampled_from([{"x": "0", "PHASE": "RUN"}, {"x": "wait", "PHASE": "RUN"}])
    ),
    st.tuples(st.just("change"), _form),
    st.tuples(st.just("phase"), st.sampled_from([{"PHASE": "RUN"}, {"PHASE": "ABORT"}])),
    st.tuples(st.just("put"), st.sampled_from(["0", "3", "\x01"])),
    st.tuples(st.just("delete"), st.none()),
)


def test_any_commands_leave_a_document_equal_to_the_fold_of_its_events(tmp_path: Path) -> None:
    """Each inner list of commands is sent at once, and meets programs as they happen to start and end."""

    async def send(site: Site, jobs: list[str], number: int, kind: str, details: Any) -> None:
        if kind == "create" or not jobs:
            answer = await site.post(site.list_url("ends" if number % 3 else "keeps"), details or {})
            if answer.status == 303:
                jobs.append(answer.location)
        else:
            job = jobs[number % len(jobs)]
            match kind:
                case "change":
                    answer = await site.post(job, details)
                case "phase":
                    answer = await site.post(f"{job}/phase", details)
                case "put":
                    answer = await site.request("PUT", f"{job}/parameters/x", data=details.encode())
                case _:
                    answer = await site.request("DELETE", job)
        assert answer.status in (204, 303, 400, 403, 410), answer.text

    async def check(site: Site, rounds: list[list[tuple[int, tuple[str, Any]]]]) -> None:
        jobs: list[str] = []
        for commands in rounds:
            await asyncio.gather(*(send(site, jobs, number, *command) for number, command in commands))
        for job in jobs:
            await come_to_rest(site, job)
            await compare(site, job)

    with one_server_for_all_examples(ENDS, KEEPS, data=tmp_path) as run:

        @settings(max_examples=40, deadline=None)
        @given(st.lists(st.lists(st.tuples(st.integers(0, 9), _command), min_size=1, max_size=4), max_size=8))
        def example(rounds: list[list[tuple[int, tuple[str, Any]]]]) -> None:
            run(check, rounds)

        example()


async def come_to_rest(site: Site, job: str) -> None:
    """Wait until nothing more happens to a job by itself; what would run for ever is aborted."""
    backend = site.node.backend
    with backend.projector.watch(f"job/{job_id(job)}") as changed:
        while True:
            await backend.projector.caught_up()
            found = await backend.jobs.get(job_id(job))
            assert found is not None
            if found.destroyed or found.phase is Phase.ARCHIVED:
                return
            moves = found.phase in (Phase.QUEUED, Phase.EXECUTING)
            due = found.destruction is not None and found.destruction <= backend.clock.now()
            if not moves and not due:
                return
            if moves and not found.stop and found.parameters.get("x") == ("wait",):
                await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            await changed.wait()
            changed.clear()


async def compare(site: Site, job: str) -> None:
    events = await site.node.backend.store.read_stream(f"job/{job_id(job)}")
    folded = fold(events)
    assert folded is not None
    assert await site.node.backend.jobs.get(job_id(job)) == folded
    answer = await site.get(job)
    if folded.destroyed:
        assert answer.status == 410
        return
    assert shown(answer.xml) == facts(folded, job)
    assert (await site.get(f"{job}/phase")).text == folded.phase
    listed = (await site.get(f"{job.rpartition('/')[0]}?PHASE={folded.phase}")).xml
    assert job in [reference.get(HREF) for reference in listed]


def shown(document: etree._Element) -> dict[str, Any]:
    names = (
        "runId",
        "ownerId",
        "phase",
        "quote",
        "creationTime",
        "startTime",
        "endTime",
        "destruction",
        "message",
    )
    return {
        "id": text(document, "jobId"),
        **{name: text(document, name) for name in names},
        "duration": text(document, "executionDuration"),
        "parameters": [
            (e.get("id"), e.text or "") for e in document.iterfind(".//uws:parameter", NAMESPACES)
        ],
        "results": [(e.get("id"), e.get(HREF)) for e in document.iterfind(".//uws:result", NAMESPACES)],
    }


def facts(job: Job, url: str) -> dict[str, Any]:
    times = {
        "quote": job.quote, "creationTime": job.created, "startTime": job.started, "endTime": job.ended,
        "destruction": job.destruction,
    }  # fmt: skip
    return {
        "id": job.id,
        "runId": job.run_id,
        "ownerId": job.owner,
        "phase": job.phase,
        **{name: format_time(time) if time else None for name, time in times.items()},
        "message": job.failure.message if job.failure else None,
        "duration": str(job.execution_duration),
        "parameters": [(name, value) for name, values in job.parameters.items() for value in values],
        "results": [(result.id, f"{url}/results/{result.id}") for result in job.results],
    }
