"""The encoder of a VQGAN, for training only: its latents are what the stages before pixels aim at (DLF, section 3.5).

Its decoder and its codebook are the generator and the mixture of the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.model.generator import MapAttention, ResidualBlock
from dlfc.train.precision import narrowed

BLOCKS = 2  # per level, as published
COMMITMENT = 0.25  # of the latent to its entry, as published


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class VqganEncoder(nn.Module):
    """Picture -> latent before quantisation: the generator the other way round."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        c = config
        self.patch_px = c.output_patch_px
        channels = [c.generator_channels * m for m in c.generator_mult]
        here = channels[0]
        self.body = nn.Sequential(nn.Conv2d(3 * self.patch_px**2, here, 3, padding=1))
        for i, out in enumerate(channels):
            lowest = i == len(channels) - 1
            for _ in range(BLOCKS):
                self.body.append(ResidualBlock(here, out, c))
                here = out
                if lowest and c.generator_attention:
                    self.body.append(MapAttention(here, c))
            if not lowest:
                self.body.append(_Downsample(here))
        if c.generator_mid:
            self.body.append(ResidualBlock(here, here, c))
            if c.generator_attention:
                self.body.append(MapAttention(here, c))
            self.body.append(ResidualBlock(here, here, c))
        self.norm_out = nn.GroupNorm(32, here, eps=1e-6) if c.generator_norm else nn.Identity()
        self.conv_out = nn.Conv2d(here, c.mixture_dim, 3, padding=1)
        self.quant = nn.Conv2d(c.mixture_dim, c.mixture_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` B 3 H W in [-1, 1] -> B mixture_dim H/16 W/16."""
        y = self.body(F.pixel_unshuffle(x, self.patch_px))
        return self.quant(self.conv_out(F.silu(self.norm_out(y))))


@dataclass(frozen=True)
class Coded:
    """A VQGAN's view of a batch: entries of the mixture, and their places in it."""

    latent: Tensor  # B mixture_dim H/16 W/16, of entries
    index: Tensor  # B H/16 W/16
    passing: Tensor  # `latent`, with gradients to the encoder
    distance: Tensor  # codebook loss


def quantise(encoder: VqganEncoder, mixture: Tensor, x: Tensor) -> Coded:
    """Encode `x` B 3 H W in [-1, 1] and take the nearest entries of `mixture` (entries, dim)."""
    with narrowed(x.device):
        z = encoder(x)
    z = z.float().permute(0, 2, 3, 1)
    far = z.detach().square().sum(-1, keepdim=True) - 2 * z.detach() @ mixture.detach().T
    index = (far + mixture.detach().square().sum(1)).argmin(-1)
    entries = mixture[index]
    distance = COMMITMENT * (z - entries.detach()).square().mean() + (z.detach() - entries).square().mean()
    passing = z + (entries - z).detach()
    return Coded(entries.permute(0, 3, 1, 2), index, passing.permute(0, 3, 1, 2), distance)


def reconstruct(encoder: VqganEncoder, model: DLF, x: Tensor) -> tuple[Tensor, Coded]:
    """The picture B 3 H W that the VQGAN alone makes of `x`, and what it went through."""
    coded = quantise(encoder, model.mixture, x)
    with narrowed(x.device):
        return model.generator(coded.passing), coded
