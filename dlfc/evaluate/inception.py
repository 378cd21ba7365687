"""Distances by the features of Inception-v3 (Szegedy et al., 2015), from weights in a folder; none ship with dlfc.

The trunk is that of the 2015-12-05 graph, which FID is defined on, with batch norm folded into the convolutions and
without what follows block mixed_7. Names of tensors are those of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dlfc.errors import ModelError

WEIGHTS = "inception_v3_trunk.safetensors"
PATCH_PX = 256
_TAPS = ("conv_2", "conv_4", "mixed_2", "mixed_5", "mixed_7")
_INPUT_PX = 299  # what the classifier was trained on
_DISTS_CONSTANT = 1e-6  # Ding et al., 2020
_BATCH = 8  # patches at a time

Features = Mapping[str, Tensor]
Array = npt.NDArray[np.float64]


class InceptionTrunk(nn.Module):
    """Features of N 3 H W in [0, 1]: the five layers that IPS and DISTS-I look at, by name.

    Reads `inception_v3_trunk.safetensors` from `folder`; raises ModelError if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        path = folder / WEIGHTS
        if not path.is_file():
            raise ModelError(f"{path}: no Inception weights there; give the folder that holds them")
        for name, value in load_file(path).items():
            self.register_buffer(name.replace(".", "__"), value.float(), persistent=False)

    def _conv(self, x: Tensor, name: str, *, stride: int = 1, same: bool = True) -> Tensor:
        weight, bias = getattr(self, f"{name}__weight"), getattr(self, f"{name}__bias")
        padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else 0
        return F.relu(F.conv2d(x, weight, bias, stride, padding))

    def _tower(self, x: Tensor, name: str, depth: int) -> Tensor:
        for i in range(depth):
            x = self._conv(x, f"{name}_{i}" if i else name)
        return x

    def _block(self, x: Tensor, name: str, depths: tuple[int, int]) -> Tensor:
        """A block that keeps the size: one convolution, two towers of `depths`, and one behind a mean."""
        mean = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        parts = [self._conv(x, f"{name}_conv")]
        parts += [self._tower(x, f"{name}_tower{t}_conv", d) for t, d in zip(("", "_1"), depths, strict=True)]
        return torch.cat([*parts, self._conv(mean, f"{name}_tower_2_conv")], 1)

    def _halving_block(self, x: Tensor) -> Tensor:
        tower = self._tower(x, "mixed_3_tower_conv", 2)
        last = self._conv(tower, "mixed_3_tower_conv_2", stride=2, same=False)
        return torch.cat([self._conv(x, "mixed_3_conv", stride=2, same=False), last, F.max_pool2d(x, 3, 2)], 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        x = self._conv((255 * x - 128) / 128, "conv", stride=2, same=False)
        x = self._conv(x, "conv_1", same=False)
        found["conv_2"] = self._conv(x, "conv_2")
        x = self._conv(F.max_pool2d(found["conv_2"], 3, 2), "conv_3")
        found["conv_4"] = self._conv(x, "conv_4", same=False)
        x = F.max_pool2d(found["conv_4"], 3, 2)
        for name in ("mixed", "mixed_1", "mixed_2"):
            x = found[name] = self._block(x, name, (2, 3))
        x = self._halving_block(x)
        for name in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
            x = found[name] = self._block(x, name, (3, 5))
        return {name: found[name] for name in _TAPS}


def ips(x: Features, y: Features) -> float:
    """Squared distance of unit-length features, mean over positions, then over layers; for one picture each."""
    layers = [(F.normalize(x[n], eps=1e-10) - F.normalize(y[n], eps=1e-10)).square().sum(1).mean() for n in x]
    return float(torch.stack(layers).mean())


def dists_i(x: Tensor, y: Tensor, fx: Features, fy: Features) -> float:
    """DISTS with equal weights on the picture itself (1 3 H W) and the five layers, at full resolution."""
    terms = []
    for a, b in ((x, y), *((fx[name], fy[name]) for name in fx)):
        a, b = a[0].flatten(1), b[0].flatten(1)
        mean_a, mean_b = a.mean(1), b.mean(1)
        var_a, var_b = a.var(1, correction=0), b.var(1, correction=0)
        covariance = ((a - mean_a[:, None]) * (b - mean_b[:, None])).mean(1)
        texture = (2 * mean_a * mean_b + _DISTS_CONSTANT) / (mean_a**2 + mean_b**2 + _DISTS_CONSTANT)
        structure = (2 * covariance + _DISTS_CONSTANT) / (var_a + var_b + _DISTS_CONSTANT)
        terms.append((texture + structure).mean() / 2)
    return 1 - float(torch.stack(terms).mean())


def patches(x: Tensor) -> Tensor:
    """Patches of 256x256 of a picture, 1 3 H W, in the double grid of HiFiC: N 3 256 256, none if it is smaller."""
    half = PATCH_PX // 2
    grids = [x, x[:, :, half:-half, half:-half]]
    found = []
    for grid in grids:
        if min(grid.shape[2:]) >= PATCH_PX:
            tiles = grid.unfold(2, PATCH_PX, PATCH_PX).unfold(3, PATCH_PX, PATCH_PX)  # 1 3 rows columns 256 256
            found.append(tiles[0].permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(found) if found else x.new_zeros(0, 3, PATCH_PX, PATCH_PX)


def pooled(trunk: InceptionTrunk, x: Tensor) -> Array:
    """Means of mixed_7 over each patch of N 3 256 256, which is resized to 299 pixels first: N 768."""
    rows = []
    for part in x.split(_BATCH):
        resized = F.interpolate(part, size=(_INPUT_PX, _INPUT_PX), mode="bilinear", align_corners=False)
        rows.append(trunk(resized)["mixed_7"].mean((2, 3)).double().cpu().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, 768))


def frechet_distance(a: Array, b: Array) -> float:
    """FID of two sets of features, N D and M D with at least two rows each."""
    centred = [(rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (a, b)]
    roots = [np.asarray(np.linalg.qr(rows, mode="r")) for rows in centred]
    # The trace of the root of a product of covariances is the sum of the singular values of the product of their roots.
    shared = np.linalg.norm(roots[0] @ roots[1].T, "nuc")
    spread = (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2 * shared
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + spread)


def kernel_distance(a: Array, b: Array) -> float:
    """KID of two sets of features, over all pairs: the unbiased squared distance under (u.v / D + 1) ** 3."""

    def kernel(u: Array, v: Array) -> Array:
        return (u @ v.T / u.shape[1] + 1) ** 3

    within = 0.0
    for rows in (a, b):
        values = kernel(rows, rows)
        within += (values.sum() - np.trace(values)) / (len(rows) * (len(rows) - 1))
    return float(within - 2 * kernel(a, b).mean())
