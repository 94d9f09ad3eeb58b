"""A first look at FITS files: their headers, and the first rows of binary tables (FITS 4.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from io import BytesIO
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload

from lxml import etree

from uws.model.text import made_fit
from uws.quicklook import GZIP, unpacked

from .binary_rows import CELL, COLUMNS, ROWS, Column
from .documents import add

_UNITS = 5
"""Header and data units that are shown."""
_BLOCK, _CARD = 2880, 80
_CARDS = 36_000
"""Cards of a header that are read; more are taken for something else."""
_SHOWN = 1000
"""Cards of a header that are shown."""
_WIDTH = 1_000_000
"""Bytes of a row: of longer ones none is shown."""
_UNPACKED = 32_000_000
"""Bytes that are unpacked of a file that is compressed."""
_TFORM = re.compile(r"([0-9]{0,9})([PQ]?)([LXBIJKAEDCM])")
_POINTERS = {"P": 8, "Q": 16}
"""Bytes of a number of items, and of where they lie."""
_DATATYPES = {
    "L": "boolean", "X": "bit", "B": "unsignedByte", "I": "short", "J": "int", "K": "long", "A": "char",
    "E": "float", "D": "double", "C": "floatComplex", "M": "doubleComplex",
}  # fmt: skip
_STRING = re.compile(r"\s*'((?:[^']|'')*)'")


def show_fits(root: etree._Element, path: Path) -> None:
    """Show the headers and the tables of the first units. Raises `ValueError`, `OSError`."""
    with _opened(path) as file:
        for number, header in enumerate(_headers(file)):
            if number == _UNITS:
                root.set("part", "beginning")
                break
            if header.is_table:
                _show_rows(root, header, file)
            add(root, "header", "\n".join(header.cards[:_SHOWN]))
            if len(header.cards) > _SHOWN:
                root.set("part", "beginning")
            if header.has_image and find_spec("astropy"):
                root.set("picture", "quicklook")


def _opened(path: Path) -> BinaryIO:
    """Open a file; of one that is compressed as a whole, what its beginning unfolds to."""
    file = path.open("rb")
    if file.read(len(GZIP)) != GZIP:
        file.seek(0)
        return file
    file.close()
    return BytesIO(unpacked(path, _UNPACKED))


class _Header:
    """A header, and what it says of the data behind it, which begin at ``data``."""

    def __init__(self, cards: list[str], data: int) -> None:
        self.cards, self.data = cards, data
        self._values: dict[str, str] = {}
        for card in cards:
            if card[8:10] == "= ":
                self._values.setdefault(card[:8].rstrip(), card[10:])

    @overload
    def number(self, keyword: str) -> int | None: ...
    @overload
    def number(self, keyword: str, default: int) -> int: ...
    def number(self, keyword: str, default: int | None = None) -> int | None:
        """Return an integer. Raises `ValueError`."""
        found = self._values.get(keyword)
        return default if found is None else int(found.partition("/")[0])

    def real(self, keyword: str, default: int) -> float:
        """Return a number, as an integer where it is one. Raises `ValueError`."""
        found = self._values.get(keyword, str(default)).partition("/")[0].replace("D", "E")
        return int(real) if (real := float(found)).is_integer() else real

    def text(self, keyword: str) -> str:
        found = _STRING.match(self._values.get(keyword, ""))
        return found[1].replace("''", "'").rstrip() if found else ""

    @property
    def _is_compressed_image(self) -> bool:
        return "ZIMAGE" in self._values

    @property
    def is_table(self) -> bool:
        """Whether there are rows behind it that are no image by tiles (section 10)."""
        return self.text("XTENSION") == "BINTABLE" and not self._is_compressed_image

    @property
    def has_image(self) -> bool:
        """Whether there are pixels in two dimensions behind it, compressed or not (section 10)."""
        if self._is_compressed_image:
            return True
        is_image = self.cards[0].startswith("SIMPLE") or self.text("XTENSION") == "IMAGE"
        return is_image and self.number("NAXIS", 0) >= 2 and self.size > 0

    @cached_property
    def size(self) -> int:
        """The bytes of the data (section 4.4.1). Raises `ValueError`."""
        number = self.number
        axes = [number(f"NAXIS{axis}", 0) for axis in range(1, min(number("NAXIS", 0), 999) + 1)]
        if not axes:
            return 0
        elements = number("GCOUNT", 1) * (number("PCOUNT", 0) + prod(axes))
        size = abs(number("BITPIX", 8)) // 8 * elements
        if not 0 <= size < 1 << 60:
            raise ValueError("a header tells of an impossible size")
        return size


def _headers(file: BinaryIO) -> Iterator[_Header]:
    """Yield one header after the other (section 3). Raises `ValueError`."""
    while block := file.read(_BLOCK):
        cards: list[str] = []
        while True:
            if len(block) < _BLOCK or len(cards) > _CARDS:
                raise ValueError("a header has no end")
            found = [block[at : at + _CARD].decode("ascii", "replace") for at in range(0, _BLOCK, _CARD)]
            ends = next((n for n, card in enumerate(found) if card.rstrip() == "END"), None)
            cards += found[:ends]
            if ends is not None:
                break
            block = file.read(_BLOCK)
        if not cards or not cards[0].startswith(("SIMPLE  =", "XTENSION=")):
            raise ValueError("a header does not begin as it should")
        header = _Header(cards, file.tell())
        yield header
        file.seek(header.data + -(-header.size // _BLOCK) * _BLOCK)


# Binary tables (section 7.3)


class _Field(NamedTuple):
    """A column of a table; ``pointer`` is the size of what leads to its values, where they lie elsewhere."""

    name: str
    unit: str
    column: Column
    pointer: int = 0

    @property
    def width(self) -> int:
        """The bytes that it has in a row."""
        return self.pointer if self.column.items is None else self.column.size(self.column.items)


def _show_rows(root: etree._Element, header: _Header, file: BinaryIO) -> None:
    """Show the first rows of a table, or what is wrong with it."""
    table = add(root, "table")
    try:
        fields = [_field(header, number) for number in range(1, min(header.number("TFIELDS", 0), 999) + 1)]
        width, count = header.number("NAXIS1", 0), header.number("NAXIS2", 0)
        if sum(field.width for field in fields) != width:
            raise ValueError(f"its columns do not make up its rows of {width} bytes")
        for field in fields[:COLUMNS]:
            add(table, "column", field.name).set("unit", made_fit(field.unit))
        for number in range(min(count, ROWS) if width <= _WIDTH else 0):
            file.seek(header.data + number * width)
            if len(row := file.read(width)) < width:
                raise ValueError(f"the file ends before the end of row {number + 1}")
            shown = add(table, "row")
            for cell in _cells(row, fields[:COLUMNS], header, file):
                add(shown, "cell", cell)
        if count > ROWS or width > _WIDTH:
            root.set("part", "beginning")
    except ValueError as error:
        add(root, "problem", f"a table is not as it should be: {error}")


def _field(header: _Header, number: int) -> _Field:
    form = header.text(f"TFORM{number}")
    if not (found := _TFORM.match(form)):
        raise ValueError(f"expected a format such as 1J or 1PE(9), got TFORM{number} = {form!r}")
    repeat, pointer, letter = found.groups()
    count = int(repeat or 1)
    column = Column(
        _DATATYPES[letter],
        None if pointer else count,
        header.number(f"TNULL{number}"),
        header.real(f"TSCAL{number}", 1),
        header.real(f"TZERO{number}", 0),
    )
    name = header.text(f"TTYPE{number}") or f"column {number}"
    return _Field(name, header.text(f"TUNIT{number}"), column, _POINTERS[pointer] if pointer and count else 0)


def _cells(row: bytes, fields: list[_Field], header: _Header, file: BinaryIO) -> Iterator[str]:
    """Yield what is shown of a row; of values that lie behind the rows, their beginning is read there."""
    heap = header.number("THEAP", header.number("NAXIS1", 0) * header.number("NAXIS2", 0))
    at = 0
    for field in fields:
        value, at = row[at : at + field.width], at + field.width
        column, count = field.column, field.column.items
        if count is None:
            half = field.width // 2
            count, offset = (
                int.from_bytes(part, "big", signed=True) for part in (value[:half], value[half:])
            )
            size = column.size(min(count, CELL))
            if min(heap, offset, count) < 0 or heap + offset + size > header.size:
                raise ValueError(f"a value says that it has {count} items at byte {offset} of the heap")
            file.seek(header.data + heap + offset)
            if len(value := file.read(size)) < size:
                raise ValueError("the file ends before a value does")
        yield column.text(value, count)
