"""What a training run is: one TOML file, read into frozen dataclasses."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dlfc.errors import ModelError
from dlfc.model.config import DLFConfig

TASKS = ("pixels", "prior", "latent", "tokens", "vqgan")
OPTIMISERS = ("adamw", "muon")
_PRIOR = "bottleneck.prior."
_OF_STEPS = (f"{_PRIOR}vector", f"{_PRIOR}first.")  # what is rounded: with it all symbols could be made zero


@dataclass(frozen=True)
class Stage:
    """A part of a run with settings of its own. It ends after `steps` or, where that is 0, after `total_minutes`.

    A `..._start` is a number of steps or, below 1, a part of the stage.
    """

    stage: str = "all"  # its name
    # What is compared: pictures, bits of one prior with those of another, latents with those of a VQGAN, the same of
    # tokens alone, a VQGAN's pictures.
    task: str = "pixels"
    steps: int = 0
    total_minutes: float = 0.0  # of training itself, without evaluation and compilation
    learn: tuple[str, ...] = ("",)  # parameters whose names begin so are trained
    freeze: tuple[str, ...] = ()  # but not these

    # data
    batch: int = 8  # of all devices together
    crop_px: int = 256
    scales: tuple[float, ...] = (1.0,)  # photos are held at these scales, where they are still as large as a crop
    recoloured: float = 0.0  # share of crops that are given other colours
    evened: float = 0.0  # share of crops of which a part is hidden by an even background
    framed: float = 0.0  # share of crops that get a narrow frame
    enlarged: float = 0.0  # share of crops of which a part is enlarged to the whole, and sharpened
    calmed: float = 0.0  # share of crops that lose contrast
    defocused: float = 0.0  # share of crops that get a background out of focus

    # optimiser
    optimiser: str = "adamw"  # or "muon": that for matrices, AdamW for the rest
    learning_rate: float = 5e-4
    betas: tuple[float, ...] = (0.9, 0.98)
    base_rate: float = 0.02  # learning rate of the parts that start from data, as a part of the others'
    warmup_steps: int = 100
    final_rate: float = 0.02  # learning rate at the end, as a part of the first
    ema: float = 0.998
    gradient_clip: float = 1.0
    compile: bool = False  # by torch.compile, slow to start

    # losses of pictures in [0, 1]
    mse_weight: float = 20.0
    l1_weight: float = 0.0
    flat_weight: float = 0.0  # of the squared error where the photo is flat: wrong colours, texture that it lacks
    grain_weight: float = 0.0  # of the same error's deviation from its surroundings: texture alone
    colour_weight: float = 0.0  # of the squared error of mean colours: of regions of 64 pixels, and of all of a crop
    stamp_weight: float = 0.0  # of the squared error that all cells of a region have in common: texture that repeats
    stamp_px: tuple[int, ...] = (32,)  # sides of such cells, of which one is drawn for each step
    lpips_weight: float = 1.0
    lpips_start: float = 0.0
    lpips_scales: tuple[float, ...] = (1.0,)  # one is drawn for each step: no texture can suit them all
    lpips_noise: float = 0.0  # standard deviation of the noise that both pictures are given for LPIPS
    vgg_weight: float = 0.0  # of the first two blocks of VGG16
    vgg_start: float = 0.0
    inception_weight: float = 0.0
    inception_start: float = 0.0
    adversarial_weight: float = 0.0
    adversarial_start: float = 0.0
    adversarial_adaptive: bool = False  # times the ratio of gradients at the last layer, as published
    adversarial_rate: float = 1.0  # learning rate of the discriminator, as a part of the model's
    adversarial_every: int = 1  # steps from one step of the discriminator to its next
    matching_weight: float = 0.0  # of the discriminator's features, while it is in use
    spectral_norm: bool = False  # in the discriminator, in place of GroupNorm
    adversarial_channels: int = 64  # of the discriminator's first layer
    base_weight: float = 5.0  # of the mean squared error of the linear base, which keeps it a picture
    token_weight: float = 10.0  # of the same error of the token picture: it keeps tokens telling regions apart
    commitment_weight: float = 0.02  # small: alone, this loss is least when all tokens are the same

    # losses of latents, against what a VQGAN makes of the photo
    latent_weight: float = 1.0
    index_weight: float = 0.25  # of the cross-entropy of the mixture's weights

    # rate
    # Of bits per pixel, before the controller has steered them: one for each level, or one for the middle level, from
    # which the others follow.
    first_lambda: float | tuple[float, ...] = 5.0
    controller_rate: float = 0.01
    level_power: float = 1.0  # of even random numbers from 0 to 1: below 1, high levels are drawn more often

    def __post_init__(self) -> None:
        """Refuse what makes no stage, with ValueError."""
        if self.task not in TASKS:
            raise ValueError(f"task {self.task!r}; there are: {', '.join(TASKS)}")
        if (self.steps > 0) == (self.total_minutes > 0):
            raise ValueError("a stage needs either steps or total_minutes")
        if self.batch < 1 or self.crop_px < 1:
            raise ValueError("batch and crop_px must be at least 1")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError("scales must be above 0 and at most 1")
        shares = (self.recoloured, self.evened, self.framed, self.enlarged, self.calmed, self.defocused)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("recoloured, evened, framed, enlarged, calmed and defocused are shares from 0 to 1")
        if not self.lpips_scales or not all(0 < scale <= 1 for scale in self.lpips_scales):
            raise ValueError("lpips_scales must be above 0 and at most 1")
        if not self.stamp_px or not all(1 < side <= 64 for side in self.stamp_px):  # two fit a region
            raise ValueError("stamp_px must be above 1 and at most 64")
        if self.stamp_weight and self.crop_px < 2 * max(self.stamp_px):
            raise ValueError("stamp_weight needs crops of at least two cells of stamp_px")
        if self.adversarial_every < 1:
            raise ValueError("adversarial_every must be at least 1")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser {self.optimiser!r}; there are: {', '.join(OPTIMISERS)}")
        if min(self.first_lambda if isinstance(self.first_lambda, tuple) else (self.first_lambda,), default=0) <= 0:
            raise ValueError("first_lambda must be above 0")
        if self.level_power <= 0:
            raise ValueError("level_power must be above 0")
        if len(self.betas) != 2:
            raise ValueError("betas must be two numbers")
        if self.compile and self.adversarial_adaptive:
            raise ValueError("adversarial_adaptive looks inside the network, which compile forbids")

    @property
    def needs_vqgan(self) -> bool:
        """Whether the encoder of a VQGAN takes part."""
        return self.task not in ("pixels", "prior")

    def progress(self, step: int, seconds: float) -> float:
        """The part of the stage that is done, 0 to 1, after `step` steps and `seconds` of training."""
        if self.steps:
            return min(1.0, max(0.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)))
        return min(1.0, seconds / (60 * self.total_minutes))

    def is_over(self, step: int, seconds: float) -> bool:
        """Whether the stage has had its steps or its minutes."""
        return step >= self.steps if self.steps else seconds >= 60 * self.total_minutes

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate: a linear rise, then half a cosine."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        part = self.progress(step, seconds)
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * part)))

    def has_begun(self, start: float, step: int, seconds: float) -> bool:
        """Whether a loss with this `..._start` counts."""
        return step >= start if start >= 1 else self.progress(step, seconds) >= start

    def learns(self, parameter: str) -> bool:
        """Whether the parameter of this name is trained."""
        if self.task == "prior" and (not parameter.startswith(_PRIOR) or parameter.startswith(_OF_STEPS)):
            return False
        return parameter.startswith(self.learn) and not parameter.startswith(self.freeze)


@dataclass(frozen=True)
class Recipe:
    """Everything but the data: the network and how it is trained."""

    name: str
    model: DLFConfig
    target_bpp: tuple[float, ...]  # one per rate level, tokens and detail together, container left out
    stages: tuple[Stage, ...]
    seed: int = 0
    warmstart_crops: int = 3000

    def __post_init__(self) -> None:
        """Refuse levels without a target, and crops that are no whole tiles, with ValueError."""
        if len(self.target_bpp) != self.model.levels:
            raise ValueError(f"{self.model.levels} rate levels need as many target_bpp")
        if not self.stages:
            raise ValueError("no stages")
        for first in (stage.first_lambda for stage in self.stages):
            if isinstance(first, tuple) and len(first) != self.model.levels:
                raise ValueError(f"{self.model.levels} rate levels need as many first_lambda, or one")
        if any(stage.crop_px % self.model.tile_px for stage in self.stages):
            raise ValueError(f"crop_px must be a multiple of a tile, {self.model.tile_px}")
        if self.model.base_components and any(stage.needs_vqgan for stage in self.stages):
            raise ValueError(
                "a network with a linear base learns pixels, or its prior: its generator adds to the base's picture"
            )


_OF_RUN = {field.name for field in fields(Recipe)} - {"model", "stages"}


def load_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; ModelError names what does not fit.

    Fields of a stage that stand before all tables hold for every stage; each table `[[stages]]` overrides some. Without
    such tables there is one stage.
    """
    try:
        values = {k: _frozen(v) for k, v in tomllib.loads(path.read_text()).items()}
        model = DLFConfig.from_dict(values.pop("model"))
        tables = values.pop("stages", ({},))
        of_run = {k: values.pop(k) for k in _OF_RUN & values.keys()}
        stages = tuple(Stage(**values | {k: _frozen(v) for k, v in table.items()}) for table in tables)
        return Recipe(model=model, stages=stages, **of_run)
    except KeyError as error:
        raise ModelError(f"{path}: not a training recipe: it has no {error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not a training recipe: it is no text") from error
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a training recipe: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
