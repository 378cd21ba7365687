"""PNG files written from rows as they come, so that a large picture is never held whole.

Rows are filtered as the PNG specification (third edition, section 9) describes: each by the filter that leaves the
least sum of absolute values. Pillow does the same, and writes only whole pictures.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dlfc.painting import Strips

Uint8Array = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
_LEVEL = 4  # what dlfc.image has Pillow take
_MEMORY_LEVEL = 9  # the most that zlib takes for itself
_AT_ONCE_BYTES = 1 << 16  # filtered at a time: the passes over them stay in the processor's cache
_PIECE_BYTES = 1 << 18  # of compressed data in a chunk


def write(picture: Strips, beside: bytes = b"") -> Iterator[bytes]:
    """The bytes of a PNG file in pieces; `beside` are its chunks of metadata."""
    width_px, height_px = picture.size
    shape = struct.pack(">IIBBBBB", width_px, height_px, 8, _COLOUR_TYPES[picture.mode], 0, 0, 0)
    yield SIGNATURE + chunk(b"IHDR", shape) + beside
    samples = len(picture.mode)  # of a pixel
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_FILTERED)
    held, above = bytearray(), np.zeros(width_px * samples, np.uint8)
    for strip in picture.images:
        for rows in _few(np.asarray(strip).reshape(strip.height, -1)):
            held += compressor.compress(_filtered(rows, above, samples).data)
            above = rows[-1]
            if len(held) >= _PIECE_BYTES:
                yield chunk(b"IDAT", held)
                held.clear()
    yield chunk(b"IDAT", held + compressor.flush()) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes | bytearray) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(data, zlib.crc32(name))
    return b"".join([len(data).to_bytes(4, "big"), name, data, check.to_bytes(4, "big")])


def metadata(file: bytes) -> bytes:
    """The chunks of a whole PNG file that stand between header and pixels."""
    at = start = len(SIGNATURE) + 25
    while file[at + 4 : at + 8] != b"IDAT":
        at += 12 + int.from_bytes(file[at : at + 4], "big")
    return file[start:at]


def _few(rows: Uint8Array) -> Iterator[Uint8Array]:
    count = max(1, _AT_ONCE_BYTES // rows.shape[1])
    for top in range(0, len(rows), count):
        yield rows[top : top + count]


def _filtered(rows: Uint8Array, above: Uint8Array, samples: int) -> Uint8Array:
    """Rows `h n` below the row `above` as they are compressed, `h 1+n`: the best filter's number and its result."""
    b = np.concatenate([above[None], rows[:-1]])
    a, c = np.zeros_like(rows), np.zeros_like(rows)
    a[:, samples:], c[:, samples:] = rows[:, :-samples], b[:, :-samples]
    best, least = np.empty((len(rows), rows.shape[1] + 1), np.uint8), None
    for number, predicted in enumerate((None, a, b, (a & b) + ((a ^ b) >> 1), _paeth(a, b, c))):
        left = rows if predicted is None else rows - predicted
        cost = np.minimum(left, -left).sum(1, dtype=np.uint32)  # as signed bytes, without their sign
        better = slice(None) if least is None else cost < least
        best[better, 0], best[better, 1:] = number, left[better]
        least = cost if least is None else np.minimum(cost, least)
    return best


def _paeth(a: Uint8Array, b: Uint8Array, c: Uint8Array) -> Uint8Array:
    """Of left, above and above left the one nearest to left + above - above left; of equals the first.

    If above left lies between the other two, its distance is the difference of theirs, else it is not the nearest.
    """
    of_a, of_b = np.maximum(b, c) - np.minimum(b, c), np.maximum(a, c) - np.minimum(a, c)
    least, most = np.minimum(of_a, of_b), np.maximum(of_a, of_b)
    between = ((a > c) != (b > c)) & (most - least < least)
    return np.where(between, c, np.where(of_a <= of_b, a, b))
