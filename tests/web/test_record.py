"""What goes on record, and what stays off it; and that the log alone is needed to record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from projections import READ_MODELS
from tests.harness import job_id, running, text
from uws import ResultDeclaration, Service, StrParameter
from uws.files import JobDirectory


async def test_values_of_the_environment_and_paths_of_the_machine_stay_off_the_record(tmp_path: Path) -> None:
    service = Service(
        name="failing",
        title="Fails and says where",
        command=["sh", "-c", "echo $PASSWORD | wc -c; echo gone: $PWD/file >&2; exit 1"],
        environment={"PASSWORD": "hunter2"},
        results=[ResultDeclaration(id="length", path="-")],
    )
    async with running(tmp_path / "data", service) as site:
        job = await site.run("failing")
        document = await site.ended(job)
        assert text(document, "message") == "gone: work/file"
        assert (await site.get(f"{job}/results/length")).text.strip() == "8"
        recorded = await site.node.backend.store.read_all()
    everything = b"".join(event.data + event.metadata for event in recorded)
    assert b"hunter2" not in everything
    assert str(tmp_path).encode() not in everything
    assert b"PASSWORD" in everything


async def test_a_broken_read_model_keeps_no_command_from_being_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(name="s", title="S", command=["true"], parameters={"x": StrParameter()})
    async with running(tmp_path, service) as site:
        jobs = [await site.create("s") for _ in range(3)]

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        for model in READ_MODELS:
            monkeypatch.setattr(type(model), "apply", fail)
        created = await site.post(site.list_url("s"), {"x": "1"})
        answers = [
            created,
            await site.post(f"{jobs[0]}/parameters", {"x": "2"}),
            await site.post(f"{jobs[1]}/phase", {"PHASE": "ABORT"}),
            await site.request("DELETE", jobs[2]),
        ]
        assert [answer.status for answer in answers] == [303] * 4
        types = [event.type for event in await site.node.backend.store.read_all(after=4)]
        assert types == ["JobCreated", "ParametersSet", "JobAborted", "JobAborted", "JobDestroyed"]
        assert (await site.get(jobs[0])).status == 503
        monkeypatch.undo()
    assert "a bug" in caplog.text


async def test_files_that_cannot_be_deleted_at_once_go_later_and_delete_answers_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(name="s", title="S", command=["true"], results=[])
    tried = asyncio.Event()
    remove = JobDirectory.remove
    failures = 2

    async def fail_at_first(self: JobDirectory) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(16, "Device or resource busy")
        await remove(self)
        tried.set()

    async with running(tmp_path, service) as site:
        job = await site.run("s")
        await site.ended(job)
        monkeypatch.setattr(JobDirectory, "remove", fail_at_first)
        assert (await site.request("DELETE", job)).status == 303
        await tried.wait()
        assert not (site.data / job_id(job)).exists()


async def test_a_job_that_is_changed_for_ever_is_refused_and_still_runs(tmp_path: Path) -> None:
    service = Service(name="s", title="S", command=["true"], parameters={"x": StrParameter()})
    async with running(tmp_path, service) as site:
        job = await site.create("s")
        answer = await site.post(job, {"x": "0"})
        number = 1
        while answer.status == 303:
            answer = await site.post(job, {"x": str(number)})
            number += 1
        assert (answer.status, number) == (400, 257 - 1)
        assert answer.text.startswith(f"UsageFault: job {job_id(job)} has been changed")
        assert (await site.post(f"{job}/phase", {"PHASE": "RUN"})).status == 303
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_an_http_1_0_client_that_names_no_host_gets_urls_that_lead_back(tmp_path: Path) -> None:
    service = Service(name="s", title="S", command=["true"])
    async with running(tmp_path, service) as site:
        address = urlsplit(site.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"POST /s/async HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        head = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        assert f"Location: {site.url}/s/async/" in head
