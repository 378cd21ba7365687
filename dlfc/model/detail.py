"""Blocks of the detail branch: shifted-window attention and ConvNeXt, on maps of shape `B H W C`."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from dlfc.model.fused import LayerNorm, add
from dlfc.model.linear import Linear, attend
from dlfc.model.vit import Mlp, cut_tiles, join_tiles, over_parts, parts


@cache
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _relative_index(window: int, device: torch.device) -> Tensor:
    """Index into a flattened (2w-1) x (2w-1) table of offsets for each pair of cells of a window."""
    cells = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"), -1).view(-1, 2)
    offset = cells[None] - cells[:, None] + window - 1  # of the key from the query, made non-negative
    return (offset[..., 0] * (2 * window - 1) + offset[..., 1]).to(device)


@cache
@torch.inference_mode(False)
def _shift_masks(window: int, device: torch.device) -> Tensor:
    """Additive masks (4, w*w, w*w) for windows that lie: inside, in the last row, in the last column, in both."""
    late = torch.arange(window) >= window - window // 2
    rows, cols = late.repeat_interleave(window), late.repeat(window)
    below = torch.where(rows[:, None] != rows[None], -torch.inf, 0.0)
    right = torch.where(cols[:, None] != cols[None], -torch.inf, 0.0)
    return torch.stack([torch.zeros_like(below), below, right, below + right]).to(device)


class WindowAttention(nn.Module):
    """Attention within windows of `window` x `window` cells, optionally shifted by half a window.

    One bias table serves all heads: of relative offsets, or of all pairs of cells.
    """

    def __init__(self, dim: int, head_dim: int, window: int, *, shifted: bool, relative: bool) -> None:
        super().__init__()
        self.window, self.shifted, self.relative, self.heads = window, shifted, relative, dim // head_dim
        n = window * window
        side = 2 * window - 1 if relative else n
        self.bias = nn.Parameter(torch.zeros(side, side))
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.out = Linear(dim, dim)

    def _bias(self) -> Tensor:
        """Additive bias of each kind of window: 1 n n, or 4 n n if shifted, in the order of `_shift_masks`."""
        bias: Tensor = self.bias
        if self.relative:
            bias = bias.view(-1)[_relative_index(self.window, bias.device)]
        return bias + _shift_masks(self.window, bias.device) if self.shifted else bias[None]

    def _kinds(self, b: int, rows: int, cols: int) -> Tensor:
        """The kind of each window of `b` maps of `rows` x `cols` windows."""
        kind = torch.zeros(rows, cols, dtype=torch.long, device=self.bias.device)
        if self.shifted:
            kind[-1] += 1
            kind[:, -1] += 2
        return kind.view(-1).repeat(b)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        shift = self.window // 2 if self.shifted else 0
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        bias = self._bias()
        tiles, kinds = cut_tiles(x, self.window), self._kinds(b, h // self.window, w // self.window)
        del x

        def mix(some: Tensor, kinds: Tensor) -> Tensor:
            return self._mix(some, bias[kinds, None] if self.shifted else bias[None])

        mixed = over_parts(mix, len(tiles), parts(tiles), parts(kinds))
        del tiles
        x = join_tiles(mixed, self.window, h, w)
        del mixed
        return torch.roll(x, (shift, shift), (1, 2)) if shift else x

    def _mix(self, tiles: Tensor, bias: Tensor) -> Tensor:
        t, n, c = tiles.shape
        q, k, v = self.qkv(tiles).view(t, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v, bias)  # tiles heads n head_dim
        return self.out(mixed.transpose(1, 2).reshape(t, n, c))


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, both residual."""

    def __init__(self, dim: int, head_dim: int, window: int, *, shifted: bool, relative: bool) -> None:
        super().__init__()
        self.norm_attention = LayerNorm(dim)
        self.attention = WindowAttention(dim, head_dim, window, shifted=shifted, relative=relative)
        self.norm_mlp = LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = add(x, self.attention(self.norm_attention(x)))
        return add(x, self.mlp(self.norm_mlp(x)))


def swin_run(dim: int, head_dim: int, window: int, depth: int) -> nn.Sequential:
    """A run of Swin blocks, plain and shifted in turn; only the first has a relative table, as published."""
    return nn.Sequential(*(SwinBlock(dim, head_dim, window, shifted=i % 2 == 1, relative=i == 0) for i in range(depth)))


class ConvNeXtBlock(nn.Module):
    """Depthwise 5x5 and MLP; the residual is taken before the per-channel input scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise((x * self.scale).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return add(x, self.mlp(self.norm(y)))
