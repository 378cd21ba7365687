"""What moves the parameters of a stage: AdamW, and Muon for matrices where the recipe asks for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlfc.train.parallel import Workers
from dlfc.train.recipe import Stage

# Parts that start from data: small weights that a common learning rate would wash away, and what picks tokens, which
# would move them between codes faster than everything that reads them could follow (the codebook then collapses).
SLOW_PARTS = ("base.", "codebook.", "encoder.to_token.")

# Beside those and all that is no matrix, AdamW moves the layers that touch pixels or tokens.
_OUTER_PARTS = ("mixture", "encoder.patch_embed.", "decoder.from_token.", "generator.base_in.", "generator.conv_out.")
_SMALLEST_SIDE = 16

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at 0: in five rounds small singular values come to lie around 1 too
_ROUNDS = 5
_UPDATE_RMS = 0.2  # at a learning rate of 1, about that of Adam's updates, so that one learning rate suits both


class Muon(torch.optim.Optimizer):
    """Momentum whose singular values are all made 1 (Jordan et al., 2024), scaled as by Liu et al. (2025).

    Parameters are taken as matrices of their first dimension and the rest. Each of `workers`, which have the same
    gradients, works out the updates of a part of them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, workers: Workers, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self._workers = workers

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            ahead = [self._ahead(p, group["momentum"]).flatten(1) for p in params]
            updates = self._workers.shared_out(ahead, [_work(each.shape) for each in ahead], _orthogonal_each)
            for p, update in zip(params, updates, strict=True):
                p.sub_(update.view(p.shape), alpha=group["lr"] * _UPDATE_RMS * max(update.shape) ** 0.5)

    def _ahead(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum of `p`."""
        assert p.grad is not None
        mean = self.state[p].setdefault("momentum", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)


def orthogonal(x: Tensor) -> Tensor:
    """`x` N R C with singular values of about 1, 0.7 to 1.2, by Newton-Schulz steps in bfloat16."""
    a, b, c = _QUINTIC
    tall = x.shape[1] > x.shape[2]
    y = x.mT if tall else x
    y = (y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(_ROUNDS):
        square = y @ y.mT
        y = torch.baddbmm(a * y, torch.baddbmm(b * square, square, square, alpha=c), y)
    return (y.mT if tall else y).to(x.dtype).contiguous()


def _orthogonal_each(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonal` of each, those of one shape together."""
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[matrix.shape].append(i)
    made: dict[int, Tensor] = {}
    for same in alike.values():
        made.update(zip(same, orthogonal(torch.stack([matrices[i] for i in same])), strict=True))
    return [made[i] for i in range(len(matrices))]


def _work(shape: torch.Size) -> int:
    """Of `orthogonal`, about, in multiplications by a constant."""
    rows, columns = shape
    return min(rows, columns) ** 2 * max(rows, columns)


class Optimisers:
    """The optimisers of a stage, over the parameters of a network and of `others`, moved by AdamW."""

    def __init__(self, model: nn.Module, others: Iterable[nn.Parameter], stage: Stage, workers: Workers) -> None:
        groups: dict[str, list[nn.Parameter]] = {"rest": list(others), "slow": [], "matrices": []}
        for name, parameter in model.named_parameters():
            groups[_group(name, parameter, stage.optimiser == "muon")].append(parameter)
        parts = [{"params": groups["rest"], "part": 1.0}, {"params": groups["slow"], "part": stage.base_rate}]
        fused = True if workers.device.type == "cuda" else None
        betas = (stage.betas[0], stage.betas[1])
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(parts, stage.learning_rate, betas, weight_decay=0.0, fused=fused)
        ]
        if groups["matrices"]:
            self._all.append(Muon(groups["matrices"], stage.learning_rate, workers))

    def set_rate(self, rate: float) -> None:
        """Set the learning rate, of which a group may take a part."""
        for optimiser in self._all:
            for group in optimiser.param_groups:
                group["lr"] = rate * group.get("part", 1.0)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimiser in self._all:
            optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move all parameters."""
        for optimiser in self._all:
            optimiser.step()

    def state(self) -> list[dict[str, Any]]:
        """What to resume from."""
        return [optimiser.state_dict() for optimiser in self._all]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Resume from what `state` returned."""
        for optimiser, state in zip(self._all, states, strict=True):
            load_optimiser(optimiser, state)


def _group(name: str, parameter: Tensor, use_muon: bool) -> str:
    if name.startswith(SLOW_PARTS):
        return "slow"
    dense = name.endswith(".weight") and parameter.ndim > 1 and min(parameter.shape[:2]) >= _SMALLEST_SIDE
    return "matrices" if use_muon and dense and not name.startswith(_OUTER_PARTS) else "rest"


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load `state`, which may come from another kind of device."""
    for mine, stored in zip(optimiser.param_groups, state["param_groups"], strict=True):
        for key in ("fused", "foreach"):
            if key in mine:
                stored[key] = mine[key]
    optimiser.load_state_dict(state)
