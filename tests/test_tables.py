"""Probability tables: complete, strictly rising, near the Gaussians they stand for, moved by what was observed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlfc.entropy.coder import Decoder, Encoder, Tables
from dlfc.entropy.prior import ONE, SKIP_SCALE
from dlfc.entropy.tables import (
    SCALES,
    TOTAL,
    TableSet,
    detail_tables,
    gaussian_masses,
    level_scales,
    quantise_counts,
    scale_thresholds,
    token_table,
)


@pytest.fixture(scope="module")
def gaussians() -> TableSet:
    return detail_tables()


def counts(tables: TableSet, row: int) -> list[int]:
    return np.diff(tables.cdf[row, : tables.lengths[row]]).tolist()


def bits(tables: TableSet, row: int, symbol: int) -> float:
    """What a symbol costs in a row; the escape slot's cost if the row does not hold it."""
    row_counts = counts(tables, row)
    slot = symbol - int(tables.offsets[row])
    return 16 - math.log2(row_counts[slot if 0 <= slot < len(row_counts) - 1 else -1])


def test_every_row_sums_to_65536_and_has_no_zero(gaussians: TableSet) -> None:
    assert len(gaussians.cdf) == len(gaussians.lengths) == len(gaussians.offsets) == SCALES
    for row in range(SCALES):
        assert gaussians.cdf[row, 0] == 0
        assert sum(counts(gaussians, row)) == TOTAL
        assert min(counts(gaussians, row)) >= 1


def test_the_coder_takes_the_tables_and_gives_every_symbol_back(gaussians: TableSet) -> None:
    tables = Tables(gaussians.cdf, gaussians.lengths, gaussians.offsets)
    rows = np.repeat(np.arange(SCALES, dtype=np.int32), 5)
    symbols = np.tile(np.array([0, -1, 1, 5, -400], np.int32), SCALES)
    encoder = Encoder()
    encoder.put(symbols, rows, tables)
    assert np.array_equal(Decoder(encoder.finish()).get(rows, tables), symbols)


def test_rows_are_symmetric_about_zero(gaussians: TableSet) -> None:
    for row in range(SCALES):
        inside = counts(gaussians, row)[:-1]
        assert len(inside) == 1 - 2 * int(gaussians.offsets[row])
        assert max(abs(a - b) for a, b in zip(inside, inside[::-1], strict=True)) <= 1  # a remainder goes to one side


def test_counts_are_the_gaussian_masses_within_what_one_count_for_every_slot_takes(gaussians: TableSet) -> None:
    root = math.sqrt(2)
    for row, scale in enumerate(level_scales()):
        row_counts = counts(gaussians, row)
        for slot, count in enumerate(row_counts[:-1]):
            symbol = slot + int(gaussians.offsets[row])
            mass = (math.erf((symbol + 0.5) / scale / root) - math.erf((symbol - 0.5) / scale / root)) / 2
            assert abs(count - TOTAL * mass) <= 2 + len(row_counts) * mass, f"symbol {symbol} at scale {scale}"
            assert abs(count / TOTAL - mass) < 2**-13


def test_the_price_of_integer_tables_is_below_a_thousandth_of_a_bit_and_half_a_percent(gaussians: TableSet) -> None:
    for row, scale in enumerate(level_scales()):
        _, masses = gaussian_masses(float(scale))
        ideal = -sum(p * math.log2(p) for p in masses if p > 0)
        real = sum(p * (16 - math.log2(c)) for p, c in zip(masses, counts(gaussians, row), strict=True))
        assert real - ideal < 0.001 + 0.005 * ideal, f"scale {scale}"


@pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 7.3, 64.0])
def test_the_masses_of_a_gaussian_sum_to_one(scale: float) -> None:
    offset, masses = gaussian_masses(scale)
    assert sum(masses) == pytest.approx(1, abs=1e-12)
    assert len(masses) == 2 - 2 * offset  # both sides, zero, and the escape
    assert masses[-1] < 2e-5


def test_thresholds_rise_and_span_the_published_range() -> None:
    thresholds = scale_thresholds(ONE)
    assert len(thresholds) == SCALES
    assert (np.diff(thresholds) > 0).all()
    assert thresholds[0] == math.ceil(0.11 * ONE)
    assert thresholds[-1] == 64 * ONE
    assert thresholds[0] <= SKIP_SCALE < thresholds[10]


def test_a_level_s_scale_lies_between_its_thresholds() -> None:
    thresholds, scales = scale_thresholds(1 << 20), level_scales()
    assert (thresholds[:-1] <= scales[:-1] * (1 << 20)).all()
    assert (scales[:-1] * (1 << 20) < thresholds[1:]).all()


def test_what_was_observed_moves_its_table_and_no_other(gaussians: TableSet) -> None:
    moved = detail_tables({40: {0: 985, 1: 10, 2: 5}})
    assert bits(moved, 40, 0) < bits(gaussians, 40, 0)
    assert bits(moved, 40, 2) < bits(moved, 40, -2)
    for row in (0, 39, 41, 255):
        assert counts(moved, row) == counts(gaussians, row)


def test_more_observations_weigh_more(gaussians: TableSet) -> None:
    few, many = detail_tables({60: {3: 10}}), detail_tables({60: {3: 10000}})
    assert bits(many, 60, 3) < bits(few, 60, 3) < bits(gaussians, 60, 3)
    assert bits(many, 60, 3) < 0.1


def test_symbols_outside_a_table_make_its_escape_more_likely(gaussians: TableSet) -> None:
    moved = detail_tables({20: {400: 30, -400: 30}})
    assert counts(moved, 20)[-1] > counts(gaussians, 20)[-1]
    assert sum(counts(moved, 20)) == TOTAL


def test_tokens_cost_what_their_frequency_says() -> None:
    seen = np.array([800, 100, 100, 0], np.int64)
    table = token_table(seen)
    assert table.offsets.tolist() == [0]
    assert bits(table, 0, 0) == pytest.approx(-math.log2(0.8), abs=0.01)
    assert bits(table, 0, 1) == pytest.approx(-math.log2(0.1), abs=0.02)
    assert bits(table, 0, 3) < 16
    assert counts(table, 0)[-1] == 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=400).filter(lambda masses: sum(masses) > 1e-3))
def test_counts_sum_to_65536_whatever_the_masses(masses: list[float]) -> None:
    result = quantise_counts(np.array(masses))
    assert result.sum() == TOTAL
    assert result.min() >= 1
    ideal = np.array(masses) / sum(masses) * (TOTAL - len(masses)) + 1
    assert np.abs(result - ideal).max() <= 1 + 1e-6
