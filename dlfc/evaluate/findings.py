"""All that an evaluation found out, and the files that keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlfc.evaluate.curves import model_curves, other_curves
from dlfc.evaluate.evaluation import OrdinaryFiles
from dlfc.evaluate.measures import Measure
from dlfc.evaluate.plots import plot
from dlfc.evaluate.published import PublishedPoint
from dlfc.evaluate.report import csv_of_means, csv_of_scores
from dlfc.evaluate.scores import Curve, Level, Score
from dlfc.files import save


@dataclass(frozen=True)
class Findings:
    """Levels of the models, files of other codecs within each budget, and published points."""

    measures: tuple[Measure, ...]
    levels: Sequence[Level]
    ordinary: Sequence[OrdinaryFiles]
    codecs: Sequence[str]
    budgets: Sequence[str]
    published: Sequence[PublishedPoint]

    def curves(self) -> tuple[list[list[Curve]], list[list[Curve]]]:
        """For each measure the curves of the models, and those of all else."""
        own = [model_curves(self.levels, measure) for measure in self.measures]
        others = [
            other_curves(self.ordinary, self.codecs, self.budgets, self.published, measure) for measure in self.measures
        ]
        return own, others

    def scores(self) -> list[Score]:
        """Every file that was measured, once."""
        found = [score for level in self.levels for score in level.scores]
        found += [score for photo in self.ordinary for scores in photo.scores.values() for score in scores]
        return list({(score.codec, score.setting, score.photo): score for score in found}.values())

    def write(self, folder: Path, report: str, title: str) -> None:
        """Write report.md, files.csv, means.csv, rates.png and rates.svg; the plots, which may fail, come last."""
        means = csv_of_means(self.levels, self.ordinary, self.codecs, self.budgets, self.measures)
        texts = {
            "report.md": report,
            "files.csv": csv_of_scores(self.scores(), self.measures),
            "means.csv": means,
        }
        for name, text in texts.items():
            save(str(folder / name), text.encode(), overwrite=True)
        own, others = self.curves()
        panels = [[*a, *b] for a, b in zip(own, others, strict=True)]
        pictures = plot(panels, [level.model for level in self.levels], title)
        for name, data in zip(("rates.png", "rates.svg"), pictures, strict=True):
            save(str(folder / name), data, overwrite=True)
