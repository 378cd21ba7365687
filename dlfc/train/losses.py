"""What each task of a stage compares: pictures, the bits of two priors, latents with a VQGAN's, or its pictures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dlfc.model.bottleneck import DetailPrior
from dlfc.model.dlf import DLF, Reconstruction
from dlfc.train import vqgan
from dlfc.train.perceptual import NAMES, Perceptual
from dlfc.train.precision import narrowed
from dlfc.train.recipe import Stage

T = TypeVar("T")

JITTER_PX = 8  # random margin cut before features, so that no texture can lock to the stride of their first layers
BORDER_PX = (JITTER_PX, 16)  # a picture is continued by so much before and behind it, see `_continued`
FLAT_WINDOW_PX = 9
FLAT_VARIANCE = (4 / 255) ** 2  # of the photo in such a window, where an error counts half
COLOUR_REGION_PX = 64
STAMP_REGION_PX = 128  # where texture repeats, it need not do so all over a picture
MOVED_BITS = 6.0  # what moving a value by 1 counts as, beside the bits of a prior
LEAST_BITS = 4.0  # of a cell: in crops with less, a bit saved counts no more
TOKEN_SHARPNESS = 150.0  # of the softmax over codes: the cosines of neighbouring codes differ by about 0.01

# What a log names, in this order; a task leaves out what it does not compute.
_OF_TASKS = (
    "total",
    "mse",
    "lpips",
    "bpp",
    "l1",
    "flat",
    "grain",
    "colour",
    "stamp",
    "vgg",
    "inception",
    "latent",
    "index",
    "codebook",
)
TERMS = (*_OF_TASKS, "adversarial", "matching", "discriminator")


@dataclass(frozen=True)
class Batch:
    """One step's draw: `x` B 3 H W in [-1, 1], `level` B, `weight` B of the bits per pixel, and a margin to cut."""

    x: Tensor
    level: Tensor
    weight: Tensor
    margin: tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """What a task made of a batch.

    `total` is to be minimised; `pictures` is the part of it that compares pictures. `terms` are for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]
    pictures: Tensor | None = None
    image: Tensor | None = None  # in [0, 1], with gradients, for a discriminator
    target: Tensor | None = None
    bpp: Tensor | None = None  # of each sample
    tokens: Tensor | None = None


class Objective:
    """The losses of a stage; `step` and `seconds` say which of them have begun."""

    def __init__(self, stage: Stage, perceptual: Perceptual) -> None:
        self.stage, self.perceptual = stage, perceptual
        self.step, self.seconds = 0, 0.0
        for name in NAMES:
            if getattr(stage, f"{name}_weight") and getattr(stage, f"{name}_start") == 0:
                perceptual.load(name, stage.compile)  # a missing file should show at once

    def has_begun(self, name: str) -> bool:
        """Whether the loss `name` has a weight and its time has come."""
        start = getattr(self.stage, f"{name}_start")
        return getattr(self.stage, f"{name}_weight") > 0 and self.stage.has_begun(start, self.step, self.seconds)

    def compare(self, image: Tensor, target: Tensor, margin: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted distance of pictures in [0, 1], and its terms."""
        stage = self.stage
        mse = F.mse_loss(image, target)
        total, terms = stage.mse_weight * mse, {"mse": mse}
        if stage.l1_weight:
            terms["l1"] = F.l1_loss(image, target)
            total = total + stage.l1_weight * terms["l1"]
        if stage.flat_weight or stage.grain_weight or stage.stamp_weight:
            error = image - target
            grain = grain_of(error)
        if stage.flat_weight or stage.grain_weight:
            terms["flat"], terms["grain"] = flat_errors(error, grain, target)
            total = total + stage.flat_weight * terms["flat"] + stage.grain_weight * terms["grain"]
        if stage.colour_weight:
            terms["colour"] = colour_error(image, target)
            total = total + stage.colour_weight * terms["colour"]
        if stage.stamp_weight:
            terms["stamp"] = stamp_error(grain, _drawn(stage.stamp_px))
            total = total + stage.stamp_weight * terms["stamp"]
        near, far = _cut(_continued(image), margin), _cut(_continued(target), margin)
        for name in NAMES:
            if self.has_begun(name):
                pair = self._disturbed(*self._view(near, far)) if name == "lpips" else (near, far)
                terms[name] = self.perceptual.distance(name, *pair, stage.compile)
                total = total + getattr(stage, f"{name}_weight") * terms[name]
        return total, terms

    def _view(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The pair turned about its diagonal or not, at one of the stage's scales for LPIPS, both drawn."""
        scales = self.stage.lpips_scales
        if scales == (1.0,):
            return image, target
        turn, scale = int(torch.randint(2, ())), _drawn(scales)
        pair = (image.mT, target.mT) if turn else (image, target)
        if scale == 1.0:
            return pair
        shrunk = [F.interpolate(x, scale_factor=scale, mode="bilinear", antialias=True) for x in pair]
        return shrunk[0], shrunk[1]

    def _disturbed(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Both with the same noise: where the photo is flat, LPIPS compares grain, which a texture could imitate."""
        if self.stage.lpips_noise == 0:
            return image, target
        noise = self.stage.lpips_noise * torch.randn_like(target[:1])  # the same for all pictures: it takes time
        return image + noise, target + noise

    def of_pixels(self, call: Callable[[Tensor, Tensor], Reconstruction], model: DLF, batch: Batch) -> Outcome:
        """End to end: `call` is the whole `model`, compiled or not."""
        stage, x = self.stage, batch.x
        with narrowed(x.device):
            out = call(x, batch.level)
        target, image = x * 0.5 + 0.5, out.image.float() * 0.5 + 0.5
        pictures, terms = self.compare(image, target, batch.margin)
        bpp = out.quantised.bits.flatten(1).sum(1) / (x.shape[2] * x.shape[3])
        unit = F.normalize(out.token_inputs.float(), dim=-1)
        terms["codebook"] = codebook_loss(model, unit, out.tokens, stage.commitment_weight)
        total = pictures + (batch.weight * bpp).mean() + terms["codebook"]
        if out.base is not None and model.base is not None:
            # What a loss on the finished picture says about tokens is too little to keep them apart: without one on the
            # picture that tokens alone would give, more and more regions take the same few codes.
            nearness = torch.softmax(TOKEN_SHARPNESS * unit @ F.normalize(model.codebook.entries, dim=-1).T, -1)
            soft = model.base.soft_token_image(nearness, x.shape[2], x.shape[3])
            total = total + stage.base_weight * F.mse_loss(out.base * 0.5 + 0.5, target)
            total = total + stage.token_weight * F.mse_loss(soft * 0.5 + 0.5, target)
        spent = (bpp + token_bpp(model)).detach()
        return Outcome(total, terms, pictures, image, target, spent, out.tokens)

    def of_prior(self, model: DLF, first: DetailPrior, batch: Batch) -> Outcome:
        """The prior alone: its bits, as a part of those of the prior that the stage began with, `first`.

        The values that decoders see are to stay those of that prior: an encoder says by a symbol just above one half
        what it means to say, and a mean that comes near would silence it.
        """
        x = batch.x
        with torch.no_grad():
            inputs, features = model.analyse_tokens(x)
            tokens = model.codebook.nearest(inputs)
            y = model.analyse_detail(x, features, tokens, batch.level)
            regions = model.regions(tokens, *x.shape[2:])
            closed = model.bottleneck.closed(batch.level)
            old = first.quantise(y, batch.level, regions, closed)
        new = model.bottleneck.prior.quantise(y, batch.level, regions, closed)
        moved = (new.values - old.values).square()
        before, after, change = (part.flatten(1).sum(1) for part in (old.bits, new.bits, moved))
        part = (after + MOVED_BITS * change) / before.clamp(min=LEAST_BITS * y[0, 0].numel())
        terms = {"bpp": after.mean() / (x.shape[2] * x.shape[3]) + token_bpp(model), "latent": moved.mean()}
        return Outcome(part.mean(), terms, tokens=tokens)

    def of_latents(
        self, call: Callable[[Tensor, Tensor], Latents], model: DLF, encoder: vqgan.VqganEncoder, batch: Batch
    ) -> Outcome:
        """Before the generator: the mixed latent against the VQGAN's, its weights against the index of that."""
        stage, x = self.stage, batch.x
        with torch.no_grad():
            aim = vqgan.quantise(encoder, model.mixture, x)
        with narrowed(x.device):
            out = call(x, batch.level)
        logits = out.logits.float().permute(0, 3, 1, 2)
        unit = F.normalize(out.token_inputs.float(), dim=-1)
        terms = {
            "latent": F.mse_loss(out.latent.float(), aim.latent),
            "index": F.cross_entropy(logits, aim.index),
            "codebook": codebook_loss(model, unit, out.tokens, stage.commitment_weight),
        }
        total = stage.latent_weight * terms["latent"] + stage.index_weight * terms["index"] + terms["codebook"]
        spent = None
        if out.bits is not None:
            bpp = out.bits.flatten(1).sum(1) / (x.shape[2] * x.shape[3])
            total = total + (batch.weight * bpp).mean()
            spent = (bpp + token_bpp(model)).detach()
        return Outcome(total, terms, bpp=spent, tokens=out.tokens)

    def of_vqgan(self, encoder: vqgan.VqganEncoder, model: DLF, batch: Batch) -> Outcome:
        """The VQGAN alone."""
        made, coded = vqgan.reconstruct(encoder, model, batch.x)
        target, image = batch.x * 0.5 + 0.5, made.float() * 0.5 + 0.5
        pictures, terms = self.compare(image, target, batch.margin)
        terms["codebook"] = coded.distance
        return Outcome(pictures + coded.distance, terms, pictures, image, target, tokens=coded.index)


@dataclass(frozen=True)
class Latents:
    """What the network makes of a batch before its generator; `bits` is None for tokens alone."""

    tokens: Tensor
    token_inputs: Tensor
    logits: Tensor
    latent: Tensor
    bits: Tensor | None


def latents(model: DLF, x: Tensor, level: Tensor, *, with_detail: bool) -> Latents:
    """The way of `x` B 3 H W through `model` up to the fused latent, where the detail branch may stay silent."""
    z, detail = model.analyse_tokens(x)
    tokens = model.codebook.nearest(z)
    unit = F.normalize(z.float(), dim=-1)
    vectors = unit + (model.codebook.lookup(tokens) - unit).detach()
    bits = None
    if with_detail:
        y = model.analyse_detail(x, detail, tokens, level)
        with torch.autocast(x.device.type, enabled=False):
            quantised = model.bottleneck.quantise(y, level, model.regions(tokens, *x.shape[2:]))
            coded = quantised.values * quantised.step
        bits, detail_hat = quantised.bits, model.bottleneck.synthesise(coded, level)
    else:
        detail_hat = torch.zeros_like(detail)
    _, _, logits, latent = model.fuse(vectors, detail_hat)
    return Latents(tokens, z, logits, latent, bits)


def _drawn(values: Sequence[T]) -> T:
    """One of them, by torch's generator of the host."""
    return values[int(torch.randint(len(values), ()))]


def grain_of(error: Tensor) -> Tensor:
    """The deviation of N 3 H W from the mean of a window around each pixel."""
    return error - _window_mean(error)


def flat_errors(error: Tensor, grain: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares of a difference from `target` N 3 H W, in [0, 1], and of its grain, less where the photo varies."""
    with torch.no_grad():
        grey = target.mean(1, keepdim=True)
        mean, square = _window_mean(grey), _window_mean(grey.square())
        weight = FLAT_VARIANCE / (FLAT_VARIANCE + (square - mean.square()).clamp(min=0))
    return (error.square() * weight).mean(), (grain.square() * weight).mean()


def colour_error(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of mean colours of N 3 H W in [0, 1]: of regions of 64 pixels, plus of the whole pictures."""
    regions = F.avg_pool2d(image - target, COLOUR_REGION_PX)
    return regions.square().mean() + regions.mean((2, 3)).square().mean()


def stamp_error(grain: Tensor, cell_px: int) -> Tensor:
    """Mean square of what all cells of `cell_px` pixels in a region of 128 pixels of N 3 H W have in common.

    It is the mean product of different cells, so that wrong detail, which differs from cell to cell, adds next to
    nothing; a texture that repeats stays as it is. Smaller pictures are one region; they need two cells. A product
    below 0 counts as 0, and gradients take the power of cells as given: else a network would make ever stronger
    texture that turns its sign from cell to cell.
    """
    regions = [max(1, size // STAMP_REGION_PX) for size in grain.shape[2:]]
    cells = [size // (count * cell_px) for size, count in zip(grain.shape[2:], regions, strict=True)]
    height, width = (count * each * cell_px for count, each in zip(regions, cells, strict=True))
    shape = [part for pair in zip(regions, cells, strict=True) for part in (*pair, cell_px)]
    count = cells[0] * cells[1]
    split = grain[:, :, :height, :width].reshape(*grain.shape[:2], *shape)  # N 3 R C P R C P
    common = split.mean((3, 6)).square().mean((1, 3, 5))  # N R R
    power = split.detach().square().mean((1, 3, 4, 6, 7))
    return ((count * common - power) / (count - 1)).clamp(min=0).mean()


def _window_mean(x: Tensor) -> Tensor:
    """Of a square window around each pixel, without what lies outside.

    By products with matrices, which a processor does ten times as fast as average pooling with such large windows.
    """
    rows, columns = (_averaging(size, x.device) for size in x.shape[2:])
    return rows @ x @ columns.mT


@functools.cache
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _averaging(size: int, device: torch.device) -> Tensor:
    """The matrix `size` x `size` that replaces each number of a row by the mean of those around it."""
    place = torch.arange(size, device=device)
    near = ((place - place[:, None]).abs() <= FLAT_WINDOW_PX // 2).float()
    return near / near.sum(1, keepdim=True)


def codebook_loss(model: DLF, unit: Tensor, tokens: Tensor, commitment_weight: float) -> Tensor:
    """Pulls unit vectors `unit` to their codes by `commitment_weight`, and the codes to them."""
    codes = model.codebook.lookup(tokens)
    return commitment_weight * _distance(unit, codes.detach()) + _distance(unit.detach(), codes)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of vectors in the last dimension."""
    return (a - b).square().sum(-1).mean()


def token_bpp(model: DLF) -> float:
    """What tokens cost at a flat rate, in bits per pixel."""
    config = model.config
    return config.tokens_per_tile * math.log2(config.codebook_size) / config.tile_px**2


def _continued(image: Tensor) -> Tensor:
    """The picture N 3 H W and its reflection beyond all borders.

    Strides of classifiers end before a picture does, and its last pixels would hardly count: grain gathers there.
    """
    before, behind = BORDER_PX
    return F.pad(image, (before, behind, before, behind), mode="reflect")


def _cut(image: Tensor, margin: tuple[int, int]) -> Tensor:
    """The picture without `margin` rows and columns at its start.

    On a GPU always of the same size, for which kernels are chosen and compiled once.
    """
    top, left = margin
    if not image.is_cuda:
        return image[:, :, top:, left:]
    height, width = image.shape[2] - JITTER_PX, image.shape[3] - JITTER_PX
    part = image[:, :, top : top + height, left : left + width]
    return part.contiguous(memory_format=torch.channels_last)
