"""Data-dependent start: the linear base and the prior are set so that training begins at a blurred picture.

Tokens start as a vector quantiser of the regions of a tile, the detail latent as the principal components of what
that leaves, with one step per rate level that meets its target; the network's own additions start at zero.
"""

from __future__ import annotations

import math
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.errors import ModelError
from dlfc.model.base import LinearBase, cut_patches
from dlfc.model.bottleneck import TRAINING_MIN_SCALE, DepthConvBlock
from dlfc.model.dlf import DLF

KMEANS_ROUNDS = 15
MEMBERS = 8  # a code that stands for fewer regions than this shrinks towards its own direction


def warm_start(model: DLF, crops: Tensor, target_bpp: list[float]) -> None:
    """Set `model` from `crops` N 3 tile tile in [-1, 1] and the bits per pixel that each level aims at."""
    if model.base is None:
        raise ModelError("a warm start needs a model with a linear base")
    with torch.no_grad():
        _start_tokens(model, model.base, crops)
        deviations = _start_detail(model, model.base, crops, target_bpp)
        start_prior(model, deviations)
        silence(model)


def principal(samples: Tensor, count: int) -> Tensor:
    """The first `count` principal directions (count, dim) of `samples` (n, dim), taken about zero."""
    torch.manual_seed(0)
    _, _, v = torch.svd_lowrank(samples, q=count + 8, niter=3)
    return v[:, :count].T.contiguous()


def _start_tokens(model: DLF, base: LinearBase, crops: Tensor) -> None:
    config = model.config
    regions = cut_patches(crops, *config.base_region_px).flatten(0, 2)
    mean = regions.mean(0)
    pick = torch.randperm(len(regions), generator=torch.Generator().manual_seed(0))[:20000]
    basis = principal(regions[pick] - mean, config.base_components)
    coefficients = (regions - mean) @ basis.T
    used = config.token_dim - 1  # the last dimension is constant, so that directions carry magnitudes too
    spread = coefficients[:, :used].square().sum(1).mean().sqrt()
    base.token_in.weight.zero_()
    base.token_in.bias.zero_()
    base.token_in.weight[:used] = basis[:used] / spread
    base.token_in.bias[:used] = -(basis[:used] @ mean) / spread
    base.token_in.bias[used] = 1.0
    inputs = F.normalize(base.token_in(regions), dim=-1)
    entries = _kmeans(inputs, config.codebook_size)
    model.codebook.entries.copy_(entries)
    nearest = _nearest(inputs, entries)
    sums = torch.zeros(config.codebook_size, config.base_components).index_add_(0, nearest, coefficients)
    counts = torch.bincount(nearest, minlength=config.codebook_size)[:, None].float()
    own = torch.zeros(config.codebook_size, config.base_components)
    own[:, :used] = entries[:, :used] / entries[:, used:].clamp(min=0.05) * spread
    base.token_codes.weight.copy_((sums + own * MEMBERS) / (counts + MEMBERS))
    base.token_out.weight.copy_(basis.T)
    base.token_out.bias.copy_(mean)
    context = model.bottleneck.prior.context
    if context is not None:
        context.codes.copy_(start_context(entries, base.token_codes.weight, context.codes))


def start_context(entries: Tensor, token_codes: Tensor, codes: Tensor) -> Tensor:
    """What a prior is to know of tokens at first: their entries and what they look like, in all columns of `codes`.

    What has no place is left out; columns that are left stay as they are.
    """
    alike = F.normalize(entries, dim=-1) * entries.shape[1] ** 0.5
    known = torch.cat([alike, token_codes / token_codes.std(0).clamp(min=1e-6)], 1)
    count = min(known.shape[1], codes.shape[1])
    return torch.cat([known[:, :count], codes[:, count:]], 1)


def _nearest(inputs: Tensor, entries: Tensor) -> Tensor:
    return torch.cat([(chunk @ entries.T).argmax(1) for chunk in inputs.split(8192)])


def _kmeans(inputs: Tensor, count: int) -> Tensor:
    """Spherical k-means: `count` unit vectors."""
    generator = torch.Generator().manual_seed(1)
    entries = inputs[torch.randperm(len(inputs), generator=generator)[:count]]
    if len(entries) < count:
        raise ModelError(f"the codebook needs at least {count} regions to start from, {len(inputs)} given")
    for _ in range(KMEANS_ROUNDS):
        nearest = _nearest(inputs, entries)
        sums = torch.zeros_like(entries).index_add_(0, nearest, inputs)
        empty = torch.bincount(nearest, minlength=count) == 0
        fresh = inputs[torch.randint(len(inputs), (int(empty.sum()),), generator=generator)]
        entries = F.normalize(sums, dim=-1)
        entries[empty] = fresh
    return entries


def _start_detail(model: DLF, base: LinearBase, crops: Tensor, target_bpp: list[float]) -> Tensor:
    """Set the detail maps and the gains; returns the scale of each symbol (levels, latent_dim)."""
    config = model.config
    tiles = config.tokens_per_tile
    tokens = model.codebook.nearest(base.tokens(crops)).view(-1, tiles)
    rest = torch.cat(
        [
            x - base.token_image(t, config.tile_px, config.tile_px)
            for x, t in zip(crops.split(64), tokens.split(64), strict=True)
        ]
    )
    cells = cut_patches(rest, config.cell_px, config.cell_px).flatten(0, 2)
    pick = torch.randperm(len(cells), generator=torch.Generator().manual_seed(2))[:30000]
    basis = principal(cells[pick], config.latent_dim)
    base.detail_in.weight.copy_(basis)
    base.detail_out.weight.copy_(basis.T)
    coefficients = cells @ basis.T
    token_bpp = tiles * math.log2(config.codebook_size) / config.tile_px**2
    deviations = []
    for level, target in enumerate(target_bpp):
        budget = max(target - token_bpp, 0.05 * target) * config.cell_px**2
        low, high = 1e-3, 1e3
        for _ in range(40):
            step = math.sqrt(low * high)
            low, high = (step, high) if _entropy(coefficients / step) > budget else (low, step)
        base.log_gain[level] = -math.log(high)
        deviations.append(scale_of((coefficients / high).round()))
    return torch.stack(deviations)


def scale_of(symbols: Tensor) -> Tensor:
    """The Gaussian scale of each column of integers: of as many zeros where most are zero, else the deviation."""
    nonzero = (symbols != 0).float().mean(0).clamp(1e-5, 0.9)
    by_zeros = 0.5 / (math.sqrt(2) * torch.erfinv(1 - nonzero))
    return torch.where(nonzero < 0.3, by_zeros, symbols.square().mean(0).sqrt())


def _entropy(values: Tensor) -> float:
    """Bits per row of independently coded rounded columns."""
    bits = 0.0
    for column in values.round().long().T:
        p = torch.bincount(column - column.min()).double() / len(column)
        p = p[p > 0]
        bits -= float((p * p.log2()).sum())
    return bits


def start_prior(model: DLF, deviations: Tensor) -> None:
    """Make the prior say: step 1, the given scales at each level in every pass, means 0."""
    prior = model.bottleneck.prior
    c = model.config.latent_dim
    eye = torch.eye(c)[:, :, None, None]
    for block in prior.modules():
        if isinstance(block, DepthConvBlock):
            for conv in (block.conv2, block.contract):
                small = conv.weight * 0.05
                _cleared(conv).weight.copy_(small)
    prior.vector.copy_(deviations.clamp(min=TRAINING_MIN_SCALE))
    _cleared(_depth_block(prior.first[0]).adaptor).weight[:c] = eye
    to_params = _cleared(_depth_block(prior.first[1]).adaptor)
    to_params.weight[c : 2 * c, :c] = eye
    to_params.bias[:c] = 1.0
    _cleared(prior.reduce).weight[:, c : 2 * c] = eye
    # The last block of a pass turns (known, common) into (common, 0): x - leaky pairs are linear.
    last = _depth_block(prior.spatial[-1])
    _cleared(last.expand)
    _cleared(last.contract)
    for i, sign in enumerate((1.0, -1.0)):
        last.expand.weight[i * 2 * c : (i + 1) * 2 * c] = sign * torch.eye(2 * c)[:, :, None, None]
        part = sign * eye / 1.1
        last.contract.weight[:c, i * 2 * c : i * 2 * c + c] = -part
        last.contract.weight[:c, i * 2 * c + c : (i + 1) * 2 * c] = part
        last.contract.weight[c:, i * 2 * c + c : (i + 1) * 2 * c] = -part


def _depth_block(module: nn.Module) -> DepthConvBlock:
    assert isinstance(module, DepthConvBlock)
    return module


def _cleared(module: nn.Module) -> _Convolution:
    """The layer, with all its parameters set to zero."""
    for parameter in module.parameters():
        parameter.zero_()
    return cast(_Convolution, module)


class _Convolution(Protocol):
    weight: Tensor
    bias: Tensor


def silence(model: DLF) -> None:
    """The network's additions to the linear base start at zero."""
    last = _depth_block(model.bottleneck.encode_out[-1])
    for module in (model.encoder.to_token, model.generator.conv_out, last.conv2, last.adaptor, last.contract):
        _cleared(module)
