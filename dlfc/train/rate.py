"""Steering each rate level to its bits per pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlfc.model.bottleneck import at_level


class RateController:
    """One lambda per level, raised while the level spends more than its target and lowered while it spends less.

    They begin at `first_lambda`; if that is one number, the middle level does, and the others lie around it.
    Its state lies on `device`, so that a step need not wait for what the device computes.
    """

    def __init__(
        self,
        target_bpp: Sequence[float],
        first_lambda: float | Sequence[float],
        rate: float,
        device: torch.device | str = "cpu",
    ) -> None:
        log_target = torch.tensor(target_bpp).log()
        if isinstance(first_lambda, Sequence):
            log_lambda = torch.tensor(first_lambda).log()
        else:
            log_lambda = math.log(first_lambda) - 0.7 * (log_target - log_target[len(target_bpp) // 2])
        self.log_target, self.log_lambda = log_target.to(device), log_lambda.to(device)
        self.levels = torch.arange(len(target_bpp), device=device)
        self.rate = rate

    def weight(self, level: Tensor) -> Tensor:
        """Lambda at each `level` (B,), interpolated in its logarithm."""
        return at_level(self.log_lambda[:, None], level).squeeze(1).exp()

    def update(self, level: Tensor, bpp: Tensor) -> None:
        """Steer by the bits per pixel that each sample took."""
        excess = bpp.clamp(min=1e-4).log() - at_level(self.log_target[:, None], level).squeeze(1)
        nearness = (1 - (level[:, None] - self.levels).abs()).clamp(min=0)
        pull = (nearness * excess[:, None].clamp(-1, 1)).sum(0) / nearness.sum(0).clamp(min=1)
        self.log_lambda = (self.log_lambda + self.rate * pull).clamp(-5.0, 6.0)
