"""PNG files written in strips: every pixel comes back, no file is much larger than Pillow's, and nothing waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dlfc import png
from dlfc.image import png_pieces, save_image
from dlfc.painting import Strips

PHOTO = Path(__file__).parent / "data" / "photo.png"
MODES = ("L", "LA", "RGB", "RGBA")


def in_strips(image: Image.Image, heights: Sequence[int]) -> Strips:
    """The picture in strips of these heights, and then of the last of them."""

    def strips() -> Iterator[Image.Image]:
        top, left = 0, list(heights)
        while top < image.height:
            height = left.pop(0) if len(left) > 1 else left[0]
            yield image.crop((0, top, image.width, min(top + height, image.height)))
            top += height

    return Strips(image.size, image.mode, dict(image.info), strips())  # type: ignore[arg-type]


def opened(pieces: Iterator[bytes]) -> Image.Image:
    image = Image.open(BytesIO(b"".join(pieces)))
    image.load()
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (37, 41)])
@pytest.mark.parametrize("heights", [[1], [7, 1, 100], [50]])
def test_every_pixel_comes_back(mode: str, size: tuple[int, int], heights: list[int]) -> None:
    image = picture(*size).convert(mode)
    if "A" in mode:
        image.putalpha(picture(*size).getchannel("B"))
    found = opened(png.write(in_strips(image, heights)))
    assert (found.mode, found.size, found.tobytes()) == (mode, size, image.tobytes())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.data())
def test_any_samples_come_back(mode: str, width: int, height: int, rows: int, data: st.DataObject) -> None:
    count = width * height * len(mode)
    image = Image.frombytes(mode, (width, height), data.draw(st.binary(min_size=count, max_size=count)))
    assert opened(png.write(in_strips(image, [rows]))).tobytes() == image.tobytes()


def test_a_photograph_takes_every_filter_and_hardly_more_than_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[int] = set()
    plain = png._filtered

    def filtered(*arguments: png.Uint8Array) -> png.Uint8Array:
        rows = plain(*arguments)  # type: ignore[arg-type]
        used.update(rows[:, 0].tolist())
        return rows

    monkeypatch.setattr(png, "_filtered", filtered)
    with Image.open(PHOTO) as photo:
        image = photo.convert("RGB")
    data = b"".join(png.write(in_strips(image, [100])))
    assert opened(iter([data])).tobytes() == image.tobytes()
    assert len(data) <= 1.03 * len(save_image(image, "PNG"))
    random = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8))
    b"".join(png.write(in_strips(random, [40])))
    b"".join(png.write(in_strips(Image.new("RGB", (40, 40), "white"), [40])))
    assert used == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("mode", MODES)
def test_metadata_are_those_that_pillow_writes(mode: str) -> None:
    image = picture().convert(mode)
    image.info = {"icc_profile": b"profile" * 40, "exif": b"Exif\0\0" + bytes(30), "xmp": b"<x:xmpmeta/>" * 20}
    pieces = list(png_pieces(in_strips(image, [5])))
    ours, pillows = opened(iter(pieces)), opened(iter([save_image(image, "PNG")]))
    assert ours.info == pillows.info
    assert {"icc_profile", "exif", "xmp"} <= ours.info.keys()
    assert png.metadata(b"".join(pieces)) == png.metadata(save_image(image, "PNG"))
    del image.info
    image.info = {}
    assert opened(png_pieces(in_strips(image, [5]))).info == {}


def test_pieces_come_as_strips_do() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(900, 400, 3), dtype=np.uint8))
    taken = []
    strips = in_strips(noise, [100])

    def watched() -> Iterator[Image.Image]:
        for strip in strips.images:
            taken.append(strip.height)
            yield strip

    pieces = png.write(Strips(strips.size, strips.mode, {}, watched()))
    head = next(pieces)
    assert (head[:8], taken) == (png.SIGNATURE, [])
    next(pieces)
    assert 0 < len(taken) < 9
    assert all(len(piece) < 10**6 for piece in pieces)
