"""Decoded pictures in strips, from their tops, as the network paints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from dlfc.companions import Finish
from dlfc.tensors import to_bytes, to_image
from dlfc.timing import timed


@dataclass(frozen=True)
class Strips:
    """A picture as strips of its full width that come as they are painted, and once."""

    size: tuple[int, int]
    mode: str  # L, LA, RGB or RGBA
    info: dict[str, bytes]  # as of a Pillow image
    images: Iterator[Image.Image]


class Canvas:
    """Takes the strips of a picture and makes one of them."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self._size = width_px, height_px
        self._image: Image.Image | None = None

    def put(self, top: int, strip: Image.Image) -> None:
        """Put a strip whose first row is `top`."""
        if strip.size == self._size:
            self._image = strip
            return
        if self._image is None:
            self._image = Image.new(strip.mode, self._size)
            self._image.info = strip.info
        self._image.paste(strip, (0, top))

    @property
    def image(self) -> Image.Image:
        """The picture, when it is whole."""
        assert self._image is not None
        return self._image


def in_strips(
    bands: Iterator[Tensor], sizes: Sequence[tuple[int, int]], finishes: Sequence[Finish]
) -> Iterator[tuple[int, int, Image.Image]]:
    """What becomes of bands B 3 h W of B pictures of `sizes`: which picture, the first row of the strip, the strip."""
    painted, top = map(to_bytes, bands), 0  # no band is held while the next one is painted
    while True:
        with timed("network"):
            pixels = next(painted, None)  # B h W 3
        if pixels is None:
            return
        for place, ((width_px, height_px), finish) in enumerate(zip(sizes, finishes, strict=True)):
            seen = pixels[place, : max(0, height_px - top), :width_px]
            if len(seen):
                yield place, top, finish.apply(to_image(seen), top)
        top += pixels.shape[1]
