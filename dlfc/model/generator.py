"""Fusion of both branches, and the generative decoder that turns the fused latent into pixels (DLF, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.model import noise, strips
from dlfc.model.config import DLFConfig
from dlfc.model.detail import swin_run
from dlfc.model.linear import Linear, attend
from dlfc.model.vit import each_position, joined

_NOISE_WEIGHT = 0.07  # at most: with eight channels, a sixth of what else enters the last grid of the default model
_NOISE_CELLS = 1 << 16  # of a grid, at a time
BAND_PX = 1 << 22  # of the picture, at a time: a quarter of a gigabyte at 64 channels for cells of 4x4 pixels


class Fusion(nn.Module):
    """Maps of both branches -> weights of a mixture of codebook entries, per cell of the 1/16 grid."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        c = config
        self.semantic_in = swin_run(c.width, c.head_dim, c.grid, c.fusion_swin_in)
        self.detail_in = swin_run(c.detail_dim, c.head_dim, c.grid, c.fusion_swin_in)
        self.merge = nn.Sequential(
            Linear(c.width + c.detail_dim, 2 * c.width),
            nn.LayerNorm(2 * c.width),
            nn.SiLU(),
            Linear(2 * c.width, c.fusion_dim),
        )
        self.blocks = swin_run(c.fusion_dim, c.head_dim, c.grid, c.fusion_swin)
        self.head = nn.Sequential(
            nn.LayerNorm(c.fusion_dim),
            nn.Linear(c.fusion_dim, 2 * c.fusion_dim),
            nn.Tanh(),
            nn.Linear(2 * c.fusion_dim, c.mixture_size),
        )

    def forward(self, semantic: Tensor, detail: Tensor) -> Tensor:
        """`B H W width`, `B H W C` -> logits `B H W mixture_size`."""
        return each_position(self.head, self.merged(semantic, detail))

    def merged(self, semantic: Tensor, detail: Tensor) -> Tensor:
        """The same up to the head, which looks at each position by itself: `B H W fusion_dim`."""
        both = torch.cat([self.semantic_in(semantic), self.detail_in(detail)], -1)
        return self.blocks(each_position(self.merge, both).to(semantic.dtype))


def _norm(channels: int, config: DLFConfig) -> nn.Module:
    return nn.GroupNorm(32, channels, eps=1e-6) if config.generator_norm else nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, pre-activation."""

    def __init__(self, c_in: int, c_out: int, config: DLFConfig) -> None:
        super().__init__()
        self.norm1 = _norm(c_in, config)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = _norm(c_out, config)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return self.shortcut(x) + y

    def in_strips(self, x: Tensor, spare: list[Tensor]) -> Tensor:
        """The same with little memory and without gradients; `x` may be overwritten.

        `spare` holds memory from one block to the next, which the system takes its time to hand out.
        """
        y = strips.convolve(x, self.conv1, self.norm1, spare=spare)
        if isinstance(self.shortcut, nn.Conv2d):
            x = strips.convolve(x, self.shortcut, dtype=x.dtype)
        x = strips.convolve(y, self.conv2, self.norm2, add_to=x)
        spare[:] = [y]
        return x


class MapAttention(nn.Module):
    """Single-head attention over all cells of a map."""

    def __init__(self, channels: int, config: DLFConfig) -> None:
        super().__init__()
        self.norm = _norm(channels, config)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.qkv(self.norm(x).to(self.qkv.weight.dtype)).flatten(2).mT  # B HW 3C
        # With channels last in memory torch's attention never holds all pairs of cells, which would be HW x HW.
        q, k, v = (part.contiguous()[:, None] for part in y.chunk(3, 2))
        mixed = attend(q, k, v)  # B 1 HW C
        return x + self.out(mixed.mT.reshape(b, c, h, w)).to(x.dtype)


class Upsample(nn.Module):
    """Nearest neighbour by two, then 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self._phases: strips.Phases | None = None  # of weights in 16 bits, which no training changes

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def in_strips(self, x: Tensor, spare: list[Tensor]) -> Tensor:
        """The same with fewer products, little memory and without gradients."""
        spare.clear()
        kernels = self._phases or strips.phases(self.conv)
        if self.conv.weight.dtype == torch.bfloat16:
            self._phases = kernels
        return strips.upsample(x, self.conv, kernels)


class Generator(nn.Module):
    """The decoder of a VQGAN (taming transformers, f16): fused latent -> picture.

    With a linear base, the base picture enters at the last grid and the output is added to it. With noise channels,
    noise enters the last grids: where the latent says nothing, texture made of it alone would repeat with its cells.
    """

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        c = config
        channels = [c.generator_channels * m for m in c.generator_mult]
        here = channels[-1]
        self.output_patch_px = c.output_patch_px
        self.post_quant = nn.Conv2d(c.mixture_dim, c.mixture_dim, 1)
        self.conv_in = nn.Conv2d(c.mixture_dim, here, 3, padding=1)
        self.mid = nn.Sequential()
        if c.generator_mid:
            self.mid.append(ResidualBlock(here, here, c))
            if c.generator_attention:
                self.mid.append(MapAttention(here, c))
            self.mid.append(ResidualBlock(here, here, c))
        self.levels = nn.ModuleList()
        channels_in = []  # of each level
        for i, out in reversed(list(enumerate(channels))):
            level = nn.Sequential()
            channels_in.append(here)
            for _ in range(c.generator_blocks):
                level.append(ResidualBlock(here, out, c))
                here = out
                if c.generator_attention and i == len(channels) - 1:
                    level.append(MapAttention(here, c))
            if i:
                level.append(Upsample(here))
            self.levels.append(level)
        self.norm_out = _norm(here, c)
        self.conv_out = nn.Conv2d(here, 3 * c.output_patch_px**2, 3, padding=1)
        self.base_in = nn.Conv2d(3 * c.output_patch_px**2, channels_in[-1], 3, padding=1) if c.base_components else None
        self.noise_in = nn.ModuleList()  # of the last levels
        for entering in channels_in[-c.noise_grids :] if c.noise_channels else []:
            into = nn.Conv2d(c.noise_channels, entering, 1, bias=False)
            nn.init.uniform_(into.weight, -_NOISE_WEIGHT, _NOISE_WEIGHT)  # normal_ loads sympy where weights are meta
            self.noise_in.append(into)

    def forward(self, latent: Tensor, base: Tensor | None = None, *, quiet: bool = False) -> Tensor:
        """`latent` B mixture_dim H/16 W/16, `base` B 3 H W or None -> picture B 3 H W, nominally in [-1, 1].

        With `quiet`, no noise enters.
        """
        if latent.is_cpu and not torch.is_grad_enabled():
            rows = None if base is None else lambda top, bottom: base[:, :, top:bottom]
            return joined(self.in_bands(latent, rows, quiet=quiet), 2)
        x = self.mid(self.conv_in(self.post_quant(latent)))
        for i, level in enumerate(self.levels):
            if i == len(self.levels) - 1 and self.base_in is not None and base is not None:
                x = x + self.base_in(F.pixel_unshuffle(base, self.output_patch_px))
            grain = None if quiet else self._noise(i, 0, x.shape[2], x.shape[3], x.device)
            x = level(x if grain is None else x + grain)
        x = F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.output_patch_px)
        return x if base is None else x.float() + base

    def _noise(self, level: int, row: int, height: int, width: int, device: torch.device) -> Tensor | None:
        """What enters a level beside its maps, 1 C H W from `row` of its grid on, the same for the whole batch.

        In training it is another one each time.
        """
        back = len(self.levels) - 1 - level  # from the last
        if back >= len(self.noise_in):
            return None
        into = self.noise_in[-1 - back]
        assert isinstance(into, nn.Conv2d)
        count = into.in_channels
        if self.training:
            grain = noise.drawn(count, height, width, device)
        else:
            grain = noise.at(range(back * count, (back + 1) * count), row, height, width, device)
        return into(grain.to(into.weight.dtype))

    def _add_noise(self, level: int, x: Tensor, row: int = 0) -> None:
        """Add it to `x`, a few rows at a time."""
        rows = max(1, _NOISE_CELLS // x.shape[3])
        for i, part in enumerate(x.split(rows, 2)):
            grain = self._noise(level, row + i * rows, part.shape[2], part.shape[3], x.device)
            if grain is None:
                return
            part += grain

    def in_bands(
        self,
        latent: Tensor,
        base: Callable[[int, int], Tensor | None] | None = None,
        band_px: int = BAND_PX,
        *,
        quiet: bool = False,
    ) -> Iterator[Tensor]:
        """The same without gradients and with little memory, as bands of the picture from its top.

        `base(top, bottom)` gives rows of the base. The last grid, by far the largest, is computed for about `band_px`
        pixels at a time with as much around them as they see, so that no band shows. Group norms and attention, which
        look at the whole picture, make one band of it.
        """
        kind = self.conv_in.weight.dtype
        x = self.conv_in(self.post_quant(latent.to(kind))).float().contiguous(memory_format=torch.channels_last)
        del latent
        spare: list[Tensor] = []
        *before, last = (list(_blocks(level)) for level in (self.mid, *self.levels))
        opening = [before[-1].pop()] if before[-1] and isinstance(before[-1][-1], Upsample) else []
        for i, blocks in enumerate(before, -1):
            if i >= 0 and not quiet:
                self._add_noise(i, x)
            for block in blocks:
                x = _without_gradients(block, x, spare)
        factor = 2 ** len(opening)
        around = -(-(2 * len(last) + 2) // factor) + 1  # two rows for each block, one for each convolution beside them
        scale = factor * self.output_patch_px  # of a row here, in pixels
        height = x.shape[2]
        whole = any(isinstance(module, (nn.GroupNorm, MapAttention)) for module in (self.norm_out, *last))
        rows = height if whole else max(1, band_px // (x.shape[0] * x.shape[3] * scale**2))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, end = max(0, top - around), min(height, bottom + around)
            under = None if base is None else base(first * scale, end * scale)
            row = None if quiet else first * factor
            y = self._band(x[:, :, first:end], under, row, opening, last, spare)
            yield y[:, :, (top - first) * scale : (bottom - first) * scale]
            del under, y  # before the next band is made

    def _band(
        self,
        x: Tensor,
        base: Tensor | None,
        row: int | None,
        opening: list[nn.Module],
        last: list[nn.Module],
        spare: list[Tensor],
    ) -> Tensor:
        """The picture of a band `x`, which stays as it is, before the last grid.

        It begins at `row` of that, or no noise enters.
        """
        for block in opening:
            x = _without_gradients(block, x, spare)
        if not opening:
            x = x.clone(memory_format=torch.channels_last)  # blocks overwrite what they are given
        if self.base_in is not None and base is not None:
            x += self.base_in(F.pixel_unshuffle(base, self.output_patch_px).to(self.conv_in.weight.dtype))
        if row is not None:
            self._add_noise(len(self.levels) - 1, x, row)
        for block in last:
            x = _without_gradients(block, x, spare)
        y = strips.convolve(x, self.conv_out, self.norm_out).float()
        if self.output_patch_px > 1:
            y = F.pixel_shuffle(y, self.output_patch_px)
        return y if base is None else y.add_(base)


def _without_gradients(block: nn.Module, x: Tensor, spare: list[Tensor]) -> Tensor:
    return block.in_strips(x, spare) if isinstance(block, (ResidualBlock, Upsample)) else block(x)


def _blocks(level: nn.Module) -> Iterator[nn.Module]:
    assert isinstance(level, nn.Sequential)
    yield from level
