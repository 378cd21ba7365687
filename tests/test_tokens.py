"""Tokens by their neighbours: they come back from their section, by integers that are the same everywhere."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_token_prior

from dlfc.entropy import tokens as tokens_module
from dlfc.entropy.coder import Encoder, Tables
from dlfc.entropy.tables import token_table
from dlfc.entropy.tokens import (
    GROUP,
    MAX_ACTIVATION,
    MAX_BIAS,
    MAX_ROW,
    MOST,
    NEIGHBOURS,
    TOTAL,
    ByNeighbours,
    OneTable,
)
from dlfc.errors import FormatError

SIZES = (1, 2, 63, 64, 65, 150)
LAYOUTS = ((1, 1), (4, 2), (3, 5), (8, 4))  # rows and columns of tokens in a tile
GRIDS = ((1, 1), (1, 9), (9, 1), (2, 3), (4, 4))  # rows and columns of tiles
patient = settings(deadline=None)  # a busy machine is not a failure

Integers = dict[str, np.ndarray]


def integers(size: int, seed: int = 0) -> Integers:
    return {name: value.numpy() for name, value in random_token_prior(size, seed).items()}


def prior(size: int, layout: tuple[int, int] = (4, 2), seed: int = 0) -> ByNeighbours:
    return ByNeighbours(integers(size, seed), *layout)


def random_tokens(coding: ByNeighbours, tiles: int, seed: int = 0) -> np.ndarray:
    """Tokens T N, all equally likely."""
    shape = tiles, coding.rows * coding.columns
    return np.random.default_rng(seed).integers(0, coding.size, shape).astype(np.int32)


def tiled(grid: np.ndarray, layout: tuple[int, int]) -> tuple[np.ndarray, int]:
    """A grid of tokens as those of its tiles T N, and how many of these lie in a row."""
    (height, width), (rows, columns) = grid.shape, layout
    tiles = [
        grid[top : top + rows, left : left + columns].reshape(-1)
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]
    return np.array(tiles, np.int32), width // columns


def counts(weights: np.ndarray, most: int) -> np.ndarray:
    """The counts of `_tables` N M + 1, the escape's last."""
    seen: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "Tables", lambda cdf, lengths, offsets: seen.append(cdf))
        tokens_module._tables(weights, most)
    return np.diff(seen[0], axis=1)


# --- the same in plain Python -------------------------------------------------------------------------------------


def plain_weights(tensors: Integers, around: list[int]) -> list[int]:
    """The weights of all tokens beside `around`, in integers of any length."""

    def products(weight: str, bias: str, x: list[int]) -> list[int]:
        rows = zip(tensors[weight].tolist(), tensors[bias].tolist(), strict=True)
        return [sum(a * b for a, b in zip(row, x, strict=True)) + start for row, start in rows]

    x = [value for token in around for value in tensors["context"][token].tolist()]
    for name, least in (("first", 0), ("second", 0), ("third", -MAX_ACTIVATION)):
        x = [max(least, min(MAX_ACTIVATION, value >> 14)) for value in products(f"{name}.weight", f"{name}.bias", x)]
    scores = [value >> 20 for value in products("entries", "bias", x)]
    below = [min(31 * 64, max(scores) - score) for score in scores]
    return [int(tokens_module._POWERS[value % 64]) >> value // 64 for value in below]


def plain_counts(weights: list[int], most: int) -> list[int]:
    """Counts of a group, or of a member, without the escape's."""
    weights = weights if any(weights) else [1] * len(weights)
    found = [1 + weight * (65535 - len(weights)) // sum(weights) for weight in weights]
    first = weights.index(max(weights))
    found[first] = min(found[first] + 65535 - sum(found), most)
    return found


class Plain:
    """What `ByNeighbours` does, token by token."""

    def __init__(self, tensors: Integers) -> None:
        self.tensors, self.size = tensors, len(tensors["bias"])
        self.known: dict[tuple[int, ...], list[int]] = {}

    def weights(self, grid: np.ndarray, row: int, column: int) -> list[int]:
        height, width = grid.shape
        around = []
        for down, right in ((0, -1), (-1, 0), (-1, -1), (-1, 1)):
            inside = 0 <= row + down < height and 0 <= column + right < width
            around.append(int(grid[row + down, column + right]) if inside else self.size)
        if tuple(around) not in self.known:
            self.known[tuple(around)] = plain_weights(self.tensors, around)
        return self.known[tuple(around)]

    def tables(self, weights: list[int]) -> tuple[list[int], list[list[int]]]:
        """Counts of the groups, and of the members of each."""
        groups = [weights[start : start + 64] for start in range(0, self.size, 64)]
        groups[-1] = groups[-1] + [0] * (64 - len(groups[-1]))
        return plain_counts([sum(group) for group in groups], 32768), [plain_counts(group, 65536) for group in groups]

    def section(self, grid: np.ndarray) -> tuple[bytes, float]:
        """The section of a small grid of tokens, and how many bits they cost by their tables."""
        (height, width), encoder, bits = grid.shape, Encoder(), 0.0
        for wave in range(width + 2 * height):
            places = [(row, wave - 2 * row) for row in range(height) if 0 <= wave - 2 * row < width]
            tables = [self.tables(self.weights(grid, *place)) for place in places]
            found = [divmod(int(grid[place]), 64) for place in places]
            for (group, _), (groups, _) in zip(found, tables, strict=True):
                put(encoder, group, groups)
                bits += 16 - math.log2(groups[group])
            for (group, member), (_, members) in zip(found, tables, strict=True):
                put(encoder, member, members[group])
                bits += 16 - math.log2(members[group][member])
        return encoder.finish(), bits

    def drawn(self, height: int, width: int) -> np.ndarray:
        """A grid of tokens, each drawn as its neighbours make it likely."""
        random, grid = np.random.default_rng(0), np.zeros((height, width), np.int64)
        for row in range(height):
            for column in range(width):
                weights = np.array(self.weights(grid, row, column))
                grid[row, column] = random.choice(self.size, p=weights / weights.sum())
        return grid


def put(encoder: Encoder, symbol: int, count_of: list[int]) -> None:
    """Append a symbol by the counts of its table, which the escape completes."""
    row = [0, *np.cumsum(count_of).tolist(), 65536]
    encoder.put(np.array([symbol]), np.zeros(1, np.int32), Tables([row], [len(row)], [0]))


# --- tokens come back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_tokens_of_every_layout_come_back(size: int, layout: tuple[int, int], grid: tuple[int, int]) -> None:
    coding, (down, across) = prior(size, layout), grid
    tokens = random_tokens(coding, down * across)
    found = coding.unpack(coding.pack(tokens, across), down * across, across)
    assert found.dtype == np.int32
    assert np.array_equal(found, tokens)


@patient
@given(
    st.integers(1, 200),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 99),
)
def test_any_tokens_come_back(size: int, layout: tuple[int, int], grid: tuple[int, int], seed: int) -> None:
    coding, (down, across) = prior(size, layout, seed), grid
    tokens = random_tokens(coding, down * across, seed)
    assert np.array_equal(coding.unpack(coding.pack(tokens, across), down * across, across), tokens)


def test_tokens_of_a_large_picture_come_back() -> None:
    """Of more than 256 rows, so that a wave is more than is coded at a time, which the bytes depend on."""
    coding = prior(3)
    tokens = np.arange(260 * 520, dtype=np.int32).reshape(-1, 8) // 5 % 7 % 3
    section = coding.pack(tokens, 260)
    assert (len(section), zlib.crc32(section)) == (72817, 1358248353)
    assert np.array_equal(coding.unpack(section, len(tokens), 260), tokens)


def test_the_layout_of_tiles_changes_nothing_but_the_order_of_tokens() -> None:
    tensors, grid = integers(65), np.arange(8 * 12).reshape(8, 12) * 7 % 65
    sections = set()
    for layout in ((8, 12), (4, 2), (1, 1), (2, 6)):
        tokens, across = tiled(grid, layout)
        sections.add(ByNeighbours(tensors, *layout).pack(tokens, across))
    assert len(sections) == 1


def test_sections_read_together_give_what_each_gives() -> None:
    coding = prior(150)
    tokens = [random_tokens(coding, 6, seed) for seed in range(3)]
    sections = [coding.pack(some, 3) for some in tokens]
    for found, some in zip(coding.unpack_many(sections, 6, 3), tokens, strict=True):
        assert np.array_equal(found, some)
    for bad in range(3):
        with pytest.raises(FormatError):
            coding.unpack_many([*sections[:bad], bytes(200), *sections[bad + 1 :]], 6, 3)


# --- waves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [2, 256])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 9), (9, 5), (30, 2)])
def test_waves_visit_each_place_once_and_after_its_neighbours(
    shape: tuple[int, int], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "PIECE", piece)
    height, width = shape
    inside = {(row, column) for row in range(1, height + 1) for column in range(1, width + 1)}  # of a framed grid
    seen: set[tuple[int, int]] = set()
    for rows, columns in ByNeighbours._waves(height + 1, width + 2):
        places = list(zip(rows.tolist(), columns.tolist(), strict=True))
        assert places
        assert len(places) <= piece
        for row, column in places:
            around = {(row + down, column + right) for down, right in NEIGHBOURS}
            assert around & inside <= seen
        assert not seen & set(places)
        seen |= set(places)
    assert seen == inside


# --- counts -------------------------------------------------------------------------------------------------------


weights_of_rows = st.integers(1, 70).flatmap(
    lambda m: st.lists(st.lists(st.integers(0, 3) | st.integers(0, 1 << 36), min_size=m, max_size=m), min_size=1)
)


@patient
@given(weights_of_rows, st.sampled_from([MOST, TOTAL]))
def test_the_counts_of_each_row_are_at_least_one_and_sum_to_all(rows: list[list[int]], most: int) -> None:
    weights = np.array(rows, np.int64)
    found = counts(weights, most)
    assert found.shape == (weights.shape[0], weights.shape[1] + 1)
    assert (found.sum(1) == TOTAL).all()
    assert found.min() >= 1
    assert found[:, :-1].max() <= most
    assert tokens_module._tables(weights, most).rows == len(rows)  # and the coder takes them
    shares = TOTAL * weights / np.maximum(1, weights.sum(1, keepdims=True))
    small = (shares < most) & (weights.sum(1, keepdims=True) > 0)
    assert (abs(found[:, :-1] - shares)[small] <= weights.shape[1] + 2).all()


@pytest.mark.parametrize("size", SIZES)
def test_no_group_is_free_whatever_the_neighbours(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Tables, int]] = []
    make = tokens_module._tables

    def watched(weights: np.ndarray, most: int) -> Tables:
        made.append((make(weights, most), most))
        return made[-1][0]

    monkeypatch.setattr(tokens_module, "_tables", watched)
    coding = prior(size)
    coding.pack(random_tokens(coding, 16), 4)
    groups = [tables for tables, most in made if most == MOST]
    assert sum(tables.rows for tables in groups) == 16 * 8  # one for each token
    assert all(tables.least_bits >= coding.least_bits for tables in groups)


def test_powers_are_the_nearest_integers() -> None:
    for at, power in enumerate(tokens_module._POWERS.tolist()):
        exact = 2 ** (31 * 64 - at)  # the 64th power of twice the number
        assert (2 * power - 1) ** 64 < exact < (2 * power + 1) ** 64


def test_a_group_that_weighs_nothing_can_be_coded() -> None:
    tensors = integers(150)
    tensors["bias"][:] = -(80 << 26)
    tensors["bias"][70] = 0  # all others are some 2^80 times less likely
    coding = ByNeighbours(tensors, 4, 2)
    assert sum(weight > 0 for weight in plain_weights(tensors, [150] * 4)) == 1
    grid = np.random.default_rng(0).integers(0, 150, (8, 6))
    tokens, across = tiled(grid, (4, 2))
    section = coding.pack(tokens, across)
    assert section == Plain(tensors).section(grid)[0]
    assert np.array_equal(coding.unpack(section, 6, across), tokens)


# --- what tokens cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_section_is_as_long_as_its_tables_say(size: int) -> None:
    grid = np.random.default_rng(0).integers(0, size, (12, 8))
    bits = Plain(integers(size)).section(grid)[1]
    assert bits >= grid.size
    assert bits - 9 < 8 * len(prior(size).pack(*tiled(grid, (4, 2)))) < bits + 9 or size == 1


def test_a_token_costs_no_less_than_a_bit_however_sure_the_prior_is() -> None:
    tensors = integers(130)
    tensors["bias"][:] = -(80 << 26)
    tensors["bias"][100] = 0
    coding = ByNeighbours(tensors, 4, 2)
    sure = np.full((50, 8), 100, np.int32)
    section = coding.pack(sure, 5)
    assert coding.least_bits == 1
    assert sure.size - 8 <= 8 * len(section) <= sure.size + 16
    assert np.array_equal(coding.unpack(section, 50, 5), sure)


@pytest.mark.parametrize("size", [63, 150])
def test_what_the_prior_expects_costs_less_than_other_tokens(size: int) -> None:
    random, likely = np.random.default_rng(0), Plain(integers(size)).drawn(12, 16)
    elsewhere = random.permutation(likely.reshape(-1)).reshape(likely.shape)  # the same tokens, of other neighbours
    any_tokens = random.integers(0, size, likely.shape)
    lengths = [len(prior(size).pack(*tiled(grid, (4, 2)))) for grid in (likely, elsewhere, any_tokens)]
    assert lengths[0] < 0.9 * lengths[1]
    assert lengths[0] < 0.8 * lengths[2]
    assert lengths[0] < 0.9 * likely.size * math.log2(size) / 8


# --- the same integers everywhere ---------------------------------------------------------------------------------


def extreme(size: int, seed: int) -> Integers:
    """Tensors as large as they may be."""
    random, width, held = np.random.default_rng(seed), 3, {}

    def signed(shape: tuple[int, ...], most: int) -> np.ndarray:
        return random.choice([-most, most, most - 1, 1, 0], shape).astype(np.int64)

    for name, out, taken in (("first", 5, 4 * width), ("second", 5, 5), ("third", 4, 5)):
        held[f"{name}.weight"] = signed((out, taken), (MAX_ROW - 1) // taken)
        held[f"{name}.bias"] = signed((out,), MAX_BIAS - 1)
    held["context"], held["bias"] = signed((size + 1, width), MAX_ACTIVATION), signed((size,), MAX_BIAS - 1)
    return held | {"entries": signed((size, 4), (MAX_ROW - 1) // 4)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [(4, 2), (3, 5)])
@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (4, 1), (2, 3)])
def test_a_section_is_that_of_plain_arithmetic(size: int, layout: tuple[int, int], grid: tuple[int, int]) -> None:
    shape = layout[0] * grid[0], layout[1] * grid[1]
    tokens = np.random.default_rng(0).integers(0, size, shape)
    assert prior(size, layout).pack(*tiled(tokens, layout)) == Plain(integers(size)).section(tokens)[0]


@pytest.mark.parametrize("seed", range(8))
def test_tensors_as_large_as_may_be_are_used_exactly(seed: int) -> None:
    tensors = extreme(70, seed)
    tokens = np.random.default_rng(seed).integers(0, 70, (8, 6))
    coding = ByNeighbours(tensors, 4, 2)
    section = coding.pack(*tiled(tokens, (4, 2)))
    assert section == Plain(tensors).section(tokens)[0]
    assert np.array_equal(coding.unpack(section, 6, 3), tiled(tokens, (4, 2))[0])


def test_the_layout_of_arrays_in_memory_changes_nothing() -> None:
    tensors = integers(65)
    tokens = random_tokens(ByNeighbours(tensors, 4, 2), 12)
    section = ByNeighbours(tensors, 4, 2).pack(tokens, 4)
    spread = {name: np.repeat(values, 2, 0)[::2].astype(np.int64) for name, values in tensors.items()}
    by_columns = {name: np.asfortranarray(values) for name, values in tensors.items()}
    for other in (spread, by_columns):
        coding = ByNeighbours(other, 4, 2)
        for same in (tokens, np.asfortranarray(tokens), np.repeat(tokens, 2, 1)[:, ::2]):
            assert coding.pack(same, 4) == section


CODE = """
import numpy as np
from dlfc.entropy.tokens import ByNeighbours

random = np.random.default_rng(0)

def wide(*shape):
    return random.integers(-9000, 9000, shape)

tensors = {"context": wide(301, 32), "entries": wide(300, 32), "bias": wide(300) << 13}
for name, out, taken in (("first", 96, 128), ("second", 96, 96), ("third", 32, 96)):
    tensors |= {name + ".weight": wide(out, taken), name + ".bias": wide(out) << 13}
section = ByNeighbours(tensors, 8, 4).pack(random.integers(0, 300, (40, 32)), 8)
assert len(section) > 1000
print(section.hex())
"""


def test_threads_and_kinds_of_processors_change_nothing() -> None:
    sections = set()
    for threads, kind in (("1", None), ("4", None), ("1", "Nehalem")):  # one without fused products
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads) | ({"OPENBLAS_CORETYPE": kind} if kind else {})
        ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
        sections.add(ran.stdout)
    assert len(sections) == 1


def test_the_bytes_of_a_section_never_change() -> None:
    """Another result is another format, for files that exist would no longer be read."""

    def filled(*shape: int, reach: int) -> np.ndarray:
        at = np.arange(math.prod(shape), dtype=np.int64)
        return (((at * at * 37 + at * 11 + 5) % 101 - 50) * (reach // 50)).reshape(shape)

    tensors = {"context": filled(81, 2, reach=1 << 13), "entries": filled(80, 3, reach=1 << 15)}
    tensors["bias"] = filled(80, reach=1 << 27)
    for name, out, taken in (("first", 5, 8), ("second", 4, 5), ("third", 3, 4)):
        tensors |= {f"{name}.weight": filled(out, taken, reach=1 << 14), f"{name}.bias": filled(out, reach=1 << 25)}
    coding = ByNeighbours(tensors, 4, 2)
    tokens = (np.arange(48, dtype=np.int32) * 29 % 80).reshape(6, 8)
    assert coding.pack(tokens, 3).hex() == (
        "002e9efb89a1c118e12a9893fdea5b849e6a0d4e8e79e8a519d25932dd73ed768fb3e0b6b4517566585fb849b9ad38"
    )


# --- sections that are refused ------------------------------------------------------------------------------------


def refused_or_its_own(coding: ByNeighbours, data: bytes, tiles: int, across: int) -> np.ndarray | None:
    """The tokens of a section, of which it then is the only one; None if it is refused."""
    try:
        found = coding.unpack(data, tiles, across)
    except FormatError:
        return None
    assert found.shape == (tiles, coding.rows * coding.columns)
    assert found.min() >= 0
    assert found.max() < coding.size
    assert coding.pack(found, across) == data
    return found


@pytest.mark.parametrize("size", SIZES)
def test_no_cut_section_gives_its_tokens(size: int) -> None:
    coding = prior(size)
    tokens = random_tokens(coding, 6)
    section = coding.pack(tokens, 3)
    found = [refused_or_its_own(coding, section[:length], 6, 3) for length in range(len(section))]
    assert not any(np.array_equal(others, tokens) for others in found if others is not None)
    assert size == 1 or any(others is None for others in found)


@pytest.mark.parametrize("size", SIZES)
def test_what_follows_a_section_is_refused(size: int) -> None:
    coding = prior(size)
    section = coding.pack(random_tokens(coding, 6), 3)
    for surplus in (b"\0", b"\0\0\0\0", b"\0\1", bytes(50), bytes(10) + b"\1", section + b"\1\1\1\1\1\1"):
        with pytest.raises(FormatError):
            coding.unpack(section + surplus, 6, 3)


@settings(patient, max_examples=300)
@given(st.sampled_from(SIZES), st.binary(max_size=60), st.sampled_from([(1, 1), (2, 1), (2, 2), (6, 3)]))
def test_any_bytes_are_refused_or_are_the_section_of_their_tokens(
    size: int, data: bytes, grid: tuple[int, int]
) -> None:
    refused_or_its_own(prior(size), data, *grid)


@settings(patient, max_examples=200)
@given(st.sampled_from(SIZES), st.data())
def test_a_changed_section_is_refused_or_is_that_of_other_tokens(size: int, data: st.DataObject) -> None:
    coding = prior(size)
    tokens = random_tokens(coding, 6)
    section = bytearray(coding.pack(tokens, 3))
    if not section:
        return
    section[data.draw(st.integers(0, len(section) - 1))] ^= data.draw(st.integers(1, 255))
    found = refused_or_its_own(coding, bytes(section), 6, 3)
    assert found is None or not np.array_equal(found, tokens)


@pytest.mark.parametrize("size", SIZES)
def test_noise_is_mostly_refused(size: int) -> None:
    coding, random = prior(size), np.random.default_rng(0)
    found = [refused_or_its_own(coding, random.bytes(200), 2, 1) for _ in range(20)]
    assert found == [None] * 20


@pytest.mark.parametrize("size", [1, 63, 65, 150])
@pytest.mark.parametrize("beyond", [0, 1, 2**20])
def test_a_token_outside_the_codebook_is_refused(size: int, beyond: int) -> None:
    groups, members = (plain := Plain(integers(size))).tables(plain.weights(np.zeros((1, 1), np.int64), 0, 0))
    group, member = divmod(size + beyond, GROUP)
    encoder = Encoder()
    put(encoder, group, groups)
    put(encoder, member, members[min(group, len(members) - 1)])
    with pytest.raises(FormatError, match="outside the codebook"):
        prior(size, (1, 1)).unpack(encoder.finish(), 1, 1)


@pytest.mark.parametrize(("group", "member"), [(1, -1), (1, GROUP), (-1, 0), (-1, GROUP), (3, -GROUP)])
def test_a_group_or_member_that_is_none_is_refused(group: int, member: int) -> None:
    groups, members = (plain := Plain(integers(150))).tables(plain.weights(np.zeros((1, 1), np.int64), 0, 0))
    encoder = Encoder()
    put(encoder, group, groups)
    put(encoder, member, members[1])
    with pytest.raises(FormatError, match="outside the codebook"):
        prior(150, (1, 1)).unpack(encoder.finish(), 1, 1)


# --- one table for all --------------------------------------------------------------------------------------------


def one_table(size: int) -> OneTable:
    made = token_table(np.arange(size, dtype=np.int64) ** 2)
    return OneTable(Tables(made.cdf, made.lengths, made.offsets), size, 8)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_of_one_table_come_back(size: int) -> None:
    coding = one_table(size)
    tokens = np.random.default_rng(0).integers(0, size, (6, 8)).astype(np.int32)
    section = coding.pack(tokens, 3)
    assert coding.pack(tokens, 2) == section  # neighbours mean nothing
    assert np.array_equal(coding.unpack(section, 6, 3), tokens)
    assert 8 * len(section) >= tokens.size * coding.least_bits - 8


@patient
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_by_one_table_or_are_its_section(data: bytes) -> None:
    coding = one_table(65)
    try:
        found = coding.unpack(data, 2, 1)
    except FormatError:
        return
    assert coding.pack(found, 1) == data


# --- tensors that are refused -------------------------------------------------------------------------------------


NAMES = sorted(integers(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_refused_by_name(name: str) -> None:
    tensors = integers(65)
    del tensors[name]
    with pytest.raises(ValueError, match=rf"token prior's {name} is missing or unknown"):
        ByNeighbours(tensors, 4, 2)


@pytest.mark.parametrize("name", ["fourth.weight", "first", "", "contexts", "first.weights"])
def test_an_unknown_tensor_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"token prior's {name} is missing or unknown"):
        ByNeighbours({**integers(65), name: np.zeros(3, np.int32)}, 4, 2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int16, np.uint64, np.bool_])
@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_are_no_integers_of_32_or_64_bits_are_refused(name: str, dtype: type) -> None:
    tensors = integers(65)
    tensors[name] = (tensors[name] % 2).astype(dtype)
    with pytest.raises(ValueError, match="tensors that are no integers"):
        ByNeighbours(tensors, 4, 2)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no integers"):
        ByNeighbours({**integers(65), "bias": np.full(65, np.nan)}, 4, 2)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_other_dimensions_are_refused(name: str) -> None:
    for change in (lambda v: v[None], lambda v: v.reshape(-1)[0], lambda v: v.reshape(-1) if v.ndim == 2 else v[None]):
        tensors = integers(65)
        tensors[name] = change(tensors[name])
        with pytest.raises(ValueError, match="of other dimensions"):
            ByNeighbours(tensors, 4, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("change", [lambda v, a: np.delete(v, 0, a), lambda v, a: np.repeat(v, 2, a)])
def test_tensors_of_other_shapes_are_refused(name: str, axis: int, change: object) -> None:
    tensors = integers(65)
    if axis == tensors[name].ndim:
        return
    tensors[name] = change(tensors[name], axis)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"does not fit what is before it|are not of one codebook"):
        ByNeighbours(tensors, 4, 2)


def test_a_prior_of_no_tokens_is_refused() -> None:
    tensors = integers(1)
    tensors |= {"bias": tensors["bias"][:0], "entries": tensors["entries"][:0], "context": tensors["context"][:1]}
    with pytest.raises(ValueError, match="not of one codebook"):
        ByNeighbours(tensors, 4, 2)


def placed(values: np.ndarray, number: int) -> np.ndarray:
    """Zeros but for one number in the last place."""
    found = np.zeros(values.shape, np.int64)
    found.reshape(-1)[-1] = number
    return found


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_taken_up_to_their_bound_and_refused_above(name: str, sign: int) -> None:
    tensors = integers(65)
    largest = MAX_BIAS - 1 if name.endswith("bias") else MAX_ACTIVATION if name == "context" else MAX_ROW - 1
    coding = ByNeighbours({**tensors, name: placed(tensors[name], sign * largest)}, 4, 2)
    tokens = random_tokens(coding, 6)
    assert np.array_equal(coding.unpack(coding.pack(tokens, 3), 6, 3), tokens)
    for number in (largest + 1, 2**62, 2**63 - 1):
        with pytest.raises(ValueError, match=rf"token prior's {name} has values that are too large for fixed point"):
            ByNeighbours({**tensors, name: placed(tensors[name], sign * number)}, 4, 2)
    with pytest.raises(ValueError, match="too large"):
        ByNeighbours({**tensors, name: placed(tensors[name], -(2**63))}, 4, 2)


def test_a_row_of_weights_is_bounded_as_a_whole() -> None:
    tensors = integers(65)
    for name in ("first.weight", "second.weight", "third.weight", "entries"):
        row = np.full_like(tensors[name], MAX_ROW // tensors[name].shape[1])
        with pytest.raises(ValueError, match=rf"token prior's {name} has values"):
            ByNeighbours({**tensors, name: row + 1}, 4, 2)
