"""Steps of the network in one pass each, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlfc._fused import ffi, lib
from dlfc.model import fused

needs_wide = pytest.mark.skipif(not fused.works(), reason="this processor has no AVX-512 for bfloat16")
CHANNELS = [3, 16, 40, 64, 100]  # whole vectors of 16, parts of one, whole blocks of 64


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def image(channels: int, dtype: torch.dtype, height: int = 9, width: int = 7) -> Tensor:
    return numbers(2, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)


def same(a: Tensor, b: Tensor) -> None:
    """Equal but for rounding to the 8 bits of a bfloat16."""
    torch.testing.assert_close(a.float(), b.float(), rtol=2**-7, atol=2**-10)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(fused, "_PIECE_VALUES", 1)


@needs_wide
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_scaling_and_activation_are_those_of_torch(channels: int, dtype: torch.dtype) -> None:
    x, scale, shift = image(channels, dtype), numbers(2, channels, 1, 1), numbers(2, channels, 1, 1) + 1
    assert fused.is_image(x)
    same(fused.silu(x, scale, shift), F.silu(x.float() * scale + shift))
    same(fused.silu(x, None, None), F.silu(x.float()))
    rows = x[:, :, 2:5]
    same(fused.silu(rows, scale, shift), F.silu(rows.float() * scale + shift))


@needs_wide
@torch.no_grad()
def test_activation_holds_for_numbers_of_any_size() -> None:
    x = torch.tensor([-3e38, -1e4, -90.0, -88.0, -1e-3, 0.0, 1e-3, 20.0, 88.0, 1e4, 3e38]).reshape(1, 1, 1, -1)
    found = fused.silu(x.expand(1, 16, 1, -1).contiguous(memory_format=torch.channels_last), None, None)
    same(found[:, :1], F.silu(x))


@needs_wide
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_sums_of_channels_are_those_of_torch(channels: int, dtype: torch.dtype) -> None:
    x = image(channels, dtype, height=40, width=30)
    sums, squares = fused.moments(x)
    torch.testing.assert_close(sums, x.double().sum((2, 3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(squares, x.double().square().sum((2, 3)), rtol=1e-6, atol=0)


@needs_wide
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_sums_of_numbers_of_two_kinds_are_those_of_torch() -> None:
    x, y = numbers(5, 7, 33), numbers(5, 7, 33, dtype=torch.bfloat16)
    assert torch.equal(fused.add(x, y), x + y)
    assert torch.equal(fused.add(x[:, -3:], y[:, -3:]), x[:, -3:] + y[:, -3:])  # rows with gaps between
    wide, more = (
        image(24, torch.float32),
        image(24, torch.bfloat16)[:, :, :4].contiguous(memory_format=torch.channels_last),
    )
    wanted = wide.clone()
    wanted[:, :, 3:7] += more
    assert fused.add_rows(wide, 3, 7, more)
    assert torch.equal(wide, wanted)


@needs_wide
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_pixels_are_placed_in_every_second_row_and_column() -> None:
    x = image(24, torch.bfloat16, height=4, width=6)
    out = image(24, torch.float32, height=8, width=10)
    wanted = out.clone()
    wanted[:, :, 1::2, 0::2] = x[..., 1:]
    assert fused.place(x[..., 1:], out, 1, 0)
    assert torch.equal(out, wanted)


@needs_wide
@pytest.mark.parametrize("columns", [1, 15, 16, 289])
@torch.no_grad()
def test_softmax_is_that_of_torch(columns: int) -> None:
    x, bias = numbers(3, 5, columns, dtype=torch.bfloat16), numbers(5, columns)
    bias[2:, : columns // 2] = -torch.inf
    found = x.clone()
    assert fused.softmax(found, None)
    torch.testing.assert_close(found.float(), torch.softmax(x.float(), -1), rtol=2**-6, atol=2**-10)
    found = x.clone()
    assert fused.softmax(found, bias)
    torch.testing.assert_close(found.float(), torch.softmax(x.float() + bias, -1), rtol=2**-6, atol=2**-10)


@needs_wide
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", CHANNELS)
@torch.no_grad()
def test_layer_norms_are_those_of_torch(channels: int) -> None:
    norm = fused.LayerNorm(channels)
    norm.weight.copy_(numbers(channels))
    norm.bias.copy_(numbers(channels) + 1)
    x = 5 + numbers(3, 11, channels)
    wanted = norm(x)
    assert wanted.dtype == torch.float32
    norm.narrow = True
    found = norm(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=2**-7)


@needs_wide
@pytest.mark.parametrize("channels", CHANNELS)
def test_nothing_is_written_beside_the_results(channels: int) -> None:
    x, margin = numbers(4, channels), 64
    held = torch.full((2 * margin + x.numel(),), 7.0, dtype=torch.bfloat16)
    inner = slice(margin, margin + x.numel())

    def pointer(tensor: Tensor, kind: str) -> Any:
        return ffi.cast(kind, tensor.data_ptr())

    floats, halves = pointer(x, "float *"), pointer(held[inner], "uint16_t *")
    one = torch.ones(channels)
    lib.dlfc_silu(floats, ffi.NULL, ffi.NULL, halves, 4, channels)
    lib.dlfc_layer_norm(floats, pointer(one, "float *"), pointer(one, "float *"), 1e-5, halves, 4, channels)
    lib.dlfc_softmax16(halves, ffi.NULL, 4, 4, channels)
    wide = torch.full((2 * margin + x.numel(),), 7.0)
    lib.dlfc_add16(floats, halves, pointer(wide[inner], "float *"), x.numel())
    lib.dlfc_place16(halves, pointer(wide[inner], "float *"), 2, 2, channels, 2 * channels, 2 * channels, channels)
    sums = torch.full((2 * margin + channels,), 7.0, dtype=torch.float64)
    totals = pointer(sums[margin:], "double *")
    lib.dlfc_moments(floats, totals, totals, 4, channels)
    for tensor, size in ((held, x.numel()), (wide, x.numel()), (sums, channels)):
        assert (tensor[:margin] == 7).all()
        assert (tensor[margin + size :] == 7).all()
        assert (tensor[margin : margin + size] != 7).any()


def test_what_keeps_gradients_takes_the_way_of_torch() -> None:
    norm = fused.LayerNorm(8)
    norm.narrow = True
    x = numbers(2, 8).requires_grad_()
    y = fused.add(norm(x), numbers(2, 8, dtype=torch.bfloat16))
    y.sum().backward()
    assert x.grad is not None
    scores = numbers(1, 2, 3, dtype=torch.bfloat16)
    assert not fused.softmax(scores, None)
    assert not fused.is_image(image(16, torch.float32))


@torch.no_grad()
def test_other_processors_take_the_way_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "works", lambda: False)
    x = image(16, torch.bfloat16)
    assert not fused.is_image(x)
    assert not fused.add_rows(x.float(), 0, 9, x)
    assert not fused.place(x, x.float(), 0, 0)
    assert torch.equal(fused.add(x.float(), x), x.float() + x)
