"""Draws the rooms of the code and what they know of each other: ``python docs/rooms.py`` makes `rooms.svg`.

The rooms are those of the layers that ``make lint`` holds imports to, the arrows the imports there are. One
that follows from others, by way of a room between, is left out.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ROOT / "docs" / "rooms.svg"
_LOOKS = """
graph [bgcolor=white, ranksep=0.35, nodesep=0.2]
node [shape=box, style=filled, fillcolor="#cfe2f3", height=0.3, fontname="sans-serif", fontsize=11]
edge [arrowsize=0.6, color="#555555"]
"""


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the topmost first."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (stacked,) = (contract["layers"] for contract in declared if contract["type"] == "layers")
    return [layer.split(" | ") for layer in stacked]


def imports(rooms: Sequence[str]) -> dict[str, set[str]]:
    """Return which of the rooms each of them imports from."""
    graph = grimp.build_graph("eventstore", "projections", "uws")
    return {
        room: {
            other
            for other in rooms
            if other != room and graph.direct_import_exists(importer=room, imported=other, as_packages=True)
        }
        for room in rooms
    }


def arrows(imported: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports that do not follow from others, each as who imports and what."""

    def reached(room: str) -> set[str]:
        return imported[room].union(*map(reached, imported[room]))

    return {
        (room, other)
        for room, others in imported.items()
        for other in others.difference(*map(reached, others))
    }


def drawing() -> str:
    """Return the drawing in the language of Graphviz."""
    rooms = [room for layer in layers() for room in layer]
    drawn = [f'"{room}" -> "{other}"' for room, other in sorted(arrows(imports(rooms)))]
    return "\n".join(["digraph rooms {", _LOOKS, *drawn, "}"])


if __name__ == "__main__":
    subprocess.run(["dot", "-Tsvg", "-o", DRAWING], input=drawing().encode(), check=True)  # noqa: S607
