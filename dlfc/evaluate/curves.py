"""Curves of rate against quality, one for each model and codec, and how many bytes one saves against another."""

from __future__ import annotations

from collections.abc import Sequence

from dlfc.evaluate.bjontegaard import delta_rate
from dlfc.evaluate.evaluation import OrdinaryFiles, ordinary_mean
from dlfc.evaluate.measures import Measure
from dlfc.evaluate.published import PublishedPoint
from dlfc.evaluate.report import markdown
from dlfc.evaluate.scores import Curve, Level, Point, make_curve


def model_curves(levels: Sequence[Level], measure: Measure) -> list[Curve]:
    """The curve of each model."""
    curves = []
    for model in dict.fromkeys(level.model for level in levels):
        own = [(level.bpp, level.mean_of(measure)) for level in levels if level.model == model]
        points = [Point(bpp, value) for bpp, value in own if value is not None]
        curves.append(make_curve(model, measure, points))
    return curves


def other_curves(
    files: Sequence[OrdinaryFiles],
    codecs: Sequence[str],
    budgets: Sequence[str],
    points: Sequence[PublishedPoint],
    measure: Measure,
) -> list[Curve]:
    """The curve of each ordinary codec, of those budgets that it has a file of every photo for, and published curves.

    Points that are worse than a smaller file are left out.
    """
    curves = []
    for codec in codecs:
        means = [ordinary_mean(files, [codec], budget, measure) for budget in budgets]
        full = [found.point for found in means if found is not None and found.photos == len(files)]
        curves.append(make_curve(codec, measure, full).envelope())
    means_of_sets = [point for point in points if point.photo is None and measure.name in point.values]
    for codec in dict.fromkeys(point.codec for point in means_of_sets):
        own = [Point(point.bpp, point.values[measure.name]) for point in means_of_sets if point.codec == codec]
        curves.append(make_curve(codec, measure, own))
    return [curve for curve in curves if curve.points]


def table_of_savings(models: Sequence[Sequence[Curve]], others: Sequence[Sequence[Curve]]) -> str:
    """BD-rates of each model against every other curve; both hold one list of curves for each measure."""
    measures = [curves[0].measure for curves in models]
    pairs: dict[tuple[str, str], None] = {}
    for own, foreign in zip(models, others, strict=True):
        for place, curve in enumerate(own):
            pairs |= {(curve.name, anchor.name): None for anchor in (*own[:place], *foreign)}
    rows = []
    for name, anchor in pairs:
        cells = []
        for own, foreign in zip(models, others, strict=True):
            by_name = {curve.name: curve for curve in (*foreign, *own)}
            saved = delta_rate(by_name[name], by_name[anchor]) if {name, anchor} <= by_name.keys() else None
            cells.append("-" if saved is None else f"{100 * saved:+.1f} %")
        rows.append([f"{name} against {anchor}", *cells])
    if not rows:
        return ""
    explained = (
        "Bytes at equal quality (Bjontegaard's delta rate on the curves of the means; - where two curves share no "
        "quality).\n"
    )
    table = markdown(["", *(measure.name for measure in measures)], rows)
    return f"### Rate\n\n{explained}\n{table}"
