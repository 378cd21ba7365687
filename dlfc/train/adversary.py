"""The discriminator: PatchGAN (Isola et al., 2017) with hinge losses, as VQGAN and DLF train with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from dlfc.train.optimiser import load_optimiser
from dlfc.train.precision import narrowed

LEAK = 0.2
GROUPS = 32
MOST = 1e4  # largest adaptive weight, as published


def _conv(c_in: int, c_out: int, stride: int, spectral: bool) -> nn.Module:
    conv = nn.Conv2d(c_in, c_out, 4, stride=stride, padding=1)
    nn.init.normal_(conv.weight, 0.0, 0.02)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # there is one
    return spectral_norm(conv) if spectral else conv


class PatchDiscriminator(nn.Module):
    """Three strided 4x4 convolutions and two more: one verdict per patch of 70 pixels.

    GroupNorm in place of the published BatchNorm, so that a sample's verdict does not depend on the rest of its batch,
    nor on how many devices share it; or spectral norm.
    """

    def __init__(self, spectral: bool = False, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.spectral = spectral
        widths = [3, channels, *(channels * min(2**n, 8) for n in range(1, layers + 1))]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for n, (c_in, c_out) in enumerate(pairwise(widths)):
            self.convs.append(_conv(c_in, c_out, 2 if n < layers else 1, spectral))
            plain = n == 0 or spectral
            self.norms.append(nn.Identity() if plain else nn.GroupNorm(min(GROUPS, c_out), c_out))
        self.convs.append(_conv(widths[-1], 1, 1, spectral))

    def forward(self, x: Tensor) -> list[Tensor]:
        """`x` N 3 H W in [0, 1] -> features of each layer; the last ones are the verdicts N 1 h w."""
        with parametrize.cached():
            with torch.autocast(x.device.type, enabled=False):  # spectral norms in 32 bits
                for conv in self.convs:
                    conv.weight  # noqa: B018 - computed here, then held
            x = 2 * x - 1
            found = []
            for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
                x = F.leaky_relu(norm(conv(x)), LEAK)
                found.append(x)
            return [*found, self.convs[-1](x)]


class Adversary:
    """A discriminator and its optimiser, and what it tells the generator."""

    def __init__(
        self, device: torch.device, *, spectral: bool, seed: int, betas: tuple[float, ...], channels: int = 64
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # not the run's own numbers, which do not depend on when this one begins
            self.network = PatchDiscriminator(spectral, channels).to(device)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, 1e-4, (betas[0], betas[1]), weight_decay=0.0, fused=device.type == "cuda"
        )

    def state(self) -> dict[str, Any]:
        """What to resume from."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.network.load_state_dict(state["network"])
        load_optimiser(self.optimizer, state["optimizer"])

    def judge(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Hinge loss of the generator, and the mean distance of features; gradients flow to `image`."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        with narrowed(image.device):
            *made, verdict = self.network(image)
            with torch.no_grad():
                *real, _ = self.network(target)
        distances = [(a.float() - b.float()).abs().mean() for a, b in zip(made, real, strict=True)]
        return -verdict.float().mean(), torch.stack(distances).mean()

    def losses(self, image: Tensor, target: Tensor) -> Tensor:
        """Hinge loss of the discriminator; gradients flow to it only."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        with narrowed(image.device):
            made, real = self.network(torch.cat([image.detach(), target]))[-1].float().chunk(2)
        return 0.5 * (F.relu(1 + made).mean() + F.relu(1 - real).mean())


def adaptive_weight(distance: Tensor, verdict: Tensor, last: Tensor) -> Tensor:
    """How much stronger the gradient of `distance` is than that of `verdict`, at the generator's last layer."""
    (of_distance,) = torch.autograd.grad(distance, last, retain_graph=True)
    (of_verdict,) = torch.autograd.grad(verdict, last, retain_graph=True)
    return (of_distance.norm() / (of_verdict.norm() + 1e-4)).clamp(0.0, MOST).detach()
