"""Distances of pictures by features of classifiers, as losses; each network is read when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dlfc.errors import ModelError
from dlfc.evaluate.inception import InceptionTrunk
from dlfc.evaluate.lpips import Lpips
from dlfc.train.precision import narrowed

NAMES = ("lpips", "vgg", "inception")


class VggShallow(nn.Module):
    """The first two blocks of VGG16 (Simonyan and Zisserman, 2014): relu1_2 and relu2_2 of N 3 H W in [0, 1].

    Reads `vgg16_shallow.safetensors` from `folder`; raises ModelError if it is not there.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        path = folder / "vgg16_shallow.safetensors"
        if not path.is_file():
            raise ModelError(f"{path}: no VGG16 weights there; give the folder that holds them")
        for name, value in load_file(path).items():
            self.register_buffer(name.replace(".", "__"), value.float(), persistent=False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def _conv(self, x: Tensor, at: int) -> Tensor:
        weight, bias = getattr(self, f"features__{at}__weight"), getattr(self, f"features__{at}__bias")
        return F.relu(F.conv2d(x, weight, bias, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self._conv(self._conv((x - self.mean) / self.deviation, 0), 2)
        return [first, self._conv(self._conv(F.max_pool2d(first, 2), 5), 7)]


class _Layers(nn.Module):
    """Squared distance of unit-length features, mean over positions, then over layers; a mean over pictures."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def _features(self, x: Tensor) -> list[Tensor]:
        found = self.network(x)
        layers = list(found.values()) if isinstance(found, dict) else found
        return [F.normalize(layer.float(), dim=1, eps=1e-6) for layer in layers]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self._features(y)
        pairs = zip(self._features(x), reference, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()


class Perceptual:
    """The distances `NAMES` with weights from `folder`, on `device`, in bfloat16 where that is safe."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._networks: dict[tuple[str, bool], Callable[[Tensor, Tensor], Tensor]] = {}

    def load(self, name: str, compiled: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
        """The distance `name`; ModelError if its weights are not there."""
        if (name, compiled) not in self._networks:
            network: nn.Module
            if name == "lpips":
                network = Lpips(self._folder, "alex")
            elif name == "vgg":
                network = _Layers(VggShallow(self._folder))
            else:
                network = _Layers(InceptionTrunk(self._folder))
            network.to(self._device)
            self._networks[name, compiled] = torch.compile(network, dynamic=False) if compiled else network
        return self._networks[name, compiled]

    def distance(self, name: str, image: Tensor, target: Tensor, compiled: bool = False) -> Tensor:
        """Mean distance of pictures N 3 H W in [0, 1]; gradients flow to `image` only."""
        with narrowed(image.device):
            return self.load(name, compiled)(image, target).mean()
