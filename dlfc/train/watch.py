"""What an evaluation leaves in the folder of a run: CSV files, curves and a contact sheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dlfc.errors import DlfcError
from dlfc.zoo.store import replacing

CELL_PX = 384  # of each photo the sheet shows the middle, pixel for pixel: scaling would hide what is to be seen
_CAPTION_PX = 14
_PANEL_INCHES = (4.6, 3.0)
_MOST_POINTS = 400  # of a curve; more are averaged

Row = Mapping[str, float | str]


def append(path: Path, row: Row) -> None:
    """Add a row to a CSV file. A file that lacks some of its columns, from an older run, is given them."""
    columns = list(row)
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            there = list(reader.fieldnames or ())
            if not set(columns) <= set(there):
                _rewrite(path, [*there, *(c for c in columns if c not in there)], list(reader))
                append(path, row)
                return
        columns = there
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def _rewrite(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def token_statistics(counts: Tensor) -> dict[str, float]:
    """How evenly codes are used: of `counts` (codes,), tokens counted, perplexity, and codes never used."""
    counts = counts.double().cpu()
    total = float(counts.sum())
    share = counts[counts > 0] / max(total, 1.0)
    entropy = -float((share * share.log()).sum())
    return {"tokens": total, "perplexity": math.exp(entropy), "dead_codes": float((counts == 0).sum())}


def sheet(path: Path, rows: Sequence[Sequence[Tensor]], captions: Sequence[str]) -> None:
    """A picture of pictures: `rows` of 3 H W in [0, 1], columns below their `captions`."""
    cells = [[_middle(cell) for cell in row] for row in rows]
    heights = [max(cell.height for cell in row) for row in cells]
    whole = Image.new("RGB", (CELL_PX * len(captions), _CAPTION_PX + sum(heights)), "white")
    draw = ImageDraw.Draw(whole)
    for column, caption in enumerate(captions):
        draw.text((CELL_PX * column + 2, 1), caption, fill="black")
    top = _CAPTION_PX
    for row, height in zip(cells, heights, strict=True):
        for column, cell in enumerate(row):
            whole.paste(cell, (CELL_PX * column, top))
        top += height
    with replacing(path) as temporary:
        whole.save(temporary, "JPEG", quality=95, subsampling=0)


def middle(image: Tensor) -> Tensor:
    """The middle of a picture 3 H W, as large as a cell of the sheet."""
    height, width = image.shape[1:]
    top, left = max(0, height - CELL_PX) // 2, max(0, width - CELL_PX) // 2
    return image[:, top : top + CELL_PX, left : left + CELL_PX]


def _middle(image: Tensor) -> Image.Image:
    pixels = (middle(image).float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def curves(folder: Path) -> None:
    """Draw `curves.png` from the CSV files of `folder`; DlfcError without matplotlib."""
    from dlfc.evaluate.plots import matplotlib

    log, validation = _columns(folder / "log.csv"), _columns(folder / "validation.csv")
    matplotlib()
    from matplotlib import pyplot

    panels = [name for name in ("total", "psnr", "lpips", "bpp", "adversarial", "discriminator") if _some(log, name)]
    judged = [name for name in ("bpp", "psnr", "lpips_alex", "lpips_squeeze") if _some(validation, name)]
    names = [(log, name, "training") for name in panels] + [(validation, name, "validation") for name in judged]
    rows = max(1, -(-len(names) // 2))
    size = (2 * _PANEL_INCHES[0], rows * _PANEL_INCHES[1])
    figure, axes = pyplot.subplots(rows, 2, figsize=size, squeeze=False, layout="constrained")
    try:
        for axis, (table, name, title) in zip(axes.flat, names, strict=False):
            levels = table.get("level")
            for level in [None] if levels is None else sorted(set(levels.tolist())):
                here = np.isfinite(table[name]) & (True if level is None or levels is None else levels == level)
                x, y = _thinned(table["step"][here]), _thinned(table[name][here])
                name_of = None if level is None else f"level {level:g}"
                axis.plot(x, y, linewidth=1.2, marker="." if len(x) < 30 else "", label=name_of)
            if levels is not None:
                axis.legend(fontsize=7)
            axis.set_title(f"{title}: {name}", fontsize=9)
            axis.set_xlabel("step of the run", fontsize=8)
            axis.grid(True, linewidth=0.4, alpha=0.5)
        for axis in list(axes.flat)[len(names) :]:
            axis.set_axis_off()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    finally:
        pyplot.close(figure)
    with replacing(folder / "curves.png") as temporary:
        temporary.write_bytes(buffer.getvalue())


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The numeric columns of a CSV file, empty cells as NaN; nothing for a file that is not there."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, np.ndarray] = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = np.array([float(row[name] or "nan") for row in rows])
        except ValueError:
            continue  # names of stages
    return columns


def _some(table: Mapping[str, np.ndarray], name: str) -> bool:
    return name in table and bool(np.isfinite(table[name]).any())


def _thinned(values: np.ndarray) -> np.ndarray:
    group = -(-len(values) // _MOST_POINTS)
    return values if group < 2 else np.array([part.mean() for part in np.array_split(values, len(values) // group)])


def draw(folder: Path) -> None:
    """`curves`, or one line that says why there are none."""
    try:
        curves(folder)
    except DlfcError as error:
        print(f"no curves: {error}", flush=True)


def psnr(mse: float) -> float:
    """In dB, of the mean squared error of pixels in [0, 1]."""
    return -10 * math.log10(max(mse, 1e-12))


def to_pictures(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clipped."""
    return torch.clamp(x.float(), -1, 1) * 0.5 + 0.5
