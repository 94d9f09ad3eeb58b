"""Where a job came from and what came of it, as W3C PROV, for whoever may read its history."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import pytest
from lxml import etree
from prov.constants import PROV
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvAttribution,
    ProvDocument,
    ProvElement,
    ProvGeneration,
    ProvInfluence,
    ProvInvalidation,
    ProvUsage,
)

from tests.access.support import basic, guarded
from tests.harness import BasicUsers, Site, job_id, running, tamper
from tests.web.support import ECHO, FAIL, FILES, GRAPHVIZ, PHASES, SLEEP, record
from uws import ResultDeclaration, Service, StrParameter
from uws.model import events as e
from uws.provenance.graph import MOST

VOPROV = "http://www.ivoa.net/documents/ProvenanceDM/index.html#"
UWSD = "urn:uwsd:provenance:"
HOSTILE = "<script>\"alert('1')\"</script> &amp;&lt; \\N \\\" ]) } -- '; é 🔭 \u202e %3C"
NAMED = "<b>&amp, ]) } -- é 🔭 100%.fits"
"""The name of a file, as far as a part of a form can carry it."""
MANY = Service(
    name="many",
    title=HOSTILE,
    description="Has\nmany values",
    version="2.1 <beta>",
    command=["echo", ["{word}"]],
    parameters={"word": StrParameter(multiple=True), "n": StrParameter(default="seven")},
    results=[ResultDeclaration(id="said", path="-", mime="text/x-said")],
)
SVG = "{http://www.w3.org/2000/svg}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def told(site: Site, job: str, form: str = "json", **options: object) -> ProvDocument:
    """Return the provenance of a job, read by the library of W3C PROV."""
    answer = await site.get(f"{job}/provenance", params={"RESPONSEFORMAT": form}, **options)
    assert answer.status == 200, answer.text
    return ProvDocument.deserialize(content=answer.text, format=form)


def fact(record: ProvElement, name: str) -> object:
    """Return the one value of an attribute, None when it has none."""
    values = [value for key, value in record.attributes if key.uri == name]
    assert len(values) < 2
    return values[0] if values else None


def types_of(element: ProvElement) -> set[str]:
    return {kind.uri.rpartition("#")[2] for kind in element.get_asserted_types()}


def named(document: ProvDocument, local: str) -> ProvElement:
    """Return the element whose identifier ends so."""
    (found,) = [each for each in document.get_records(ProvElement) if str(each.identifier).endswith(local)]
    return found


def roles_of(document: ProvDocument) -> set[tuple[str, str]]:
    """Return the agents of the activity, each with what it was to it."""
    return {
        (str(each.args[1]), role)
        for each in document.get_records(ProvAssociation)
        for role in each.get_attribute(PROV["role"])
    }


async def with_files(site: Site, **options: object) -> str:
    """Run a job that is given a file of a hostile name, and return its URL."""
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("image", b"hello", filename=NAMED, content_type="application/fits")
    form.add_field("n", "3")
    form.add_field("RUNID", HOSTILE)
    form.add_field("PHASE", "RUN")
    answer = await site.post(site.list_url("files"), form, **options)
    assert answer.status == 303, answer.text
    await site.ended(answer.location, **options)
    return answer.location


# What it says


async def test_what_a_job_was_given_and_what_it_made_have_their_digests(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, authenticator=BasicUsers()) as site:
        job = await with_files(site, user="ada")
        document = await told(site, job, user="ada")
        (activity,) = document.get_records(ProvActivity)
        assert str(activity.identifier) == f"job:{job_id(job)}"
        assert activity.get_startTime() <= activity.get_endTime()
        assert fact(activity, f"{VOPROV}name") == HOSTILE
        assert fact(activity, f"{UWSD}phase") == "COMPLETED"
        sent = named(document, f"{job_id(job)}/parameters/image/1")
        assert (fact(sent, f"{UWSD}sha256"), fact(sent, f"{UWSD}size")) == (sha256(b"hello"), 5)
        assert fact(sent, f"{VOPROV}name") == NAMED
        assert fact(sent, f"{UWSD}mediaType") == "application/fits"
        made = named(document, f"{job_id(job)}/results/out")
        assert fact(made, f"{UWSD}sha256") == sha256(b"hello")
        assert fact(made, f"{UWSD}mediaType") == "text/plain"
        used = {(str(u.args[1]).partition("/")[2], *u.get_attribute(PROV["role"]))
                for u in document.get_records(ProvUsage)}  # fmt: skip
        assert used == {("parameters/image/1", "image"), ("program/1", "program")}
        (generated,) = document.get_records(ProvGeneration)
        assert generated.args[:2] == (made.identifier, activity.identifier)
        owners = {(str(a.args[0]).partition("/")[2], str(a.args[1]))
                  for a in document.get_records(ProvAttribution)}  # fmt: skip
        assert owners == {("parameters/image/1", "user:ada"), ("results/out", "user:ada")}
        assert roles_of(document) == {
            ("user:ada", "owner"), ("user:ada", "created"), ("user:ada", "ran"), ("uwsd:server", "server"),
        }  # fmt: skip
        assert not list(document.get_records(ProvInvalidation))
        assert str(tmp_path) not in document.get_provn()


async def test_the_pinned_declaration_is_the_plan_and_describes_what_goes_in_and_out(tmp_path: Path) -> None:
    async with running(tmp_path, MANY) as site:
        job = await site.run("many", word=["a", HOSTILE])
        await site.ended(job)
        document = await told(site, job)
        plan = named(document, f"declaration:{MANY.digest}")
        assert types_of(plan) == {"ActivityDescription", "Plan"}
        assert fact(plan, f"{VOPROV}version") == "2.1 <beta>"
        assert json.loads(str(fact(plan, f"{UWSD}command"))) == ["echo", ["{word}"]]
        (server,) = [
            each for each in document.get_records(ProvAssociation) if str(each.args[1]) == "uwsd:server"
        ]
        assert server.args[2] == plan.identifier
        values = [named(document, f"parameters/word/{number}") for number in (1, 2)]
        assert [fact(value, f"{VOPROV}value") for value in values] == ["a", HOSTILE]
        assert types_of(values[0]) == {"Parameter"}
        default = named(document, "parameters/n/1")
        assert (fact(default, f"{VOPROV}value"), fact(default, f"{UWSD}isDefault")) == ("seven", True)
        relations = {
            (str(each.args[0]).partition("/")[2], str(kind), str(each.args[1]).partition("/")[2])
            for each in document.get_records(ProvInfluence)
            for kind in each.get_attribute(PROV["type"])
        }
        assert ("parameters/n/1", "voprov:isDescribedBy", "parameters/n") in relations
        assert ("", "voprov:wasConfiguredBy", "parameters/word/2") in relations
        assert ("results/said", "voprov:isDescribedBy", "results/said") in relations
        assert ("results/said", "voprov:isRelatedTo", "") in relations
        assert types_of(named(document, f"{MANY.digest}/results/said")) == {"GenerationDescription"}
        contents = named(document, f"{MANY.digest}/results/said/dataset")
        assert fact(contents, f"{VOPROV}contentType") == "text/x-said"
        assert types_of(named(document, f"{MANY.digest}/parameters/n")) == {"ParameterDescription"}


async def test_a_failed_job_tells_what_it_ran_and_why_it_ended(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail")
        await site.ended(job)
        (activity,) = (await told(site, job)).get_records(ProvActivity)
        assert fact(activity, f"{UWSD}phase") == "ERROR"
        assert fact(activity, f"{UWSD}exitCode") == 3
        assert fact(activity, f"{VOPROV}comment") == "last words"
        assert named(await told(site, job), "program/1")


async def test_who_aborted_and_who_shared_a_job_are_its_agents(tmp_path: Path) -> None:
    async with guarded(tmp_path, SLEEP) as (site, _):
        made = await site.post(site.list_url("sleep"), {"PHASE": "RUN"}, headers=basic("ann"))
        job = made.location
        await site.post(f"{job}/shares", {"WITH": "bob"}, headers=basic("ann"))
        await site.executing(job, headers=basic("ann"))
        await site.post(f"{job}/phase", {"PHASE": "ABORT"}, headers=basic("ops"))
        await site.ended(job, headers=basic("ann"))
        document = await told(site, job, headers=basic("aud"))
        assert ("user:ops", "stopped") in roles_of(document)
        assert {role for who, role in roles_of(document) if who == "user:ann"} == {
            "owner", "created", "ran", "shared",
        }  # fmt: skip
        (activity,) = document.get_records(ProvActivity)
        assert fact(activity, f"{UWSD}phase") == "ABORTED"
        assert fact(activity, f"{VOPROV}comment") == "aborted on request"
        # With whom it is shared has no part in what came of it.
        assert {str(agent.identifier) for agent in document.get_records(ProvAgent)} == {
            "user:ann", "user:ops", "uwsd:server",
        }  # fmt: skip


async def test_people_may_be_called_as_they_like(tmp_path: Path) -> None:
    name = "ad\u00e4 o'Neil/%28, [x=1]) \\ <b> \u2728"
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user=name)
        document = await told(site, job, user=name)
        assert document == await told(site, job, "provn", user=name)
        (person,) = [agent for agent in document.get_records(ProvAgent) if "Person" in types_of(agent)]
        assert fact(person, f"{VOPROV}name") == name
        assert unquote(str(person.identifier)) == f"user:{name}"
        assert re.fullmatch(r"user:[A-Za-z0-9%._~-]+", str(person.identifier))


async def test_what_was_never_started_has_used_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, executes=False) as site:
        job = await site.create("files", image=b"hello")
        await record(site, job, e.JobHeld(reason="later"))
        document = await told(site, job)
        assert fact(named(document, "parameters/image/1"), f"{UWSD}sha256") == sha256(b"hello")
        assert not list(document.get_records(ProvUsage))
        (activity,) = document.get_records(ProvActivity)
        assert (fact(activity, f"{UWSD}phase"), fact(activity, f"{VOPROV}comment")) == ("HELD", "later")


async def test_of_an_archived_job_what_it_made_is_told_and_that_it_is_gone(tmp_path: Path) -> None:
    service = Service(
        name="kept",
        title="Kept",
        command=["echo", "x"],
        results=[ResultDeclaration(id="out", path="-")],
        archive=True,
    )
    async with running(tmp_path, service) as site:
        job = await site.run("kept")
        await site.ended(job)
        await site.request("DELETE", job)
        document = await told(site, job)
        (gone,) = document.get_records(ProvInvalidation)
        made = named(document, f"{job_id(job)}/results/out")
        assert fact(made, f"{UWSD}sha256") == sha256(b"x\n")
        assert gone.args[0] == made.identifier
        (activity,) = document.get_records(ProvActivity)
        assert fact(activity, f"{UWSD}phase") == "COMPLETED"


@pytest.mark.parametrize(
    ("kind", "text", "by"),
    [("JobCreated", "ada", "eve"), ("ServiceDeclared", "Echo", "Evil")],
    ids=["the job", "its declaration"],
)
async def test_what_was_tampered_with_is_not_told(tmp_path: Path, kind: str, text: str, by: str) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers(), executes=False) as site:
        job = await site.create("echo", x="1", user="ada")
        assert (await site.get(f"{job}/provenance", user="ada")).status == 200
    tamper(tmp_path, kind, text, by)
    async with running(tmp_path, ECHO, authenticator=BasicUsers(), executes=False) as site:
        url = f"/echo/async/{job_id(job)}"
        for form in ("json", "provn", "svg"):
            refused = await site.get(f"{url}/provenance?RESPONSEFORMAT={form}", user="ada")
            assert refused.status == 500
            assert "payload or metadata are not those that were recorded" in refused.text
        history = await site.get(f"{url}/history", user="ada")
        assert history.status == (500 if kind == "JobCreated" else 200)


# Its forms


@pytest.mark.parametrize("phase", PHASES)
async def test_whatever_became_of_a_job_all_forms_can_be_read_and_say_the_same(
    tmp_path: Path, phase: str
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo", x=HOSTILE, RUNID=HOSTILE)
        await record(site, job, *PHASES[phase])
        document = await told(site, job)
        assert document == await told(site, job, "provn")
        for form in ("json", "provn"):
            again = ProvDocument.deserialize(content=document.serialize(format=form), format=form)
            assert again == document
        assert fact(named(document, "parameters/x/1"), f"{VOPROV}value") == HOSTILE


@GRAPHVIZ
async def test_the_same_job_gives_the_same_bytes_another_server_over_the_same_log_too(tmp_path: Path) -> None:
    forms = ("json", "provn", "svg")
    async with running(tmp_path, FILES) as site:
        job = await with_files(site)
        before = [(await site.get(f"{job}/provenance?RESPONSEFORMAT={form}")).body for form in forms]
    async with running(tmp_path, FILES) as site:
        path = f"/files/async/{job_id(job)}/provenance"
        assert [(await site.get(f"{path}?RESPONSEFORMAT={form}")).body for form in forms] == before


@pytest.mark.parametrize(
    ("query", "accept", "media_type"),
    [
        ("", "*/*", "application/json"),
        ("", "text/provenance-notation", "text/provenance-notation"),
        pytest.param("", "image/avif,image/svg+xml,image/*;q=0.8", "image/svg+xml", marks=GRAPHVIZ),
        ("?RESPONSEFORMAT=provn", "application/json", "text/provenance-notation"),
        pytest.param("?responseformat=image/svg%2Bxml", "*/*", "image/svg+xml", marks=GRAPHVIZ),
    ],
)
async def test_the_form_is_what_the_client_asks_for(
    tmp_path: Path, query: str, accept: str, media_type: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        url = await site.create("echo") + "/provenance" + query
        answer = await site.get(url, headers={"Accept": accept})
        assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, media_type)
        held = {"Accept": accept, "If-None-Match": answer.headers["ETag"]}
        assert (await site.get(url, headers=held)).status == 304
        await site.post(url.partition("/provenance")[0] + "/phase", {"PHASE": "ABORT"})
        assert (await site.get(url, headers=held)).status == 200


async def test_another_form_is_refused_with_those_there_are(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(await site.create("echo") + "/provenance?RESPONSEFORMAT=xml")
        assert answer.status == 400
        assert answer.text.startswith(
            "UsageFault: RESPONSEFORMAT: expected one of json, application/json, provn"
        )


# The drawing


@GRAPHVIZ
async def test_the_drawing_holds_what_was_sent_as_text_and_needs_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, FILES, MANY) as site:
        job = await with_files(site)
        svg = (await site.get(f"{job}/provenance?RESPONSEFORMAT=svg")).body
        root = etree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert {str(each.tag) for each in root.iter()} <= {
            SVG + name for name in ("svg", "title", "g", "polygon", "polyline", "path", "ellipse", "text")
        }
        assert not [
            key for each in root.iter() for key in each.attrib if "href" in key or key.startswith("on")
        ]
        assert b"url(" not in svg
        assert not root.getroottree().docinfo.doctype
        words = [each.text or "" for each in root.iter(f"{SVG}text")]
        shown = HOSTILE.replace("\u202e", "\ufffd")[:39]
        assert [word for word in words if word.startswith(shown)]
        assert f"SHA-256 {sha256(b'hello')[:16]}…" in words
        assert {"used", "wasGeneratedBy", "wasAssociatedWith", "isDescribedBy"} <= {*words}
        assert root.findtext(f"{SVG}title") == f"Provenance of job {job_id(job)}"


@GRAPHVIZ
async def test_whoever_holds_the_drawing_gets_another_one_when_the_job_was_archived(tmp_path: Path) -> None:
    service = Service(name="kept", title="Kept", command=["echo", "x"], archive=True)
    async with running(tmp_path, service, authenticator=BasicUsers()) as site:
        job = await site.run("kept", user="ada")
        await site.ended(job, user="ada")
        url = f"{job}/provenance?RESPONSEFORMAT=svg"
        held = await site.get(url, user="ada")
        headers = {"If-None-Match": held.headers["ETag"]}
        assert (await site.get(url, user="ada", headers=headers)).status == 304
        await site.request("DELETE", job, user="ada")
        answer = await site.get(url, user="ada", headers=headers)
        assert answer.status == 200
        words = [each.text or "" for each in answer.xml.iter(f"{SVG}text")]
        assert [word for word in words if "destroyed" in word]
        assert answer.body != held.body


@GRAPHVIZ
async def test_what_means_something_to_graphviz_is_drawn_as_it_was_sent(tmp_path: Path) -> None:
    words = ["\\N \\L \\\\ \\", '" ] ; n0 -> n1', "&lt;b&gt; &#65;", "<b>", "{a|b}", "%d", "\\n"]
    async with running(tmp_path, MANY) as site:
        job = await site.create("many", word=words)
        root = (await site.get(f"{job}/provenance?RESPONSEFORMAT=svg")).xml
        drawn = [each.text for each in root.iter(f"{SVG}text")]
        assert {f"word = {word}" for word in words} <= {*drawn}


@GRAPHVIZ
async def test_what_is_too_much_to_be_drawn_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path, MANY) as site:
        job = await site.create("many", word=[*range(MOST)])
        root = (await site.get(f"{job}/provenance?RESPONSEFORMAT=svg")).xml
        words = [each.text for each in root.iter(f"{SVG}text")]
        assert "and 4 more" in words  # of these values, the default, activity, plan and server
        assert f"word = {MOST - 5}" in words
        assert f"word = {MOST - 1}" not in words


async def test_where_there_is_no_graphviz_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        monkeypatch.setenv("PATH", str(tmp_path))
        answer = await site.get(f"{job}/provenance?RESPONSEFORMAT=svg")
        assert answer.status == 501
        assert "drawings are made by Graphviz" in answer.text
        assert (await site.get(f"{job}/provenance")).status == 200


# Who may see it


async def test_the_provenance_of_a_job_is_for_whoever_may_read_its_history(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        url = await site.create("echo", user="ada") + "/provenance"
        assert (await site.get(url, user="bob")).status == 403
        assert (await site.get(url)).status == 401
        assert (await site.get(f"{url}?RESPONSEFORMAT=svg", user="bob")).status == 403
        await site.request("DELETE", url.removesuffix("/provenance"), user="ada")
        assert (await site.get(url, user="ada")).status == 410
        nowhere = url.replace(job_id(url), "0" * 32)
        assert (await site.get(nowhere, user="ada")).status == 404


async def test_the_page_of_a_job_leads_to_all_forms(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        page = (await site.get(job, headers={"Accept": "text/html"})).text
        for form in ("svg", "json", "provn"):
            assert f'{job_id(job)}/provenance?RESPONSEFORMAT={form}"' in page


def test_a_server_starts_without_the_library() -> None:
    program = "import sys, uws.app, uws.cli; print([m for m in sys.modules if m.split('.')[0] == 'prov'])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
