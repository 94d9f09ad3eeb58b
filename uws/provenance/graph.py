"""A provenance document as a graph, in DOT, the language of Graphviz."""

from __future__ import annotations

from prov.constants import PROV, PROV_ATTRIBUTE_QNAMES, PROV_N_MAP
from prov.identifier import QualifiedName
from prov.model import ProvActivity, ProvAgent, ProvDocument, ProvElement, ProvRecord

from uws.model.units import format_time

from .document import DECLARATION, UWSD, VOPROV

MOST = 60
"""Elements that are drawn; more of them nobody could tell apart."""
_LONGEST = 40
"""Characters of a line."""
_ACTIVITY = 'shape=box, fillcolor="#cfe2f3"'
_AGENT = 'shape=house, fillcolor="#fde2c0"'
_PLAN = 'shape=note, fillcolor="#e8e8e8"'
_ENTITY = 'shape=ellipse, fillcolor="#fff7cc"'


def dot_of(document: ProvDocument) -> str:
    """Return the graph: the activity, its agents, its plan, and what it was configured by, used and made.

    Descriptions but that of the activity are left out, and what is more than can be drawn is counted.
    """
    records = document.get_records()
    elements = [each for each in records if isinstance(each, ProvElement) and not _is_description(each)]
    numbers = {each.identifier: f"n{number}" for number, each in enumerate(elements[:MOST])}
    lines = [
        "digraph provenance {",
        'graph [rankdir=RL, bgcolor="white"]',
        'node [style=filled, color="#555555", fontname="sans-serif", fontsize=11]',
        'edge [color="#555555", fontname="sans-serif", fontsize=9]',
        *(
            f"n{number} [{_look(each)}, label={_label(_words(each))}]"
            for number, each in enumerate(elements[:MOST])
        ),
    ]
    if more := elements[MOST:]:
        lines.append(f"more [shape=plaintext, style=solid, label={_label([f'and {len(more)} more'])}]")
    edges: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        if found := _relation(record):
            effect, cause, relation = found
            if effect in numbers and cause in numbers:
                roles = edges.setdefault((numbers[effect], numbers[cause], relation), [])
                roles += [str(role) for role in record.get_attribute(PROV["role"])]
    lines += [
        f"{effect} -> {cause} [label={_label([relation, ', '.join(roles)])}]"
        for (effect, cause, relation), roles in edges.items()
    ]
    return "\n".join([*lines, "}", ""])


def _is_description(element: ProvElement) -> bool:
    identifier = element.identifier
    assert identifier
    return identifier.namespace == DECLARATION and "/" in identifier.localpart


def _look(element: ProvElement) -> str:
    if isinstance(element, ProvActivity):
        return _ACTIVITY
    if isinstance(element, ProvAgent):
        return _AGENT
    return _PLAN if PROV["Plan"] in element.get_asserted_types() else _ENTITY


def _words(element: ProvElement) -> list[str]:
    """Return what stands in an element: what it is called, and what tells it from others."""
    assert element.identifier
    name = _fact(element, VOPROV["name"]) or element.identifier.localpart
    if isinstance(element, ProvAgent):
        return [name]
    if isinstance(element, ProvActivity):
        times = [format_time(time) for time in (element.get_startTime(), element.get_endTime()) if time]
        return [name, _fact(element, UWSD["phase"]), *times, _fact(element, VOPROV["comment"])]
    if value := _fact(element, VOPROV["value"]):
        return [f"{name} = {value}"]
    size, digest = _fact(element, UWSD["size"]), _fact(element, UWSD["sha256"])
    version = _fact(element, VOPROV["version"])
    return [name, version, f"{size} bytes" if size else "", f"SHA-256 {digest[:16]}…" if digest else ""]


def _fact(element: ProvElement, name: QualifiedName) -> str:
    return next((str(value) for value in element.get_attribute(name)), "")


def _relation(record: ProvRecord) -> tuple[QualifiedName, QualifiedName, str] | None:
    """Return what of a relation is drawn: an effect, what it goes back to, and by which relation."""
    ends = [value for name, value in record.formal_attributes if name in PROV_ATTRIBUTE_QNAMES and value]
    if record.is_element() or len(ends) < 2:
        return None
    kinds = [kind for kind in record.get_attribute(PROV["type"]) if isinstance(kind, QualifiedName)]
    return ends[0], ends[1], kinds[0].localpart if kinds else PROV_N_MAP[record.get_type()]


def _label(lines: list[str]) -> str:
    """Write lines as a label in which nothing means anything to Graphviz."""
    return '"' + "\\n".join(_escaped(line) for line in lines if line) + '"'


def _escaped(line: str) -> str:
    short = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    plain = "".join(each if each.isprintable() else "\ufffd" for each in short)
    return plain.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
