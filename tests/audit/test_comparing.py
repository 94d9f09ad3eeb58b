"""`uwsd audit diff`, `rerun` and `provenance`: runs held against each other, repeated and explained."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from lxml import etree
from prov.model import ProvActivity, ProvAssociation, ProvDocument

from eventstore import SQLiteEventLog
from tests.daemon import Daemon, Ended, serving, uwsd
from tests.harness import job_id, text
from tests.web.support import GRAPHVIZ
from uws.model import events as e
from uws.model.units import format_time

ME = pwd.getpwuid(os.getuid()).pw_name
SCRIPT = '#!/bin/sh\nprintf %s "$1"; cat "$2" 2>/dev/null; exit 0\n'
DECLARATION = """
data = "var"
[services.show]
title = "Show"
command = ["{script}", "{{word}}", ["{{file}}"]]
results = [{{ id = "shown", path = "-" }}]
parameters.word = {{ type = "str", default = "hello" }}
parameters.file = {{ type = "file" }}

[services.random]
title = "Random"
command = ["sh", "-c", "head -c 8 /dev/urandom; echo same > $UWS_RESULTS/same"]
results = [{{ id = "bytes", path = "-" }}, {{ id = "same", path = "same" }}]

[services.fail]
title = "Fail"
command = ["sh", "-c", "echo no >&2; exit 3"]
"""


@pytest.fixture
def declaration(tmp_path: Path) -> Path:
    script = tmp_path / "show.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    path = tmp_path / "uwsd.toml"
    path.write_text(DECLARATION.format(script=script))
    return path


async def ran(server: Daemon, service: str, **parameters: object) -> str:
    """Run a job to its end and return its id."""
    job = await server.run(service, **parameters)
    await server.ended(job)
    return job_id(job)


async def audit(declaration: Path, *arguments: str) -> Ended:
    return await uwsd("audit", *arguments, "--config", declaration)


async def events_of(declaration: Path, job: str) -> list[tuple[e.JobEvent, str | None]]:
    log = await SQLiteEventLog.read(declaration.parent / "var" / "events.db")
    try:
        return [(e.decode(each), each.about.actor) for each in await log.read_stream(e.job_stream(job))]
    finally:
        await log.close()


async def gone(declaration: Path, job: str, *, erased: bool = False) -> None:
    assert (await uwsd("jobs", "destroy", job, "--config", declaration)).status == 0
    if erased:
        assert (await audit(declaration, "erase", job, "--reason", "asked for")).status == 0


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# diff


async def test_two_runs_of_the_same_differ_in_nothing(declaration: Path) -> None:
    async with serving(declaration) as server:
        # A default counts as if it was given, and a file by what is in it.
        one = await ran(server, "show", file=b"x")
        other = await ran(server, "show", word="hello", file=b"x")
    told = await audit(declaration, "diff", one, other)
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith(
        f"--- job {one}\n+++ job {other}\nnothing differs: service, parameters, declaration, "
        "program, outcome and results are the same\nduration, which does not count\n- 0."
    )
    assert (await audit(declaration, "diff", one, one)).status == 0


async def test_what_differs_is_told_value_by_value(declaration: Path) -> None:
    async with serving(declaration) as server:
        one = await ran(server, "show", word="hi", file=b"x")
        other = await ran(server, "show", word="ho", file=b"y")
        failed = await ran(server, "fail")
    told = await audit(declaration, "diff", one, other)
    assert (told.status, told.err) == (1, "")
    assert "parameter word\n- hi\n+ ho\n" in told.out
    files = [f"file, 1 bytes, SHA-256 {sha256(content)}" for content in (b"x", b"y")]
    assert f"parameter file\n- {files[0]}\n+ {files[1]}\n" in told.out
    results = [f"{sha256(content)}, 3 bytes" for content in (b"hix", b"hoy")]
    assert f"result shown\n- {results[0]}\n+ {results[1]}\n" in told.out
    assert "program" not in told.out
    assert "declaration" not in told.out
    told = await audit(declaration, "diff", one, failed)
    assert told.status == 1
    assert "service\n- show\n+ fail\n" in told.out
    assert "outcome\n- COMPLETED\n+ ERROR\nreason\n+ no\nexit code\n- 0\n+ 3\n" in told.out
    as_json = json.loads((await audit(declaration, "diff", one, failed, "--json")).out)
    assert {"what": "exit code", "first": "0", "second": "3"} in as_json["differences"]
    assert as_json["results"] == [{"id": "shown", "first": results[0], "second": None}]


async def test_another_declaration_is_shown_line_by_line_and_another_program_by_its_digest(
    declaration: Path, tmp_path: Path
) -> None:
    async with serving(declaration) as server:
        one = await ran(server, "show")
    declaration.write_text(
        declaration.read_text().replace('title = "Show"', 'title = "Show 2"\nversion = "2"')
    )
    script = tmp_path / "show.sh"
    script.write_text(SCRIPT + "# changed\n")
    async with serving(declaration) as server:
        other = await ran(server, "show")
    told = await audit(declaration, "diff", one, other)
    assert told.status == 1
    assert re.search(r"declaration\n- [0-9a-f]{64}\n\+ [0-9a-f]{64}\n    --- [0-9a-f]{64}\n", told.out)
    assert '\n    -  "title": "Show",\n' in told.out
    assert '\n    +  "version": "2",\n' in told.out
    digests = [sha256(each.encode()) for each in (SCRIPT, SCRIPT + "# changed\n")]
    assert f"program show.sh\n- {digests[0]}\n+ {digests[1]}\n" in told.out
    assert "\nresult " not in told.out


async def test_programs_of_several_files_of_one_name_are_compared_file_by_file(
    declaration: Path, tmp_path: Path
) -> None:
    scripts = [tmp_path / name / "main.sh" for name in ("one", "other")]
    for script in scripts:
        script.parent.mkdir()
        script.write_text("echo done\n")
    declaration.write_text(
        declaration.read_text()
        + f'[services.two]\ntitle = "Two"\ncommand = ["sh", "{scripts[0]}", "{scripts[1]}"]\n'
    )
    async with serving(declaration) as server:
        first = await ran(server, "two")
        scripts[0].write_text("echo changed\n")
        second = await ran(server, "two")
        scripts[1].write_text("echo changed, too\n")
        third = await ran(server, "two")
    digests = [sha256(f"echo {word}\n".encode()) for word in ("done", "changed", "changed, too")]
    told = await audit(declaration, "diff", first, second)
    assert told.status == 1
    assert f"program main.sh\n- {digests[0]}\n+ {digests[1]}\n" in told.out
    assert "no. 2" not in told.out
    told = await audit(declaration, "diff", second, third)
    assert told.status == 1
    assert f"program main.sh, no. 2 of that name\n- {digests[0]}\n+ {digests[2]}\n" in told.out
    assert "program main.sh\n" not in told.out


async def test_what_is_destroyed_is_compared_and_what_is_erased_is_said_to_be(declaration: Path) -> None:
    async with serving(declaration) as server:
        one, other = await ran(server, "show", word="a"), await ran(server, "show", word="a")
        await gone(declaration, one)
        assert (await audit(declaration, "diff", one, other)).status == 0
        assert (await audit(declaration, "erase", one, "--reason", "asked for")).status == 0
        told = await audit(declaration, "diff", one, other)
    assert told.status == 1
    assert re.search(
        rf"job {one} was erased at \S+Z \(asked for\): what it was is not known any more", told.out
    )
    assert "nothing differs" not in told.out


async def test_what_was_tampered_with_is_neither_told_nor_compared_nor_run_again(declaration: Path) -> None:
    async with serving(declaration) as server:
        one, other = [await ran(server, "show", word="true") for _ in range(2)]
    with closing(sqlite3.connect(declaration.parent / "var" / "events.db")) as log:
        log.execute(
            "UPDATE event SET data = CAST(replace(CAST(data AS TEXT), ?, ?) AS BLOB) "
            "WHERE type = 'JobCompleted'",
            (sha256(b"true"), sha256(b"false")),
        )
        log.commit()
    commands = ("provenance", one), ("diff", one, other), ("rerun", one)
    for command in commands:
        refused = await audit(declaration, *command)
        assert (refused.status, refused.out) == (1, ""), command
        assert "payload or metadata are not those that were recorded" in refused.err
    async with serving(declaration):
        assert (await audit(declaration, "rerun", one)).status == 1, "a server says so, too"


async def test_of_a_job_that_was_pruned_it_is_told_where_it_is(declaration: Path) -> None:
    declaration.write_text(declaration.read_text() + '[audit]\norigin = "jobs.example.org"\n')
    async with serving(declaration) as server:
        job, other = [await ran(server, "show") for _ in range(2)]
        await gone(declaration, job)
        archive = str(declaration.parent / "log.gz")
        assert (await audit(declaration, "export", "--prune", "--output", archive)).status == 0
        for command in (("provenance", job), ("diff", other, job), ("rerun", job), ("log", job)):
            refused = await audit(declaration, *command)
            assert (refused.status, refused.out) == (2, ""), command
            assert refused.err == (
                f"there is no job {job} in the log; part of the log was taken out of it: archived in log.gz\n"
            )


async def test_a_job_that_there_never_was_is_told(declaration: Path) -> None:
    async with serving(declaration) as server:
        one = await ran(server, "show")
    told = await audit(declaration, "diff", one, "nowhere")
    assert (told.status, told.out) == (2, "")
    assert "nowhere" in told.err


# rerun


async def test_a_rerun_has_the_same_inputs_and_owner_and_says_who_made_it(declaration: Path) -> None:
    async with serving(declaration) as server:
        first = await ran(server, "show", word="hi", file=b"x", RUNID="m31", EXECUTIONDURATION="77")
        told = await audit(declaration, "rerun", first, "--wait")
        assert (told.status, told.err) == (0, "")
        new = told.out.split()[1]
        assert f"job {new} is made from what job {first} was given, and is to run\n" in told.out
        assert "nothing differs: " in told.out
        assert told.out.endswith("result shown: identical\nthe results are identical\n")
        answer = await server.get(f"{server.list_url('show')}/{new}/results/shown")
        assert answer.body == b"hix"
        document = await server.document(f"{server.list_url('show')}/{new}")
        assert text(document, "executionDuration") == "77"
        history = await server.get(f"{server.list_url('show')}/{new}/history")
        assert f"created, to run job {first} again" in history.text
    (created, by), *_ = await events_of(declaration, new)
    (original, nobody), *_ = await events_of(declaration, first)
    assert isinstance(created, e.JobCreated)
    assert isinstance(original, e.JobCreated)
    assert (created.rerun_of, created.owner, created.run_id) == (first, original.owner, None)
    assert (nobody, by) == (None, ME)


async def test_results_that_are_not_the_same_are_told_one_by_one(declaration: Path) -> None:
    async with serving(declaration) as server:
        told = await audit(declaration, "rerun", await ran(server, "random"), "--wait")
    assert (told.status, told.err) == (1, "")
    assert told.out.endswith(
        "result bytes: not identical\nresult same: identical\nthe results are not identical\n"
    )


async def test_without_a_server_the_new_job_runs_when_one_does(declaration: Path) -> None:
    async with serving(declaration) as server:
        first = await ran(server, "show", file=b"x")
    told = await audit(declaration, "rerun", first)
    assert (told.status, told.err) == (0, "")
    new = told.out.split()[1]
    async with serving(declaration) as server:
        await server.ended(f"{server.list_url('show')}/{new}")
    assert (await audit(declaration, "diff", first, new)).status == 0


async def test_a_destroyed_job_runs_again_unless_it_needs_files_that_are_gone(declaration: Path) -> None:
    async with serving(declaration) as server:
        without, with_file = await ran(server, "show", word="a"), await ran(server, "show", file=b"x")
        for job in (without, with_file):
            await gone(declaration, job)
        assert (await audit(declaration, "rerun", without, "--wait")).status == 0
        told = await audit(declaration, "rerun", with_file)
        assert (told.status, told.out) == (2, "")
        assert f"job {with_file} cannot be run again without the files it was given:\n" in told.err
        assert f"file: file, SHA-256 {sha256(b'x')}: the file file is missing" in told.err
        assert (await audit(declaration, "erase", without, "--reason", "asked for")).status == 0
        told = await audit(declaration, "rerun", without)
        assert (told.status, told.out) == (2, "")
        assert "was erased" in told.err


async def test_a_file_that_was_changed_is_not_taken_for_what_was_sent(declaration: Path) -> None:
    async with serving(declaration) as server:
        first = await ran(server, "show", file=b"x")
        (file,) = (declaration.parent / "var" / "jobs" / first / "uploads").iterdir()
        file.write_bytes(b"y")
        told = await audit(declaration, "rerun", first)
        assert told.status == 2
        assert "its contents were changed" in told.err
        assert len((await server.document(server.list_url("show"))).findall("{*}jobref")) == 1


async def test_another_declaration_is_refused_with_what_differs_unless_it_is_meant(declaration: Path) -> None:
    async with serving(declaration) as server:
        first = await ran(server, "show")
    declaration.write_text(declaration.read_text().replace('title = "Show"', 'title = "Show 2"'))
    async with serving(declaration) as server:
        told = await audit(declaration, "rerun", first, "--wait")
        assert (told.status, told.out) == (2, "")
        assert "made under another declaration of show" in told.err
        assert '\n-  "title": "Show",\n+  "title": "Show 2",\n' in told.err
        told = await audit(declaration, "rerun", first, "--wait", "--with-current-declaration")
        assert (told.status, told.err) == (0, "")
        assert "it runs under another declaration:\n    --- " in told.out
        assert "the results are identical" in told.out


async def test_the_help_says_under_which_declaration_a_job_runs_again(declaration: Path) -> None:
    told = await uwsd("audit", "rerun", "--help")
    assert (
        "It runs under the declaration that the first one had, and only while that is in force"
        in " ".join(told.out.replace("│", " ").split())
    )


async def test_a_service_that_is_not_offered_any_more_runs_nothing_again(declaration: Path) -> None:
    async with serving(declaration) as server:
        first = await ran(server, "fail")
    declaration.write_text(declaration.read_text().partition("[services.fail]")[0])
    async with serving(declaration):
        told = await audit(declaration, "rerun", first)
    assert (told.status, told.out) == (2, "")
    assert "the service fail is not offered any more" in told.err


async def test_what_is_more_than_the_owner_may_have_is_not_run_again(declaration: Path) -> None:
    declaration.write_text(declaration.read_text() + "[quotas.anonymous]\njobs_per_day = 2\n")
    async with serving(declaration) as server:
        first = await ran(server, "show", file=b"x")
        assert (await audit(declaration, "rerun", first, "--wait")).status == 0
        told = await audit(declaration, "rerun", first, "--wait")
        assert (told.status, told.out) == (2, "")
        assert told.err.startswith("2 jobs of the same owner made within 24 h, at most 2 allowed: ")
        assert len((await server.document(server.list_url("show"))).findall("{*}jobref")) == 2
    jobs = declaration.parent / "var" / "jobs"
    assert len([*jobs.iterdir()]) == 2, "no copy of the file is left"
    told = await audit(declaration, "rerun", first)
    assert (told.status, told.out) == (2, ""), "nor without a server"


async def test_a_run_that_failed_alike_is_the_same_again(declaration: Path) -> None:
    async with serving(declaration) as server:
        told = await audit(declaration, "rerun", await ran(server, "fail"), "--wait")
    assert (told.status, told.err) == (0, "")


# provenance


@GRAPHVIZ
async def test_the_provenance_of_a_destroyed_job_is_printed_in_each_form(declaration: Path) -> None:
    async with serving(declaration) as server:
        job = await ran(server, "show", file=b"x")
        over_http = await server.get(f"{server.list_url('show')}/{job}/provenance")
        assert (await audit(declaration, "provenance", job)).out == over_http.text
        again = (await audit(declaration, "rerun", job, "--wait")).out.split()[1]
        await gone(declaration, job)
    as_json, as_provn, as_svg = [
        (await audit(declaration, "provenance", job, form)).out for form in ("--json", "--provn", "--svg")
    ]
    document = ProvDocument.deserialize(content=as_json, format="json")
    assert document == ProvDocument.deserialize(content=as_provn, format="provn")
    assert etree.fromstring(as_svg.encode()).tag == "{http://www.w3.org/2000/svg}svg"
    assert "wasInvalidatedBy(" in as_provn
    assert (
        f"wasInfluencedBy(job:{again}, job:{job}, [prov:type='uwsd:rerunOf'])"
        in (await audit(declaration, "provenance", again, "--provn")).out
    )
    told = await audit(declaration, "provenance", job, "--json", "--svg")
    assert (told.status, told.out) == (2, "")


async def test_who_runs_a_job_again_is_not_taken_for_who_sent_its_files(declaration: Path) -> None:
    async with serving(declaration) as server:
        job = await ran(server, "show", file=b"x")
        again = (await audit(declaration, "rerun", job, "--wait")).out.split()[1]
    told = (await audit(declaration, "provenance", again, "--provn")).out
    assert f"entity(job:{again}/parameters/file/1, " in told
    assert f'wasAssociatedWith(job:{again}, user:{ME}, -, [prov:role="created"])' in told
    assert "wasAttributedTo(" not in told


async def test_of_an_erased_job_only_that_is_told_and_by_whom(declaration: Path) -> None:
    async with serving(declaration) as server:
        job = await ran(server, "show", word="secret", RUNID="private")
        await gone(declaration, job, erased=True)
        told = await audit(declaration, "provenance", job)
        assert (await server.get(f"{server.list_url('show')}/{job}/provenance")).status == 410
    assert (told.status, told.err) == (0, "")
    document = ProvDocument.deserialize(content=told.out, format="json")
    (activity,) = document.get_records(ProvActivity)
    assert "erased: asked for" in str(activity)
    agents = {str(each.args[1]) for each in document.get_records(ProvAssociation)}
    assert agents == {f"user:{ME}", "uwsd:server"}
    assert "secret" not in told.out
    assert "private" not in told.out


async def test_of_a_job_that_was_imported_nothing_is_told_that_only_its_source_knows(
    declaration: Path,
) -> None:
    trace = declaration.with_name("jobs.swf")
    trace.write_text("; UnixStartTime: 749457600\n1 3 1 10 1 10 -1 1 10 -1 1 7 1 -1 1 1 -1 -1\n")
    brought = await uwsd("import", "swf", trace, "--service", "fail", "--config", declaration)
    assert brought.status == 0, brought.err
    log = await SQLiteEventLog.read(declaration.parent / "var" / "events.db")
    try:
        (created,) = [each for each in await log.read_all() if each.type == "JobCreated"]
    finally:
        await log.close()
    job = e.job_id_of(created.stream) or ""
    told = ProvDocument.deserialize(content=(await audit(declaration, "provenance", job)).out)
    roles = {
        (str(each.args[1]), str(next(iter(each.get_attribute("prov:role")))))
        for each in told.get_records(ProvAssociation)
    }
    assert ("user:" + ME, "imported") in roles
    assert ("uwsd:server", "recorder") in roles
    assert not [role for agent, role in roles if agent == "user:" + ME and role != "imported"]
    (activity,) = told.get_records(ProvActivity)
    assert next(iter(activity.get_attribute("uwsd:source")))
    archive = declaration.with_name("job.zip")
    assert (await audit(declaration, "export", job, "-o", str(archive))).status == 0
    shown = (await audit(declaration, "verify", str(archive))).out
    assert f"  imported  {format_time(created.recorded_at)} by {ME} from " in shown
    assert "  command   cannot be told: it did not run here\n" in shown
