"""What must hold for each photo: colours, order of the levels, and being better than ordinary files of the size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dlfc.evaluate.evaluation import SLACK, OrdinaryFiles, best, budget_name
from dlfc.evaluate.measures import COLOUR, Measure
from dlfc.evaluate.report import markdown
from dlfc.evaluate.scores import Level, Score

_NAMED = 6  # photos that a line names before it only counts


def report_of_checks(
    levels: Sequence[Level], files: Sequence[OrdinaryFiles], codecs: Sequence[str], measures: Sequence[Measure]
) -> str:
    """All checks of all models, as Markdown; `files` may be empty."""
    lpips = [measure for measure in measures if measure.name.startswith("LPIPS")]
    parts = []
    for model in dict.fromkeys(level.model for level in levels):
        own = [level for level in levels if level.model == model]
        lines = [*colour_lines(own), *order_lines(own, lpips)]
        parts.append(f"### Checks of {model}\n\n" + "".join(f"- {line}\n" for line in lines))
        if files and lpips:
            parts.append(_table_of_wins(own, files, codecs, lpips))
    return "\n".join(parts)


def colour_lines(levels: Sequence[Level]) -> list[str]:
    """The error of the mean colour of each photo at its worst level, in 1/255."""
    worst: dict[str, float] = {}
    for level in levels:
        for score in level.scores:
            worst[score.photo] = max(worst.get(score.photo, 0.0), score.values[COLOUR])
    ordered = sorted(worst.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {error:.1f}" for name, error in ordered)
    return [f"mean colour is off by at most {ordered[0][1]:.1f}/255; by photo: {named}"]


def order_lines(levels: Sequence[Level], measures: Sequence[Measure]) -> list[str]:
    """Whether size rises and each measure gets better from level to level, on every photo."""
    ordered = sorted(levels, key=lambda level: float(level.quality))
    steps = list(pairwise(ordered))
    wrong = []
    for lower, higher in steps:
        for a, b in zip(lower.scores, higher.scores, strict=True):
            if b.size_bytes <= a.size_bytes:
                wrong.append(f"{a.photo} -q {lower.quality} to {higher.quality} ({a.size_bytes}, {b.size_bytes})")
    lines = [_line("size rises with -q", wrong)]
    for measure in measures:
        wrong = []
        for lower, higher in steps:
            for a, b in zip(lower.scores, higher.scores, strict=True):
                x, y = a.values[measure.name], b.values[measure.name]
                if not measure.better(y, x):
                    wrong.append(f"{a.photo} -q {lower.quality} to {higher.quality} ({x:.4f}, {y:.4f})")
        lines.append(_line(f"{measure.name} falls with -q", wrong))
    return lines


def wins(
    level: Level, files: Sequence[OrdinaryFiles], codecs: Sequence[str], measures: Sequence[Measure]
) -> tuple[int, int, list[str]]:
    """On how many photos a level is better than every ordinary file of its size by all of `measures`.

    Also returns on how many of these no ordinary file is that small, and the names of the other photos.
    """
    won, alone, lost = 0, 0, []
    for score, photo in zip(level.scores, files, strict=True):
        rivals = [s for codec in codecs for s in photo.scores[codec, budget_name(level)]]
        if all(_beats(score, rivals, measure) for measure in measures):
            won += 1
            alone += not rivals
        else:
            lost.append(score.photo)
    return won, alone, lost


def _table_of_wins(
    levels: Sequence[Level], files: Sequence[OrdinaryFiles], codecs: Sequence[str], measures: Sequence[Measure]
) -> str:
    choices = [[measure] for measure in measures] + ([list(measures)] if len(measures) > 1 else [])
    names = [measure.name for measure in measures] + (["all of them"] if len(measures) > 1 else [])
    rows = []
    for level in levels:
        results = [wins(level, files, codecs, choice) for choice in choices]
        _, alone, lost = results[-1]
        cells = [f"{number} of {len(level.scores)}" for number, _, _ in results]
        rows.append([level.quality, f"{level.bpp:.4f}", *cells, str(alone), _named(lost) or "-"])
    explained = (
        f"Photos on which a level is better than the best of {', '.join(codecs)} of at most {SLACK:g} times the "
        "size;\nphotos that none of these gets so small count too, and no rival says how many they are.\n"
    )
    return f"{explained}\n{markdown(['-q', 'bpp', *names, 'no rival', 'not on'], rows)}"


def _beats(score: Score, rivals: Sequence[Score], measure: Measure) -> bool:
    rival = best(rivals, measure)
    return rival is None or measure.better(score.values[measure.name], rival.values[measure.name])


def _line(claim: str, wrong: Sequence[str]) -> str:
    return f"{claim} on every photo" if not wrong else f"{claim}, but not on {_named(wrong)}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
