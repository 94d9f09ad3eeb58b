"""What users of pyvo do: ``python pyvo_stories.py STORY URL`` prints what came of it as JSON."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from pyvo.dal import DALQueryError, DALServiceError
from pyvo.dal.tap import AsyncTAPJob, TAPService
from pyvo.io.uws.tree import JobSummary


def run_and_fetch(url: str) -> dict[str, Any]:
    job = AsyncTAPJob.create(url, "SELECT 'ä' < \"b\" & 1", maxrec=5)
    told = {"url": job.url, "id": job.job_id, "version": job.uws_version, "created": job.phase}
    told["query"] = job.query
    job.run().wait(timeout=30)
    job.raise_if_error()
    told["phase"] = job.phase
    told["result"] = job.result_uri
    table = job.fetch_result()
    told["columns"] = table.fieldnames
    told["rows"] = [[int(row["n"]), str(row["query"])] for row in table]
    address = job.url
    job.delete()
    told["after delete"] = requests.get(address, timeout=10).status_code
    return told


def run_async_in_one_call(url: str) -> list[str]:
    return [str(row["query"]) for row in TAPService(url).run_async("SELECT 1", timeout=30)]


def change_before_running(url: str) -> dict[str, Any]:
    job = AsyncTAPJob.create(url, "SELECT 1")
    told: dict[str, Any] = {"before": job.execution_duration.sec}
    job.execution_duration = 30
    soon = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=3)
    job.destruction = soon
    job.query = "SELECT 2"
    told |= {"duration": job.execution_duration.sec, "query": job.query}
    told["seconds off"] = abs(job.destruction.to_datetime() - soon).total_seconds()
    job.run().wait(timeout=30)
    told["rows"] = [str(row["query"]) for row in job.fetch_result()]
    try:
        job.query = "SELECT 3"
    except DALServiceError as error:
        told["too late"] = str(error)
    return told


def upload(url: str) -> dict[str, Any]:
    job = AsyncTAPJob.create(url, "SELECT upload", uploads={"mine": io.BytesIO(b"of eleven b")})
    later = AsyncTAPJob.create(url, "SELECT upload")
    later.upload(mine=io.BytesIO(b"seven b"))
    return {
        "at once": [str(row["query"]) for row in job.run().wait(timeout=30).fetch_result()],
        "later": [str(row["query"]) for row in later.run().wait(timeout=30).fetch_result()],
    }


def fail(url: str) -> dict[str, Any]:
    job = AsyncTAPJob.create(url, "SELECT wrong").run().wait(timeout=30)
    told: dict[str, Any] = {"phase": job.phase}
    try:
        job.raise_if_error()
    except DALQueryError as error:
        told["error"] = str(error)
    return told


def abort(url: str) -> dict[str, Any]:
    job = AsyncTAPJob.create(url, "SELECT sleep")
    job.run()
    # pyvo waits for a change of phase: that to EXECUTING, when it comes in time to see the job queued.
    told: dict[str, Any] = {"running": job.phase in ("QUEUED", "EXECUTING")}
    job.abort()
    requests.get(job.url, params={"WAIT": "30"}, timeout=60).raise_for_status()
    told["phase"] = job.phase
    try:
        job.raise_if_error()
    except DALQueryError as error:
        told["error"] = str(error)
    return told


def be_refused(url: str) -> str:
    try:
        AsyncTAPJob.create(url, "SELECT 1", language="SQL")
    except DALServiceError as error:
        return str(error)
    return "not refused"


def list_jobs(url: str) -> dict[str, Any]:
    service = TAPService(url)
    jobs = [service.submit_job(f"SELECT {n}") for n in range(4)]
    names = {job.job_id: n for n, job in enumerate(jobs)}
    jobs[1].run().wait(timeout=30)
    jobs[2].abort()

    def found(**filters: Any) -> list[int]:
        return [names[job.jobid] for job in service.get_job_list(**filters)]

    def full(job: JobSummary) -> list[str]:
        return [job.phase, *(str(parameter.content) for parameter in job.parameters)]

    created = [service.get_job(job.job_id).creationtime.to_datetime() for job in jobs]
    return {
        "all": found(),
        "completed": found(phases=["COMPLETED"]),
        "pending or aborted": found(phases=["PENDING", "ABORTED"]),
        "archived": found(phases=["ARCHIVED"]),
        "last two": found(last=2),
        "after the second": found(after=created[1]),
        "after the last": found(after=created[3]),
        "pending after the first, last one": found(phases=["PENDING"], after=created[0], last=1),
        "phases": {names[job.jobid]: job.phase for job in service.get_job_list()},
        "in full": full(service.get_job_list(phases=["COMPLETED"], short_description=False)[0]),
        "owner": service.get_job_list(last=1)[0].ownerid,
    }


if __name__ == "__main__":
    json.dump(globals()[sys.argv[1]](sys.argv[2]), sys.stdout)
