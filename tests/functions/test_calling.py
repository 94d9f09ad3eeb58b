"""A job of a function: values become arguments, what it returns becomes results, what it raises is told."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated, Any

import pytest
from lxml import etree

from tests.daemon import Daemon, serving, uwsd
from tests.execution.programs import directory_of
from tests.functions.support import declaration, declared
from tests.harness import HREF, NAMESPACES, Answer, Site, running, text
from uws import ResultDeclaration, make_service
from uws.functions import Parameter


def results(document: etree._Element) -> dict[str, tuple[str, str]]:
    """Return the media types and the addresses of results."""
    return {
        result.get("id", ""): (result.get("mime-type", ""), result.get(HREF, ""))
        for result in document.iterfind(".//uws:result", NAMESPACES)
    }


async def returned(site: Site, **values: Any) -> tuple[dict[str, str], dict[str, bytes]]:
    """Run a job of ``look`` that must end well; return media types and contents of its results."""
    document = await site.ended(await site.run("look", **values))
    assert text(document, "phase") == "COMPLETED", text(document, "message")
    found = results(document)
    contents = {name: (await site.get(url)).body for name, (_, url) in found.items()}
    return {name: media_type for name, (media_type, _) in found.items()}, contents


async def failed(site: Site, **values: Any) -> tuple[str, str, str]:
    """Run a job of ``look`` that must fail; return the message, the type and the detail of its error."""
    job = await site.run("look", **values)
    document = await site.ended(job)
    assert text(document, "phase") == "ERROR"
    summary = document.find("uws:errorSummary", NAMESPACES)
    assert summary is not None
    detail: Answer = await site.get(f"{job}/error")
    return text(document, "message") or "", summary.get("type", ""), detail.text


async def test_values_come_as_they_are_annotated(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        '''
        class Band(Enum):
            J, H = "j", "h"

        def look(
            ra: float, image: Path, where: Point, names: list[str], more: tuple[Path, ...] = (),
            *, count: int | None, size: float = 2, order: Literal[1, 2] = 1, band: list[Band] = [Band.J],
            deep: bool = False, since: datetime = datetime(2021, 2, 3), energy: Interval = (0, 1),
            words: tuple[str, ...] = ("none",), numbers: list[int] | None = None, pairs: list[Point] = [],
        ):
            """Look."""
            more = [path.read_text() for path in more]
            return repr((ra, image.read_bytes(), where, names, more, count, size, order, band, deep,
                         since.isoformat(), energy, words, numbers, pairs))
        ''',
    )
    async with running(tmp_path / "var", service) as site:
        sent: dict[str, Any] = {
            "ra": "5", "image": b"\0\1", "where": "1 -2", "names": ["a", "b c"],
        }  # fmt: skip
        _, contents = await returned(site, **sent)
        assert contents["result.txt"].decode() == repr(
            (5.0, b"\0\1", (1.0, -2.0), ["a", "b c"], [], None, 2.0, 1, "Band", False,
             "2021-02-03T00:00:00+00:00", (0.0, 1.0), ("none",), None, [])
        ).replace("'Band'", "[<Band.J: 'j'>]")  # fmt: skip
        _, contents = await returned(
            site, **sent, more=[b"x", b"y"], count="7", size="0.5", order="2", band=["h", "j"], deep="true",
            since="2022-01-01T00:00:00Z", energy="-Inf 3", words=["w"], numbers=["1", "2"],
            pairs=["1 2", "3 4"],
        )  # fmt: skip
        assert contents["result.txt"].decode() == repr(
            (5.0, b"\0\1", (1.0, -2.0), ["a", "b c"], ["x", "y"], 7, 0.5, 2, "Bands", True,
             "2022-01-01T00:00:00+00:00", (float("-inf"), 3.0), ("w",), [1, 2], [(1.0, 2.0), (3.0, 4.0)])
        ).replace("'Bands'", "[<Band.H: 'h'>, <Band.J: 'j'>]")  # fmt: skip
        refused = await site.post(site.list_url("look"), {"order": "3"})
        assert (refused.status, refused.text.strip()) == (400, "UsageFault: order: '3' is none of 1, 2")


RETURNED = [
    ("None", {}),
    ("'héllo'", {"result.txt": ("text/plain", "héllo".encode())}),
    ("b'\\x00'", {"result.bin": ("application/octet-stream", b"\0")}),
    ("4.5", {"result.json": ("application/json", b"4.5")}),
    ("{'a': [1, None]}", {"result.json": ("application/json", b'{"a":[1,null]}')}),
    ("Star(1.5, 'x')", {"result.json": ("application/json", b'{"ra":1.5,"name":"x"}')}),
    ("numpy.arange(3)", {"result.json": ("application/json", b"[0,1,2]")}),
    ("{'mean': numpy.float64(2)}", {"result.json": ("application/json", b'{"mean":2.0}')}),
    ("made('a.fits')", {"a.fits": ("application/fits", b"a.fits")}),
    (
        "[made('a.fits'), made('b.csv')]",
        {"a.fits": ("application/fits", b"a.fits"), "b.csv": ("text/csv", b"b.csv")},
    ),
    ("made(os.environ['UWS_RESULTS'] + '/c.vot')", {"c.vot": ("application/x-votable+xml", b"c.vot")}),
    ("Path(__file__).parent / 'd.txt'", {"d.txt": ("text/plain", b"mine")}),
    ("later()", {"result.txt": ("text/plain", b"later")}),
]


async def test_what_is_returned_becomes_results_with_their_media_types(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("mine")
    cases = ", ".join(f"lambda: {expression}" for expression, _ in RETURNED)
    service = declared(
        tmp_path,
        f'''
        import numpy

        @dataclass
        class Star:
            ra: float
            name: str

        def made(name):
            Path(name).write_text(Path(name).name)
            return Path(name)

        async def later():
            return "later"

        def look(case: int):
            """Look."""
            return [{cases}][case]()
        ''',
        "max_running = 2",
    )
    async with running(tmp_path / "var", service) as site:
        for case, (expression, expected) in enumerate(RETURNED):
            types, contents = await returned(site, case=case)
            assert {name: (types[name], contents[name]) for name in types} == expected, expression
    assert (tmp_path / "d.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return object()",
            "the function returned object, which is no result (there is no JSON for object); results are "
            "None, str, bytes, Path, a list of Path, and what JSON can say",
        ),
        ("return Path('a.fits')", "the function returned a.fits, which is no file"),
        (
            "Path(os.environ['UWS_RESULTS'], 'result.txt').touch(); return 'a'",
            "result.txt is what the function returned, but it has written a file of that name",
        ),
        ("sys.exit('no more sky')", "no more sky"),
    ],
)
async def test_what_is_no_result_is_told(tmp_path: Path, body: str, message: str) -> None:
    service = declared(tmp_path, f'def look():\n    "Look."\n    {body}')
    async with running(tmp_path / "var", service) as site:
        assert await failed(site) == (message, "fatal", f"{message}\n")


async def test_an_exception_is_the_error_and_its_traceback_the_detail(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        """
        def deeper(ra):
            try:
                return 1 / ra
            except ZeroDivisionError as error:
                raise ValueError(f"no star at {ra}") from error

        def look(ra: float):
            "Look."
            deeper(ra)
        """,
    )
    async with running(tmp_path / "var", service) as site:
        message, kind, detail = await failed(site, ra="0")
    assert (message, kind) == ("ValueError: no star at 0.0", "fatal")
    assert 'File "heavens.py", line 19, in look\n' in detail
    assert detail.startswith("Traceback (most recent call last):\n")
    assert "ZeroDivisionError: float division by zero" in detail
    assert "uws/functions" not in detail
    assert str(tmp_path) not in detail


async def test_status_75_is_transient_for_a_function_too(tmp_path: Path) -> None:
    service = declared(
        tmp_path, 'def look():\n    "Look."\n    print("later", file=sys.stderr); sys.exit(75)'
    )
    async with running(tmp_path / "var", service) as site:
        assert await failed(site) == ("later", "transient", "later\n")


async def test_a_module_that_has_gone_bad_fails_the_job_and_not_the_server(tmp_path: Path) -> None:
    service = declared(tmp_path, 'def look(): "Look."')
    async with running(tmp_path / "var", service) as site:
        (tmp_path / "heavens.py").write_text("import nowhere")
        message, kind, _ = await failed(site)
        assert (message, kind) == ("ModuleNotFoundError: No module named 'nowhere'", "fatal")
        (tmp_path / "heavens.py").unlink()
        message, kind, detail = await failed(site)
        assert message == "there is no module heavens, in Python's path or beside the file"
        assert "Traceback" not in detail


async def test_what_lies_in_a_jobs_directory_is_not_imported(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        """
        def look():
            "Look."
            assert os.getcwd() not in sys.path and "" not in sys.path
        """,
    )
    async with running(tmp_path / "var", service) as site:
        assert await returned(site) == ({}, {})


async def test_a_function_runs_in_a_directory_of_its_own_with_its_output_as_logs(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        """
        def look():
            "Look."
            Path("left").touch()
            Path("made").touch()
            print("said")
            return Path("made")
        """,
    )
    async with running(tmp_path / "var", service) as site:
        job = await site.run("look")
        assert list(results(await site.ended(job))) == ["made"]
        directory = directory_of(site, job)
        assert [path.name for path in (directory / "work").iterdir()] == ["left"]
        assert (directory / "logs" / "stdout").read_text() == "said\n"


async def test_an_abort_stops_a_function(tmp_path: Path) -> None:
    service = declared(tmp_path, 'import signal\ndef look():\n    "Look."\n    signal.pause()')
    async with running(tmp_path / "var", service) as site:
        job = await site.run("look")
        await site.executing(job)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert text(await site.ended(job), "phase") == "ABORTED"


def square(x: Annotated[float, Parameter(min=0)]) -> float:
    """Square."""
    return x * x


async def test_a_function_declared_in_python_runs(tmp_path: Path) -> None:
    result = ResultDeclaration(id="square", path="result.json")
    async with running(tmp_path, make_service(square, name="look", results=[result])) as site:
        assert await returned(site, x="3") == ({"square": "application/json"}, {"square": b"9.0"})


async def test_the_server_serves_functions_beside_its_file(tmp_path: Path) -> None:
    file = declaration(tmp_path, 'def look(ra: float):\n    "Look."\n    return {"ra": ra}')
    server: Daemon
    async with serving(file, cwd=tmp_path.parent) as server:
        _, contents = await returned(server, ra="1")
        assert json.loads(contents["result.json"]) == {"ra": 1.0}
        assert await server.stop(signal.SIGTERM) == 0


async def test_run_calls_a_function_by_hand(tmp_path: Path) -> None:
    declaration(
        tmp_path,
        """
        def look(image: Path, names: list[str], ra: float = 2):
            "Look."
            return {"image": image.read_text(), "names": names, "ra": ra}
        """,
    )
    (tmp_path / "image.txt").write_text("pixels")
    ran = await uwsd("run", "heavens:look", "--image=image.txt", "--names", "a", "--names=b", cwd=tmp_path)
    assert (ran.status, ran.err) == (0, "")
    (result,) = tmp_path.glob("look-*/results/result.json")
    assert json.loads(result.read_bytes()) == {"image": "pixels", "names": ["a", "b"], "ra": 2.0}
    assert "result.json" in ran.out
    assert "application/json" in ran.out


@pytest.mark.parametrize(
    ("words", "status", "err"),
    [
        (["--ra=a"], 2, "ra: expected a number, got 'a'\n"),
        (["--rb=1"], 2, "rb: unknown parameter; look takes: ra, image\n"),
        ([], 2, "required, but not given: ra\n"),
        (["--ra"], 2, "--ra: expected a value behind it\n"),
        (["5"], 2, "expected --PARAMETER=VALUE, got 5\n"),
        (["--ra=1", "--ra=2"], 2, "ra: takes one value, got 2\n"),
        (["--ra=1", "--image=none.fits"], 2, "image: there is no file none.fits\n"),
        (["--ra=-7"], 1, "ValueError: -7.0\n"),
    ],
)
async def test_run_says_what_is_wrong(tmp_path: Path, words: list[str], status: int, err: str) -> None:
    declaration(
        tmp_path,
        """
        def look(ra: float, image: Path | None = None):
            "Look."
            raise ValueError(ra)
        """,
    )
    ran = await uwsd("run", "heavens:look", *words, cwd=tmp_path)
    assert ran.status == status
    assert ran.err.splitlines(keepends=True)[-1] == err
    assert ("Traceback" in ran.err) == (status == 1)
    assert list(tmp_path.glob("look-*")) == [] or status == 1
