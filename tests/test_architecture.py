"""The page on the architecture is true: its drawing, its rooms, the files and the events that it names."""

from __future__ import annotations

import re
import runpy
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules

import pytest
from lxml import etree

import uws
from uws.model.events.jobs import JOB_EVENTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()
rooms = runpy.run_path(str(ROOT / "docs/rooms.py"))


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_table_has_all_rooms_in_the_order_of_the_layers() -> None:
    listed = [
        place.removesuffix(".py").strip("/").replace("/", ".")
        for place in re.findall(r"^\| `(.+?)` \|", section("Rooms"), re.M)
    ]
    there = {"eventstore", "projections", *(f"uws.{module.name}" for module in iter_modules(uws.__path__))}
    assert sorted(listed) == sorted(there)
    height = {room: height for height, layer in enumerate(reversed(rooms["layers"]())) for room in layer}
    assert listed == sorted(listed, key=height.__getitem__)


def test_the_drawing_has_the_imports_there_are() -> None:
    titles = etree.parse(rooms["DRAWING"]).iterfind(".//{*}g[@class='edge']/{*}title")
    drawn = {tuple((title.text or "").split("->")) for title in titles}
    imported = rooms["imports"](list(chain.from_iterable(rooms["layers"]())))
    assert drawn == rooms["arrows"](imported), "docs/rooms.svg is old: .venv/bin/python docs/rooms.py"


@pytest.mark.parametrize(
    ("package", "title"), [("eventstore", "The log"), ("projections", "The read models")]
)
def test_the_files_of_a_package_are_all_named_and_no_others(package: str, title: str) -> None:
    there = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", section(title))) == there


def test_the_table_of_events_has_all_that_happens_to_a_job() -> None:
    named = chain.from_iterable(
        re.findall(r"`(\w+)`", row) for row in re.findall(r"^\| (`.*?) \|", section("Events"), re.M)
    )
    assert sorted(named) == sorted(JOB_EVENTS)
