"""What an evaluation finds out: scores of single files, means over photos, curves of rate against quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dlfc.evaluate.measures import Measure


@dataclass(frozen=True)
class Score:
    """One file, decoded and measured against its photo; `values` is by the names of measures."""

    codec: str
    photo: str
    setting: str
    size_bytes: int
    pixels: int
    values: Mapping[str, float]
    encode_s: float | None = None
    decode_s: float | None = None

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return 8 * self.size_bytes / self.pixels


@dataclass(frozen=True)
class Level:
    """One quality setting of a model over all photos, in the order of the photos."""

    model: str
    quality: str
    scores: tuple[Score, ...]
    of_sets: Mapping[str, float] = field(default_factory=dict)

    @property
    def bpp(self) -> float:
        """Mean rate over the photos."""
        return mean([score.bpp for score in self.scores])

    def mean_of(self, measure: Measure) -> float | None:
        """Mean of a measure over the photos that it is defined for, or the value for the set; None if there is none."""
        if measure.of_sets:
            return self.of_sets.get(measure.name)
        values = [score.values[measure.name] for score in self.scores if measure.name in score.values]
        return mean(values) if values else None


@dataclass(frozen=True)
class Point:
    """One point of a curve: mean rate and mean value over the photos."""

    bpp: float
    value: float


@dataclass(frozen=True)
class Curve:
    """Rate against one measure, by rising rate."""

    name: str
    measure: Measure
    points: tuple[Point, ...]

    def envelope(self) -> Curve:
        """The points that are better than every smaller one."""
        kept: list[Point] = []
        for point in self.points:
            if not kept or self.measure.better(point.value, kept[-1].value):
                kept.append(point)
        return Curve(self.name, self.measure, tuple(kept))


def make_curve(name: str, measure: Measure, points: Sequence[Point]) -> Curve:
    """A curve of points in any order; infinite values are left out."""
    finite = [point for point in points if math.isfinite(point.value)]
    return Curve(name, measure, tuple(sorted(finite, key=lambda point: point.bpp)))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; not a number for no values."""
    return math.fsum(values) / len(values) if values else math.nan
