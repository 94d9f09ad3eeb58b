"""Erasing a job, as the command line does it, with no server running."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from eventstore import Metadata, SQLiteEventStore
from projections import JobReadModel, Projector
from tests.harness import ManualClock
from uws import Backend, Caller, Changes, Service, StrParameter, UserUWS, make_uws_for_service
from uws.audit import erase_job
from uws.files import Files

KEEPER = Service(
    name="keeper", title="Keeper", command=["true"], parameters={"words": StrParameter(multiple=True)}
)
WHO = Metadata(actor="auditor")


@pytest.fixture
async def uws(tmp_path: Path, clock: ManualClock) -> AsyncIterator[UserUWS]:
    """All parts of a server but those that run jobs and delete files of their own accord."""
    store = await SQLiteEventStore.open(tmp_path / "events.db", now=clock.now)
    projector = await Projector.open(tmp_path / "projections.db", store)
    files = Files(tmp_path)
    files.prepare()
    backend = Backend(store, projector, JobReadModel(projector), files, clock)
    yield make_uws_for_service(KEEPER, backend, "http://localhost")
    await projector.close()
    await store.close()


async def erase(uws: UserUWS, job_id: str) -> None:
    backend = uws.backend
    await erase_job(backend.store, backend.projector, backend.files, job_id, reason="asked for", metadata=WHO)


def bytes_of(data: Path) -> bytes:
    """All that is in the files of the log and of the read models, and beside them."""
    return b"".join(path.read_bytes() for path in sorted(data.glob("*.db*")))


async def test_what_was_erased_is_in_no_page_of_the_log_and_the_read_models(
    uws: UserUWS, tmp_path: Path
) -> None:
    """Rows of all sizes come and go, so that pages are split and hold copies of what lay on them."""
    random = Random(7)
    secrets: dict[str, tuple[str, str, str]] = {}
    for number in range(150):
        owner, value, run_id = words = (f"owner-{number:03}", f"value-{number:03}", f"run-{number:03}")
        sent = {"words": [value, "." * random.randrange(400)]}
        job = await uws.create_job(Changes(parameters=sent, run_id=run_id), Caller(owner))
        secrets[job.id] = words
    await uws.backend.projector.caught_up()
    erased = random.sample(sorted(secrets), 5)
    for job_id in erased:
        await uws.destroy_job(job_id, Caller(secrets[job_id][0]))
        await erase(uws, job_id)
        held = bytes_of(tmp_path)
        assert [word.encode() in held for word in secrets[job_id]] == [False] * 3
    for job_id, words in secrets.items():
        assert [word.encode() in held for word in words] == [job_id not in erased] * 3


async def test_files_that_could_not_be_deleted_with_the_job_are_deleted_by_erasing_it(
    uws: UserUWS, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    job = await uws.create_job(Changes(), Caller())
    directory = uws.backend.files.of(job.id)
    directory.make()
    (directory.logs / "stdout").write_text("a secret")

    def busy(path: str, *, dir_fd: int | None = None) -> None:
        raise OSError("the device is busy")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", busy)
        await uws.destroy_job(job.id, Caller())
        with pytest.raises(OSError, match="busy"):
            await erase(uws, job.id)
    assert (directory.logs / "stdout").exists()
    assert not any(event.erased for event in await uws.backend.store.read_stream(f"job/{job.id}")), (
        "it is not said to be erased while its files are there"
    )
    await erase(uws, job.id)
    assert not directory.root.exists()
