"""The tables of an evaluation: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

from dlfc.evaluate.evaluation import SLACK, OrdinaryFiles, OrdinaryMean, budget_name, ordinary_mean
from dlfc.evaluate.measures import COLOUR, Measure
from dlfc.evaluate.scores import Level, Score


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text; the first column to the left, the others right."""
    widths = [max(3, *(len(row[k]) for row in (head, *rows))) for k in range(len(head))]  # --- is the shortest rule

    def line(cells: Sequence[str]) -> str:
        first, *others = [(cell, width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def table_of_levels(levels: Sequence[Level], measures: Sequence[Measure]) -> str:
    """Rate and quality of each level of each model, means over the photos."""
    parts = []
    for model in dict.fromkeys(level.model for level in levels):
        rows = []
        for level in levels:
            if level.model == model:
                values = [measure.show(level.mean_of(measure)) for measure in measures]
                rows.append([level.quality, f"{level.bpp:.4f}", *values])
        table = markdown(["-q", "bpp", *(measure.title for measure in measures)], rows)
        parts.append(f"### {model}, means of {_count(len(levels[0].scores), 'photo')}\n\n{table}")
    return "\n".join(parts)


def table_of_ordinary(
    levels: Sequence[Level], files: Sequence[OrdinaryFiles], codecs: Sequence[str], measures: Sequence[Measure]
) -> str:
    """Each level beside the best ordinary files of its size."""
    shown = [measure for measure in measures if not measure.of_sets]
    rows = []
    for level in levels:
        values = [measure.show(level.mean_of(measure)) for measure in shown]
        rows.append([budget_name(level), f"{len(level.scores)}", f"{level.bpp:.4f}", *values])
        choices = [(codec, [codec]) for codec in codecs]
        if len(codecs) > 1:
            choices.append(("best of these", list(codecs)))
        for name, chosen in choices:
            means = [ordinary_mean(files, chosen, budget_name(level), measure) for measure in shown]
            rows.append([f"  {name}", *_ordinary_cells(means, shown)])
    head = ["file", "photos", "bpp", *(measure.title for measure in shown)]
    explained = (
        f"For each photo and measure, the best file of at most {SLACK:g} times the size, at full, half or quarter size "
        f"and scaled back up with Lanczos.\nMeans are over the photos that have such a file; bpp is that of the best "
        "by the first measure shown for it.\n"
    )
    return f"### Ordinary files of the same size\n\n{explained}\n{markdown(head, rows)}"


def csv_of_scores(scores: Sequence[Score], measures: Sequence[Measure]) -> str:
    """One line for each file that was measured."""
    names = [*(measure.name for measure in measures if not measure.of_sets), COLOUR]
    head = ["codec", "setting", "photo", "bytes", "bpp", *names, "encode_s", "decode_s"]
    rows = []
    for score in scores:
        values = [score.values.get(name) for name in names]
        row = [score.codec, score.setting, score.photo, score.size_bytes, f"{score.bpp:.6f}"]
        rows.append([*row, *map(_number, values), _number(score.encode_s), _number(score.decode_s)])
    return _csv(head, rows)


def csv_of_means(
    levels: Sequence[Level],
    files: Sequence[OrdinaryFiles],
    codecs: Sequence[str],
    budgets: Sequence[str],
    measures: Sequence[Measure],
) -> str:
    """One line for each mean: of a level by a measure, and of an ordinary codec's best files within a budget."""
    rows: list[list[object]] = []
    for level in levels:
        for measure in measures:
            value = level.mean_of(measure)
            if value is not None:
                name, count = f"q{level.quality}", len(level.scores)
                rows.append([level.model, name, count, f"{level.bpp:.6f}", measure.name, _number(value)])
    for codec in codecs:
        for budget in budgets:
            for measure in measures:
                found = None if measure.of_sets else ordinary_mean(files, [codec], budget, measure)
                if found is not None:
                    numbers = [f"{found.point.bpp:.6f}", measure.name, _number(found.point.value)]
                    rows.append([codec, f"within {budget}", found.photos, *numbers])
    return _csv(["codec", "setting", "photos", "bpp", "measure", "mean"], rows)


def _ordinary_cells(means: Sequence[OrdinaryMean | None], measures: Sequence[Measure]) -> list[str]:
    reached = [found for found in means if found is not None]
    if not reached:
        return ["0", "not reached", *("-" for _ in measures)]
    values = [m.show(None if found is None else found.point.value) for m, found in zip(measures, means, strict=True)]
    return [f"{max(found.photos for found in reached)}", f"{reached[0].point.bpp:.4f}", *values]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue()
