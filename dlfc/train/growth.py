"""What a trained network can be given later: more blocks, a wider detail latent, a detail prior that sees tokens.

New blocks begin as the identity. New channels of the latent begin as principal components of the linear base's error.
The old ones go on as before: nothing that they say depends on the new ones, until training makes it so. What the prior
makes of tokens is nothing at first either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from dlfc.errors import ModelError
from dlfc.model.base import LinearBase, cut_patches
from dlfc.model.bottleneck import PASS_POSITIONS, TokenContext
from dlfc.model.detail import ConvNeXtBlock, SwinBlock
from dlfc.model.dlf import DLF
from dlfc.model.generator import MapAttention, ResidualBlock
from dlfc.model.vit import VitBlock
from dlfc.train.warmstart import principal, scale_of, silence, start_context, start_prior

GROWTH_CROPS = 480
_TOGETHER = 8
_COARSENESS = 1.15  # of the new channels' steps, by the middle one of the old: what the generator adds needs no bits
_VECTOR = "bottleneck.prior.vector"
_CONTEXT = "bottleneck.prior.context."
_OPENING = "bottleneck.opening"
_OF_CHANNELS = (_VECTOR, _OPENING, "base.log_gain", "base.detail_out.weight")  # each column tells of its channel alone

_RESIDUAL = (ResidualBlock, MapAttention, VitBlock, SwinBlock, ConvNeXtBlock)  # blocks that add to what they are given
_LAST = {"conv2", "out", "attention.out", "mlp.contract"}  # the last layer of each branch of such a block
_UPSAMPLE = re.compile(r"generator\.levels\.\d+\.(\d+)\.conv\.")  # the last of a level, wherever that ends


@torch.no_grad()
def with_blocks(weights: Mapping[str, Tensor], network: DLF) -> Mapping[str, Tensor]:
    """`weights`, with the residual blocks that `network` has after those of theirs; they add nothing at first.

    What `network` does is then what the shallower one did. It may be changed; its weights are those to be overwritten.
    """
    own = network.state_dict()
    places = {_without_place(name): name for name in own if _UPSAMPLE.match(name)}
    grown = {places.get(_without_place(name), name): value for name, value in weights.items()}
    for prefix, block in network.named_modules():
        names = [name for name in own if name.startswith(f"{prefix}.")]
        if not isinstance(block, _RESIDUAL) or any(name in grown for name in names):
            continue
        for layer, module in block.named_modules():
            if layer in _LAST:
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)
        grown |= {name: own[name] for name in names}
    return grown


def _without_place(name: str) -> str:
    """The name of an upsampling's parameter, whatever number of blocks comes before it; other names as they are."""
    match = _UPSAMPLE.match(name)
    return name[: match.start(1)] + name[match.end(1) :] if match else name


def is_narrower(weights: Mapping[str, Tensor], network: DLF) -> bool:
    """Whether `weights` are of a network with a linear base and fewer channels of the latent than `network`."""
    vector = weights.get(_VECTOR)
    return network.base is not None and vector is not None and vector.shape[1] < network.config.latent_dim


@torch.no_grad()
def with_context(weights: Mapping[str, Tensor], network: DLF) -> Mapping[str, Tensor]:
    """`weights`, with a context of tokens for the prior if `network` has one and they do not."""
    if network.bottleneck.prior.context is None or any(name.startswith(_CONTEXT) for name in weights):
        return weights
    context = TokenContext(replace(network.config, latent_dim=weights[_VECTOR].shape[1]))
    context.codes.copy_(start_context(weights["codebook.entries"], weights["base.token_codes.weight"], context.codes))
    return {**weights, **{f"{_CONTEXT}{name}": value for name, value in context.state_dict().items()}}


@torch.no_grad()
def widen_latent(weights: Mapping[str, Tensor], network: DLF, crops: Tensor) -> None:
    """Fill `network` from `weights` of one that is the same but for fewer channels of the latent.

    At its `closed_levels` the new channels are closed: there the network goes on as before whatever they learn.
    `crops` N 3 H W in [-1, 1], of whole tiles, show what those channels leave. Raises ModelError or RuntimeError if the
    two networks differ in more than that.
    """
    base = network.base
    assert base is not None
    count, more = weights[_VECTOR].shape[1], network.config.latent_dim
    groups = len(PASS_POSITIONS)
    if count % groups:
        raise ModelError(f"a latent of {count} channels has no groups to grow")
    closed = network.config.closed_levels
    if closed and _OPENING not in weights:
        weights = {**weights, _OPENING: torch.ones(network.config.levels, count)}
    narrow = DLF(replace(network.config, latent_dim=count)).eval()
    narrow.load_state_dict(weights)
    assert narrow.base is not None
    by_group = torch.arange(more).view(groups, -1)  # channels are coded in groups, and each takes some
    kept, added = by_group[:, : count // groups].reshape(-1), by_group[:, count // groups :].T.reshape(-1)

    basis, coefficients = _components(narrow, narrow.base, crops, len(added))
    steps = narrow.bottleneck.prior.steps(narrow.bottleneck.prior.vector)
    sizes = _COARSENESS * (steps * (-narrow.base.log_gain).exp()).median(1).values  # of a symbol, for each level
    deviations = torch.ones(len(sizes), more)
    deviations[:, added] = torch.stack([scale_of((coefficients / size).round()) for size in sizes])
    deviations[:closed, added] = 0
    start_prior(network, deviations)
    silence(network)
    base.detail_in.weight[added], base.detail_out.weight[:, added] = basis, basis.T
    base.log_gain[:, added] = -sizes.log()[:, None]

    def place(old: int, new: int) -> Tensor:
        """Where rows or columns of the narrow network lie in the wide one; they are one or more blocks of channels."""
        blocks = torch.arange(old // count)[:, None]
        return torch.arange(old) if old == new else (blocks * more + kept).view(-1)

    if network.bottleneck.opening is not None:
        network.bottleneck.opening[:closed, added] = 0
    wide = network.state_dict()
    if wide.keys() != weights.keys():
        raise ModelError("the latent cannot grow to as many channels as the detail branch has")
    for name, value in wide.items():
        old = weights[name]
        rows = place(len(old), len(value))
        if name not in _OF_CHANNELS:
            value[rows] = 0  # what the old ones would hear from the new ones
        if value.dim() == 1:
            value[rows] = old
        else:
            value[rows[:, None], place(old.shape[1], value.shape[1])] = old


def _components(narrow: DLF, base: LinearBase, crops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Directions (count, pixels of a cell) of what the base cannot show, and their coefficients in all cells."""
    known, _ = torch.linalg.qr(base.detail_out.weight)
    errors = []
    for x in crops.split(_TOGETHER):
        level = torch.full((len(x),), narrow.config.levels - 1.0)
        inputs, features = narrow.analyse_tokens(x)
        tokens = narrow.codebook.nearest(inputs)
        shown = narrow.base_image(tokens, narrow.analyse_detail(x, features, tokens, level), level)
        assert shown is not None
        error = cut_patches(x - shown, narrow.config.cell_px, narrow.config.cell_px).flatten(0, 2)
        errors.append(error - (error @ known) @ known.T)
    rest = torch.cat(errors)
    basis = principal(rest, count)
    return basis, rest @ basis.T
