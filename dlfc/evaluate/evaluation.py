"""An evaluation step by step: code the photos, measure the pictures, find ordinary files of the same sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from dlfc.errors import DlfcError
from dlfc.evaluate.inception import Array
from dlfc.evaluate.measures import Judge, Measure
from dlfc.evaluate.ordinary import ORDINARY, PhotoInOrdinaryFiles, digest_of_weights
from dlfc.evaluate.photos import Photo
from dlfc.evaluate.programs import Coded, Program
from dlfc.evaluate.scores import Level, Point, Score, mean

SLACK = 1.1  # an ordinary file may be this much larger than the .dlf file that it is compared with

Item = TypeVar("Item")
Found = TypeVar("Found")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """How many bytes ordinary codecs get for each photo, by the photo's name."""

    name: str
    limits_bytes: Mapping[str, int]


@dataclass(frozen=True)
class OrdinaryFiles:
    """What ordinary codecs make of a photo within each budget: scores by codec and budget, one for each factor."""

    photo: str
    scores: Mapping[tuple[str, str], tuple[Score, ...]]


@dataclass(frozen=True)
class _Measured:
    photo_patches: Array
    scores: tuple[Score, ...]
    patches: tuple[Array, ...]


def measure_models(
    photos: Sequence[Photo],
    models: Sequence[str | None],
    qualities: Sequence[str],
    judge: Judge,
    program: Program,
    folder: Path,
    tell: Tell,
) -> list[Level]:
    """Code all photos with each model at each quality, below `folder`, and measure what comes back."""
    runs: list[tuple[str, str, list[Coded]]] = []
    names: dict[str, str | None] = {}
    for number, model in enumerate(models):
        for quality in qualities:
            name, coded = program.code(photos, quality, model, folder / f"model-{number + 1}" / f"q{quality}")
            if names.setdefault(name, model) != model:
                name = f"{name} ({model})"  # two files may hold models of one name
            runs.append((name, quality, coded))
            sizes = mean([file.file.stat().st_size for file in coded])
            seconds = f"{mean([c.encode_s for c in coded]):.2f} s to encode, {mean([c.decode_s for c in coded]):.2f} s"
            tell(f"{name} -q {quality}: {sizes:.0f} bytes a photo, {seconds} to decode")

    def measure(number: int) -> _Measured:
        image = photos[number].load()
        photo = judge.look(image)
        scores, patches = [], []
        for name, quality, coded in runs:
            picture = judge.look(_decoded(coded[number], image))
            values = judge.compare(picture, photo)
            scores.append(_score(name, quality, coded[number], image, values))
            patches.append(judge.patch_features(picture) if judge.of_sets else np.zeros((0, 768)))
        own = judge.patch_features(photo) if judge.of_sets else np.zeros((0, 768))
        tell(f"{photos[number].name}: measured {len(runs)} picture{'' if len(runs) == 1 else 's'}")
        return _Measured(own, tuple(scores), tuple(patches))

    measured = list(in_threads(measure, range(len(photos)), program.jobs))
    levels = []
    for k, (name, quality, _) in enumerate(runs):
        of_sets: dict[str, float] = {}
        if judge.of_sets:
            pictures = np.concatenate([photo.patches[k] for photo in measured])
            of_sets = judge.compare_sets(pictures, np.concatenate([photo.photo_patches for photo in measured]))
        levels.append(Level(name, quality, tuple(photo.scores[k] for photo in measured), of_sets))
    return levels


def budgets_of(levels: Sequence[Level], rates: Sequence[float]) -> list[Budget]:
    """The sizes of the files of each level and a bit more, then for each rate in bpp what it allows."""
    budgets = []
    for level in levels:
        limits = {score.photo: int(SLACK * score.size_bytes) for score in level.scores}
        budgets.append(Budget(budget_name(level), limits))
    for rate in rates:
        limits = {score.photo: int(rate * score.pixels / 8) for score in levels[0].scores}
        budgets.append(Budget(f"{rate:g} bpp", limits))
    return budgets


def budget_name(level: Level) -> str:
    """The name of the budget that follows the files of a level."""
    return f"{level.model} -q {level.quality}"


def measure_ordinary(
    photos: Sequence[Photo],
    budgets: Sequence[Budget],
    codecs: Sequence[str],
    judge: Judge,
    weights: Path | None,
    folder: Path | None,
    jobs: int,
    tell: Tell,
) -> list[OrdinaryFiles]:
    """What each of `codecs` makes of each photo within each budget; `folder` keeps what takes long for another run."""
    digest = digest_of_weights(weights)

    def measure(photo: Photo) -> OrdinaryFiles:
        files = PhotoInOrdinaryFiles(photo.name, photo.load(), judge, folder, digest)
        scores = {}
        for codec in codecs:
            for budget in budgets:
                found = files.best_within(ORDINARY[codec], budget.limits_bytes[photo.name])
                scores[codec, budget.name] = tuple(found)
        files.save()
        tell(f"{photo.name}: measured {len({s.setting for found in scores.values() for s in found})} ordinary files")
        return OrdinaryFiles(photo.name, scores)

    return list(in_threads(measure, photos, jobs))


def best(scores: Sequence[Score], measure: Measure) -> Score | None:
    """The score that is best by one measure; None if there is none."""
    chosen = None
    for score in scores:
        if measure.name in score.values and (
            chosen is None or measure.better(score.values[measure.name], chosen.values[measure.name])
        ):
            chosen = score
    return chosen


@dataclass(frozen=True)
class OrdinaryMean:
    """Mean over the photos for which codecs have a file within a budget, each with its best by one measure."""

    photos: int
    point: Point


def ordinary_mean(
    files: Sequence[OrdinaryFiles], codecs: Sequence[str], budget: str, measure: Measure
) -> OrdinaryMean | None:
    """The mean of the best file that any of `codecs` has for each photo; None if no photo has one."""
    chosen = []
    for photo in files:
        score = best([s for codec in codecs for s in photo.scores[codec, budget]], measure)
        if score is not None:
            chosen.append(score)
    if not chosen:
        return None
    point = Point(mean([score.bpp for score in chosen]), mean([score.values[measure.name] for score in chosen]))
    return OrdinaryMean(len(chosen), point)


def in_threads(work: Callable[[Item], Found], items: Sequence[Item], threads: int) -> Iterator[Found]:
    """Yield what becomes of each item, in order, while up to `threads` are worked on with a share of the cores each."""
    import torch

    threads = min(threads, len(items))
    if threads <= 1:
        yield from map(work, items)
        return
    share = max(1, torch.get_num_threads() // threads)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(share,))
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _decoded(coded: Coded, photo: Image.Image) -> Image.Image:
    with Image.open(coded.picture) as file:
        picture = file.convert("RGB")
    if picture.size != photo.size:
        raise DlfcError(f"{coded.picture}: the decoded picture does not have the size of its photo")
    return picture


def _score(model: str, quality: str, coded: Coded, photo: Image.Image, values: Mapping[str, float]) -> Score:
    return Score(
        model,
        coded.photo.name,
        f"q{quality}",
        coded.file.stat().st_size,
        photo.width * photo.height,
        values,
        coded.encode_s,
        coded.decode_s,
    )
