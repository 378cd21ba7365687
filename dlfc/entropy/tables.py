"""Probability tables as integers: zero-mean Gaussians of 256 scales, and frequencies of tokens.

Tables are made once, when a model is exported, and travel in its weights file; nothing is recomputed on decoding.
Plain Gaussians and the thresholds of the scale levels come from the file gaussian.npz, so that a checkpoint becomes
the same model on every machine, whatever its mathematical library rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

TOTAL = 1 << 16
SCALES = 256
MIN_SCALE, MAX_SCALE = 0.11, 64.0  # log-spaced, as published
TAIL_SIGMAS = 4.3  # a table reaches this far; the escape slot holds the rest, about 1.7e-5

_GAUSSIAN_FILE = Path(__file__).with_name("gaussian.npz")

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TableSet:
    """Rows of cumulative counts, as `dlfc.entropy.coder.Tables` takes them."""

    cdf: npt.NDArray[np.int32]  # (rows, longest)
    lengths: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]


def scale_thresholds(one: int) -> Int64Array:
    """The smallest fixed-point scale of each level, for `one` units per 1.0; (256,), rising."""
    step = (math.log(MAX_SCALE) - math.log(MIN_SCALE)) / (SCALES - 1)
    return np.array([math.ceil(math.exp(math.log(MIN_SCALE) + step * i) * one) for i in range(SCALES)], np.int64)


def level_scales() -> npt.NDArray[np.float64]:
    """A scale in the middle of each level's interval, (256,)."""
    step = (math.log(MAX_SCALE) - math.log(MIN_SCALE)) / (SCALES - 1)
    return np.exp(math.log(MIN_SCALE) + step * (np.arange(SCALES) + 0.5))


def gaussian_masses(scale: float) -> tuple[int, list[float]]:
    """Offset and probabilities of the integers that a table for `scale` holds, then of all others."""
    reach = max(1, math.ceil(TAIL_SIGMAS * scale))

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / (scale * math.sqrt(2.0)))

    masses = [below(i + 0.5) - below(i - 0.5) for i in range(-reach, reach + 1)]
    return -reach, [*masses, 2.0 * below(-reach - 0.5)]


def quantise_counts(masses: npt.NDArray[np.float64]) -> Int64Array:
    """Counts of at least 1 that sum to 2^16, nearest to `masses` (any positive scale) by largest remainder."""
    spare = TOTAL - len(masses)
    ideal = masses / masses.sum() * spare
    counts = np.floor(ideal).astype(np.int64)
    order = np.argsort(-(ideal - counts), kind="stable")
    counts[order[: spare - int(counts.sum())]] += 1
    return counts + 1


def _pack(rows: list[Int64Array], offsets: list[int]) -> TableSet:
    longest = max(len(row) for row in rows) + 1
    cdf = np.zeros((len(rows), longest), np.int32)
    for target, row in zip(cdf, rows, strict=True):
        target[1 : len(row) + 1] = np.cumsum(row)
    lengths = np.array([len(row) + 1 for row in rows], np.int32)
    return TableSet(cdf, lengths, np.array(offsets, np.int32))


def detail_tables(observed: dict[int, dict[int, int]] | None = None, trust: float = 300.0) -> TableSet:
    """Tables of all 256 scale levels: Gaussians, blended with symbol counts `observed[level][symbol]` if given.

    The Gaussian weighs as much as `trust` observed symbols.
    """
    rows, offsets = [], []
    for level, scale in enumerate(level_scales()):
        offset, masses = gaussian_masses(float(scale))
        mixed = np.array(masses) * trust
        for symbol, count in (observed or {}).get(level, {}).items():
            slot = symbol - offset
            mixed[slot if 0 <= slot < len(mixed) - 1 else -1] += count
        rows.append(quantise_counts(mixed))
        offsets.append(offset)
    return _pack(rows, offsets)


def token_table(counts: npt.NDArray[np.int64]) -> TableSet:
    """One table for all tokens from how often each was seen; rare ones are smoothed, the escape stays rare."""
    mixed = np.append(counts + 0.5, 1e-6).astype(np.float64)
    return _pack([quantise_counts(mixed)], [0])


def gaussian_tables() -> tuple[TableSet, Int64Array]:
    """The tables of `detail_tables()` and the thresholds of `scale_thresholds(2^12)`, as they ship with dlfc."""
    with np.load(_GAUSSIAN_FILE) as parts:
        return TableSet(parts["cdf"], parts["lengths"], parts["offsets"]), parts["thresholds"]


def write_gaussian_tables(path: Path = _GAUSSIAN_FILE) -> None:
    """Compute what `gaussian_tables` reads; a new file changes the fingerprint of every model imported after it."""
    tables = detail_tables()
    thresholds = scale_thresholds(1 << 12)
    np.savez_compressed(path, cdf=tables.cdf, lengths=tables.lengths, offsets=tables.offsets, thresholds=thresholds)
