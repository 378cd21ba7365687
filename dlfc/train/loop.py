"""The training loop: stage after stage, all rate levels at once, each steered to its bits per pixel."""

from __future__ import annotations

import copy
import functools
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlfc.errors import ModelError
from dlfc.evaluate.lpips import Lpips
from dlfc.model.dlf import DLF
from dlfc.train.adversary import Adversary, adaptive_weight
from dlfc.train.data import Crops, Photos, load_photos
from dlfc.train.evaluation import Distance, evaluate
from dlfc.train.logbook import Logbook
from dlfc.train.losses import JITTER_PX, Batch, Objective, Outcome, latents
from dlfc.train.optimiser import Optimisers
from dlfc.train.parallel import Workers
from dlfc.train.perceptual import Perceptual
from dlfc.train.profile import Profile
from dlfc.train.rate import RateController
from dlfc.train.recipe import Recipe, Stage
from dlfc.train.state import misfit, read_state
from dlfc.train.stopping import asked_to_stop
from dlfc.train.variety import Variety
from dlfc.train.vqgan import VqganEncoder
from dlfc.train.warmstart import warm_start

# Never trained: tiny weights that any step would wash away, and with them the differences between tokens.
FROZEN_PARTS = ("base.token_in.",)

VALIDATION_PHOTOS = 8
PROFILED_STEPS = 20
UNTIMED_STEPS = 3  # before a profile: kernels are chosen and compiled in them


class Trainer:
    """One run in one folder: `state.pt` to resume from, `log.csv`, `validation.csv`, `tokens.csv`, and pictures.

    A fresh run begins at `stage`, counted from 0, with the weights of `start_from`, another run's state, or with those
    of a data-dependent start.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        metrics: Path,
        out: Path,
        validation: Path | None,
        *,
        start_from: Path | None = None,
        stage: int = 0,
    ) -> None:
        self.recipe, self.out = recipe, out
        self._born = time.monotonic()
        self._last_save_seconds = 0.0
        if not 0 <= stage < len(recipe.stages):
            raise ModelError(f"recipe {recipe.name} has {len(recipe.stages)} stages, none of number {stage + 1}")
        self.workers = Workers()
        self.device = self.workers.device
        if self.device.type == "cuda":
            # Shapes never change, and 10 bits of fraction do for all that is not decided by integers in the end.
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = True
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(recipe.seed)
        smallest = min(each.crop_px for each in recipe.stages)
        scales = tuple(dict.fromkeys(scale for each in recipe.stages for scale in each.scales))
        self.photos = Photos(load_photos(data, min_side_px=smallest), self.device, scales)
        self.validation = self._validation_photos(validation)
        self.perceptual = Perceptual(metrics, self.device)
        self.judge = Lpips(metrics, "squeeze").to(self.device) if self.validation else None
        self.profile = Profile(self.device)
        self.model = DLF(recipe.model)
        self.teacher = self._new_teacher()
        self.crops = self._new_crops(recipe.stages[stage])
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._begin(stage)
            self._resume(out / "state.pt")
            return
        log_lambda = None
        if start_from is not None:
            log_lambda = self._take(start_from)
        elif self.model.base is not None and self.workers.leads:
            crops = Crops(self.photos, recipe.model.tile_px, recipe.seed)
            crops.random = self.crops.random
            warm_start(self.model, crops.batch(recipe.warmstart_crops).cpu(), list(recipe.target_bpp))
        self._begin(stage)
        if log_lambda is not None:
            self.controller.log_lambda = log_lambda.to(self.device)
        kept = self.workers.share([self.model], torch.get_rng_state(), self.crops.random.bit_generator.state)
        torch.set_rng_state(kept[0])
        self.crops.random.bit_generator.state = kept[1]
        self._average_anew()

    def _validation_photos(self, folder: Path | None) -> list[Any]:
        smallest = min(each.crop_px for each in self.recipe.stages)
        return load_photos(folder, min_side_px=2 * smallest, limit=VALIDATION_PHOTOS) if folder else []

    def _new_teacher(self) -> VqganEncoder | None:
        if all(stage.task == "pixels" for stage in self.recipe.stages):
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return VqganEncoder(self.recipe.model).to(self.device)

    def _new_crops(self, stage: Stage) -> Crops:
        variety = Variety(stage.recoloured, stage.evened)
        return Crops(self.photos, stage.crop_px, self.recipe.seed, stage.scales, variety)

    # --- stages -------------------------------------------------------------------------------------------------------

    def _begin(self, index: int) -> None:
        """Set everything that belongs to a stage, at its first step, from the weights that `model` has."""
        recipe, stage = self.recipe, self.recipe.stages[index]
        self.stage_index, self.stage = index, stage
        self.step, self.seconds, self.steps_before = 0, 0.0, 0
        self.model.to(self.device).train()
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.averaged_teacher = copy.deepcopy(self.teacher)
        self.share = self.workers.part(stage.batch)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(stage.learns(name) and not name.startswith(FROZEN_PARTS))
        others: list[nn.Parameter] = []
        if self.teacher is not None:
            self.teacher.requires_grad_(stage.task == "vqgan")
            if stage.task == "vqgan":
                others = list(self.teacher.parameters())
        self.optimisers = Optimisers(self.model, others, stage, self.device)
        modules = [self.model] if self.teacher is None else [self.model, self.teacher]
        self.trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.controller = RateController(recipe.target_bpp, stage.first_lambda, stage.controller_rate, self.device)
        self.objective = Objective(stage, self.perceptual)
        self.adversary: Adversary | None = None
        codes = recipe.model.mixture_size if stage.task == "vqgan" else recipe.model.codebook_size
        self.logbook = Logbook(self.out, self.workers, codes)
        call: Any = self.model
        if stage.task in ("latent", "tokens"):
            call = functools.partial(latents, self.model, with_detail=stage.task == "latent")
        self._call = torch.compile(call, dynamic=False) if stage.compile else call
        self._untimed = True  # the first step of a process chooses and compiles kernels

    def _average_anew(self) -> None:
        self.averaged.load_state_dict(self.model.state_dict())
        if self.teacher is not None and self.averaged_teacher is not None:
            self.averaged_teacher.load_state_dict(self.teacher.state_dict())

    def _next_stage(self) -> None:
        """Go on to the next stage from the averaged weights of this one."""
        before, total = self.stage, self.steps_before + self.step
        self.model.load_state_dict(self.averaged.state_dict())
        if self.teacher is not None and self.averaged_teacher is not None:
            self.teacher.load_state_dict(self.averaged_teacher.state_dict())
        log_lambda, adversary = self.controller.log_lambda, self.adversary
        self._begin(self.stage_index + 1)
        self.steps_before = total
        self.crops = self._with_random(self._new_crops(self.stage), self.crops)
        if self.stage.first_lambda == before.first_lambda:
            self.controller.log_lambda = log_lambda
        after = self.stage
        same = (after.spectral_norm, after.adversarial_channels) == (before.spectral_norm, before.adversarial_channels)
        if adversary is not None and same:
            self.adversary = adversary

    @staticmethod
    def _with_random(crops: Crops, before: Crops) -> Crops:
        crops.random = before.random
        return crops

    # --- state --------------------------------------------------------------------------------------------------------

    def _take(self, state: Path) -> Tensor:
        """Take the averaged weights of another run, without what its optimiser knew; returns its lambdas."""
        weights = read_state(state)
        try:
            self.model.load_state_dict(weights["averaged"])
            if self.teacher is not None and "averaged_teacher" in weights:
                self.teacher.load_state_dict(weights["averaged_teacher"])
            return weights["log_lambda"]
        except (RuntimeError, KeyError, TypeError) as error:
            raise misfit(state, error) from error

    def _resume(self, path: Path) -> None:
        state = read_state(path)
        try:
            index = state.get("stage", 0)
            if index != self.stage_index:
                self.crops = self._new_crops(self.recipe.stages[index])
                self._begin(index)
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            if self.teacher is not None and self.averaged_teacher is not None:
                self.teacher.load_state_dict(state["teacher"])
                self.averaged_teacher.load_state_dict(state["averaged_teacher"])
            self.optimisers.load_state(state["optimisers"])
            if "adversary" in state:
                self._use_adversary().load_state(state["adversary"])
            self.controller.log_lambda = state["log_lambda"].to(self.device)
            self.crops.random.bit_generator.state = state["crops"]
            torch.set_rng_state(state["random"])
            self.step = state["step"]
            self.seconds, self.steps_before = state.get("seconds", 0.0), state.get("steps_before", 0)
        except (IndexError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise misfit(path, error) from error

    def save(self, path: Path | None = None) -> None:
        """Write the state to resume from, whole or not at all; ModelError if the weights have become useless."""
        self.logbook.check()
        if not self.workers.leads:
            return
        since = time.monotonic()
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": self.optimisers.state(),
            "log_lambda": self.controller.log_lambda,
            "crops": self.crops.random.bit_generator.state,
            "random": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
            "steps_before": self.steps_before,
            "stage": self.stage_index,
        }
        if self.teacher is not None and self.averaged_teacher is not None:
            state["teacher"] = self.teacher.state_dict()
            state["averaged_teacher"] = self.averaged_teacher.state_dict()
        if self.adversary is not None:
            state["adversary"] = self.adversary.state()
        path = path or self.out / "state.pt"
        partial = path.with_name(f"{path.name}.part")
        torch.save(state, partial)
        partial.replace(path)
        self._last_save_seconds = time.monotonic() - since

    # --- a step -------------------------------------------------------------------------------------------------------

    def _on_device(self, values: Tensor) -> Tensor:
        """A few numbers of the host, without waiting for what the device has yet to do."""
        if self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    def _draw(self) -> tuple[Batch, Tensor]:
        """A batch, each sample at a level drawn evenly from the whole scale, and the levels of all its parts."""
        count = self.stage.batch
        x = self.crops.batch(count, self.share).contiguous(memory_format=torch.channels_last)
        top = self.recipe.model.levels - 1
        levels = self._on_device((torch.arange(count) + torch.rand(count)) / count * top)  # stratified
        margin = torch.randint(JITTER_PX, (2,)).tolist()
        level = levels[self.share]
        return Batch(x, level, self.controller.weight(level), (margin[0], margin[1])), levels

    def _outcome(self, batch: Batch) -> Outcome:
        if self.stage.task == "pixels":
            return self.objective.of_pixels(self._call, self.model, batch)
        assert self.teacher is not None
        if self.stage.task == "vqgan":
            return self.objective.of_vqgan(self.teacher, self.model, batch)
        return self.objective.of_latents(self._call, self.model, self.teacher, batch)

    def _use_adversary(self) -> Adversary:
        if self.adversary is None:
            stage = self.stage
            self.adversary = Adversary(
                self.device,
                spectral=stage.spectral_norm,
                seed=self.recipe.seed,
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
            last = self.model.generator.conv_out.weight
            ratio = adaptive_weight(outcome.pictures, terms["adversarial"], last)
            weight = self.workers.mean(ratio) * stage.adversarial_weight
        return weight * terms["adversarial"] + stage.matching_weight * terms["matching"]

    def train_step(self) -> None:
        """One batch. Nothing in it waits for the device."""
        stage, profile = self.stage, self.profile
        self.objective.step, self.objective.seconds = self.step, self.seconds
        with profile.part("crops"):
            batch, levels = self._draw()
        with profile.part("network and losses"):
            outcome = self._outcome(batch)
        terms, total = dict(outcome.terms), outcome.total
        adversary = None
        if outcome.image is not None and self.objective.has_begun("adversarial"):
            adversary = self._use_adversary()
            with profile.part("discriminator"):
                total = total + self._against_adversary(adversary, outcome, terms)
        rate = stage.rate(self.step, self.seconds)
        self.optimisers.set_rate(rate)
        self.optimisers.zero_grad()
        with profile.part("backward"):
            total.backward()
        with profile.part("exchange"):
            self.workers.average_gradients(self.trained)
        with profile.part("optimiser"):
            terms["gradient"] = nn.utils.clip_grad_norm_(self.trained, stage.gradient_clip)
            self.optimisers.step()
        turn = self.step % stage.adversarial_every == 0
        if adversary is not None and turn and outcome.image is not None and outcome.target is not None:
            with profile.part("discriminator"):
                loss = self._train_adversary(adversary, outcome.image, outcome.target, rate)
                terms["discriminator"] = loss * stage.adversarial_every
        with profile.part("average and logs"):
            if outcome.bpp is not None:
                terms["bpp"] = outcome.bpp.mean()
                if self.step >= stage.warmup_steps:
                    self.controller.update(levels, self.workers.gathered(outcome.bpp))
            self._follow()
            self.logbook.note(terms | {"total": total}, outcome.tokens)
        self.step += 1

    def _train_adversary(self, adversary: Adversary, image: Tensor, target: Tensor, rate: float) -> Tensor:
        loss = adversary.losses(image, target)
        adversary.optimizer.param_groups[0]["lr"] = rate * self.stage.adversarial_rate
        adversary.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(adversary.parameters)
        adversary.optimizer.step()
        return loss

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the averaged weights follow."""
        keep = min(self.stage.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - keep)
        if self.stage.task == "vqgan" and self.teacher is not None and self.averaged_teacher is not None:
            torch._foreach_lerp_(list(self.averaged_teacher.parameters()), list(self.teacher.parameters()), 1 - keep)

    # --- a run --------------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the last stage has come to its end."""
        last = self.stage_index == len(self.recipe.stages) - 1
        return last and self.stage.is_over(self.step, self.seconds)

    def run(
        self,
        *,
        minutes: float | None = None,
        save_seconds: float = 300.0,
        validate_seconds: float = 900.0,
        log_steps: int = 20,
    ) -> bool:
        """Train to the end of the last stage, or for `minutes` since this object was made; returns `is_over`.

        What is reached is saved in either case, and when the process is asked to end by a signal. Prints one line for
        each `log_steps`.
        """
        allowed = math.inf if minutes is None else 60 * minutes
        last_save = last_validation = time.monotonic()
        with asked_to_stop() as asked:
            while True:
                if self.stage.is_over(self.step, self.seconds):
                    self._finish_stage()
                    if self.is_over:
                        return True
                    self._next_stage()
                since, since_step = time.monotonic(), self.step
                while not self.stage.is_over(self.step, self.seconds):
                    before = time.monotonic()
                    self.train_step()
                    now = time.monotonic()
                    if not self._untimed:
                        self.seconds += now - before
                    self._untimed = False
                    ending = asked() or now - self._born + 2 * (now - before) + self._last_save_seconds > allowed
                    self.seconds, stop, save, validate = self.workers.agreed(
                        self.seconds, ending, now - last_save > save_seconds, now - last_validation > validate_seconds
                    )
                    if self.step % log_steps == 0:
                        self._log((self.step - since_step) * self.stage.batch / (now - since))
                        since, since_step = time.monotonic(), self.step
                    if stop or save:
                        self.save()
                        last_save = time.monotonic()
                    if stop:
                        return self.is_over
                    if validate and self.validation:
                        self._report()
                        last_validation = since = time.monotonic()
                        since_step = self.step

    def _finish_stage(self) -> None:
        self.save()
        if len(self.recipe.stages) > 1 and self.workers.leads:
            shutil.copyfile(self.out / "state.pt", self.out / f"stage-{self.stage_index + 1}.pt")
        if self.validation:
            self._report()

    def profiled(self, steps: int = PROFILED_STEPS) -> str:
        """Train `steps` steps for nothing but a table of where their time goes."""
        for _ in range(UNTIMED_STEPS):
            self.train_step()
        self.profile.on = True
        for _ in range(steps):
            self.train_step()
        self.profile.on = False
        return self.profile.table(steps)

    def _log(self, images_per_second: float) -> None:
        stage, step = self.stage, self.steps_before + self.step
        lambdas = self.controller.log_lambda.exp().tolist()
        more: dict[str, float | str] = {"images_per_second": images_per_second, "stage": stage.stage}
        more |= {"learning_rate": stage.rate(self.step, self.seconds), "seconds": self.seconds}
        more |= {f"lambda_{i}": value for i, value in enumerate(lambdas)}
        where, left = f"step {self.step}", 60 * stage.total_minutes - self.seconds
        if stage.steps:
            where = f"{where}/{stage.steps}"
            left = (stage.steps - self.step) * stage.batch / max(images_per_second, 1e-6)
        if len(self.recipe.stages) > 1:
            where = f"{stage.stage}: {where}"
        after = f"lambda {[round(v, 3) for v in lambdas]}  {images_per_second:.1f} images/s  {left / 60:.0f} min left"
        self.logbook.line(step, where, more, after)

    def _report(self) -> None:
        """Evaluate, and write what that found; the other processes wait for the first one."""
        used = self.logbook.used()
        with self.workers.first_then_rest():
            if self.workers.leads:
                self.logbook.report(self.steps_before + self.step, *self.validate(), used)

    def validate(self) -> tuple[list[dict[str, float]], list[list[Tensor]], list[str]]:
        """What `evaluate` says of the averaged weights on the validation photos."""
        assert self.judge is not None
        nets: dict[str, Distance] = {"lpips_alex": self.perceptual.load("lpips"), "lpips_squeeze": self.judge}
        return evaluate(self.averaged, self.averaged_teacher, self.stage.task, self.validation, nets, self.device)
