"""What of a program's files becomes a result, and how results are served."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.execution.programs import directory_of, shell
from tests.execution.test_programs import info, results, summary
from tests.harness import NAMESPACES, job_id, running, text
from uws import (
    ResultDeclaration,
)
from uws.execution.results import media_type


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
        ("a.fits.gz", "image/x-fits-gzip"),
        ("a.txt.gz", "application/gzip"),
        ("a.csv", "text/csv"),
        ("a.png", "image/png"),
        ("a.vot", "application/x-votable+xml"),
        ("a.tar.xz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_media_types_follow_the_name(name: str, expected: str) -> None:
    assert media_type(name) == expected
