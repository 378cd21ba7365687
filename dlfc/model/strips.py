"""Convolutions of the generator, a strip of rows at a time: the same numbers with little memory.

At full resolution a map of 128 channels takes 512 bytes per pixel. Normalising, activating and convolving it strip
by strip keeps two such maps instead of five, and keeps the strips in the processor's cache. For tensors without
gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.model import fused

_STRIP_VALUES = 3 << 19  # 6 MB in 32 bits: much smaller strips repeat too much of their borders


def convolve(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module | None = None,
    add_to: Tensor | None = None,
    dtype: torch.dtype | None = None,
    spare: list[Tensor] | None = None,
) -> Tensor:
    """`x` B C H W through `norm` and SiLU, if `norm` is given, then through `conv`, 1x1 or 3x3 with padding.

    The result is added to `add_to`, which is returned, or it is a tensor of `dtype`, else of that of the weights: the
    one in `spare`, taken from there, if it is such a tensor, or a new one.
    """
    b, _, h, w = x.shape
    halo = conv.kernel_size[0] // 2
    affine = None if norm is None else _affine(x, norm)
    out = add_to
    if out is None:
        shape, dtype = (b, conv.out_channels, h, w), dtype or conv.weight.dtype
        out = spare.pop() if spare else None
        if out is None or out.shape != shape or out.dtype != dtype:
            out = torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    for top, bottom in _strips(x):
        part = x[:, :, max(top - halo, 0) : bottom + halo]
        if affine is not None:
            part = _activate(part, conv.weight.dtype, *affine)
        part = part.to(conv.weight.dtype)
        if halo and (top == 0 or bottom == h):
            part = F.pad(part, (0, 0, int(top == 0), int(bottom == h)))
        y = F.conv2d(part, conv.weight, conv.bias, padding=(0, halo))
        if add_to is None:
            out[:, :, top:bottom] = y
        elif not fused.add_rows(out, top, bottom, y):
            out[:, :, top:bottom] += y
    return out


Phases = dict[tuple[int, int], Tensor]


def phases(conv: nn.Conv2d) -> Phases:
    """The 2x2 kernels that do the work of the 3x3 `conv` on a map made twice as large by nearest neighbour.

    Each of the four pixels that a cell becomes, by row and column, sees only 2x2 cells: four products instead of nine.
    """
    return {(i, j): _phase(conv.weight, i, j) for i in range(2) for j in range(2)}


def upsample(x: Tensor, conv: nn.Conv2d, kernels: Phases) -> Tensor:
    """`x` B C H W, twice as large, then through `conv`, whose phases are `kernels`: B C 2H 2W of the type of `x`."""
    b, _, h, w = x.shape
    shape = (b, conv.out_channels, 2 * h, 2 * w)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for top, bottom in _strips(x):
        part = x[:, :, max(top - 1, 0) : bottom + 1].to(conv.weight.dtype)
        part = F.pad(part, (1, 1, int(top == 0), int(bottom == h)))
        rows = bottom - top
        for (i, j), kernel in kernels.items():
            y = F.conv2d(part[:, :, i : i + rows + 1], kernel, conv.bias)  # a column too many, but no copy
            y = y[..., j : j + w]
            if not fused.place(y, out, 2 * top + i, j):
                out[:, :, 2 * top + i : 2 * bottom : 2, j::2] = y
    return out


def _phase(weight: Tensor, i: int, j: int) -> Tensor:
    """The 2x2 kernel of the pixel in row `i`, column `j` of a cell: rows and columns of the 3x3 that fall together."""
    w = weight.float()
    w = torch.stack([w[:, :, :1].sum(2), w[:, :, 1:].sum(2)] if i == 0 else [w[:, :, :2].sum(2), w[:, :, 2:].sum(2)], 2)
    w = torch.stack([w[..., :1].sum(3), w[..., 1:].sum(3)] if j == 0 else [w[..., :2].sum(3), w[..., 2:].sum(3)], 3)
    return w.to(weight.dtype).contiguous(memory_format=torch.channels_last)


def _strips(x: Tensor) -> Iterator[tuple[int, int]]:
    b, c, h, w = x.shape
    rows = max(4, _STRIP_VALUES // (b * c * w))
    for top in range(0, h, rows):
        yield top, min(top + rows, h)


def _affine(x: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """What a GroupNorm multiplies and adds, B C 1 1 each; nothing for an identity."""
    if not isinstance(norm, nn.GroupNorm):
        return None, None
    b, c, h, w = x.shape
    total, squares = fused.moments(x) if fused.is_image(x) else _moments(x)
    groups, per_channel = (b, norm.num_groups, -1), c // norm.num_groups
    count = per_channel * h * w
    mean = total.view(groups).sum(2) / count
    variance = squares.view(groups).sum(2) / count - mean.square()
    deviation = (variance.clamp(min=0) + norm.eps).rsqrt()
    scale = deviation.repeat_interleave(per_channel, 1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(per_channel, 1) * scale
    return scale.float()[:, :, None, None], shift.float()[:, :, None, None]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and sums of squares of each channel, B C each."""
    total, squares = torch.zeros(2, *x.shape[:2], dtype=torch.float64, device=x.device)
    for top, bottom in _strips(x):
        part = x[:, :, top:bottom].float()
        total += part.sum((2, 3))
        squares += part.square().sum((2, 3))
    return total, squares


def _activate(part: Tensor, dtype: torch.dtype, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """SiLU of `part`, scaled and shifted; of `dtype` or of 32 bits."""
    if dtype == torch.bfloat16 and fused.is_image(part):
        return fused.silu(part, scale, shift)
    if scale is None or shift is None:
        return F.silu(part.float())
    return F.silu(torch.addcmul(shift, part.float(), scale), inplace=True)
