"""What users of pyvo do with a service of which they have a URL only: ``python unseen.py STORY URL``."""

from __future__ import annotations

import io
import json
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import astropy.units as u
import numpy as np
import requests
from pyvo.dal import DALServiceError
from pyvo.dal.adhoc import DatalinkQuery, DatalinkRecord, DatalinkResults
from pyvo.dal.tap import AsyncTAPJob, TAPService
from pyvo.io.vosi import parse_availability

UWS = "ivo://ivoa.net/std/UWS#rest-1.1"


def sync(url: str) -> DatalinkRecord:
    return DatalinkResults.from_result_url(f"{url}/descriptor").get_first_proc()


def look(url: str) -> dict[str, Any]:
    return {
        param.name: {
            "unit": param.unit and str(param.unit),
            "ucd": param.ucd,
            "says": param.description,
            "range": [param.values.min, param.values.max],
            "options": [value for _, value in param.values.options],
        }
        for param in sync(url).input_params
    }


def call(url: str) -> Any:
    answer = sync(url).process(
        whole=-3,
        ra=630 * u.arcmin,  # what the service takes in degrees
        flag=True,
        word="ab",
        band=["J", "K"],
        time="2026-01-02T03:04:05",
        range=(-np.inf, 3.5),
        pos=(10, -5),
        circle=(10, -5, 0.5),
        polygon=(10, 10, 12, 10, 12, 12),
        text="ä & < +",
    )
    return json.load(answer)


def call_with_less(url: str) -> Any:
    return json.load(sync(url).process(ra=1))


def call_with_file(url: str) -> str:
    (example,) = [param.value for param in sync(url).params if param.name == "exampleURL"]
    (file,) = parse_qs(urlsplit(example).query)["UPLOAD"]
    return str(sync(url).process(UPLOAD=file).read().decode())


def be_refused(url: str) -> str:
    results = DatalinkResults.from_result_url(f"{url}/descriptor")
    query = DatalinkQuery.from_resource([], results.get_adhocservice_by_id("sync"), ra=400)
    query.execute_stream()
    try:
        query.raise_if_error()
    except DALServiceError as error:
        return str(error)
    return "not refused"


def run_as_uws(url: str) -> dict[str, Any]:
    descriptor = DatalinkResults.from_result_url(f"{url}/descriptor").get_adhocservice_by_ivoid(UWS)
    created = DatalinkQuery.from_resource([], descriptor, ra=10.5).submit(post=True)
    job = AsyncTAPJob(created.url)
    before = job.phase
    job.run().wait(timeout=30)
    return {"before": before, "phase": job.phase, "results": job.result_uris}


def read_vosi(url: str) -> dict[str, Any]:
    service = TAPService(url)
    availability = io.BytesIO(requests.get(f"{url}/availability", timeout=10).content)
    return {
        "available": parse_availability(availability.read).available,
        "capabilities": {
            str(capability.standardid): [
                [
                    [address.content for address in interface.accessurls],
                    [method.standardid for method in interface.securitymethods],
                ]
                for interface in capability.interfaces
            ]
            for capability in service.capabilities
        },
    }


if __name__ == "__main__":
    json.dump(globals()[sys.argv[1]](sys.argv[2]), sys.stdout)
