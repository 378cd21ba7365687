"""LPIPS v0.1 (Zhang et al., 2018) from weights in a folder; none ship with dlfc."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dlfc.errors import ModelError


class Lpips(nn.Module):
    """Distance of two pictures by the features of a classifier, `net` alex or squeeze.

    Reads `lpips_<net>.safetensors` (torchvision's features, the official linear heads) from `folder`;
    raises ModelError if it is not there. Frozen, with gradients to the pictures.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, folder: Path, net: str = "alex") -> None:
        super().__init__()
        path = folder / f"lpips_{net}.safetensors"
        if not path.is_file():
            raise ModelError(f"{path}: no LPIPS weights there; give the folder that holds them")
        self.taps = {"alex": self._alex, "squeeze": self._squeeze}[net]
        for name, value in load_file(path).items():
            self.register_buffer(name.replace(".", "__"), value.float(), persistent=False)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def _weight(self, name: str) -> Tensor:
        return getattr(self, name.replace(".", "__"))

    def _conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self._weight(name + ".weight"), self._weight(name + ".bias")
        return F.relu(F.conv2d(x, weight, bias, stride, padding))

    def _alex(self, x: Tensor) -> list[Tensor]:
        a = self._conv(x, "features.0", 4, 2)
        b = self._conv(F.max_pool2d(a, 3, 2), "features.3", 1, 2)
        c = self._conv(F.max_pool2d(b, 3, 2), "features.6", 1, 1)
        d = self._conv(c, "features.8", 1, 1)
        return [a, b, c, d, self._conv(d, "features.10", 1, 1)]

    def _fire(self, x: Tensor, i: int) -> Tensor:
        s = self._conv(x, f"features.{i}.squeeze")
        wide = self._conv(s, f"features.{i}.expand3x3", 1, 1)
        return torch.cat([self._conv(s, f"features.{i}.expand1x1"), wide], 1)

    def _squeeze(self, x: Tensor) -> list[Tensor]:
        taps = [self._conv(x, "features.0", 2)]
        for block in ((3, 4), (6, 7), (9,)):
            x = F.max_pool2d(taps[-1], 3, 2, ceil_mode=True)
            for i in block:
                x = self._fire(x, i)
            taps.append(x)
        for i in (10, 11, 12):
            taps.append(self._fire(taps[-1], i))
        return taps

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-length features of `x`, N 3 H W in [0, 1]."""
        taps = self.taps((2 * x - 1 - self.shift) / self.scale)
        return [F.normalize(tap.float(), dim=1, eps=1e-10) for tap in taps]

    def distance(self, features: list[Tensor], reference: list[Tensor]) -> Tensor:
        """One value per picture, from what `features` returned for both."""
        total = features[0].new_zeros(len(features[0]))
        for k, (a, b) in enumerate(zip(features, reference, strict=True)):
            head = self._weight(f"lin{k}").view(1, -1, 1, 1)
            total = total + ((a - b).square() * head).sum(1).mean((1, 2))
        return total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """One value per picture, for N 3 H W in [0, 1]; gradients flow to `x` only."""
        with torch.no_grad():
            reference = self.features(y)
        return self.distance(self.features(x), reference)
