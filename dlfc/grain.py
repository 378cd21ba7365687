"""Film grain: the noise of a photo, which costs most of all to code, is measured, left out and made anew.

A file says how strong it is; SPEC.md, "Grain", says which values a decoder adds then.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlfc.raw import RawPicture, rows_of

UInt32Array = npt.NDArray[np.uint32]
LEAST, MOST = 3, 15  # strength that a picture is given, if any; readers take others too
_MIX, _HALF = np.uint32(0x45D9F3B), np.uint32(16)
_BLOCK_PX = 16
_BAND_PX = _BLOCK_PX + 8  # rows of blocks, and what the filter needs around them in a quarter of the size
_BANDS = 64  # that are looked at, of large pictures not all
_SHADOW, _LIGHT = 12, 243  # blocks that are darker or lighter have lost their noise
_QUANTILE = 0.1  # of the blocks are even enough to show little but noise
_ROUNDING = 0.15  # standard deviation of what rounding leaves in half of the size
_STRUCTURE = 0.75  # share of the energy in a quarter of the size that half of the size has too, where it is no noise
_GAIN = 25.0  # strength for each unit of standard deviation in half of the size; 20 for white noise


def strength_of(picture: Image.Image | RawPicture) -> int:
    """The strength of grain that looks like the noise of a picture of mode L or RGB, 0 (none) or `LEAST` to `MOST`.

    A unit is a standard deviation of about 0.1 of 255. It is measured where the picture is most even, by the filter of
    Immerkær ("Fast Noise Variance Estimation", 1996), in half of the size, as the noise of photos is seldom white. What
    is there in a quarter of the size is structure rather than noise. On every machine the result is the same.
    """
    bands = _bands(picture)
    half, quarter = (_evenest(bands, shrink) for shrink in (2, 4))
    energy = half**2 - _ROUNDING**2 - _STRUCTURE * quarter**2
    strength = min(MOST, round(_GAIN * float(np.sqrt(max(0.0, energy)))))
    return strength if strength >= LEAST else 0


def with_grain(picture: Image.Image, strength: int, top: int = 0) -> Image.Image:
    """Rows of a picture of mode RGB from the row `top` on, with grain."""
    if strength == 0:
        return picture
    offsets = _offsets(top, picture.height, picture.width, strength)[:, :, None]
    return Image.fromarray(np.clip(np.asarray(picture, np.int16) + offsets, 0, 255).astype(np.uint8))


def _offsets(top: int, height: int, width: int, strength: int) -> npt.NDArray[np.int16]:
    """What is added to the pixels of rows from `top` on, `height` `width`: a function of the place alone."""
    rows: UInt32Array = _mixed(np.arange(top, top + height, dtype=np.uint32))[:, None]
    columns: UInt32Array = np.arange(width, dtype=np.uint32)
    drawn = _mixed(rows + columns)
    spread = (drawn >> 16).astype(np.int32) + (drawn & 0xFFFF).astype(np.int32) - 0xFFFF
    return (spread * np.int32(strength) + (1 << 17) >> 18).astype(np.int16)


def _mixed(x: UInt32Array) -> UInt32Array:
    """Every bit of the result depends on every bit of `x`; as in dlfc/model/noise.py."""
    x = (x ^ (x >> _HALF)) * _MIX
    x = (x ^ (x >> _HALF)) * _MIX
    return x ^ (x >> _HALF)


def _bands(picture: Image.Image | RawPicture) -> list[npt.NDArray[np.int32]]:
    """Luma of rows of blocks, each with what the filter needs below them."""
    height = picture.size[1]
    tops = range(0, height - _BAND_PX + 1, _BLOCK_PX)
    chosen = tops[:: -(-len(tops) // _BANDS) or 1]
    return [np.asarray(rows_of(picture, top, top + _BAND_PX).convert("L"), np.int32) for top in chosen]


def _evenest(bands: list[npt.NDArray[np.int32]], shrink: int) -> float:
    """Standard deviation of the noise of blocks, if there is nothing else in them, where few have less."""
    levels = np.sort(np.concatenate([np.empty(0), *(_levels(band, shrink) for band in bands)]))
    return float(levels[int(_QUANTILE * (len(levels) - 1))]) if len(levels) else 0.0


def _levels(luma: npt.NDArray[np.int32], shrink: int) -> npt.NDArray[np.float64]:
    """The noise of the blocks of a band made smaller, as a standard deviation."""
    size = _BLOCK_PX // shrink
    height, width = size + 2, luma.shape[1] // shrink
    count = (width - 2) // size
    if count < 1:
        return np.empty(0)
    small = luma[: height * shrink, : width * shrink].reshape(height, shrink, width, shrink).sum((1, 3))
    rows = small[:-2] - 2 * small[1:-1] + small[2:]
    curves = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    inside = slice(count * size)
    total = curves[:, inside].reshape(size, count, size).sum((0, 2)) / (size * shrink) ** 2
    mean = small[1:-1, 1:-1][:, inside].reshape(size, count, size).sum((0, 2)) / (size * shrink) ** 2
    return total[(mean > _SHADOW) & (mean < _LIGHT)] * (np.sqrt(np.pi / 2) / 6)
