"""The token prior in training: it learns what neighbours say, and its integers say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlfc.entropy.tokens import ACTIVATION_BITS, GROUP, MOST, NEIGHBOURS, TOTAL, WEIGHT_BITS, ByNeighbours
from dlfc.train.token_prior import FloatTokenPrior, learn, with_neighbours

SIZE = 20
STEPS = 150


def any_tokens(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Grids B 12 12 of tokens that say nothing of each other."""
    return torch.randint(size, (count, 12, 12), generator=torch.Generator().manual_seed(seed))


def like_the_left(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Nine tokens of ten repeat the one at their left."""
    grids = any_tokens(count, seed, size)
    repeats = torch.rand(grids.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.9
    for column in range(1, grids.shape[2]):
        grids[:, :, column] = torch.where(repeats[:, :, column], grids[:, :, column - 1], grids[:, :, column])
    return grids


def after_the_one_above(count: int, seed: int = 0) -> Tensor:
    """Nine tokens of ten are seven further than the one above."""
    grids = any_tokens(count, seed)
    follows = torch.rand(grids.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.9
    for row in range(1, grids.shape[1]):
        grids[:, row] = torch.where(follows[:, row], (grids[:, row - 1] + 7) % SIZE, grids[:, row])
    return grids


def features(size: int = SIZE, channels: int = 24) -> Tensor:
    return torch.randn(size, channels, generator=torch.Generator().manual_seed(5))


def entropy_bits(grids: Tensor) -> float:
    """Bits of a token by how often each occurs."""
    shares = torch.bincount(grids.reshape(-1), minlength=SIZE).double() / grids.numel()
    return float(-(shares * shares.clamp(min=1e-9).log2()).sum())


def cross_entropy_bits(prior: FloatTokenPrior, grids: Tensor) -> float:
    """Bits of a token by what the prior says."""
    neighbours, tokens = with_neighbours(grids, SIZE)
    with torch.no_grad():
        return float(F.cross_entropy(prior(neighbours) * math.log(2), tokens)) / math.log(2)


@pytest.fixture(scope="module")
def learnt() -> FloatTokenPrior:
    return learn(like_the_left(80), features(), STEPS)


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [like_the_left, after_the_one_above])
def test_a_rule_between_neighbours_is_learnt(make: object) -> None:
    prior = learn(make(80), features(), STEPS)  # type: ignore[operator]
    others = make(10, seed=99)  # type: ignore[operator]
    inner = 11 / 12 * (-0.905 * math.log2(0.905) - 0.095 * math.log2(0.095 / 19)) + math.log2(SIZE) / 12
    assert entropy_bits(others) > 4.2
    assert inner - 0.1 < cross_entropy_bits(prior, others) < 1.5 * inner


def test_tokens_that_say_nothing_of_each_other_cost_what_single_ones_cost() -> None:
    prior = learn(any_tokens(60), features(), 30)
    assert cross_entropy_bits(prior, any_tokens(10, seed=99)) == pytest.approx(math.log2(SIZE), abs=0.15)


def test_a_prior_starts_as_one_table() -> None:
    counts = torch.arange(SIZE) ** 2
    prior = FloatTokenPrior(counts, features())
    neighbours = with_neighbours(any_tokens(1), SIZE)[0]
    with torch.no_grad():
        shares = 2 ** prior(neighbours)
    expected = (counts + 0.5) / (counts.sum() + 0.5 * SIZE)
    assert torch.allclose(shares, expected.expand_as(shares), rtol=1e-5)
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)))


def test_the_same_seed_gives_the_same_tensors_and_another_seed_others() -> None:
    runs = [learn(like_the_left(4), features(), 3, seed=seed).to_integers() for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][name], value) for name, value in runs[1].items())
    assert not all(torch.equal(runs[0][name], value) for name, value in runs[2].items())


def test_learning_leaves_random_numbers_elsewhere_alone() -> None:
    torch.manual_seed(3)
    before, of_numpy = torch.get_rng_state(), np.random.get_state()
    prior = learn(like_the_left(4), features(), 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], of_numpy[1])
    assert not prior.training


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 100])
def test_features_of_any_width_are_taken(channels: int) -> None:
    prior = learn(like_the_left(4), features(channels=channels), 3)
    assert ByNeighbours(arrays(prior), 4, 3).size == SIZE


def test_features_that_are_all_alike_are_taken() -> None:
    prior = learn(like_the_left(4), torch.zeros(SIZE, 8), 3)
    assert all(bool(value.isfinite().all()) for value in prior.state_dict().values())


def test_tokens_that_were_never_seen_can_be_coded() -> None:
    prior = learn(like_the_left(4) // 2, features(), 20)  # of the first half
    coding = ByNeighbours(arrays(prior), 4, 3)
    tokens = np.arange(SIZE - 12, SIZE, dtype=np.int32).reshape(1, 12)
    assert np.array_equal(coding.unpack(coding.pack(tokens, 1), 1, 1), tokens)


# --- neighbours ---------------------------------------------------------------------------------------------------


def test_neighbours_are_left_above_and_above_at_both_sides() -> None:
    grids = torch.tensor([[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]])
    neighbours, tokens = with_neighbours(grids, 99)
    assert tokens.tolist() == list(range(12))
    assert neighbours.tolist() == [
        [99, 99, 99, 99],
        [0, 99, 99, 99],
        [1, 99, 99, 99],
        [99, 0, 99, 1],
        [3, 1, 0, 2],
        [4, 2, 1, 99],
        [99, 99, 99, 99],  # grids are no neighbours
        [6, 99, 99, 99],
        [7, 99, 99, 99],
        [99, 6, 99, 7],
        [9, 7, 6, 8],
        [10, 8, 7, 99],
    ]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (2, 5, 1), (3, 4, 6)])
def test_neighbours_are_those_of_the_format(shape: tuple[int, int, int]) -> None:
    grids = torch.randint(SIZE, shape, generator=torch.Generator().manual_seed(0))
    neighbours, tokens = with_neighbours(grids, SIZE)
    assert torch.equal(tokens, grids.reshape(-1))
    found = neighbours.view(*shape, len(NEIGHBOURS))
    for b, row, column in np.ndindex(*shape):
        for k, (down, right) in enumerate(NEIGHBOURS):
            inside = row + down >= 0 and 0 <= column + right < shape[2]
            assert found[b, row, column, k] == (grids[b, row + down, column + right] if inside else SIZE)


# --- integers -----------------------------------------------------------------------------------------------------


def arrays(prior: FloatTokenPrior) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in prior.to_integers().items()}


def test_tensors_are_rounded_to_their_fixed_point(learnt: FloatTokenPrior) -> None:
    found = learnt.to_integers()
    assert set(found) == set(learnt.state_dict())
    for name, value in learnt.state_dict().items():
        one = 2**ACTIVATION_BITS if name == "context" else 2**WEIGHT_BITS
        one = 2 ** (ACTIVATION_BITS + WEIGHT_BITS) if name.endswith("bias") else one
        assert found[name].dtype == (torch.int64 if name.endswith("bias") else torch.int32)
        assert torch.equal(found[name], torch.round(value.double() * one).to(found[name].dtype))
        assert not found[name].requires_grad


@pytest.mark.parametrize("make", [like_the_left, any_tokens])
def test_sections_of_integers_are_as_long_as_the_floats_say(make: object) -> None:
    size = 150
    grids, prior = make(8, 99, size), learn(like_the_left(40, 0, size), features(size), 60)  # type: ignore[operator]
    neighbours, tokens = with_neighbours(grids, size)
    with torch.no_grad():
        shares = F.pad(F.softmax(prior(neighbours).double() * math.log(2), 1), (0, -size % GROUP))
    each, of_groups = torch.arange(len(tokens)), shares.unflatten(1, (-1, GROUP)).sum(2)
    of_group = of_groups[each, tokens // GROUP]
    within = shares[each, tokens] / of_group
    expected = float(-(of_group.clamp(max=MOST / TOTAL).log2() + within.log2()).sum())  # no group is free
    coding = ByNeighbours(arrays(prior), 12, 12)
    sections = [coding.pack(grid.reshape(1, -1).numpy().astype(np.int32), 1) for grid in grids]
    assert 8 * sum(map(len, sections)) == pytest.approx(expected, rel=0.03)
