"""What became of the lines of a document."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

MOST_COMPARED = 500
"""Lines that two documents have not in common at either end, and that are compared with each other still."""


def changes(before: bytes, after: bytes) -> list[tuple[str, str]]:
    """Return all lines of a document, and those it had before, by runs: what became of them, if anything."""
    if not before:
        return [("", "\n".join(_lines(after)))]
    return [(change, "\n".join(lines)) for change, lines in _runs(_lines(before), _lines(after)) if lines]


def _runs(before: list[str], after: list[str]) -> Iterator[tuple[str, list[str]]]:
    head = _begin_alike(before, after)
    tail = _begin_alike(before[head:][::-1], after[head:][::-1])
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    yield "", after[:head]
    if len(old) + len(new) > MOST_COMPARED:
        yield from (("removed", old), ("added", new))
    else:
        for what, first, last, begin, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if what == "equal":
                yield "", new[begin:end]
            else:
                yield from (("removed", old[first:last]), ("added", new[begin:end]))
    yield "", after[len(after) - tail :]


def _begin_alike(one: list[str], other: list[str]) -> int:
    """Return with how many of the same lines both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (line, twin) in pairs if line != twin), min(len(one), len(other)))


def _lines(document: bytes) -> list[str]:
    """Return the lines of a document, without what stands there for its page alone."""
    return [line for line in document.decode().splitlines() if not line.startswith("<?")]
