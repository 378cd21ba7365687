"""Files of at most a given size: the search for the quality that reaches it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from dlfc.errors import LimitError

DEFAULT_QUALITY = 50.0  # where neither a quality nor a target is asked for
LAST_STEP = 200  # quality 100 in half steps
_FARTHER = (8, 16, 32, 64, 128)  # looked at too before no file is said to fit: holding colours can cost bytes at 0
_LOOK_AHEAD = 4  # sizes fall from one step to the next by a byte now and then, and rise again within two steps


def largest_within(code: Callable[[int], bytes], limit_bytes: int) -> bytes:
    """The file of at most `limit_bytes` of the highest quality that is found.

    `code` makes the file at a quality in half steps, 0 to 200; sizes rise with it, but for small dents. Raises
    LimitError, which says the smallest possible size, if no file fits.
    """
    files: dict[int, bytes] = {}

    def fits(step: int) -> bool:
        if step not in files:
            files[step] = code(step)
        return len(files[step]) <= limit_bytes

    if fits(LAST_STEP):
        return files[LAST_STEP]
    low = next((step for step in (*range(_LOOK_AHEAD + 1), *_FARTHER) if fits(step)), None)
    if low is None:
        smallest = min(map(len, files.values()))
        raise LimitError(
            f"no file of this picture has at most {limit_bytes} bytes; the smallest possible has {smallest}"
        )
    high, halve = LAST_STEP, False
    while high - low > 1:
        middle = (low + high) // 2 if halve else _between(low, len(files[low]), high, len(files[high]), limit_bytes)
        low, high = (middle, high) if fits(middle) else (low, middle)
        halve = not halve
    while better := [step for step in range(low + 1, min(low + _LOOK_AHEAD, LAST_STEP) + 1) if fits(step)]:
        low = better[-1]
    return files[low]


def _between(low: int, low_bytes: int, high: int, high_bytes: int, limit_bytes: int) -> int:
    """The step, strictly between two others, where the size should be `limit_bytes`: sizes grow exponentially."""
    part = math.log(max(limit_bytes, 1) / low_bytes) / math.log(high_bytes / low_bytes)
    return min(max(low + round((high - low) * part), low + 1), high - 1)


def limit_of(pixels: int, target_size: int | None, target_bpp: float | None) -> int:
    """The bytes that a file of so many pixels may have, 0 if there is no target. Raises ValueError."""
    for name, value in (("target_size", target_size), ("target_bpp", target_bpp)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a number above 0, not {value}")
    if target_bpp is not None:
        return math.floor(Fraction(str(float(target_bpp))) * pixels / 8)  # as written, not as stored
    return int(target_size or 0)
