"""The training loop: stage after stage, all rate levels at once, each steered to its bits per pixel."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlfc.errors import ModelError
from dlfc.evaluate.lpips import Lpips
from dlfc.model.dlf import DLF
from dlfc.train.data import Crops, Photos, load_photos
from dlfc.train.evaluation import Distance, evaluate
from dlfc.train.growth import GROWTH_CROPS, is_narrower, widen_latent, with_blocks, with_context
from dlfc.train.learner import Learner, Pair
from dlfc.train.logbook import Logbook
from dlfc.train.parallel import Workers
from dlfc.train.perceptual import Perceptual
from dlfc.train.profile import Profile
from dlfc.train.recipe import Recipe, Stage
from dlfc.train.state import misfit, read_mean, read_state
from dlfc.train.stopping import asked_to_stop
from dlfc.train.variety import Variety
from dlfc.train.vqgan import VqganEncoder
from dlfc.train.warmstart import warm_start

VALIDATION_PHOTOS = 8
PROFILED_STEPS = 20
UNTIMED_STEPS = 3  # before a profile: kernels are chosen and compiled in them


class Trainer:
    """One run in one folder: `state.pt` to resume from, `log.csv`, `validation.csv`, `tokens.csv`, and pictures.

    A fresh run begins at `stage`, counted from 0, with the weights of `start_from`, another run's state or a model, or
    the mean of several; or with a data-dependent start.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        metrics: Path,
        out: Path,
        validation: Path | None,
        *,
        start_from: Sequence[Path] = (),
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
        self.nets = Pair(DLF(recipe.model), self._new_teacher())
        self.crops = self._new_crops(recipe.stages[stage])
        self.steps_before = 0
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._begin(stage)
            self._resume(out / "state.pt")
        else:
            self._begin_anew(stage, start_from)

    def _begin_anew(self, stage: int, start_from: Sequence[Path]) -> None:
        log_lambda = None
        model, recipe = self.nets.model, self.recipe
        if start_from:
            log_lambda = self._take(start_from)
        elif model.base is not None and self.workers.leads:
            crops = Crops(self.photos, recipe.model.tile_px, recipe.seed)
            crops.random = self.crops.random
            warm_start(model, crops.batch(recipe.warmstart_crops).cpu(), list(recipe.target_bpp))
        self._begin(stage)
        if log_lambda is not None:
            self.learner.controller.log_lambda = log_lambda.to(self.device)
        kept = self.workers.share([model], torch.get_rng_state(), self.crops.random.bit_generator.state)
        torch.set_rng_state(kept[0])
        self.crops.random.bit_generator.state = kept[1]
        self.learner.averaged.load(self.nets)

    def _validation_photos(self, folder: Path | None) -> list[Any]:
        smallest = min(each.crop_px for each in self.recipe.stages)
        return load_photos(folder, min_side_px=2 * smallest, limit=VALIDATION_PHOTOS) if folder else []

    def _new_teacher(self) -> VqganEncoder | None:
        if not any(stage.needs_vqgan for stage in self.recipe.stages):
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return VqganEncoder(self.recipe.model).to(self.device)

    def _new_crops(self, stage: Stage) -> Crops:
        variety = Variety(stage.recoloured, stage.evened, stage.framed, stage.enlarged, stage.calmed, stage.defocused)
        return Crops(self.photos, stage.crop_px, self.recipe.seed, stage.scales, variety)

    # --- stages -------------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The stage that the run is in."""
        return self.learner.stage

    def _begin(self, index: int) -> None:
        """Set everything that belongs to a stage, at its first step, from the weights that there are."""
        recipe, self.stage_index = self.recipe, index
        stage = recipe.stages[index]
        self.learner = Learner(recipe, stage, self.nets, self.workers, self.perceptual, self.profile)
        codes = recipe.model.mixture_size if stage.task == "vqgan" else recipe.model.codebook_size
        self.logbook = Logbook(self.out, self.workers, codes)
        self._untimed = True  # the first step of a process chooses and compiles kernels

    def _next_stage(self) -> None:
        """Go on to the next stage from the averaged weights of this one."""
        before = self.learner
        self.nets.load(before.averaged)
        self._begin(self.stage_index + 1)
        self.learner.follow(before)
        self.steps_before += before.step
        random, self.crops = self.crops.random, self._new_crops(self.stage)
        self.crops.random = random

    # --- state --------------------------------------------------------------------------------------------------------

    def _take(self, starts: Sequence[Path]) -> Tensor | None:
        """Take the averaged weights of other runs, without what their optimisers knew, or those of models: their mean.

        Returns the runs' lambdas; a model does not know them.
        """
        try:
            weights = read_mean(starts)
            weights["averaged"] = with_blocks(with_context(weights["averaged"], self.nets.model), self.nets.model)
            if is_narrower(weights["averaged"], self.nets.model):
                if self.workers.leads:
                    crops = Crops(self.photos, self.recipe.model.tile_px, self.recipe.seed).batch(GROWTH_CROPS).cpu()
                    widen_latent(weights["averaged"], self.nets.model, crops)
            else:
                self.nets.model.load_state_dict(weights["averaged"])
            if self.nets.teacher is not None and "averaged_teacher" in weights:
                self.nets.teacher.load_state_dict(weights["averaged_teacher"])
            return weights.get("log_lambda")
        except (RuntimeError, KeyError, TypeError) as error:
            raise misfit(starts[0], error) from error

    def _resume(self, path: Path) -> None:
        state = read_state(path)
        try:
            index = state.get("stage", 0)
            if index != self.stage_index:
                self.crops = self._new_crops(self.recipe.stages[index])
                self._begin(index)
            self.learner.load_state(state)
            self.crops.random.bit_generator.state = state["crops"]
            torch.set_rng_state(state["random"])
            self.steps_before = state.get("steps_before", 0)
        except (IndexError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise misfit(path, error) from error

    def save(self, path: Path | None = None) -> None:
        """Write the state to resume from, whole or not at all; ModelError if the weights have become useless."""
        self.logbook.check()
        if not self.workers.leads:
            return
        since = time.monotonic()
        state = self.learner.state() | {
            "crops": self.crops.random.bit_generator.state,
            "random": torch.get_rng_state(),
            "steps_before": self.steps_before,
            "stage": self.stage_index,
        }
        path = path or self.out / "state.pt"
        partial = path.with_name(f"{path.name}.part")
        torch.save(state, partial)
        partial.replace(path)
        self._last_save_seconds = time.monotonic() - since

    # --- a run --------------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the last stage has come to its end."""
        return self.stage_index == len(self.recipe.stages) - 1 and self.learner.is_over

    def train_step(self) -> None:
        """One batch."""
        self.logbook.note(*self.learner.train_step(self.crops))

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
                if self.learner.is_over:
                    self._finish_stage()
                    if self.is_over:
                        return True
                    self._next_stage()
                learner = self.learner
                since, since_step = time.monotonic(), learner.step
                while not learner.is_over:
                    before = time.monotonic()
                    self.train_step()
                    now = time.monotonic()
                    if not self._untimed:
                        learner.seconds += now - before
                    self._untimed = False
                    ending = asked() or now - self._born + 2 * (now - before) + self._last_save_seconds > allowed
                    learner.seconds, stop, save, validate = self.workers.agreed(
                        learner.seconds,
                        ending,
                        now - last_save > save_seconds,
                        now - last_validation > validate_seconds,
                    )
                    if learner.step % log_steps == 0:
                        self._log((learner.step - since_step) * learner.stage.batch / (now - since))
                        since, since_step = time.monotonic(), learner.step
                    if stop or save:
                        self.save()
                        last_save = time.monotonic()
                    if stop:
                        return self.is_over
                    if validate and self.validation:
                        self._report()
                        last_validation = since = time.monotonic()
                        since_step = learner.step

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
        learner, stage = self.learner, self.stage
        lambdas = learner.controller.log_lambda.exp().tolist()
        more: dict[str, float | str] = {"images_per_second": images_per_second, "stage": stage.stage}
        more |= {"learning_rate": stage.rate(learner.step, learner.seconds), "seconds": learner.seconds}
        more |= {f"lambda_{i}": value for i, value in enumerate(lambdas)}
        where, left = f"step {learner.step}", 60 * stage.total_minutes - learner.seconds
        if stage.steps:
            where = f"{where}/{stage.steps}"
            left = (stage.steps - learner.step) * stage.batch / max(images_per_second, 1e-6)
        if len(self.recipe.stages) > 1:
            where = f"{stage.stage}: {where}"
        after = f"lambda {[round(v, 3) for v in lambdas]}  {images_per_second:.1f} images/s  {left / 60:.0f} min left"
        self.logbook.line(self.steps_before + learner.step, where, more, after)

    def _report(self) -> None:
        """Evaluate, and write what that found; the other processes wait for the first one."""
        used = self.logbook.used()
        with self.workers.first_then_rest():
            if self.workers.leads:
                self.logbook.report(self.steps_before + self.learner.step, *self.validate(), used)

    def validate(self) -> tuple[list[dict[str, float]], list[list[Tensor]], list[str]]:
        """What `evaluate` says of the averaged weights on the validation photos."""
        assert self.judge is not None
        nets: dict[str, Distance] = {"lpips_alex": self.perceptual.load("lpips"), "lpips_squeeze": self.judge}
        averaged = self.learner.averaged
        return evaluate(averaged.model, averaged.teacher, self.stage.task, self.validation, nets, self.device)
