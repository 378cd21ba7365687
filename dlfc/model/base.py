"""The linear base: a small data-dependent linear codec that the network refines.

Every token stands for one region of its tile and every detail cell for one square of pixels; principal components
of photographs turn both into a blurred picture. The network adds to the inputs of both quantisers and to the
picture, so training begins at that picture and not at noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlfc.model.bottleneck import at_level
from dlfc.model.config import DLFConfig
from dlfc.model.vit import random_parameter


def cut_patches(x: Tensor, height: int, width: int) -> Tensor:
    """`B C H W` -> `B H/height W/width C*height*width`."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // height, height, w // width, width).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h // height, w // width, c * height * width)


def join_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `cut_patches`, for three channels."""
    b, rows, cols, _ = patches.shape
    x = patches.reshape(b, rows, cols, 3, height, width).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, 3, rows * height, cols * width)


def _mean_over_patch(weight: Tensor) -> Tensor:
    """`3*height*width K` -> `3 K`."""
    return weight.view(3, -1, weight.shape[1]).mean(1)


def _mean_inside(means: Tensor, patch_px: tuple[int, int], height: int, width: int) -> Tensor:
    """Means `B h w 3` of patches -> means `B 3` of what of them lies in the top left `height` x `width` pixels."""
    for dim, (patch, side) in enumerate(zip(patch_px, (height, width), strict=True), 1):
        starts = torch.arange(means.shape[dim], device=means.device) * patch
        inside = (side - starts).clamp(0, patch) / side
        means = means * inside.view(-1, *[1] * (3 - dim))
    return means.sum((1, 2))


def by_region(config: DLFConfig, values: Tensor, height_px: int, width_px: int) -> Tensor:
    """What tokens have, T 32 ..., in pictures of this size, of whole tiles -> B, rows and columns of regions, ..."""
    rows, cols = config.base_regions
    tall, wide = height_px // config.tile_px, width_px // config.tile_px
    values = values.view(-1, tall, wide, rows, cols, *values.shape[2:])
    return values.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class LinearBase(nn.Module):
    """Linear maps between pixels in [-1, 1], token inputs and the detail latent; all in float32."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        self.config = config
        rh, rw = config.base_region_px
        cell = config.cell_px
        self.token_in = nn.Linear(3 * rh * rw, config.token_dim)
        codes = random_parameter(config.codebook_size, config.base_components)
        self.token_codes = nn.Embedding.from_pretrained(codes, freeze=False)
        self.token_out = nn.Linear(config.base_components, 3 * rh * rw)
        self.detail_in = nn.Linear(3 * cell * cell, config.latent_dim, bias=False)
        self.detail_out = nn.Linear(config.latent_dim, 3 * cell * cell, bias=False)
        self.log_gain = nn.Parameter(torch.zeros(config.levels, config.latent_dim))

    def tokens(self, x: Tensor) -> Tensor:
        """`x` B 3 H W -> token inputs T 32 token_dim, tiles in raster order."""
        rh, rw = self.config.base_region_px
        return self._by_tile(self.token_in(cut_patches(x, rh, rw)))

    def token_image(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Token indices T 32 -> picture B 3 height width."""
        return self._code_image(self.token_codes(tokens), height, width)

    def soft_token_image(self, nearness: Tensor, height: int, width: int) -> Tensor:
        """The picture of a mixture of codes, weights T 32 codebook_size, for gradients to what picks tokens."""
        return self._code_image(nearness @ self.token_codes.weight, height, width)

    def _code_image(self, codes: Tensor, height: int, width: int) -> Tensor:
        regions = by_region(self.config, codes, height, width)
        return join_patches(self.token_out(regions), *self.config.base_region_px)

    def detail(self, rest: Tensor, level: Tensor) -> Tensor:
        """What the token picture leaves, B 3 H W -> addition to the latent B latent_dim H/32 W/32."""
        cell = self.config.cell_px
        y = self.detail_in(cut_patches(rest, cell, cell)).permute(0, 3, 1, 2)
        return y * at_level(self.log_gain, level).exp()[:, :, None, None]

    def detail_image(self, latent: Tensor, level: Tensor) -> Tensor:
        """Quantised latent times step -> picture to add to the token picture, B 3 H W."""
        cell = self.config.cell_px
        y = latent * (-at_level(self.log_gain, level)).exp()[:, :, None, None]
        return join_patches(self.detail_out(y.permute(0, 2, 3, 1)), cell, cell)

    def mean_colours(self, tokens: Tensor, latent: Tensor, level: Tensor, height: int, width: int) -> Tensor:
        """Means B 3 of the top left `height` x `width` pixels of the picture, from B pictures' tokens and latents.

        Exact where these are whole regions and cells, else each counts by its part that lies inside.
        """
        region, cell = self.config.base_region_px, (self.config.cell_px, self.config.cell_px)
        whole = latent.shape[2] * cell[0], latent.shape[3] * cell[1]
        weight, bias = _mean_over_patch(self.token_out.weight), _mean_over_patch(self.token_out.bias[:, None])[:, 0]
        regions = by_region(self.config, self.token_codes(tokens), *whole) @ weight.T + bias
        cells = torch.einsum("bkc,bchw->bhwk", self.colour_response(level), latent)
        return _mean_inside(regions, region, height, width) + _mean_inside(cells, cell, height, width)

    def colour_response(self, level: Tensor) -> Tensor:
        """What 1 in a channel of the latent adds to the mean colour of its cell, B 3 latent_dim."""
        return _mean_over_patch(self.detail_out.weight) * (-at_level(self.log_gain, level)).exp()[:, None]

    def _by_tile(self, regions: Tensor) -> Tensor:
        rows, cols = self.config.base_regions
        b, h, w, c = regions.shape
        x = regions.reshape(b, h // rows, rows, w // cols, cols, c).transpose(2, 3)
        return x.reshape(-1, rows * cols, c)
