"""Points of codecs that were measured elsewhere, from a JSON file.

    {"DLF, published": [{"bpp": 0.0079, "LPIPS-alex": 0.285}, {"bpp": 0.0156, "LPIPS-alex": 0.233}],
     "VVC": [{"photo": "kodim01", "bpp": 0.00956, "LPIPS-alex": 0.8067}]}

Points without a photo are means over the set and become a curve as they are. Points with one are single files of that
photo, and are compared like those of the codecs that dlfc runs itself. Between two sizes their values are interpolated
over the logarithm of the rate, so that a codec of few points is not taken for one that does worse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlfc.errors import DlfcError
from dlfc.evaluate.evaluation import Budget, OrdinaryFiles
from dlfc.evaluate.measures import MEASURES
from dlfc.evaluate.scores import Level, Point, Score, make_curve


@dataclass(frozen=True)
class PublishedPoint:
    """Rate and values of one codec: over the set, or of one photo."""

    codec: str
    bpp: float
    values: Mapping[str, float]
    photo: str | None = None


def read_points(path: Path) -> list[PublishedPoint]:
    """The points in a file. Raises OSError, or DlfcError that says what is wrong in it."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DlfcError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DlfcError(f"{path}: must be an object with a list of points for each codec")
    found = []
    for codec, points in content.items():
        if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
            raise DlfcError(f"{path}: {codec!r} must have a list of points")
        found += [_point(path, codec, point) for point in points]
    return found


def add_points(
    files: Sequence[OrdinaryFiles], points: Sequence[PublishedPoint], budgets: Sequence[Budget], level: Level
) -> list[OrdinaryFiles]:
    """`files` with those points that are files of a photo, within each budget; `level` tells the photos' sizes."""
    codecs = file_codecs(points)
    extended = []
    for photo, measured in zip(files, level.scores, strict=True):
        scores = dict(photo.scores)
        for codec in codecs:
            own = [point for point in points if (point.codec, point.photo) == (codec, photo.photo)]
            for budget in budgets:
                scores[codec, budget.name] = _score_within(own, budget.limits_bytes[photo.photo], measured)
        extended.append(OrdinaryFiles(photo.photo, scores))
    return extended


def file_codecs(points: Sequence[PublishedPoint]) -> list[str]:
    """The codecs that have points of single photos."""
    return list(dict.fromkeys(point.codec for point in points if point.photo is not None))


def _score_within(points: Sequence[PublishedPoint], limit_bytes: int, like: Score) -> tuple[Score, ...]:
    """What the files of a photo say of one of `limit_bytes`; nothing if all are larger."""
    limit_bpp = 8 * limit_bytes / like.pixels
    values = {}
    for measure in MEASURES:
        known = [Point(point.bpp, point.values[measure.name]) for point in points if measure.name in point.values]
        curve = make_curve("", measure, known).envelope().points
        if curve and curve[0].bpp <= limit_bpp:
            rates = np.log([point.bpp for point in curve])
            values[measure.name] = float(np.interp(np.log(limit_bpp), rates, [point.value for point in curve]))
    if not values:
        return ()
    size_bytes = min(limit_bytes, max(round(point.bpp * like.pixels / 8) for point in points))
    return (Score(points[0].codec, like.photo, f"at {size_bytes} bytes", size_bytes, like.pixels, values),)


def _point(path: Path, codec: str, fields: Mapping[str, Any]) -> PublishedPoint:
    known = {measure.name for measure in MEASURES}
    photo = fields.get("photo")
    for name, value in fields.items():
        if name not in known | {"bpp", "photo"}:
            raise DlfcError(f"{path}: {codec!r} has {name!r}; fields are bpp, photo, {', '.join(sorted(known))}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if name != "photo" and not number:
            raise DlfcError(f"{path}: {codec!r} has {name} {value!r}, which is not a number")
    if fields.get("bpp", 0) <= 0:
        raise DlfcError(f"{path}: a point of {codec!r} has no bpp above 0")
    if photo is not None and not isinstance(photo, str):
        raise DlfcError(f"{path}: {codec!r} has photo {photo!r}, which is not a name")
    values = {name: float(fields[name]) for name in known if name in fields}
    return PublishedPoint(codec, float(fields["bpp"]), values, photo)
