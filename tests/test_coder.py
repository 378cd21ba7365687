"""The entropy coder: symbols come back, bytes never change, lengths are near the ideal, bad streams are harmless."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlfc.entropy.coder import Decoder, Encoder, Tables
from dlfc.errors import FormatError

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
patient = settings(deadline=None)  # a busy machine is not a failure


class Rows:
    """Tables together with the numbers that they were made from."""

    def __init__(self, rows: list[list[int]], offsets: list[int]) -> None:
        self.lengths = np.array([len(row) for row in rows], np.int32)
        self.cdf = np.zeros((len(rows), self.lengths.max()), np.uint32)
        for i, row in enumerate(rows):
            self.cdf[i, : len(row)] = row
        self.offsets = np.array(offsets, np.int32)
        self.tables = Tables(self.cdf, self.lengths, self.offsets)

    def ideal_bits(self, symbols: np.ndarray, indices: np.ndarray) -> float:
        """Bits of the slots; the symbols must all be inside their tables."""
        slots = symbols - self.offsets[indices]
        counts = self.cdf[indices, slots + 1].astype(float) - self.cdf[indices, slots]
        return float((16 - np.log2(counts)).sum())


def gaussian_rows(scales: np.ndarray) -> Rows:
    """Discrete Gaussians out to six standard deviations, at least one count everywhere, the rest to the mode."""
    rows, offsets = [], []
    for scale in scales:
        reach = max(1, math.ceil(6 * scale))
        edges = [math.erf((i - 0.5) / (scale * math.sqrt(2))) / 2 for i in range(-reach, reach + 2)]
        counts = 1 + np.floor(np.append(np.diff(edges), 0) * (65536 - 2 * reach - 2)).astype(int)
        counts[reach] += 65536 - counts.sum()
        rows.append([0, *np.cumsum(counts).tolist()])
        offsets.append(-reach)
    return Rows(rows, offsets)


SCALES = np.exp(np.linspace(np.log(0.11), np.log(64), 256))
GAUSS = gaussian_rows(SCALES)
FOUR = Rows([[0, 1000, 30000, 50000, 65535, 65536]], [-2])
ODD = Rows(
    [[0, 65536], [0, 1, 65536], [0, 65535, 65536], list(range(65537)), [0, 30000, 65536], [0, 30000, 60000, 65536]],
    [0, 0, INT32_MAX, -32768, INT32_MIN, -1],
)


def encoded(rows: Rows, symbols: np.ndarray, indices: np.ndarray) -> bytes:
    encoder = Encoder()
    encoder.put(symbols, indices, rows.tables)
    return encoder.finish()


def decoded(rows: Rows, data: bytes, indices: np.ndarray) -> np.ndarray:
    decoder = Decoder(data)
    symbols = decoder.get(indices, rows.tables)
    decoder.finish()
    return symbols


def gaussian_symbols(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols inside their tables, and indices."""
    indices = rng.integers(0, 256, count).astype(np.int32)
    reach = -GAUSS.offsets[indices]
    return np.clip(np.rint(rng.normal(size=count) * SCALES[indices]), -reach, reach).astype(np.int32), indices


def reference_stream(steps: list[tuple[int, int, int]]) -> bytes:
    """The coder in exact integers, without words, carries or buffers: (start, width, bits) for each step.

    The range is rounded as the coder rounds it; everything else is arithmetic on numbers of any length.
    """
    low, width, scale = 0, 2**64 - 1, 64  # the interval [low, low + width) in units of 2^-scale
    for start, size, bits in steps:
        low += (width >> bits) * start
        width = (width >> bits) * size
        if width < 2**32:
            low, width, scale = low << 32, width << 32, scale + 32
    for length in range(scale // 8 + 1):
        unit = 1 << (scale - 8 * length)
        number = -(-low // unit)
        if number * unit < low + width:
            return number.to_bytes(length, "big")
    raise AssertionError("an interval always holds a number")


def reference_steps(rows: Rows, symbol: int, index: int) -> list[tuple[int, int, int]]:
    """What one symbol does to the interval."""
    row = rows.cdf[index, : rows.lengths[index]].tolist()
    slot, escape = symbol - int(rows.offsets[index]), len(row) - 2
    if 0 <= slot < escape:
        return [(row[slot], row[slot + 1] - row[slot], 16)]
    magnitude = slot - escape + 1 if slot >= 0 else -slot
    tail = bin(magnitude)[3:]
    low_bits = tail[-16:]
    steps = [(row[-2], row[-1] - row[-2], 16), (int(slot < 0), 1, 1), *[(0, 1, 1)] * len(tail), (1, 1, 1)]
    return steps + [(int(part, 2), 1, len(part)) for part in (tail[: -len(low_bits) or None], low_bits) if part]


# ---- symbols come back ----


def test_a_million_gaussian_symbols_come_back() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(1), 1_000_000)
    data = encoded(GAUSS, symbols, indices)
    assert np.array_equal(decoded(GAUSS, data, indices), symbols)
    assert len(data) - GAUSS.ideal_bits(symbols, indices) / 8 < 2


int32s = st.integers(INT32_MIN, INT32_MAX)
near_values = st.one_of(st.integers(-4, 4), int32s, st.sampled_from([INT32_MIN, INT32_MAX, -32769, 32767, 32768]))
pairs = st.lists(st.tuples(near_values, st.integers(0, len(ODD.lengths) - 1)), max_size=200)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(pairs, np.int64).reshape(-1, 2).astype(np.int32)
    return both[:, 0].copy(), both[:, 1].copy()


@given(pairs)
@patient
def test_any_int32_symbol_of_any_row_comes_back(pairs: list[tuple[int, int]]) -> None:
    symbols, indices = columns(pairs)
    assert np.array_equal(decoded(ODD, encoded(ODD, symbols, indices), indices), symbols)


@pytest.mark.parametrize("row", range(len(ODD.lengths)))
def test_the_ends_of_int32_and_of_the_row_come_back(row: int) -> None:
    first, end = int(ODD.offsets[row]), int(ODD.offsets[row]) + int(ODD.lengths[row]) - 2
    near = {first - 2, first - 1, first, end - 1, end, end + 1, INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX}
    symbols = np.array([s for s in sorted(near) if INT32_MIN <= s <= INT32_MAX], np.int32)
    indices = np.full(len(symbols), row, np.int32)
    assert np.array_equal(decoded(ODD, encoded(ODD, symbols, indices), indices), symbols)


@given(st.integers(1, 16), st.data())
@patient
def test_uniform_values_come_back_at_their_bits(bits: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=100)), np.int32)
    encoder = Encoder()
    encoder.put_uniform(values, bits)
    stream = encoder.finish()
    assert len(stream) <= (bits * len(values) + 7) // 8
    decoder = Decoder(stream)
    assert np.array_equal(decoder.get_uniform(len(values), bits), values)
    decoder.finish()


@given(pairs, st.lists(st.integers(0, 200), max_size=5), st.lists(st.integers(0, 200), max_size=5))
@patient
def test_how_a_stream_is_cut_into_batches_does_not_show(
    pairs: list[tuple[int, int]], put_cuts: list[int], get_cuts: list[int]
) -> None:
    symbols, indices = columns(pairs)
    encoder = Encoder()
    for part, names in zip(np.split(symbols, sorted(put_cuts)), np.split(indices, sorted(put_cuts)), strict=True):
        encoder.put(part, names, ODD.tables)
    stream = encoder.finish()
    assert stream == encoded(ODD, symbols, indices)
    decoder = Decoder(stream)
    parts = [decoder.get(names, ODD.tables) for names in np.split(indices, sorted(get_cuts))]
    decoder.finish()
    assert np.array_equal(np.concatenate(parts), symbols)


def test_tables_and_uniform_values_mix_in_one_stream() -> None:
    encoder = Encoder()
    encoder.put_uniform(np.array([3, 0]), 2)
    encoder.put(np.array([[0, 9], [-1, 1]]), np.zeros((2, 2), np.int64), FOUR.tables)
    encoder.put(np.array([7]), np.array([200]), GAUSS.tables)
    encoder.put_uniform(np.array([65535]), 16)
    decoder = Decoder(encoder.finish())
    assert decoder.get_uniform(2, 2).tolist() == [3, 0]
    assert decoder.get(np.zeros((2, 2), np.int32), FOUR.tables).tolist() == [[0, 9], [-1, 1]]
    assert decoder.get(np.array([200]), GAUSS.tables).tolist() == [7]
    assert decoder.get_uniform(1, 16).tolist() == [65535]
    decoder.finish()


def test_strided_arrays_give_the_bytes_of_their_copies() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(2), 300)
    assert encoded(GAUSS, symbols[::3], indices[::3]) == encoded(GAUSS, symbols[::3].copy(), indices[::3].copy())
    square = symbols.reshape(20, 15).T
    assert encoded(GAUSS, square, indices.reshape(20, 15).T) == encoded(
        GAUSS, square.ravel(), indices.reshape(20, 15).T.ravel()
    )


# ---- the bytes are fixed ----


@given(pairs)
@patient
def test_the_bytes_are_those_of_exact_arithmetic(pairs: list[tuple[int, int]]) -> None:
    steps = [step for symbol, index in pairs for step in reference_steps(ODD, symbol, index)]
    assert encoded(ODD, *columns(pairs)) == reference_stream(steps)


def test_the_bytes_of_a_long_stream_are_those_of_exact_arithmetic() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(8), 3000)
    steps = [
        step for s, i in zip(symbols.tolist(), indices.tolist(), strict=True) for step in reference_steps(GAUSS, s, i)
    ]
    assert encoded(GAUSS, symbols, indices) == reference_stream(steps)


FIXED = [
    ([], ""),
    ([0], "76"),
    ([0, 0, 0, 0, 0, 0, 0, 0], "a8a6"),
    ([-2, -1, 0, 1, -2, -1, 0, 1], "014102"),
    ([1] * 20, "fffeb0765f"),
    ([2], "ffff40"),
    ([-3], "ffffc0"),
    ([-2, -2, 3, 2], "000f42339a2a49"),  # the example of native/README.md
    ([INT32_MAX], "ffff000000010000fff6"),
    ([INT32_MIN], "ffff80000000fffffff6"),
]


@pytest.mark.parametrize(("symbols", "stream"), FIXED)
def test_the_bytes_of_a_stream_never_change(symbols: list[int], stream: str) -> None:
    assert encoded(FOUR, np.array(symbols, np.int32), np.zeros(len(symbols), np.int32)).hex() == stream


def test_the_bytes_of_a_mixed_stream_never_change() -> None:
    encoder = Encoder()
    encoder.put_uniform(np.arange(8), 3)
    encoder.put(np.arange(-3, 4), np.arange(0, 252, 36) + 20, GAUSS.tables)
    encoder.put_uniform(np.array([1, 0, 1]), 1)
    assert encoder.finish().hex() == "053977ffffbf016eef4e"


def test_a_carry_runs_back_through_written_bytes() -> None:
    encoder = Encoder()
    encoder.put_uniform(np.array([0] + [65535] * 40), 16)
    encoder.put_uniform(np.array([1]), 1)
    encoder.put(np.array([INT32_MAX]), np.zeros(1, np.int32), FOUR.tables)
    stream = encoder.finish()
    decoder = Decoder(stream)
    assert decoder.get_uniform(41, 16).tolist() == [0] + [65535] * 40
    assert decoder.get_uniform(1, 1).tolist() == [1]
    assert decoder.get(np.zeros(1, np.int32), FOUR.tables).tolist() == [INT32_MAX]
    decoder.finish()


# ---- near the ideal length ----


def test_streams_of_400_symbols_end_near_the_ideal_length() -> None:
    rng = np.random.default_rng(3)
    overheads = []
    for _ in range(1000):
        symbols, indices = gaussian_symbols(rng, 400)
        overheads.append(len(encoded(GAUSS, symbols, indices)) - GAUSS.ideal_bits(symbols, indices) / 8)
    assert max(overheads) < 1.01
    assert np.mean(overheads) < 0.6


@given(pairs=st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 255)), max_size=60))
@patient
def test_no_stream_is_more_than_two_bytes_over_the_ideal_length(pairs: list[tuple[int, int]]) -> None:
    symbols, indices = columns(pairs)
    assert len(encoded(GAUSS, symbols, indices)) - GAUSS.ideal_bits(symbols, indices) / 8 < 2


def test_no_symbols_take_no_bytes() -> None:
    assert Encoder().finish() == b""
    Decoder(b"").finish()
    assert Decoder(b"").get(np.zeros((0, 3), np.int32), GAUSS.tables).shape == (0, 3)


def test_certain_symbols_take_no_bytes() -> None:
    sure = Rows([[0, 65535, 65536]], [5])
    symbols = np.full(1000, 5)
    assert encoded(sure, symbols, np.zeros(1000, np.int32)) == b""
    assert np.array_equal(decoded(sure, b"", np.zeros(1000, np.int32)), symbols)


# ---- bad streams ----


@given(st.binary(max_size=40), st.lists(st.integers(0, len(ODD.lengths) - 1), max_size=30), st.integers(1, 16))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_refused_or_are_what_the_encoder_writes(data: bytes, names: list[int], bits: int) -> None:
    indices = np.array(names, np.int32)
    decoder = Decoder(data)
    try:
        values = decoder.get_uniform(1, bits)
        symbols = decoder.get(indices, ODD.tables)
        decoder.finish()
    except FormatError:
        return
    encoder = Encoder()
    encoder.put_uniform(values, bits)
    encoder.put(symbols, indices, ODD.tables)
    assert encoder.finish() == data


def test_a_truncated_stream_is_a_stream_of_other_symbols() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(4), 400)
    data = encoded(GAUSS, symbols, indices)
    for size in range(len(data)):
        shown = data[:size].rstrip(b"\0")
        others = Decoder(shown).get(indices, GAUSS.tables)
        assert not np.array_equal(others, symbols)
        assert encoded(GAUSS, others, indices) == shown


def test_a_truncated_stream_still_gives_its_first_symbols() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(5), 400)
    data = encoded(GAUSS, symbols, indices)
    half = Decoder(data[: len(data) // 2]).get(indices[:100], GAUSS.tables)
    assert np.array_equal(half, symbols[:100])


@given(st.binary(max_size=8), st.integers(0, 2**32 - 1))
@patient
def test_symbols_before_an_overrun_do_not_depend_on_what_was_cut_off(lost: bytes, seed: int) -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(seed), 60)
    data = encoded(GAUSS, symbols, indices)
    kept = data[: len(data) // 2]
    cut, whole, other = Decoder(kept), Decoder(data), Decoder(kept + lost)
    for index in indices[:, None]:
        symbol = cut.get(index, GAUSS.tables)
        if cut.overrun:
            break
        assert symbol == whole.get(index, GAUSS.tables) == other.get(index, GAUSS.tables)


def test_an_overrun_is_seen_with_the_first_symbol_that_needs_a_missing_byte() -> None:
    decoder = Decoder(b"\x12\x34")
    decoder.get_uniform(1, 15)
    assert not decoder.overrun
    decoder.get_uniform(1, 2)
    assert decoder.overrun


def test_a_cut_stream_gives_nearly_as_many_certain_bits_as_it_has() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(9), 400)
    data = encoded(GAUSS, symbols, indices)
    decoder = Decoder(data[: len(data) // 2])
    certain = 0
    while decoder.get(indices[certain : certain + 1], GAUSS.tables) == symbols[certain] and not decoder.overrun:
        certain += 1
    assert GAUSS.ideal_bits(symbols[:certain], indices[:certain]) > 8 * (len(data) // 2) - 24


@pytest.mark.parametrize("extra", [b"\0", b"\0\0\0\0\0\0\0\0\0", b"\1", b"\x80" * 20, b"\0" * 12 + b"\1"])
def test_bytes_after_the_end_of_a_stream_are_refused(extra: bytes) -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(6), 400)
    data = encoded(GAUSS, symbols, indices)
    for stream, names in ((data, indices), (b"", indices[:0])):
        with pytest.raises(FormatError):
            decoded(GAUSS, stream + extra, names)


def test_an_ending_that_the_encoder_would_not_choose_is_refused() -> None:
    indices = np.zeros(1, np.int32)
    stream = encoded(FOUR, np.array([0]), indices)
    other = bytes([stream[0] + 1])
    assert Decoder(other).get(indices, FOUR.tables).tolist() == [0]
    with pytest.raises(FormatError):
        decoded(FOUR, other, indices)


def test_symbols_left_in_the_stream_are_refused() -> None:
    symbols, indices = gaussian_symbols(np.random.default_rng(7), 400)
    decoder = Decoder(encoded(GAUSS, symbols, indices))
    decoder.get(indices[:300], GAUSS.tables)
    with pytest.raises(FormatError):
        decoder.finish()


def test_a_number_outside_the_interval_is_malformed_and_stays_so() -> None:
    decoder = Decoder(b"\xff" * 8)
    with pytest.raises(FormatError):
        decoder.get(np.zeros(1, np.int32), FOUR.tables)
    with pytest.raises(FormatError):
        decoder.get_uniform(1, 1)
    with pytest.raises(FormatError):
        decoder.finish()


def test_an_escape_beyond_int32_is_malformed() -> None:
    for prefix, rest in (([1] + [0] * 33 + [1], []), ([0] + [0] * 32 + [1], [1] * 32)):
        encoder = Encoder()
        encoder.put_uniform(np.array([65535]), 16)  # the escape slot of FOUR is the last of 65536 equal parts
        encoder.put_uniform(np.array(prefix + rest), 1)
        with pytest.raises(FormatError):
            Decoder(encoder.finish()).get(np.zeros(1, np.int32), FOUR.tables)


# ---- bad calls ----


@pytest.mark.parametrize(
    ("cdf", "lengths", "offsets"),
    [
        ([[0, 5, 65535]], [3], [0]),
        ([[1, 5, 65536]], [3], [0]),
        ([[0, 5, 5, 65536]], [4], [0]),
        ([[0, 9, 5, 65536]], [4], [0]),
        ([[0, 65536, 65536]], [3], [0]),
        ([[0, 65536]], [1], [0]),
        ([[0, 65536]], [3], [0]),
        ([[0, 65536]], [2, 2], [0]),
        ([[0, 65536]], [2], [0, 0]),
        ([0, 65536], [2], [0]),
        ([[]], [2], [0]),
        ([[0, 65536], [0, 70000]], [2, 2], [0, 0]),
        ([[0.0, 65536.0]], [2], [0]),
        ([[0, 5, 65536]], [3], [2**31]),
        ([[0, 5, 6, 65536]], [4], [2**31 - 1]),
        ([[0, 5, 65536]], [3], [-(2**31) - 1]),
    ],
)
def test_tables_that_are_not_tables_are_refused(cdf: list, lengths: list, offsets: list) -> None:
    with pytest.raises(ValueError, match=r"."):
        Tables(np.array(cdf), np.array(lengths), np.array(offsets))


def test_what_follows_a_row_in_its_array_does_not_matter() -> None:
    rows = Tables(np.array([[0, 65536, 7, 7], [0, 1, 2, 65536]]), np.array([2, 4]), np.array([0, 0]))
    assert rows.rows == 2


def test_changing_the_arrays_afterwards_does_not_change_the_tables() -> None:
    cdf, lengths, offsets = np.array([[0, 20, 65536]]), np.array([3]), np.array([0])
    tables = Tables(cdf, lengths, offsets)
    before = Encoder()
    before.put(np.array([0, 1]), np.zeros(2, int), tables)
    cdf[0, 1], offsets[0] = 60000, 9
    after = Encoder()
    after.put(np.array([0, 1]), np.zeros(2, int), tables)
    assert before.finish() == after.finish()


@pytest.mark.parametrize("index", [-1, 256, INT32_MAX, INT32_MIN, 2**32])
def test_an_index_that_is_no_row_is_refused_and_changes_nothing(index: int) -> None:
    indices = np.array([0] * 9 + [index])
    encoder, decoder = Encoder(), Decoder(b"\x12\x34")
    with pytest.raises(ValueError, match="indices must"):
        encoder.put(np.ones(10, np.int32), indices, GAUSS.tables)
    with pytest.raises(ValueError, match="indices must"):
        decoder.get(indices, GAUSS.tables)
    assert encoder.finish() == b""
    assert decoder.get_uniform(1, 16).tolist() == [0x1234]


def test_arrays_of_other_shapes_or_types_are_refused() -> None:
    zeros = np.zeros(3, np.int32)
    for symbols in (np.zeros(2, np.int32), np.zeros((3, 1), np.int32), np.zeros(3), np.array([0, 0, 2**31])):
        with pytest.raises(ValueError, match="symbols"):
            Encoder().put(symbols, zeros, GAUSS.tables)


@pytest.mark.parametrize(("values", "bits"), [([4], 2), ([-1], 16), ([0], 0), ([0], 17), ([65536], 16)])
def test_uniform_values_outside_their_bits_are_refused(values: list[int], bits: int) -> None:
    encoder = Encoder()
    with pytest.raises(ValueError, match="must be in"):
        encoder.put_uniform(np.array(values), bits)
    assert encoder.finish() == b""


def test_a_finished_encoder_takes_nothing_more() -> None:
    encoder = Encoder()
    encoder.finish()
    with pytest.raises(ValueError, match="finished"):
        encoder.put_uniform(np.array([1]), 1)
    with pytest.raises(ValueError, match="finished"):
        encoder.finish()


def test_importing_the_coder_does_not_import_torch() -> None:
    code = "import sys, dlfc.entropy.coder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
