"""A network under training in one stage: its weights, their average, and what moves them."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlfc.model.dlf import DLF
from dlfc.train.adversary import Adversary, adaptive_weight
from dlfc.train.data import Crops
from dlfc.train.losses import JITTER_PX, Batch, Objective, Outcome, latents
from dlfc.train.optimiser import Optimisers
from dlfc.train.parallel import Workers
from dlfc.train.perceptual import Perceptual
from dlfc.train.profile import Profile
from dlfc.train.rate import RateController
from dlfc.train.recipe import Recipe, Stage
from dlfc.train.vqgan import VqganEncoder

# Never trained: tiny weights that any step would wash away, and with them the differences between tokens; and which
# channels of the latent are closed at which levels.
FROZEN_PARTS = ("base.token_in.", "bottleneck.opening")


@dataclass
class Pair:
    """The network, and the VQGAN's encoder where a stage of the recipe needs it."""

    model: DLF
    teacher: VqganEncoder | None

    def modules(self) -> list[nn.Module]:
        """Those that are there."""
        return [self.model] if self.teacher is None else [self.model, self.teacher]

    def load(self, other: Pair) -> None:
        """Take the weights of another pair."""
        for mine, its in zip(self.modules(), other.modules(), strict=True):
            mine.load_state_dict(its.state_dict())


class Learner:
    """What a stage trains, from its first step on, at which `nets` has the weights to begin with."""

    def __init__(
        self, recipe: Recipe, stage: Stage, nets: Pair, workers: Workers, perceptual: Perceptual, profile: Profile
    ) -> None:
        self.stage, self.workers, self.profile = stage, workers, profile
        self.device = workers.device
        self.step, self.seconds = 0, 0.0
        self.nets = nets
        nets.model.to(self.device).train()
        self.averaged = Pair(copy.deepcopy(nets.model).eval().requires_grad_(False), copy.deepcopy(nets.teacher))
        self._share = workers.part(stage.batch)
        self._top_level = recipe.model.levels - 1
        self._seed = recipe.seed
        for name, parameter in nets.model.named_parameters():
            parameter.requires_grad_(stage.learns(name) and not name.startswith(FROZEN_PARTS))
        others: list[nn.Parameter] = []
        if nets.teacher is not None:
            nets.teacher.requires_grad_(stage.task == "vqgan")
            if stage.task == "vqgan":
                others = list(nets.teacher.parameters())
        self._optimisers = Optimisers(nets.model, others, stage, workers)
        self._trained = [p for module in nets.modules() for p in module.parameters() if p.requires_grad]
        self._first_prior = copy.deepcopy(self.averaged.model.bottleneck.prior) if stage.task == "prior" else None
        self.controller = RateController(recipe.target_bpp, stage.first_lambda, stage.controller_rate, self.device)
        self._objective = Objective(stage, perceptual)
        self.adversary: Adversary | None = None
        call: Any = nets.model
        if stage.task in ("latent", "tokens"):
            call = functools.partial(latents, nets.model, with_detail=stage.task == "latent")
        self._call = torch.compile(call, dynamic=False) if stage.compile else call

    @property
    def is_over(self) -> bool:
        """Whether the stage has had its steps or its minutes."""
        return self.stage.is_over(self.step, self.seconds)

    def follow(self, before: Learner) -> None:
        """Keep, of the stage before, what belongs to this one too: the weights of the bits and the discriminator."""
        if self.stage.first_lambda == before.stage.first_lambda:
            self.controller.log_lambda = before.controller.log_lambda
        mine, its = ((each.spectral_norm, each.adversarial_channels) for each in (self.stage, before.stage))
        if mine == its:
            self.adversary = before.adversary

    def state(self) -> dict[str, Any]:
        """What to resume from."""
        state = {
            "model": self.nets.model.state_dict(),
            "averaged": self.averaged.model.state_dict(),
            "optimisers": self._optimisers.state(),
            "log_lambda": self.controller.log_lambda,
            "step": self.step,
            "seconds": self.seconds,
        }
        if self.nets.teacher is not None and self.averaged.teacher is not None:
            state["teacher"] = self.nets.teacher.state_dict()
            state["averaged_teacher"] = self.averaged.teacher.state_dict()
        if self.adversary is not None:
            state["adversary"] = self.adversary.state()
        if self._first_prior is not None:
            state["first_prior"] = self._first_prior.state_dict()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned; RuntimeError, KeyError, TypeError or ValueError if it is no such."""
        self.nets.model.load_state_dict(state["model"])
        self.averaged.model.load_state_dict(state["averaged"])
        if self.nets.teacher is not None and self.averaged.teacher is not None:
            self.nets.teacher.load_state_dict(state["teacher"])
            self.averaged.teacher.load_state_dict(state["averaged_teacher"])
        self._optimisers.load_state(state["optimisers"])
        if self._first_prior is not None:
            self._first_prior.load_state_dict(state["first_prior"])
        if "adversary" in state:
            self._use_adversary().load_state(state["adversary"])
        self.controller.log_lambda = state["log_lambda"].to(self.device)
        self.step, self.seconds = state["step"], state.get("seconds", 0.0)

    # --- a step -------------------------------------------------------------------------------------------------------

    def train_step(self, crops: Crops) -> tuple[dict[str, Tensor], Tensor | None]:
        """One batch; what it cost, by terms, and its tokens. Nothing in it waits for the device."""
        stage, profile = self.stage, self.profile
        self._objective.step, self._objective.seconds = self.step, self.seconds
        with profile.part("crops"):
            batch, levels = self._draw(crops)
        with profile.part("network and losses"):
            outcome = self._outcome(batch)
        terms, total = dict(outcome.terms), outcome.total
        adversary = None
        if outcome.image is not None and self._objective.has_begun("adversarial"):
            adversary = self._use_adversary()
            with profile.part("discriminator"):
                total = total + self._against_adversary(adversary, outcome, terms)
        rate = stage.rate(self.step, self.seconds)
        terms["gradient"] = self._move(total, rate)
        turn = self.step % stage.adversarial_every == 0
        if adversary is not None and turn and outcome.image is not None and outcome.target is not None:
            with profile.part("discriminator"):
                loss = self._train_adversary(adversary, outcome.image, outcome.target, rate)
                terms["discriminator"] = loss * stage.adversarial_every
        with profile.part("average"):
            if outcome.bpp is not None:
                terms["bpp"] = outcome.bpp.mean()
                if self.step >= stage.warmup_steps:
                    self.controller.update(levels, self.workers.gathered(outcome.bpp))
            self._average()
        self.step += 1
        return terms | {"total": total}, outcome.tokens

    def _draw(self, crops: Crops) -> tuple[Batch, Tensor]:
        """A batch, each sample at a level drawn from the whole scale, and the levels of all its parts."""
        count = self.stage.batch
        x = crops.batch(count, self._share).contiguous(memory_format=torch.channels_last)
        even = (torch.arange(count) + torch.rand(count)) / count  # stratified
        levels = self._on_device(even**self.stage.level_power * self._top_level)
        margin = torch.randint(JITTER_PX, (2,)).tolist()
        level = levels[self._share]
        return Batch(x, level, self.controller.weight(level), (margin[0], margin[1])), levels

    def _on_device(self, values: Tensor) -> Tensor:
        """A few numbers of the host, without waiting for what the device has yet to do."""
        if self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    def _outcome(self, batch: Batch) -> Outcome:
        model, teacher = self.nets.model, self.nets.teacher
        if self.stage.task == "pixels":
            return self._objective.of_pixels(self._call, model, batch)
        if self._first_prior is not None:
            return self._objective.of_prior(model, self._first_prior, batch)
        assert teacher is not None
        if self.stage.task == "vqgan":
            return self._objective.of_vqgan(teacher, model, batch)
        return self._objective.of_latents(self._call, model, teacher, batch)

    def _move(self, total: Tensor, rate: float) -> Tensor:
        """Move the weights down the slope of `total`; returns how steep it was."""
        self._optimisers.set_rate(rate)
        self._optimisers.zero_grad()
        with self.profile.part("backward"):
            total.backward()
        with self.profile.part("exchange"):
            self.workers.average_gradients(self._trained)
        with self.profile.part("optimiser"):
            gradient = nn.utils.clip_grad_norm_(self._trained, self.stage.gradient_clip)
            self._optimisers.step()
        return gradient

    @torch.no_grad()
    def _average(self) -> None:
        """Let the averaged weights follow."""
        keep = min(self.stage.ema, (1 + self.step) / (10 + self.step))
        count = None if self.stage.task == "vqgan" else 1  # the VQGAN's encoder stays as it is in other stages
        for slow, fast in list(zip(self.averaged.modules(), self.nets.modules(), strict=True))[:count]:
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - keep)

    # --- the discriminator --------------------------------------------------------------------------------------------

    def _use_adversary(self) -> Adversary:
        if self.adversary is None:
            stage = self.stage
            self.adversary = Adversary(
                self.device,
                spectral=stage.spectral_norm,
                seed=self._seed,
                betas=stage.betas,
                channels=stage.adversarial_channels,
            )
        return self.adversary

    def _against_adversary(self, adversary: Adversary, outcome: Outcome, terms: dict[str, Tensor]) -> Tensor:
        """What the discriminator adds to the loss of the network."""
        assert outcome.image is not None
        assert outcome.target is not None
        assert outcome.pictures is not None
        stage = self.stage
        terms["adversarial"], terms["matching"] = adversary.judge(outcome.image, outcome.target)
        weight: float | Tensor = stage.adversarial_weight
        if stage.adversarial_adaptive:
            last = self.nets.model.generator.conv_out.weight
            ratio = adaptive_weight(outcome.pictures, terms["adversarial"], last)
            weight = self.workers.mean(ratio) * stage.adversarial_weight
        return weight * terms["adversarial"] + stage.matching_weight * terms["matching"]

    def _train_adversary(self, adversary: Adversary, image: Tensor, target: Tensor, rate: float) -> Tensor:
        loss = adversary.losses(image, target)
        adversary.optimizer.param_groups[0]["lr"] = rate * self.stage.adversarial_rate
        adversary.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(adversary.parameters)
        adversary.optimizer.step()
        return loss
