"""Rate-distortion plots, by matplotlib (the extra dlfc[train])."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from types import ModuleType

from dlfc.errors import DlfcError
from dlfc.evaluate.scores import Curve

_PANEL_INCHES = (4.6, 3.6)
_COLUMNS = 2


def matplotlib() -> ModuleType:
    """matplotlib, set up to draw without a screen. Raises DlfcError if it is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise DlfcError("plots need matplotlib; install it with: pip install 'dlfc[train]'") from error
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "dlfc"  # equal numbers give equal files
    return matplotlib


def plot(panels: Sequence[Sequence[Curve]], models: Sequence[str], title: str) -> tuple[bytes, bytes]:
    """A PNG and an SVG picture with one panel for each list of curves, which have one measure each.

    Curves of `models` are drawn strong, the others thin and dashed. Raises DlfcError without matplotlib.
    """
    matplotlib()
    from matplotlib import pyplot, ticker

    drawn = [curves for curves in panels if any(curve.points for curve in curves)]
    names = list(dict.fromkeys(curve.name for curves in drawn for curve in curves))
    colours = {name: f"C{k % 10}" for k, name in enumerate(names)}
    columns = max(1, min(_COLUMNS, len(drawn)))
    rows = max(1, -(-len(drawn) // columns))
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    try:
        for axis, curves in zip(axes.flat, drawn, strict=False):
            for curve in curves:
                own = curve.name in models
                style = {"linestyle": "-", "linewidth": 2.2} if own else {"linestyle": "--", "linewidth": 1.2}
                x, y = [p.bpp for p in curve.points], [p.value for p in curve.points]
                axis.plot(x, y, marker="o", markersize=4, color=colours[curve.name], label=curve.name, **style)
            measure = curves[0].measure
            axis.set_xscale("log")
            axis.set_xlabel("bits per pixel")
            axis.set_ylabel(f"{measure.title} ({'higher' if measure.higher_is_better else 'lower'} is better)")
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
            axis.grid(True, which="both", linewidth=0.4, alpha=0.5)
            axis.legend(fontsize=8)
        for axis in list(axes.flat)[len(drawn) :]:
            axis.set_axis_off()
        figure.suptitle(title)
        pictures = []
        for form, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
            pictures.append(buffer.getvalue())
    finally:
        pyplot.close(figure)
    return pictures[0], pictures[1]
