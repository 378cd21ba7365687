"""The versions of a photo that are compared: .dlf files at several qualities, and ordinary files of at most their size.

To get as small as .dlf files, people make a picture smaller before they save it. So each ordinary codec is tried on
the photo, at half and at quarter size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dlfc.evaluate.ordinary import FACTORS, OrdinaryCodec, enlarged, largest_fitting, reduced

if TYPE_CHECKING:
    from dlfc.codec import Codec
    from dlfc.companions import Prepared

TITLES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
_SCALES = {1: "full size", 2: "half size", 4: "quarter size"}
_WEBP_SIDE_PX = 16383  # libwebp's WEBP_MAX_DIMENSION


@dataclass(frozen=True)
class Embedded:
    """A picture as a page holds it: the bytes of a file that browsers show."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class Version:
    """A photo as one file: how that was made, its size, and what it looks like.

    `times` is how many times as large as the .dlf file it is; that is more than 1 only if no smaller one exists.
    """

    codec: str
    setting: str
    file_bytes: int
    times: float
    picture: Embedded


@dataclass(frozen=True)
class Level:
    """One quality: the .dlf file, and ordinary files of at most its size where there are any."""

    quality: float
    dlf: Version
    others: tuple[Version, ...]


@dataclass(frozen=True)
class Photo:
    """A photo with its versions."""

    name: str
    width_px: int
    height_px: int
    file_bytes: int
    picture: Embedded
    levels: tuple[Level, ...]


def versions_of(
    name: str,
    file_bytes: int,
    prepared: Prepared,
    codec: Codec,
    qualities: Sequence[float],
    against: Sequence[OrdinaryCodec],
    max_pixels: int,
) -> Photo:
    """All versions of a picture that came from a file of `file_bytes`."""
    image = prepared.whole()
    rivals = [_Rival(each, image) for each in against]
    levels = []
    for quality in qualities:
        data = codec.encode(image, quality=quality, extras=prepared.extras, max_pixels=max_pixels)
        decoded = codec.decode(data, max_pixels=max_pixels)
        dlf = Version("dlfc", f"-q {quality:g}", len(data), 1.0, as_seen(decoded))
        levels.append(Level(quality, dlf, tuple(rival.within(len(data)) for rival in rivals)))
    return Photo(name, *image.size, file_bytes, as_seen(image), tuple(levels))


def as_seen(image: Image.Image) -> Embedded:
    """The picture as WebP of so high a quality that nobody sees the difference, or as PNG if it is too large for it."""
    buffer = BytesIO()
    if max(image.size) > _WEBP_SIDE_PX:
        image.save(buffer, "PNG")
        return Embedded(buffer.getvalue(), "image/png")
    image.save(buffer, "WEBP", quality=95, use_sharp_yuv=True)
    return Embedded(buffer.getvalue(), "image/webp")


class _Rival:
    """An ordinary codec and one photo; remembers the files that it made of it."""

    def __init__(self, codec: OrdinaryCodec, image: Image.Image) -> None:
        self._codec = codec
        self._image = image
        self._pixels = np.asarray(image, np.float32)
        self._scaled = {factor: reduced(image, factor) for factor in FACTORS}
        self._files: dict[tuple[int, int], bytes] = {}

    def within(self, limit_bytes: int) -> Version:
        """The file of at most `limit_bytes` that is most like the photo, or the smallest one if none is that small."""
        lowest, highest = self._codec.lowest, self._codec.highest
        fitting = []
        for factor in FACTORS:
            quality = largest_fitting(partial(self._size, factor), lowest, highest, limit_bytes)
            if quality is not None:
                fitting.append((factor, quality))
        if fitting:
            chosen = min(fitting, key=self._error)
        else:
            chosen = min(((factor, lowest) for factor in FACTORS), key=lambda key: len(self._file(*key)))
        data = self._file(*chosen)
        return Version(
            TITLES[self._codec.name],
            f"quality {chosen[1]}, {_SCALES[chosen[0]]}",
            len(data),
            len(data) / limit_bytes,
            Embedded(data, f"image/{self._codec.name}"),
        )

    def _file(self, factor: int, quality: int) -> bytes:
        key = (factor, quality)
        if key not in self._files:
            self._files[key] = self._codec.save(self._scaled[factor], quality)
        return self._files[key]

    def _size(self, factor: int, quality: int) -> int:
        return len(self._file(factor, quality))

    def _error(self, key: tuple[int, int]) -> float:
        """Mean squared error at full size."""
        with Image.open(BytesIO(self._file(*key))) as file:
            picture = enlarged(file, self._image.size)
        return float(np.square(np.asarray(picture, np.float32) - self._pixels).mean())
