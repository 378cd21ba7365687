"""The integer prior: exact whatever the order of summation, bounded whatever the symbols, strict about its weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TINY, spread_prior
from torch import Tensor

from dlfc.entropy import prior as prior_module
from dlfc.entropy.prior import (
    ACTIVATION_BITS,
    MAX_ACTIVATION,
    MAX_ROW,
    MAX_SYMBOL,
    ONE,
    SKIP_SCALE,
    WEIGHT_BITS,
    FourPasses,
    IntegerPrior,
    to_integers,
)
from dlfc.entropy.tables import scale_thresholds
from dlfc.errors import ModelError
from dlfc.model.bottleneck import DetailPrior

CPU = torch.device("cpu")
SIZE = (6, 8)
LAYERS = ("_pointwise", "_depthwise", "_block")
patient = settings(deadline=None, max_examples=25)


def float_prior(seed: int = 0) -> DetailPrior:
    prior = DetailPrior(TINY)
    spread_prior(prior, seed)
    return prior.requires_grad_(False)


def integer_prior(seed: int = 0) -> IntegerPrior:
    return IntegerPrior(to_integers(float_prior(seed)), CPU)


def four_passes(
    prior: IntegerPrior, quality_step: int = 100, size: tuple[int, int] = SIZE, visible: tuple[int, int] = SIZE
) -> FourPasses:
    return FourPasses(prior, torch.from_numpy(scale_thresholds(ONE)), quality_step, size, visible)


def walk(passes: FourPasses, symbol: Callable[[int], int]) -> list[np.ndarray]:
    """Feed `symbol(i)` for the i-th coded value; returns the table indices of each pass."""
    indices, at = [], 0
    for pass_indices in passes:
        indices.append(pass_indices)
        passes.accept(np.array([symbol(at + i) for i in range(len(pass_indices))], np.int32))
        at += len(pass_indices)
    return indices


def small(i: int) -> int:
    """Symbols from -3 to 3."""
    return (i * i * 7 + i) % 7 - 3


def watch(prior: IntegerPrior, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """Records what every layer of `prior` gives from now on."""
    seen: list[tuple[str, Tensor]] = []
    for layer in LAYERS:
        original = getattr(prior, layer)

        def record(name: str, x: Tensor, original: Callable[[str, Tensor], Tensor] = original) -> Tensor:
            y = original(name, x)
            seen.append((name, y))
            return y

        monkeypatch.setattr(prior, layer, record)
    return seen


# --- from floats to integers --------------------------------------------------------------------------------------


def test_weights_are_rounded_to_their_fixed_point() -> None:
    source = float_prior()
    tensors = to_integers(source)
    assert torch.equal(tensors["vector"], torch.round(source.vector.double() * 2**12).to(torch.int32))
    weight, bias = (source.get_parameter(f"reduce.{part}").double() for part in ("weight", "bias"))
    assert torch.equal(tensors["reduce.weight"], torch.round(weight[:, :, 0, 0] * 2**14).to(torch.int32))
    assert torch.equal(tensors["reduce.bias"], torch.round(bias * 2**26).to(torch.int64))
    depthwise = source.get_parameter("first.0.depthwise.weight").double()
    expected = torch.round(depthwise.flatten(1) * 2**14).to(torch.int32)
    assert torch.equal(tensors["first.0.depthwise.weight"], expected)
    assert expected.shape == (8, 9)


def test_every_layer_of_the_float_prior_has_its_integers() -> None:
    source = float_prior()
    convolutions = {name for name, module in source.named_modules() if isinstance(module, torch.nn.Conv2d)}
    expected = {f"{name}.{part}" for name in convolutions for part in ("weight", "bias")} | {"vector"}
    assert set(to_integers(source)) == expected


def test_weights_too_large_for_the_fixed_point_are_refused_by_name() -> None:
    source = float_prior()
    row = source.get_parameter("spatial.1.expand.weight")[3]
    row.fill_(MAX_ROW / 2**WEIGHT_BITS / row.numel())
    with pytest.raises(ModelError, match=r"spatial\.1\.expand.* too large"):
        to_integers(source)
    row.mul_(0.999)
    to_integers(source)


@pytest.mark.parametrize("value", [2.0**25, float("inf"), float("nan")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_values_that_no_fixed_point_holds_are_refused(part: str, value: float) -> None:
    source = float_prior()
    getattr(source.adaptors[2].conv2, part)[0] = value
    with pytest.raises(ModelError, match=r"adaptors\.2\.conv2"):
        to_integers(source)


@pytest.mark.parametrize("value", [-(2.0**15), float("nan")])
def test_a_level_vector_out_of_range_is_refused(value: float) -> None:
    source = float_prior()
    source.vector[1, 2] = value
    with pytest.raises(ModelError, match="vector"):
        to_integers(source)


# --- exactness ----------------------------------------------------------------------------------------------------


def test_what_every_layer_gives_is_an_integer_within_the_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = integer_prior()
    seen = watch(prior, monkeypatch)
    walk(four_passes(prior), small)
    assert {name for name, _ in seen} >= {"first.1", "reduce", "adaptors.0", "adaptors.2", "spatial.2.contract"}
    for name, y in seen:
        assert y.dtype == torch.float64, name
        assert torch.equal(y, y.floor()), name
        assert y.abs().max() <= MAX_ACTIVATION, name


def test_the_result_is_that_of_arithmetic_on_whole_numbers() -> None:
    """A second implementation in Python integers, straight from SPEC.md, for one cell row and one cell column."""
    tensors = {k: v.tolist() for k, v in to_integers(float_prior()).items()}
    prior = integer_prior()
    height, width = 2, 3
    Map = list[list[list[int]]]

    def clamp(x: int) -> int:
        return max(-(2**26), min(2**26, x))

    def each(maps: Map, f: Callable[[int], int]) -> Map:
        return [[[f(x) for x in row] for row in channel] for channel in maps]

    def leaky(x: int, slope: int) -> int:
        return x if x >= 0 else (x * slope) >> 16

    def pointwise(name: str, maps: Map) -> Map:
        out = []
        for row, bias in zip(tensors[f"{name}.weight"], tensors[f"{name}.bias"], strict=True):
            sums = [
                [sum(w * maps[c][i][j] for c, w in enumerate(row)) + bias for j in range(width)] for i in range(height)
            ]
            out.append([[clamp((x + 2**13) >> 14) for x in line] for line in sums])
        return out

    def depthwise(name: str, maps: Map) -> Map:
        def at(c: int, i: int, j: int) -> int:
            return maps[c][i][j] if 0 <= i < height and 0 <= j < width else 0

        def total(c: int, i: int, j: int) -> int:
            weights = tensors[f"{name}.weight"][c]
            return tensors[f"{name}.bias"][c] + sum(
                w * at(c, i + k // 3 - 1, j + k % 3 - 1) for k, w in enumerate(weights)
            )

        return [
            [[clamp((total(c, i, j) + 2**13) >> 14) for j in range(width)] for i in range(height)]
            for c in range(len(maps))
        ]

    def add(a: Map, b: Map) -> Map:
        return [
            [[clamp(x + y) for x, y in zip(r, s, strict=True)] for r, s in zip(m, n, strict=True)]
            for m, n in zip(a, b, strict=True)
        ]

    def block(name: str, maps: Map) -> Map:
        y = each(pointwise(f"{name}.conv1", maps), lambda x: leaky(x, 655))
        y = pointwise(f"{name}.conv2", depthwise(f"{name}.depthwise", y))
        maps = add(pointwise(f"{name}.adaptor", maps) if f"{name}.adaptor.weight" in tensors else maps, y)
        wide = pointwise(f"{name}.expand", maps)
        half = len(wide) // 2
        y = add(each(wide[:half], lambda x: leaky(x, 6554)), each(wide[half:], lambda x: leaky(x, 655)))
        return add(maps, pointwise(f"{name}.contract", y))

    vector = [(a * (200 - 74) + b * 74) // 200 for a, b in zip(tensors["vector"][0], tensors["vector"][1], strict=True)]
    params = block("first.1", block("first.0", [[[v] * width for _ in range(height)] for v in vector]))
    step, scales, means, common = prior.start(37, height, width)
    assert torch.cat([step, scales, means]).tolist() == each(params[:8], lambda x: max(x, 2048)) + params[8:]
    assert common.tolist() == pointwise("reduce", params)
    known = [
        [[(c * 977 + i * 5003 + j * 7919) % 9001 - 4500 for j in range(width)] for i in range(height)] for c in range(8)
    ]
    x = block("adaptors.1", known + pointwise("reduce", params))
    for i in range(3):
        x = block(f"spatial.{i}", x)
    refined = prior.refine(2, torch.tensor(known, dtype=torch.float64), common)
    assert torch.cat(refined).tolist() == x


def everything(passes: FourPasses) -> list[Tensor]:
    """All that a decoder learns from one walk, as tensors."""
    indices = [torch.from_numpy(part) for part in walk(passes, small)]
    return [*indices, passes._scales, passes._means, passes._values, passes.latent()]


def assert_the_same(first: list[Tensor], second: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@patient
@given(st.integers(0, 2**31 - 1))
def test_the_order_of_summation_makes_no_difference(seed: int) -> None:
    plain, mixed = integer_prior(), integer_prior()
    generator = torch.Generator().manual_seed(seed)

    def pointwise(name: str, x: Tensor) -> Tensor:
        weight, bias = mixed._tensors[f"{name}.weight"], mixed._tensors[f"{name}.bias"]
        order = torch.randperm(weight.shape[1], generator=generator)
        total = bias[:, None].repeat(1, x[0].numel())
        for part in order.split(int(torch.randint(1, 9, (), generator=generator))):
            total = weight[:, part] @ x.flatten(1)[part] + total
        return prior_module._rescale(total).view(-1, *x.shape[1:])

    mixed._pointwise = pointwise  # type: ignore[method-assign]
    assert_the_same(everything(four_passes(plain)), everything(four_passes(mixed)))


def test_the_kind_of_product_makes_no_difference() -> None:
    plain, other = integer_prior(), integer_prior()

    def pointwise(name: str, x: Tensor) -> Tensor:
        weight, bias = other._tensors[f"{name}.weight"], other._tensors[f"{name}.bias"]
        image = x[None].contiguous(memory_format=torch.channels_last)
        return prior_module._rescale(torch.nn.functional.conv2d(image, weight[:, :, None, None], bias))[0]

    def depthwise(name: str, x: Tensor) -> Tensor:
        weight, bias = other._tensors[f"{name}.weight"].view(-1, 1, 3, 3), other._tensors[f"{name}.bias"]
        total = torch.nn.functional.conv2d(x[None], weight, bias, padding=1, groups=len(weight))
        return prior_module._rescale(total)[0]

    other._pointwise, other._depthwise = pointwise, depthwise  # type: ignore[method-assign]
    assert_the_same(everything(four_passes(plain)), everything(four_passes(other)))


def test_the_layout_in_memory_makes_no_difference() -> None:
    plain, turned = integer_prior(), integer_prior()
    turned._tensors = {
        name: value.mT.contiguous().mT if value.dim() == 2 else value for name, value in turned._tensors.items()
    }
    for layer in LAYERS[:2]:
        original = getattr(turned, layer)

        def channels_last(name: str, x: Tensor, original: Callable[[str, Tensor], Tensor] = original) -> Tensor:
            return original(name, x.permute(1, 2, 0).contiguous().permute(2, 0, 1))

        setattr(turned, layer, channels_last)
    assert_the_same(everything(four_passes(plain)), everything(four_passes(turned)))


def test_a_transposed_product_makes_no_difference() -> None:
    plain, other = integer_prior(), integer_prior()

    def pointwise(name: str, x: Tensor) -> Tensor:
        weight, bias = other._tensors[f"{name}.weight"], other._tensors[f"{name}.bias"]
        return prior_module._rescale(x.flatten(1).mT @ weight.mT + bias).mT.reshape(-1, *x.shape[1:])

    other._pointwise = pointwise  # type: ignore[method-assign]
    assert_the_same(everything(four_passes(plain)), everything(four_passes(other)))


HASH_IN_A_PROCESS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(int(sys.argv[2]))
from test_prior import everything, four_passes, integer_prior
size = (40, 56)
parts = everything(four_passes(integer_prior(), 63, size, size))
print(torch.get_num_threads(), hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest())
"""


def test_the_number_of_threads_makes_no_difference() -> None:
    found = {}
    for threads in ("1", "2"):
        command = [sys.executable, "-c", HASH_IN_A_PROCESS, str(Path(__file__).parent), threads]
        reported, digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found[reported] = digest
    assert set(found) == {"1", "2"}
    assert found["1"] == found["2"]


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", [2**31 - 1, -(2**31), MAX_SYMBOL, -MAX_SYMBOL])
def test_hostile_symbols_stay_within_the_clamp(symbol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = integer_prior()
    seen = watch(prior, monkeypatch)
    passes = four_passes(prior)
    indices = walk(passes, lambda i: symbol if i % 2 else -symbol - 1)
    assert all(part.min() >= 0 and part.max() < 256 for part in indices if part.size)
    assert max(float(y.abs().max()) for _, y in seen) <= MAX_ACTIVATION
    assert all(torch.equal(y, y.floor()) for _, y in seen)
    assert passes._values.abs().max() <= MAX_ACTIVATION
    assert passes.latent().isfinite().all()


def test_the_largest_weights_allowed_keep_every_sum_below_2_to_the_53() -> None:
    prior = integer_prior()
    name = "spatial.0.conv1"
    row = torch.full_like(prior._tensors[f"{name}.weight"], 2**26 / prior._tensors[f"{name}.weight"].shape[1])
    prior._tensors[f"{name}.weight"] = row
    x = torch.full((row.shape[1], 2, 2), float(MAX_ACTIVATION), dtype=torch.float64)
    total = (row @ x.flatten(1)).abs().max() + prior._tensors[f"{name}.bias"].abs().max()
    assert total < 2**53
    assert prior._pointwise(name, x).max() == MAX_ACTIVATION


def test_a_symbol_of_the_largest_size_that_is_coded_comes_through_the_clamp() -> None:
    assert (MAX_SYMBOL + 1) * ONE <= MAX_ACTIVATION
    passes = four_passes(integer_prior())
    latent = torch.full((TINY.latent_dim, *SIZE), 1e9)
    for _ in passes:
        symbols = passes.residuals(latent)
        assert (symbols == MAX_SYMBOL).all()
        passes.accept(symbols)


# --- quality ------------------------------------------------------------------------------------------------------


def watch_start(prior: IntegerPrior, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Records the maps that the layers of `prior` are given from now on; the layers themselves do nothing."""
    fed: list[Tensor] = []

    def block(name: str, x: Tensor) -> Tensor:
        fed.append(x)
        return torch.zeros(24, 1, 1).double()

    monkeypatch.setattr(prior, "_block", block)
    monkeypatch.setattr(prior, "_pointwise", lambda name, x: x)
    return fed


def test_at_a_level_the_vector_is_the_level_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = integer_prior()
    fed = watch_start(prior, monkeypatch)
    for quality_step in (0, 100, 200):
        prior.start(quality_step, 1, 1)
    starts = torch.stack(fed[::2])[:, :, 0, 0]
    assert torch.equal(starts, prior.vector.double())


@pytest.mark.parametrize("quality_step", [1, 33, 99, 101, 160, 199])
def test_between_levels_the_vector_is_interpolated_and_floored(
    quality_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = integer_prior()
    prior.vector[:, 0] = torch.tensor([-5, 6, -7])
    fed = watch_start(prior, monkeypatch)
    prior.start(quality_step, 1, 1)
    low, part = divmod(2 * quality_step, 200)
    rows = prior.vector.tolist()
    expected = [(a * (200 - part) + b * part) // 200 for a, b in zip(rows[low], rows[low + 1], strict=True)]
    assert fed[0][:, 0, 0].tolist() == expected


def test_a_model_of_one_level_has_the_same_vector_at_every_quality() -> None:
    tensors = to_integers(float_prior())
    tensors["vector"] = tensors["vector"][:1]
    prior = IntegerPrior(tensors, CPU)
    first = prior.start(0, 2, 2)
    for quality_step in (1, 100, 200):
        assert_the_same(list(first), list(prior.start(quality_step, 2, 2)))


def test_every_quality_step_has_a_prior_of_its_own() -> None:
    prior = integer_prior()
    seen = {prior.start(step, 1, 1)[1].numpy().tobytes() for step in range(201)}
    assert len(seen) > 190


# --- the four passes ----------------------------------------------------------------------------------------------


def test_encoder_and_decoder_walk_through_the_same_values() -> None:
    prior = integer_prior()
    latent = torch.randn(TINY.latent_dim, *SIZE, generator=torch.Generator().manual_seed(3)) * 5
    encoder, decoder = four_passes(prior), four_passes(prior)
    for written, read in zip(encoder, decoder, strict=True):
        assert np.array_equal(written, read)
        symbols = encoder.residuals(latent)
        assert symbols.dtype == np.int32
        assert symbols.shape == written.shape
        encoder.accept(symbols)
        decoder.accept(symbols)
    assert torch.equal(encoder.latent(), decoder.latent())
    assert (encoder.latent()[0] - latent).abs().median() < 2


def test_the_latent_is_values_times_step() -> None:
    passes = four_passes(integer_prior())
    walk(passes, small)
    exact = passes._values.long() * passes._step.long()
    assert torch.equal(passes.latent(), (exact.double() / 2 ** (2 * ACTIVATION_BITS)).float()[None])


def test_the_step_is_never_below_a_half() -> None:
    source = float_prior()
    source.get_parameter("first.1.contract.bias")[: TINY.latent_dim] -= 50
    step = IntegerPrior(to_integers(source), CPU).start(0, 3, 3)[0]
    assert (step == ONE // 2).all()


def test_cells_outside_the_picture_are_not_coded_and_count_as_zero() -> None:
    prior = integer_prior()
    whole, part = four_passes(prior), four_passes(prior, visible=(3, 5))
    for k, (all_cells, visible_cells) in enumerate(zip(whole, part, strict=True)):
        assert 0 < len(visible_cells) < len(all_cells)
        assert part._coded[:, 3:].sum() == part._coded[:, :, 5:].sum() == 0
        hidden = torch.ones(SIZE, dtype=torch.bool)
        hidden[:3, :5] = False
        part.accept(np.full(len(visible_cells), 2, np.int32))
        assert torch.equal(part._values[part._mask & hidden], part._means[part._mask & hidden])
        if k == 0:
            assert torch.equal(part._coded[:, :3, :5], whole._coded[:, :3, :5])
        whole.accept(np.zeros(len(all_cells), np.int32))


def test_symbols_stand_in_the_order_of_channels_rows_and_columns() -> None:
    passes = four_passes(integer_prior())
    for indices in passes:
        scales = passes._merge(passes._scales)
        thresholds = scale_thresholds(ONE).tolist()
        expected = []
        for channel in range(TINY.latent_dim // 4):
            for row in range(SIZE[0]):
                for column in range(SIZE[1]):
                    scale = int(scales[channel, row, column])
                    if scale >= SKIP_SCALE:
                        expected.append(max(i for i, t in enumerate(thresholds) if t <= scale))
        assert indices.tolist() == expected
        passes.accept(np.zeros_like(indices))


def test_a_scale_just_below_the_skip_scale_is_not_coded_and_one_at_it_is() -> None:
    passes = four_passes(integer_prior())
    passes._scales = torch.full_like(passes._scales, SKIP_SCALE)
    passes._scales[:, 0] = SKIP_SCALE - 1
    next(iter(passes))
    assert not passes._coded[:, 0].any()
    assert passes._coded[:, 1:].all()


def test_scales_beyond_the_last_threshold_use_the_last_table() -> None:
    passes = four_passes(integer_prior())
    passes._scales = torch.full_like(passes._scales, float(MAX_ACTIVATION))
    assert (next(iter(passes)) == 255).all()
