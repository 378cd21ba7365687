"""Pictures that lie uncompressed in a file: rows of them can be had while the whole is never made."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

STRIP_PX = 1 << 20  # of a large picture that is handled at a time

_FORMATS = ("PPM", "BMP", "TIFF")  # elsewhere, what Pillow calls raw may be in another place than the file
_PIXEL_BYTES = {("L", "L"): 1, ("RGB", "RGB"): 3, ("RGB", "BGR"): 3}  # by mode and the order of samples in the file


class _Run(NamedTuple):
    """Rows that lie one after the other, from `top` to before `bottom`; `place` is where the first of them begins."""

    top: int
    bottom: int
    place: int


@dataclass(frozen=True, eq=False)
class RawPicture:
    """A picture of mode L or RGB whose rows lie uncompressed in `data`, the bytes of a file."""

    size: tuple[int, int]  # width and height
    mode: str
    data: bytes = field(repr=False)
    order: str  # of the samples of a pixel, in Pillow's words
    row_bytes: int  # with what stands between rows
    upwards: bool  # whether the last row comes first; then there is one run
    runs: tuple[_Run, ...] = field(repr=False)

    def rows(self, top: int, bottom: int) -> Image.Image:
        """The rows from `top` to before `bottom`, in the mode of the picture."""
        width, height = self.size
        low, high = (height - bottom, height - top) if self.upwards else (top, bottom)
        data = b"".join(self._pieces(low, high))
        direction = -1 if self.upwards else 1
        return Image.frombytes(self.mode, (width, bottom - top), data, "raw", self.order, self.row_bytes, direction)

    def whole(self) -> Image.Image:
        """The picture as RGB."""
        return _as_rgb(self.rows(0, self.size[1]))

    def _pieces(self, low: int, high: int) -> Iterator[bytes]:
        """The bytes of the rows from `low` to before `high`, which are counted as they lie in the file."""
        for at in range(bisect_right(self.runs, low, key=lambda run: run.bottom), len(self.runs)):
            top, bottom, place = self.runs[at]
            if top >= high:
                return
            first, end = max(low, top) - top, min(high, bottom) - top
            yield self.data[place + first * self.row_bytes : place + end * self.row_bytes]


def find_raw(source: Image.Image, data: bytes) -> RawPicture | None:
    """What `source`, which was opened from `data` and not loaded, is if all of its rows lie there uncompressed."""
    tiles = getattr(source, "tile", [])
    if source.format not in _FORMATS or any(tile[0] != "raw" for tile in tiles):
        return None
    forms = {tile[3] if isinstance(tile[3], tuple) else (tile[3], 0, 1) for tile in tiles}
    if len(forms) != 1 or len(form := forms.pop()) != 3 or (source.mode, form[0]) not in _PIXEL_BYTES:
        return None
    order, stride, direction = form
    least_bytes = source.width * _PIXEL_BYTES[source.mode, order]
    row_bytes = stride or least_bytes
    runs = _runs([(*box, place) for _, box, place, _ in tiles], source.size)
    if not runs or row_bytes < least_bytes or (direction < 0 and len(runs) > 1):
        return None
    if any(run.place + (run.bottom - run.top) * row_bytes > len(data) for run in runs):
        return None  # cut short
    return RawPicture(source.size, source.mode, data, order, row_bytes, direction < 0, runs)


def strips(picture: Image.Image | RawPicture) -> Iterator[tuple[int, Image.Image]]:
    """A picture as RGB in strips of its full width, from the top: the first row of each, and the strip."""
    width, height = picture.size
    rows = max(1, STRIP_PX // width)
    for top in range(0, height, rows):
        yield top, _as_rgb(rows_of(picture, top, min(top + rows, height)))


def rows_of(picture: Image.Image | RawPicture, top: int, bottom: int) -> Image.Image:
    """The rows of a picture from `top` to before `bottom`, in its mode."""
    if isinstance(picture, RawPicture):
        return picture.rows(top, bottom)
    return picture.crop((0, top, picture.width, bottom))


def _runs(tiles: list[tuple[int, int, int, int, int]], size: tuple[int, int]) -> tuple[_Run, ...]:
    """The runs that tiles are, each its box and its place; none if they do not have every row once and in full."""
    width, height = size
    if not all(isinstance(number, int) for tile in tiles for number in tile):  # foreign files may say anything
        return ()
    runs = tuple(sorted(_Run(top, bottom, place) for _, top, _, bottom, place in tiles))
    full = all(left == 0 and right == width and place >= 0 for left, _, right, _, place in tiles)
    chain = [0, *(run.bottom for run in runs)] == [*(run.top for run in runs), height]
    return runs if full and chain else ()


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
