"""What a training run is: one TOML file, read into frozen dataclasses."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlfc.errors import ModelError
from dlfc.model.config import DLFConfig


@dataclass(frozen=True)
class Recipe:
    """Everything but the data: the network and how it is trained."""

    name: str
    model: DLFConfig
    target_bpp: tuple[float, ...]  # one per rate level, tokens and detail together, container left out
    steps: int
    batch: int = 8
    crop_px: int = 256
    seed: int = 0
    learning_rate: float = 5e-4
    base_rate: float = 0.02  # learning rate of the parts that start from data, as a part of the others'
    warmup_steps: int = 100
    final_rate: float = 0.02  # learning rate at the end, as a part of the first
    ema: float = 0.998
    gradient_clip: float = 1.0
    mse_weight: float = 20.0  # of the mean squared error of pixels in [0, 1]
    lpips_weight: float = 1.0
    base_weight: float = 5.0  # of the mean squared error of the linear base, which keeps it a picture
    token_weight: float = 10.0  # of the same error of the token picture: it keeps tokens telling regions apart
    commitment_weight: float = 0.02  # small: alone, this loss is least when all tokens are the same
    first_lambda: float = 5.0  # of bits per pixel, before the controller has steered it
    controller_rate: float = 0.01
    warmstart_crops: int = 3000


def load_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; ModelError names what does not fit."""
    try:
        fields = tomllib.loads(path.read_text())
        model = DLFConfig.from_dict(fields.pop("model"))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        recipe = Recipe(**values, model=model)
        targets = len(recipe.target_bpp)
    except (tomllib.TOMLDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a training recipe: {error}") from error
    if targets != model.levels:
        raise ModelError(f"{path}: {model.levels} rate levels need as many target_bpp")
    return recipe
