"""The detail bottleneck: transforms around a quantised latent that is coded in four passes (DLF, section 3.4).

The prior here is the float form that training uses. What decides symbols in files is its integer form,
`dlfc.entropy.prior`, made from these weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.model.config import DLFConfig
from dlfc.model.linear import Pointwise
from dlfc.model.vit import random_parameter

SKIP_SCALE = 0.12  # below this scale a symbol is taken as 0 and not coded, as published
MIN_SCALE = 0.11  # smallest scale of the published table
TRAINING_MIN_SCALE = 0.16  # in training no symbol is skipped, and none is so surprising that its gradient rules
MIN_STEP = 0.5  # smallest quantisation step, as published

# For each pass, which position of the 2x2 pattern (even/odd row, even/odd column) each channel group codes.
PASS_POSITIONS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))


def pass_masks(channels: int, height: int, width: int) -> Tensor:
    """Bool masks (4, channels, height, width): which latent values each pass codes."""
    position = (torch.arange(height)[:, None] % 2) * 2 + torch.arange(width)[None] % 2
    at = torch.stack([position == k for k in range(4)])
    groups = torch.stack([at[list(row)] for row in PASS_POSITIONS])  # pass, group, H, W
    return groups.repeat_interleave(channels // 4, 1)


class DepthConvBlock(nn.Module):
    """1x1, depthwise 3x3, 1x1, then a gated-free feed-forward with two leaky slopes; both residual."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = Pointwise(c_in, c_in)
        self.depthwise = nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in)
        self.conv2 = Pointwise(c_in, c_out)
        self.adaptor = Pointwise(c_in, c_out) if c_in != c_out else nn.Identity()
        self.expand = Pointwise(c_out, 4 * c_out)
        self.contract = Pointwise(2 * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.adaptor(x) + self.conv2(self.depthwise(F.leaky_relu(self.conv1(x), 0.01)))
        a, b = self.expand(x).chunk(2, 1)
        return x + self.contract(F.leaky_relu(a, 0.1) + F.leaky_relu(b, 0.01))


def _lower_bound(x: Tensor, bound: float | Tensor) -> Tensor:
    """max(x, bound) whose gradient still passes where it would raise x."""
    return _LowerBound.apply(x, bound)


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bound: float | Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x < bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (below,) = ctx.saved_tensors
        return grad * (~below | (grad < 0)), None


def gaussian_bits(residual: Tensor, scales: Tensor, min_scale: float | Tensor = MIN_SCALE) -> Tensor:
    """Bits of each value for an integer bin around `residual` under a zero-mean Gaussian."""
    x = residual.abs().float() * math.sqrt(0.5)
    s = _lower_bound(scales.float(), min_scale)
    half = math.sqrt(0.5) / 2
    p = 0.5 * (torch.erfc((x - half) / s) - torch.erfc((x + half) / s))
    return -torch.log2(p + 1e-5)


@dataclass(frozen=True)
class Quantised:
    """What the four passes made of a latent, all B C H W: coded residuals, their scales, values, and the bits."""

    symbols: Tensor
    scales: Tensor
    values: Tensor
    step: Tensor
    bits: Tensor


class TokenContext(nn.Module):
    """What tokens say of the values in their regions: additions to scales, means and common map, none at first."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        c = config.latent_dim
        self.cells = config.region_cells
        self.codes = random_parameter(config.codebook_size, config.prior_context)
        self.spread = nn.Conv2d(config.prior_context, math.prod(self.cells) * c, 1)
        self.blocks = nn.Sequential(DepthConvBlock(c, 2 * c), DepthConvBlock(2 * c, 2 * c))
        self.out = nn.Conv2d(2 * c, 3 * c, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, vector: Tensor, regions: Tensor) -> Tensor:
        """`vector` B C and the tokens of regions, B R S -> B 3C H W."""
        x = self.spread(self.codes[regions].permute(0, 3, 1, 2))
        x = x.unflatten(1, (*self.cells, -1)).permute(0, 3, 4, 1, 5, 2)  # B C R rows S columns
        return self.out(self.blocks(x.flatten(4).flatten(2, 3) + vector[:, :, None, None]))


class DetailPrior(nn.Module):
    """Step, scales and means of the latent: of all values at first, then of each pass given the passes before.

    With `prior_context`, tokens are known too, which is not published.
    """

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        c = config.latent_dim
        self.vector = nn.Parameter(torch.ones(config.levels, c))
        self.first = nn.Sequential(DepthConvBlock(c, 2 * c), DepthConvBlock(2 * c, 3 * c))
        self.reduce = nn.Conv2d(3 * c, c, 1)
        self.adaptors = nn.ModuleList(DepthConvBlock(2 * c, 2 * c) for _ in range(3))
        self.spatial = nn.Sequential(*(DepthConvBlock(2 * c, 2 * c) for _ in range(3)))
        self.context = TokenContext(config) if config.prior_context else None

    def start(
        self, vector: Tensor, height: int, width: int, regions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`vector` B C -> step, scales, means and the common map, each B C H W.

        `regions` B R S are the tokens of regions; ValueError if a prior with `prior_context` is not given them.
        """
        params = self.first(vector[:, :, None, None].expand(-1, -1, height, width))
        step, scales, means = params.chunk(3, 1)
        common = self.reduce(params)
        if self.context is not None:
            if regions is None:
                raise ValueError("this prior needs the tokens of a picture")
            more = self.context(vector, regions).chunk(3, 1)
            scales, means, common = scales + more[0], means + more[1], common + more[2]
        return step.clamp(min=MIN_STEP), scales, means, common

    def steps(self, vector: Tensor) -> Tensor:
        """`vector` B C -> the steps of a single cell, B C."""
        return self.first(vector[:, :, None, None]).chunk(3, 1)[0][:, :, 0, 0].clamp(min=MIN_STEP)

    def refine(self, k: int, known: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means for pass `k` (1..3), given the latent values of the passes before."""
        scales, means = self.spatial(self.adaptors[k - 1](torch.cat([known, common], 1))).chunk(2, 1)
        return scales, means

    def quantise(
        self, y: Tensor, level: Tensor, regions: Tensor | None = None, closed: Tensor | None = None
    ) -> Quantised:
        """Four passes over `y` B C H W at rate levels `level` B; `regions` B R S as in `start`.

        `closed` B C are the channels that say nothing, whose scales may become too small for symbols in training too.
        In training mode no symbol is skipped, the rounding passes gradients, and the bits are those of the rounded
        residual: most symbols are zero at our rates, where noise in place of rounding overstates the bits.
        """
        _, c, h, w = y.shape
        step, scales, means, common = self.start(at_level(self.vector, level), h, w, regions)
        y = y / step
        values, symbols, used = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
        for k, mask in enumerate(pass_masks(c, h, w).to(y.device)):
            if k:
                scales, means = self.refine(k, values, common)
            residual = y - means
            rounded = torch.round(residual)
            if self.training:
                rounded = residual + (rounded - residual).detach()
            else:
                rounded = torch.where(scales < SKIP_SCALE, torch.zeros_like(y), rounded)
            symbols = symbols + rounded * mask
            used = used + scales * mask
            values = values + (rounded + means) * mask
        least: float | Tensor = TRAINING_MIN_SCALE if self.training else MIN_SCALE
        if closed is not None:
            least = torch.where(closed[:, :, None, None], MIN_SCALE, least)
        bits = gaussian_bits(symbols, used, least)
        return Quantised(symbols, used, values, step, bits)


class Bottleneck(nn.Module):
    """Detail features -> latent -> quantised latent -> detail features, at one of several rate levels."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        c, q = config.detail_dim, config.latent_dim
        self.levels = config.levels
        self.encode_gain = nn.Parameter(torch.ones(config.levels, c))
        self.decode_gain = nn.Parameter(torch.ones(config.levels, c))
        self.encode_in = nn.Sequential(DepthConvBlock(c, c), DepthConvBlock(c, c))
        self.encode_out = nn.Sequential(DepthConvBlock(c, c), DepthConvBlock(c, q))
        self.decode_in = nn.Sequential(DepthConvBlock(q, c), DepthConvBlock(c, c))
        self.decode_out = nn.Sequential(DepthConvBlock(c, c), DepthConvBlock(c, c))
        self.prior = DetailPrior(config)
        # What of each channel enters the latent: nothing at closed levels, and between levels a part. Not trained.
        self.opening = nn.Parameter(torch.ones(config.levels, q), requires_grad=False) if config.closed_levels else None

    def analyse(self, h: Tensor, level: Tensor) -> Tensor:
        """`h` B C H W, `level` B in [0, levels-1] -> latent B latent_dim H W, before the step."""
        return self.encode_out(self.encode_in(h) * at_level(self.encode_gain, level)[:, :, None, None])

    def synthesise(self, latent: Tensor, level: Tensor) -> Tensor:
        """Quantised latent times step -> detail features B C H W."""
        return self.decode_out(self.decode_in(latent) * at_level(self.decode_gain, level)[:, :, None, None])

    def quantise(self, y: Tensor, level: Tensor, regions: Tensor | None = None) -> Quantised:
        """Four passes over `y` B C H W with the float prior, see `DetailPrior.quantise`."""
        return self.prior.quantise(y, level, regions, self.closed(level))

    def opened(self, y: Tensor, level: Tensor) -> Tensor:
        """Latents B C H W without what is closed at `level` B."""
        return y if self.opening is None else y * at_level(self.opening, level)[:, :, None, None]

    def closed(self, level: Tensor) -> Tensor | None:
        """Which channels say nothing at `level` B, bool B C, or None if there never are any."""
        return None if self.opening is None else at_level(self.opening, level) == 0


def at_level(vectors: Tensor, level: Tensor) -> Tensor:
    """Linear interpolation between the rows of `vectors` (levels, C) at `level` (B,) -> B C."""
    low = level.floor().clamp(0, max(len(vectors) - 2, 0)).long()
    high = (low + 1).clamp(max=len(vectors) - 1)
    part = (level - low).to(vectors.dtype)[:, None]
    return vectors[low] * (1 - part) + vectors[high] * part
