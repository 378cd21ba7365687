"""More time for one picture: its latent is moved by gradient before it is coded, with the decoder frozen.

What is made smaller is the logarithm of the distance to the photo (`dlfc.likeness`) plus that of the file's size, the
latter counted as much as sizes and distances trade on the codec's own curve. Decoders and the format know nothing
of it. It runs in floats: what comes out is a latent, from which the integer prior makes symbols as from any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlfc.effort import ITERATIONS
from dlfc.likeness import Likeness
from dlfc.model.bottleneck import SKIP_SCALE, DetailPrior, at_level, gaussian_bits, pass_masks
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF, as_floats
from dlfc.model.linear import packing_pays

_TRADE = 0.35  # distance is about proportional to size to the power of minus this
_WORTH = 0.012  # smaller gains, usual at low rates, are seen by no other measure
_STEERING, _AT_MOST = 8, 1.3  # sizes count less below what is aimed for, and more above, by this power
_KEPT = 0.8  # of the moving averages of gradients, per iteration
_STEP = 0.09  # root mean square of the first move, in symbols, times the root of the number of moves
_LAST = 0.2  # of the step at the end, as part of the first
_REGION_VALUES = 1 << 21  # of a map of the generator's last grid: 768x512 and more, 1.2 GB with all that gradients need


@dataclass(frozen=True)
class Plain:
    """A picture as it would be coded without refining."""

    pixels: Tensor  # 1 3 H W, bytes, padded to whole tiles
    visible: tuple[int, int]  # rows and columns of cells that do not lie wholly in padding
    tokens: Tensor  # T 32
    latent: Tensor  # 1 C H/32 W/32, before the step
    level: Tensor  # 1
    file_bits: float


def refine(
    network: DLF, prior: DetailPrior, plain: Plain, effort: int, aim_bits: float, *, strict: bool = False
) -> Tensor:
    """The latent to code in place of that of `plain`; it gives a file of about `aim_bits`, or less if `strict`.

    Large pictures are refined region by region, which bounds memory. Where regions touch, what the decoder sees of the
    other one plays no part, so one row of cells on each side stays as it is.
    """
    with torch.inference_mode(False), torch.enable_grad():
        regions = [_Region(network, prior, part, plain.latent, *place) for part, *place in _cut(network.config, plain)]
        other_bits = plain.file_bits - sum(region.plain_bits for region in regions)
        latent, iterations = plain.latent.clone(), ITERATIONS[effort - 1]
        for region in regions:
            other = other_bits * region.share
            aim = max(1.0, region.plain_bits + other + (aim_bits - plain.file_bits) * region.share)
            latent[:, :, region.rows, region.cols] = _descend(network, region, other, aim, strict, iterations)
    return latent


def _descend(
    network: DLF, region: _Region, other_bits: float, aim_bits: float, strict: bool, iterations: int
) -> Tensor:
    """The best latent of a region that is met on the way; the one at the start if none is clearly better.

    Squared error must not rise: at low rates texture could be had at its cost.
    """
    likeness = Likeness(region.photo())
    values = (region.latent / region.step).requires_grad_()
    mean = square = torch.zeros_like(values)
    best, least, most_squares = region.latent, math.inf, math.inf
    for iteration in range(iterations + 1):
        coded, detail_bits = region.quantise(values)
        bits = (detail_bits + other_bits).clamp(min=1)
        distance, squares = likeness.log_distances(region.paint(network, coded))
        cost = distance.item() if strict else distance.item() + _TRADE * math.log(bits.item())
        if iteration == 0:
            least, most_squares = cost - _WORTH, squares.item()
        elif cost < least and squares.item() <= most_squares and (not strict or bits.item() <= aim_bits):
            best, least = torch.where(region.free, coded.detach(), region.latent), cost
        if iteration == iterations:
            break
        weight = _TRADE * min(bits.item() / aim_bits, _AT_MOST) ** _STEERING
        (gradient,) = torch.autograd.grad(distance + weight * bits.log(), values)
        with torch.no_grad():
            # All values share one scale, so that those move whose rounding matters, and the others stay.
            mean = _KEPT * mean + (1 - _KEPT) * gradient
            square = _KEPT * square + (1 - _KEPT) * gradient.square().mean()
            step = _STEP / math.sqrt(iterations) * (1 - (1 - _LAST) * iteration / iterations)
            values -= region.free * step * mean / square.sqrt().clamp(min=1e-20)
    return best


class _Region:
    """A part of the picture, of whole tiles, as if it were a picture of its own."""

    def __init__(self, network: DLF, prior: DetailPrior, plain: Plain, whole: Tensor, rows: slice, cols: slice) -> None:
        self._prior, self._tokens, self._level = prior, plain.tokens, plain.level
        self.rows, self.cols = rows, cols
        self.share = plain.latent[0, 0].numel() / whole[0, 0].numel()  # of the picture
        self.free = torch.ones_like(plain.latent[0, 0], dtype=torch.bool)  # cells that do not lie on another region
        self.free[:1] &= rows.start == 0
        self.free[-1:] &= rows.stop == whole.shape[2]
        self.free[:, :1] &= cols.start == 0
        self.free[:, -1:] &= cols.stop == whole.shape[3]
        self.latent = plain.latent
        height, width = plain.latent.shape[2:]
        cell = plain.pixels.shape[2] // height
        self._height, self._width = (side * cell for side in plain.visible)
        self._pixels = plain.pixels[:, :, : self._height, : self._width]
        self._masks = pass_masks(plain.latent.shape[1], height, width).to(plain.latent.device)
        self._seen = torch.zeros(height, width, dtype=torch.bool, device=plain.latent.device)
        self._seen[: plain.visible[0], : plain.visible[1]] = True
        with torch.no_grad():
            regions = network.regions(plain.tokens, *plain.pixels.shape[2:])
            self.step, *self._first = prior.start(at_level(prior.vector, plain.level), height, width, regions)
            self.plain_bits = float(self.quantise(self.latent / self.step)[1])

    def photo(self) -> Tensor:
        """The photo in floats, where it is visible."""
        return as_floats(self._pixels)

    def quantise(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """What decoders see of latent values in steps, and its bits; gradients pass as if nothing were rounded."""
        scales, means, common = self._first
        known, bits = torch.zeros_like(values), values.new_zeros(())
        for k, mask in enumerate(self._masks):
            if k:
                scales, means = self._prior.refine(k, known, common)
            residual = values - means
            rounded = torch.where((scales >= SKIP_SCALE) & self._seen, residual.round(), torch.zeros_like(residual))
            symbols = residual + (rounded - residual).detach()
            bits = bits + gaussian_bits(symbols, scales)[(mask & self._seen)[None]].sum()
            known = torch.where(mask, symbols + means, known)
        return known * self.step, bits

    def paint(self, network: DLF, coded: Tensor) -> Tensor:
        """The picture, where it is visible, without noise, which no latent can bring nearer to a photo."""
        with torch.autocast(coded.device.type, torch.bfloat16, enabled=coded.is_cpu and packing_pays()):
            picture = network.reconstruct(self._tokens, coded, self._level, quiet=True)
        return picture[:, :, : self._height, : self._width].float()


def _cut(config: DLFConfig, plain: Plain) -> Iterator[tuple[Plain, slice, slice]]:
    """Parts of the picture, nearly square, each with its rows and columns of cells."""
    tile, cells = config.tile_px, config.tile_px // config.cell_px
    per_pixel = config.generator_channels * config.generator_mult[0] / config.output_patch_px**2
    tall, wide = (side // tile for side in plain.pixels.shape[2:])
    most = max(1, int(_REGION_VALUES / per_pixel) // tile**2)
    across = min(wide, max(math.isqrt(most), most // tall))
    down = max(1, most // across)
    tokens = plain.tokens.clone().view(tall, wide, -1)
    for top in range(0, tall, down):
        for left in range(0, wide, across):
            bottom, right = min(top + down, tall), min(left + across, wide)
            rows, cols = slice(top * cells, bottom * cells), slice(left * cells, right * cells)
            part = Plain(
                pixels=plain.pixels[:, :, top * tile : bottom * tile, left * tile : right * tile],
                visible=(min(plain.visible[0], rows.stop) - rows.start, min(plain.visible[1], cols.stop) - cols.start),
                tokens=tokens[top:bottom, left:right].flatten(0, 1),
                latent=plain.latent[:, :, rows, cols].clone(),
                level=plain.level.clone(),
                file_bits=plain.file_bits,
            )
            yield part, rows, cols
