"""Steps between products of 16-bit numbers in one pass each, by the C code in `native/dlfc_fused.c`.

torch takes a pass over memory for each of: widening, scaling, activating, narrowing. Where the C code cannot run, or
tensors are not laid out for it, callers take torch's way. Nothing that decides symbols passes here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dlfc._fused import ffi, lib

_PIECE_VALUES = 1 << 17  # that a thread should have to work on: some 50 microseconds, well above starting it


@cache
def works() -> bool:
    """Whether this processor can run the C code."""
    return bool(lib.dlfc_fused_works())


class LayerNorm(nn.LayerNorm):
    """As torch's own; with `narrow` its result may be bfloat16, for a layer that takes such numbers."""

    narrow = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.narrow or x.dtype != torch.float32 or not (_is_plain(x) and x.is_contiguous()):
            return super().forward(x)
        out = torch.empty_like(x, dtype=torch.bfloat16)
        weight, bias, channels = _floats(self.weight), _floats(self.bias), x.shape[-1]

        def call(first: int, count: int) -> None:
            values, result = _at(x, "float *", first * channels), _at(out, "uint16_t *", first * channels)
            lib.dlfc_layer_norm(values, weight, bias, self.eps, result, count, channels)

        _spread(call, x.numel() // channels, channels)
        return out


def add(x: Tensor, y: Tensor) -> Tensor:
    """`x + y` of one shape."""
    if not (_is_plain(x) and x.dtype == torch.float32 and y.dtype == torch.bfloat16 and x.stride() == y.stride()):
        return x + y
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return x + y
    out = torch.empty_like(x)
    _spread(partial(_add, x, y, out), x.numel(), 1)
    return out


def add_rows(x: Tensor, top: int, bottom: int, y: Tensor) -> bool:
    """Add `y` B C h W to the rows `top` to `bottom` of `x` B C H W in place, or return False if it cannot be done."""
    part = x[:, :, top:bottom]
    if not (is_image(part) and is_image(y) and x.dtype == torch.float32 and y.dtype == torch.bfloat16):
        return False
    for mine, more in zip(part, y, strict=True):
        _spread(partial(_add, mine, more, mine), mine.numel(), 1)
    return True


def _add(x: Tensor, y: Tensor, out: Tensor, first: int, count: int) -> None:
    lib.dlfc_add16(_at(x, "float *", first), _at(y, "uint16_t *", first), _at(out, "float *", first), count)


def silu(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """SiLU of `x` B C H W, for which `is_image` holds, or of `x * scale + shift`, both B C 1 1: bfloat16."""
    b, channels, height, width = x.shape
    out = torch.empty(x.shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
    run, kind = (lib.dlfc_silu, "float *") if x.dtype == torch.float32 else (lib.dlfc_silu16, "uint16_t *")
    for i in range(b):
        factors = [ffi.NULL if part is None else _floats(part[i].reshape(-1)) for part in (scale, shift)]

        def call(first: int, count: int, i: int = i, factors: list[Any] = factors) -> None:
            begin = first * channels
            run(_at(x[i], kind, begin), *factors, _at(out[i], "uint16_t *", begin), count, channels)

        _spread(call, height * width, channels)
    return out


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares of each channel of `x` B C H W, for which `is_image` holds: B C each, float64."""
    b, channels, height, width = x.shape
    sums = torch.zeros(2, b, channels, dtype=torch.float64)
    run, kind = (lib.dlfc_moments, "float *") if x.dtype == torch.float32 else (lib.dlfc_moments16, "uint16_t *")
    for i in range(b):
        found: dict[int, Tensor] = {}

        def call(first: int, count: int, i: int = i, found: dict[int, Tensor] = found) -> None:
            mine = found[first] = torch.zeros(2, channels, dtype=torch.float64)
            totals = _at(mine[0], "double *", 0), _at(mine[1], "double *", 0)
            run(_at(x[i], kind, first * channels), *totals, count, channels)

        _spread(call, height * width, channels)
        for first in sorted(found):  # not in the order in which threads end: sums must not change from run to run
            sums[:, i] += found[first]
    return sums[0], sums[1]


def place(x: Tensor, out: Tensor, top: int, left: int) -> bool:
    """Write `x` B C h w to every second row and column of `out` from `top`, `left` on, or return False if not done.

    `x` may be part of wider rows.
    """
    _, channels, height, width = x.shape
    pixels = x.stride(1) == 1 and x.stride(3) == channels
    if not (is_image(out) and pixels and x.dtype == torch.bfloat16 and out.dtype == torch.float32):
        return False
    steps = x.stride(2), 2 * out.stride(2), 2 * channels
    for source, target in zip(x, out[:, :, top:, left:], strict=True):
        _spread(partial(_place, source, target, steps), height, width * channels)
    return True


def _place(x: Tensor, out: Tensor, steps: tuple[int, int, int], first: int, count: int) -> None:
    channels, _, width = x.shape
    source, target = _at(x, "uint16_t *", first * steps[0]), _at(out, "float *", first * steps[1])
    lib.dlfc_place16(source, target, count, width, channels, *steps)


def softmax(scores: Tensor, bias: Tensor | None) -> bool:
    """Replace `scores` H N M, or with `bias` N M added, by their softmax over M, or return False if not done."""
    plain = _is_plain(scores) and scores.dtype == torch.bfloat16 and scores[0].is_contiguous()
    if not plain or not (bias is None or (bias.dtype == torch.float32 and bias.is_contiguous())):
        return False
    _, rows, columns = scores.shape
    added = ffi.NULL if bias is None else _floats(bias)
    for head in scores:
        lib.dlfc_softmax16(_at(head, "uint16_t *", 0), added, rows, rows, columns)
    return True


def is_image(x: Tensor) -> bool:
    """Whether `x` B C H W, or rows of such a map, can be handed to C: channels last, without gaps inside a picture."""
    _, channels, _, width = x.shape
    plain = _is_plain(x) and x.dtype in (torch.float32, torch.bfloat16)
    return plain and x.stride()[1:] == (1, width * channels, channels)


def _is_plain(x: Tensor) -> bool:
    return x.is_cpu and not torch.is_grad_enabled() and works()


def _floats(x: Tensor) -> Any:
    """A pointer to `x`, which its caller keeps alive as long as it is in use."""
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    return _at(x, "float *", 0)


def _at(x: Tensor, kind: str, offset: int) -> Any:
    return ffi.cast(kind, x.data_ptr() + offset * x.element_size())


def _spread(call: Callable[[int, int], None], rows: int, channels: int) -> None:
    """`call(first, count)` for all rows, by as many threads as torch uses."""
    threads = min(torch.get_num_threads(), max(1, rows * channels // _PIECE_VALUES))
    if threads == 1:
        call(0, rows)
        return
    pool = _pool(os.getpid(), torch.get_num_threads())  # a forked process has none of its parent's threads
    for done in [pool.submit(call, *piece) for piece in _pieces(rows, threads)]:
        done.result()


def _pieces(rows: int, count: int) -> Iterator[tuple[int, int]]:
    for i in range(count):
        first, end = rows * i // count, rows * (i + 1) // count
        yield first, end - first


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=f"dlfc-{process}")
