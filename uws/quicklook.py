"""``python quicklook.py FILE``: a small picture of a FITS image, as PNG on standard output.

It is a process of its own because the file is anybody's and the libraries that read it are large. The exit
status is 3 when there is no image in it, or astropy is not installed, and 4 when no pixel has a value.
"""

from __future__ import annotations

import gzip
import io
import math
import resource
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

SECONDS = 20
"""Processor time that a picture may take."""
MEMORY = 4_000_000_000
"""Bytes of address space, files that are mapped included."""
LARGEST = 2_000_000_000
"""Bytes of an image of which a picture is made."""
GZIP = b"\x1f\x8b"
"""What a file that is compressed by gzip begins with (RFC 1952)."""
_UNPACKED = 256_000_000
"""Bytes that are unpacked of such a file."""
_EDGE = 512
"""Pixels of the longer edge, at most."""
NOTHING, EMPTY = 3, 4
"""Exit statuses: there is no image; there is one in which no pixel has a value."""


def main(path: str) -> int:
    """Write the picture of the first image in a file."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with Path(path).open("rb") as file:
        begins = file.read(6)
    if begins != b"SIMPLE" and not begins.startswith(GZIP):  # another compression: it may be of any size
        return NOTHING
    try:
        from astropy.io import fits  # takes a third of a second: not of what is no image
    except ImportError:
        return NOTHING
    source = path if begins == b"SIMPLE" else io.BytesIO(unpacked(Path(path), _UNPACKED))
    # Scaled here, when most has been left out: what is mapped cannot be, and need not be read whole.
    with fits.open(source, memmap=source == path, do_not_scale_image_data=True) as hdus:
        for hdu in hdus:
            if hdu.is_image and 0 < _bytes(hdu.header) <= LARGEST and hdu.data is not None:
                if (picture := _picture(hdu.data, hdu.header)) is None:
                    return EMPTY
                sys.stdout.buffer.write(_png(picture))
                return 0
    return NOTHING


def unpacked(path: Path, size: int) -> bytes:
    """Return the first ``size`` bytes of what gzip has compressed, or less where it ends too early.

    Raises `ValueError` when it has been damaged.
    """
    parts = []
    try:
        with gzip.open(path) as file:
            while size > 0 and (part := file.read1(min(size, 1 << 20))):
                parts.append(part)
                size -= len(part)
    except EOFError:
        pass
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    return b"".join(parts)


def _bytes(header: Any) -> int:
    """Return the size of an image, or of one that is compressed by tiles, without reading it; 0 for none."""
    axes = [header[f"NAXIS{axis}"] for axis in range(1, header.get("NAXIS", 0) + 1)]
    return abs(int(header["BITPIX"])) // 8 * math.prod(axes) if len(axes) >= 2 else 0


def _picture(data: Any, header: Any) -> Any:
    """Return rows of grey values, the first one on top: the first plane of an array, thinned out.

    None when no pixel of them has a value.
    """
    import numpy as np

    while data.ndim > 2:
        data = data[0]
    step = -(-max(data.shape) // _EDGE)
    stored = data[::step, ::step]
    plane = np.asarray(stored, dtype=float) * header.get("BSCALE", 1) + header.get("BZERO", 0)
    if "BLANK" in header:
        plane[stored == header["BLANK"]] = np.nan
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, (1, 99.5))
    scaled = np.arcsinh(10 * np.clip((plane - low) / ((high - low) or 1.0), 0, 1)) / np.arcsinh(10)
    # The first row of a FITS image is at the bottom.
    return (np.nan_to_num(scaled, nan=0.0) * 255).astype(np.uint8)[::-1]


def _png(rows: Any) -> bytes:
    """Return grey values as a PNG file (ISO/IEC 15948)."""
    height, width = rows.shape
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
