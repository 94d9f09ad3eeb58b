"""Drawing a graph, by Graphviz in a process of its own: https://graphviz.org."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE

from lxml import etree

from uws.environment import base_environment
from uws.model import UWSError

SECONDS = 10
"""A drawing that takes longer is given up."""
_SVG = "{http://www.w3.org/2000/svg}"


class CannotDraw(UWSError):
    """This server draws nothing, or not this; the text says why."""


async def draw(dot: str, title: str) -> bytes:
    """Draw a graph as SVG that needs nothing from elsewhere. Raises `CannotDraw`."""
    try:
        process = await asyncio.create_subprocess_exec(
            "dot", "-Tsvg", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=base_environment({})
        )
    except OSError as error:
        raise CannotDraw(
            f"drawings are made by Graphviz, whose program dot cannot be started here ({error.strerror}); "
            "PROV-JSON and PROV-N are there without it"
        ) from None
    svg = b""
    try:
        async with asyncio.timeout(SECONDS):
            svg, _ = await process.communicate(dot.encode())
    except TimeoutError:
        raise CannotDraw(f"the drawing was given up after {SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    if process.returncode != 0:
        raise CannotDraw("Graphviz's program dot has failed")
    return _by_itself(svg, title)


def _by_itself(svg: bytes, title: str) -> bytes:
    """Return a drawing with a title, and without its document type, which would be elsewhere."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
    root = etree.fromstring(svg, parser)
    for name in [*root.iter(f"{_SVG}title")]:  # how dot calls each part
        parent = name.getparent()
        assert parent is not None
        parent.remove(name)
    heading = etree.Element(f"{_SVG}title")
    heading.text = title
    root.insert(0, heading)
    root.set("role", "img")
    etree.cleanup_namespaces(root)
    return etree.tostring(root, xml_declaration=True, encoding="utf-8")
