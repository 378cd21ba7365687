"""Bjontegaard delta rate: how much smaller the files of one codec are than another's at equal quality.

The logarithm of the rate is interpolated over quality piecewise, with monotone cubics (Fritsch and Carlson, 1980) as
in JCT-VC's later practice, and averaged over the range of quality that both curves reach.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlfc.evaluate.scores import Curve

Array = npt.NDArray[np.float64]


def delta_rate(curve: Curve, anchor: Curve) -> float | None:
    """Mean relative difference in rate of `curve` to `anchor`, -0.5 for half the bytes.

    None if either has fewer than two points (those worse than a smaller file do not count), or if no quality is
    reached by both.
    """
    parts = []
    for points in (curve.envelope().points, anchor.envelope().points):
        if len(points) < 2:
            return None
        by_value = sorted(points, key=lambda point: point.value)
        parts.append(_Cubics([p.value for p in by_value], [np.log(p.bpp) for p in by_value]))
    low, high = max(part.x[0] for part in parts), min(part.x[-1] for part in parts)
    if low >= high:
        return None
    difference = parts[0].integral(low, high) - parts[1].integral(low, high)
    return float(np.exp(difference / (high - low)) - 1)


class _Cubics:
    """Monotone piecewise cubic through points of strictly rising x."""

    def __init__(self, x: list[float], y: list[float]) -> None:
        self.x, self.y = np.array(x), np.array(y)
        self.slopes = _monotone_slopes(np.diff(self.x), np.diff(self.y) / np.diff(self.x))

    def integral(self, low: float, high: float) -> float:
        """The integral from `low` to `high`, both within the range of x."""
        total = 0.0
        for k in range(len(self.x) - 1):
            start, end = max(low, self.x[k]), min(high, self.x[k + 1])
            if start < end:
                total += self._part(k, end) - self._part(k, start)
        return total

    def _part(self, k: int, x: float) -> float:
        """The integral of piece `k` from its left end to `x`."""
        h = self.x[k + 1] - self.x[k]
        t = (x - self.x[k]) / h
        left = self.y[k] * (t - t**3 + t**4 / 2) + h * self.slopes[k] * (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4)
        right = self.y[k + 1] * (t**3 - t**4 / 2) + h * self.slopes[k + 1] * (t**4 / 4 - t**3 / 3)
        return float(h * (left + right))


def _monotone_slopes(h: Array, d: Array) -> Array:
    """Slopes at the points, for widths `h` and secants `d` of the pieces between them."""
    if len(h) == 1:
        return np.array([d[0], d[0]])
    slopes = np.zeros(len(h) + 1)
    for k in range(1, len(h)):
        if d[k - 1] * d[k] > 0:  # else a turning point, and flat
            a, b = 2 * h[k] + h[k - 1], h[k] + 2 * h[k - 1]
            slopes[k] = (a + b) / (a / d[k - 1] + b / d[k])
    slopes[0] = _end_slope(h[0], h[1], d[0], d[1])
    slopes[-1] = _end_slope(h[-1], h[-2], d[-1], d[-2])
    return slopes


def _end_slope(h0: float, h1: float, d0: float, d1: float) -> float:
    """The slope of a parabola through the three points at an end, held back so that the first piece stays monotone."""
    slope = ((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
    if slope * d0 <= 0:
        return 0.0
    if d0 * d1 <= 0 and abs(slope) > abs(3 * d0):
        return 3 * d0
    return slope
