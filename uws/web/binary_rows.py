"""Rows of tables that are written as bytes: VOTable 1.4 section 6 (BINARY, BINARY2), FITS 4.0 section 7.3.

Of a value no more is unpacked than is shown, whatever it says of its length.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

ROWS = 20
COLUMNS = 50
"""Rows and columns that are shown."""
CELL = 200
"""Characters of a value that are shown."""
_CODES = {
    "unsignedByte": "B", "short": "h", "int": "i", "long": "q",
    "float": "f", "double": "d", "floatComplex": "ff", "doubleComplex": "dd",
}  # fmt: skip
_SIZES = {kind: struct.calcsize(f">{code}") for kind, code in _CODES.items()}
_SIZES |= {"boolean": 1, "char": 1, "unicodeChar": 2}
_ENCODINGS = {"char": "utf-8", "unicodeChar": "utf-16-be"}
_BOOLEANS = dict.fromkeys(b"Tt1", "T") | dict.fromkeys(b"Ff0", "F")
_NOT_FINITE = {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}
_ARRAYSIZE = re.compile(r"([0-9]{1,18}x){0,9}([0-9]{1,18}\*?|\*)", re.ASCII)


class Column(NamedTuple):
    """How the values of a column are written; ``datatype`` is one of VOTable 1.4 section 2.1."""

    datatype: str
    items: int | None = 1
    """Items of each value; None where each says itself how many there are."""
    null: int | None = None
    """The integer that stands for none."""
    scale: float = 1
    zero: float = 0
    """A number is what is written times ``scale`` plus ``zero``."""

    def size(self, count: int) -> int:
        """Return the bytes of so many items."""
        return -(-count // 8) if self.datatype == "bit" else count * _SIZES[self.datatype]

    def text(self, value: bytes, count: int) -> str:
        """Return a value of ``count`` items as it stands in TABLEDATA; of a long one, its beginning."""
        count = min(count, CELL)
        value = value[: self.size(count)]
        if encoding := _ENCODINGS.get(self.datatype):
            return value.decode(encoding, "replace").partition("\0")[0].rstrip()
        if self.datatype == "bit" and count == 1:  # astropy has it elsewhere in its byte
            return str(int(value != b"\0"))
        if self.datatype == "bit":
            return "".join(f"{byte:08b}" for byte in value)[:count]
        if self.datatype == "boolean":
            return " ".join(_BOOLEANS.get(byte, "?") for byte in value) if value.strip(b"\0 ?") else ""
        code = _CODES[self.datatype]
        numbers = struct.unpack(">" + code * count, value)
        return " ".join(self._number(number, code) for number in numbers)[:CELL]

    def _number(self, number: float, code: str) -> str:
        if number == self.null:
            return ""
        if (self.scale, self.zero) != (1, 0):
            text = str(number * self.scale + self.zero)
        else:
            text = _shortest(number) if code.startswith("f") else str(number)
        return _NOT_FINITE.get(text, text.removesuffix(".0"))


def _shortest(number: float) -> str:
    """Return the shortest text that is this number of four bytes, and no other."""
    texts = (f"{number:.{digits}g}" for digits in range(6, 9))
    written = struct.pack(">f", number)
    return next((text for text in texts if struct.pack(">f", float(text)) == written), f"{number:.9g}")


def column_of_field(datatype: str, arraysize: str, null: str) -> Column:
    """Return how the values of a VOTable's FIELD are written. Raises `ValueError`."""
    if datatype not in _SIZES and datatype != "bit":
        raise ValueError(f"expected a datatype, got {datatype!r}")
    if not _ARRAYSIZE.fullmatch(arraysize := arraysize.strip() or "1"):
        raise ValueError(f"expected an arraysize such as 3, 2x3 or *, got {arraysize!r}")
    count = None if arraysize.endswith("*") else prod(map(int, arraysize.split("x")))
    return Column(datatype, count, int(null, 0) if null else None)


def rows(data: bytes, columns: Sequence[Column], *, masked: bool) -> Iterator[list[str]]:
    """Yield what is shown of the rows of a stream; before those that are ``masked`` stands what they lack.

    Raises `EOFError` where the data end within a row, and `ValueError`.
    """
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        if size > len(data) - at:
            raise EOFError
        at += size
        return data[at - size : at]

    while at < len(data):
        mask = take(-(-len(columns) // 8)) if masked else b""
        row = []
        for number, column in enumerate(columns):
            count = column.items
            if count is None:
                count = int.from_bytes(take(4), "big", signed=True)
                if count < 0:
                    raise ValueError(f"a value says that it has {count} items")
            value = take(column.size(count))
            if number < COLUMNS:
                is_null = masked and mask[number // 8] << number % 8 & 0x80
                row.append("" if is_null else column.text(value, count))
        yield row
