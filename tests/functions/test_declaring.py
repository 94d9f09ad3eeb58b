"""A function with annotations is a declaration, and what is wrong with it is told with its place."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pytest

from tests.daemon import has_ended, run, uwsd
from tests.functions.support import declaration, declared, problems
from uws import (
    BoolParameter,
    CircleParameter,
    DeclarationError,
    FileParameter,
    FloatParameter,
    IntervalParameter,
    IntParameter,
    PointParameter,
    ResultDeclaration,
    StrParameter,
    TimestampParameter,
    make_service,
)
from uws.functions import NoFunction, Parameter, described

KNOWN = (
    "types are int, float, bool, str, datetime, Path, Literal, an Enum, and Interval, Point, Circle, Polygon "
    "of uws.functions; list[…] or tuple[…, ...] for several values"
)


def test_parameters_follow_from_the_annotations(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        '''
        class Band(Enum):
            J, H = "j", "h"

        def look(
            ra: Annotated[float, Parameter(unit="deg", ucd="pos.eq.ra", min=0, max=360)],
            image: Annotated[Path, Parameter(max_size="20MB", description="An image")],
            names: list[Annotated[str, Parameter(pattern="[a-z]+", max_length=8)]],
            where: Annotated[Point, Parameter(ucd="pos.eq")],
            more: list[Path] | None = None,
            size: float = 2,
            count: int | None = None,
            order: Literal[1, 2] = 1,
            band: tuple[Band, ...] = (Band.J,),
            deep: bool = False,
            since: Annotated[datetime, Parameter(min=datetime(2020, 1, 1))] = datetime(2021, 2, 3),
            energy: Interval = (0.5, float("inf")),
            around: Circle | None = None,
            words: Sequence[str] = (),
        ) -> None:
            """Look at the sky.

            Only at night.
            """
        ''',
    )
    assert (service.name, service.title, service.description) == (
        "look",
        "Look at the sky",
        "Only at night.",
    )
    assert service.parameters == {
        "ra": FloatParameter(required=True, unit="deg", ucd="pos.eq.ra", min=0, max=360),
        "image": FileParameter(required=True, max_size="20MB", description="An image"),
        "names": StrParameter(required=True, multiple=True, pattern="[a-z]+", max_length=8),
        "where": PointParameter(required=True, ucd="pos.eq"),
        "more": FileParameter(multiple=True),
        "size": FloatParameter(default=2.0),
        "count": IntParameter(),
        "order": IntParameter(values=[1, 2], default=1),
        "band": StrParameter(multiple=True, values=["j", "h"], default=["j"]),
        "deep": BoolParameter(default=False),
        "since": TimestampParameter(min="2020-01-01T00:00:00Z", default="2021-02-03T00:00:00Z"),
        "energy": IntervalParameter(default="0.5 +Inf"),
        "around": CircleParameter(),
        "words": StrParameter(multiple=True),
    }


def test_what_the_file_says_goes_before_what_the_function_says(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        '''
        def look() -> str:
            """Look at the sky."""
        ''',
        'title = "Look up"',
        "max_running = 3",
        'results = [{ id = "answer", path = "result.txt" }]',
        'environment = { OMP_NUM_THREADS = "1" }',
    )
    assert (service.title, service.max_running) == ("Look up", 3)
    assert service.results == [ResultDeclaration(id="answer", path="result.txt")]
    assert service.environment["OMP_NUM_THREADS"] == "1"


def test_what_goes_on_record_names_no_place_on_this_machine(tmp_path: Path) -> None:
    service = declared(tmp_path, 'def look(): "Look."')
    assert service.command == [Path(sys.executable).name, "-P", "-m", "uws.functions", "call", "heavens:look"]
    assert str(tmp_path).encode() not in service.canonical
    assert os.fsencode(Path(sys.executable).parent) not in service.canonical


def test_the_module_is_not_imported_by_who_reads_the_file(tmp_path: Path) -> None:
    declared(tmp_path, f'Path("{tmp_path}/pid").write_text(str(os.getpid()))\ndef look(): "Look."')
    assert "heavens" not in sys.modules
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_a_module_is_imported_as_for_a_job(tmp_path: Path) -> None:
    declared(
        tmp_path,
        """
        assert os.environ["OBSERVATORY"] == "Ukirt"
        assert "PYTEST_CURRENT_TEST" not in os.environ
        assert os.listdir() == []
        def look(): "Look."
        """,
        'environment = { OBSERVATORY = "Ukirt" }',
    )


async def test_what_a_module_prints_and_starts_when_it_is_imported_does_no_harm(tmp_path: Path) -> None:
    service = declared(
        tmp_path,
        f"""
        import subprocess
        print("hello", flush=True)
        os.system("echo hello")
        started = subprocess.Popen(["sleep", "1000"])
        Path("{tmp_path}/pid").write_text(str(started.pid))
        def look(): "Look."
        """,
    )
    assert service.title == "Look"
    await has_ended(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("ra", f"ra: has no type; write ra: float, or what it is; {KNOWN}"),
        ("ra: complex", f"ra: complex is no type of a parameter; {KNOWN}"),
        ("ra: flaot", "ra: the type 'flaot' cannot be read: name 'flaot' is not defined"),
        ("ra: int | str", "ra: int | str is a choice of types; a parameter has one"),
        ("ra: list", "ra: list of what? write list[float]"),
        ("ra: list[list[int]]", "ra: several values of which each is several cannot be sent"),
        ("ra: list[int | None]", "ra: int | None is a choice of types; a parameter has one"),
        (
            "ra: tuple[float, float]",
            "ra: tuple[float, float] has a fixed number of values; write tuple[float, ...], "
            "or one of Interval, Point, Circle, Polygon of uws.functions",
        ),
        (
            "ra: Literal[1, 'a']",
            "ra: the values of typing.Literal[1, 'a'] are not all of one type: int, float, bool or str",
        ),
        ("*ra: int", "ra: *ra: 'int' takes whatever comes; a parameter has a name and a type"),
        (
            "ra: int, /",
            "ra: is only taken by position, but parameters have names: move the / before it",
        ),
        (
            "ra: Annotated[int, Parameter]",
            "ra: Parameter says nothing by itself; write Parameter(unit=…) or leave it out",
        ),
        ("ra: float = 'a'", "ra.default: expected float | list, got str"),
        ("ra: int = object", "ra: the default <class 'object'> is no int"),
        ("ra: list[int] = 3", "ra: the default 3 is one value, of a parameter that takes several"),
        (
            "ra: float = float('nan')",
            "ra: the default nan is no finite number; for no value write float | None = None",
        ),
        (
            "ra: Path = Path('a')",
            f"ra: the default {Path('a')!r} is a file, which clients cannot see; write Path | None = None",
        ),
        ("ra: Annotated[float, Parameter(min='a')]", "ra.min: expected float, got str"),
        ("ra: Annotated[float, Parameter(min=3, max=2)]", "ra.min: 3 is above max, 2"),
        (
            "ra: Annotated[int, Parameter(pattern='a')]",
            "ra.pattern: unknown key; known are default, description, max, min, multiple, required, ucd, "
            "unit, values",
        ),
        ("PHASE: int", "PHASE: the name PHASE means something to UWS itself"),
    ],
)
def test_mistakes_in_annotations_are_named_with_their_place(
    tmp_path: Path, signature: str, problem: str
) -> None:
    found = problems(tmp_path, f'def look({signature}): "Look."')
    assert found == (f"services.look.parameters.{problem} (in heavens:look, heavens.py, line 10)",)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("def see(): ...", "function: heavens has no look"),
        ("def looks(): ...", "function: heavens has no look (did you mean looks?)"),
        ("look = 3", "function: heavens:look is no function"),
        ("def look(): ...", "title: missing; give the service one, or heavens:look a docstring"),
        ("import nowhere", "function: importing heavens %s: "
                           "ModuleNotFoundError: No module named 'nowhere'"),
        ("def look(:", "function: importing heavens %s: SyntaxError: invalid syntax"),
        ("sys.exit('no sky')", "function: importing heavens %s: SystemExit: no sky"),
        (
            "print('too dark', file=sys.stderr, flush=True); os._exit(3)",
            "function: importing heavens ended the process, with status 3: too dark",
        ),
        ("os.kill(0, 11)", "function: importing heavens ended the process, with signal 11"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_had_are_named_with_the_reason(
    tmp_path: Path, module: str, problem: str
) -> None:
    assert problems(tmp_path, module) == (
        "services.look." + problem.replace("%s", "failed in heavens.py, line 10"),
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("function = 3", "function: expected str, got int"),
        ('functoin = "heavens:look"', "functoin: unknown key (did you mean function?)"),
        ('function = "heavens"', "function: expected a function as package.module:name, got 'heavens'"),
        ('function = "sky:look"', "function: there is no module sky, in Python's path or beside the file"),
    ],
)
def test_names_that_are_no_functions_are_refused(tmp_path: Path, line: str, problem: str) -> None:
    file = declaration(tmp_path, 'def look(): "Look."')
    file.write_text(file.read_text().replace('function = "heavens:look"', line))
    from uws.config import load

    with pytest.raises(DeclarationError) as raised:
        load(file)
    assert raised.value.problems[0] == f"services.look.{problem}"


def test_what_follows_from_the_function_cannot_be_declared_besides(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        'def look(): "Look."',
        'command = ["true"]',
        "max_runing = 2",
        "[services.look.parameters]",
        'ra = { type = "int" }',
    )
    assert found[:2] == (
        "services.look.command: follows from the function; leave out one of the two",
        "services.look.parameters: follows from the function; leave out one of the two",
    )
    assert found[2:] == ("services.look.max_runing: unknown key (did you mean max_running?)",)


async def test_an_import_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    module = f"""
        import signal, subprocess
        Path("{tmp_path}/pid").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        signal.pause()
        """
    declaration(tmp_path, module)
    with pytest.raises(NoFunction, match=r"^importing heavens takes longer than 3 s$"):
        described("heavens:look", {"UWSD_PATH": str(tmp_path)}, timeout=3)
    await has_ended(int((tmp_path / "pid").read_text()))


async def test_check_prints_a_function_like_any_service(tmp_path: Path) -> None:
    file = declaration(tmp_path, 'def look(ra: Annotated[float, Parameter(unit="deg")]): "Look."')
    checked = await uwsd("check", file)
    assert (checked.status, checked.err) == (0, "")
    assert "uws.functions call heavens:look" in checked.out
    assert [cell.strip() for cell in checked.out.splitlines()[6].split("│")][1:4] == ["ra", "float", "yes"]
    (tmp_path / "heavens.py").write_text('def look(ra): "Look."')
    refused = await uwsd("check", file)
    assert refused.status == 2
    assert refused.err.startswith("services.look.parameters.ra: has no type; write ra: float")


def square(x: Annotated[float, Parameter(min=0)]) -> float:
    """Square."""
    return x * x


def nothing(when: datetime, what: complex) -> None:
    """Do nothing."""


def test_a_function_is_declared_in_python() -> None:
    service = make_service(
        square, max_running=2, results=[ResultDeclaration(id="square", path="result.json")]
    )
    assert (service.name, service.title, service.max_running) == ("square", "Square", 2)
    assert service.parameters == {"x": FloatParameter(required=True, min=0)}
    assert service.command[-1] == f"{__name__}:square"
    assert service.results == [ResultDeclaration(id="square", path="result.json")]
    assert make_service(square, name="squares", title="Squares").name == "squares"


async def test_functions_of_scripts_and_packages_are_found_by_their_jobs(tmp_path: Path) -> None:
    (tmp_path / "sky" / "stars").mkdir(parents=True)
    for module in ("sky/stars/bright.py", "sky/stars/__init__.py", "script.py"):
        (tmp_path / module).write_text('def look(): "Look."\n')
    with (tmp_path / "script.py").open("a") as script:
        script.write(
            "import sky.stars, sky.stars.bright, uws\n"
            "for function in (look, sky.stars.look, sky.stars.bright.look):\n"
            "    service = uws.make_service(function)\n"
            "    print(service.command[-1], service.environment['UWSD_PATH'])\n"
        )
    ran = await run(sys.executable, tmp_path / "script.py")
    assert ran.out.splitlines() == [
        f"{name}:look {tmp_path.resolve()}" for name in ("script", "sky.stars", "sky.stars.bright")
    ]


def test_mistakes_in_python_are_named_alike() -> None:
    with pytest.raises(DeclarationError) as raised:
        make_service(nothing, max_runing=1)
    what, key = raised.value.problems
    assert what.startswith("services.nothing.parameters.what: complex is no type of a parameter; ")
    assert key == "services.nothing.max_runing: unknown key (did you mean max_running?)"

    def inner() -> None: ...

    for function, name in ((inner, "inner"), (lambda: None, "<lambda>")):
        with pytest.raises(DeclarationError, match="is no function of a module, which another process"):
            make_service(function, name="x")
        assert name
