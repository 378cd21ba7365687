"""Vision transformer blocks, and the exchange between the semantic and the detail branch (DLF, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from dlfc.model.fused import LayerNorm, add
from dlfc.model.linear import Linear, attend

_POSITIONS = 4096  # that a layer widens at a time when no gradients are kept: its inside is the largest tensor
_TILES = 64  # or windows, that attend at a time then


def random_parameter(*shape: int, scale: float = 1.0) -> nn.Parameter:
    """Normally distributed start values; none on the meta device, where torch would load its compiler to draw them."""
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else torch.randn(shape) * scale)


def parts(x: Tensor, count: int = _TILES) -> Sequence[Tensor]:
    """`x` in pieces of `count` along its first dimension, or whole while gradients are kept."""
    return (x,) if torch.is_grad_enabled() or len(x) <= count else x.split(count)


def joined(pieces: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Pieces along `dim` as one tensor; a single one is not copied."""
    held = list(pieces)
    return held[0] if len(held) == 1 else torch.cat(held, dim)


def over_parts(call: Callable[..., Tensor], count: int, *pieces: Sequence[Tensor]) -> Tensor:
    """`call` of each of `pieces`, side by side, as one tensor of `count` rows in all, which is never held twice."""
    if len(pieces[0]) == 1:
        return call(*(some[0] for some in pieces))
    out: Tensor | None = None
    at = 0
    for given in zip(*pieces, strict=True):
        y = call(*given)
        if out is None:
            out = y.new_empty(count, *y.shape[1:])
        out[at : at + len(y)] = y
        at += len(y)
    assert out is not None
    return out


def each_position(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`call(x)`, which treats all positions of `... C` alike."""
    pieces = parts(x.reshape(-1, x.shape[-1]), _POSITIONS)
    if len(pieces) == 1:
        return call(x)
    return over_parts(call, x.shape[:-1].numel(), pieces).unflatten(0, x.shape[:-1])


class Attention(nn.Module):
    """Multi-head self-attention over `B N C`, all pairs."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, last: int = 0) -> Tensor:
        """`B N C` -> `B N C`, or only the `last` of the N positions."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attend(q[:, :, -last:], k, v)  # B heads N head_dim
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = Linear(dim, hidden)
        self.contract = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return each_position(lambda part: self.contract(self.expand(part, gelu=True)), x)


class VitBlock(nn.Module):
    """Pre-norm transformer block over `B N C`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm_mlp = LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, last: int = 0) -> Tensor:
        """`B N C` -> `B N C`, or only the `last` of the N positions."""
        return over_parts(lambda part: self._part(part, last), len(x), parts(x))

    def _part(self, x: Tensor, last: int) -> Tensor:
        x = add(x[:, -last:], self.attention(self.norm_attention(x), last))
        return add(x, self.mlp(self.norm_mlp(x)))


def cut_tiles(x: Tensor, grid: int) -> Tensor:
    """`B H W C` -> `B*nH*nW grid*grid C`, tiles and cells in raster order."""
    b, h, w, c = x.shape
    x = x.view(b, h // grid, grid, w // grid, grid, c).transpose(2, 3)
    return x.reshape(-1, grid * grid, c)


def join_tiles(tiles: Tensor, grid: int, height: int, width: int) -> Tensor:
    """The inverse of `cut_tiles` for a map of `height` x `width` cells."""
    c = tiles.shape[-1]
    x = tiles.view(-1, height // grid, width // grid, grid, grid, c).transpose(2, 3)
    return x.reshape(-1, height, width, c)


class Exchange(nn.Module):
    """Lets the tokens of a tile and the detail map of the same tile attend to each other.

    Both are updated residually; the semantic update starts at zero.
    """

    def __init__(self, width: int, detail_dim: int, head_dim: int, tokens: int, grid: int, depth: int) -> None:
        super().__init__()
        self.grid = grid
        self.semantic_position = random_parameter(tokens, width, scale=0.02)
        self.detail_position = random_parameter(grid * grid, detail_dim, scale=0.02)
        self.compress = Linear(width, detail_dim)
        self.blocks = nn.ModuleList(VitBlock(detail_dim, detail_dim // head_dim) for _ in range(depth))
        self.decompress = nn.Sequential(Linear(detail_dim, 2 * detail_dim), nn.LayerNorm(2 * detail_dim), nn.SiLU())
        self.semantic_add = Linear(2 * detail_dim, width)
        self.detail_add = nn.Sequential(LayerNorm(detail_dim), Linear(detail_dim, detail_dim))
        nn.init.zeros_(self.semantic_add.weight)
        nn.init.zeros_(self.semantic_add.bias)

    def forward(self, semantic: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        """`semantic` T N width, `detail` B H W C -> the same shapes."""
        _, h, w, _ = detail.shape
        tiles = cut_tiles(detail, self.grid)
        if len(parts(semantic)) == 1:
            semantic, tiles = self._of_tiles(semantic, tiles)
            return semantic, join_tiles(tiles, self.grid, h, w)
        updated = torch.empty_like(semantic), torch.empty_like(tiles)
        for some, of_map, *outs in zip(*map(parts, (semantic, tiles, *updated)), strict=True):
            for out, y in zip(outs, self._of_tiles(some, of_map), strict=True):
                out.copy_(y)
        del tiles
        return updated[0], join_tiles(updated[1], self.grid, h, w)

    def _of_tiles(self, semantic: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor]:
        n = semantic.shape[1]
        x = torch.cat([self.compress(semantic + self.semantic_position), tiles + self.detail_position], 1)
        for block in self.blocks:
            x = block(x)
        return semantic + self.semantic_add(self.decompress(x[:, :n])), tiles + self.detail_add(x[:, n:])
