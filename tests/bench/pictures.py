"""Pictures to measure with, made of the photograph in tests/data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_PHOTO = Path(__file__).parent.parent / "data" / "photo.png"


def photograph() -> Image.Image:
    """The whole photograph, in RGB."""
    with Image.open(_PHOTO) as source:
        return source.convert("RGB")


def parts(count: int, width_px: int, height_px: int) -> Iterator[Image.Image]:
    """Different parts of the photograph, mirrored where there are not enough of them."""
    photo = photograph()
    across, down = photo.width - width_px, photo.height - height_px
    for number in range(count):
        left, top = number * 37 % across, number * 61 % down
        part = photo.crop((left, top, left + width_px, top + height_px))
        yield part if number < across else part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
