"""What a training run begins with: its own state on disk, `state.pt`, that of another run, or a finished model."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dlfc.errors import ModelError
from dlfc.zoo import registry, store


def read_state(path: Path) -> dict[str, Any]:
    """What `Trainer.save` wrote, all on the CPU; ModelError if it is missing or damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such training state") from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: not a training state, or a damaged one") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path}: not a training state")
    return state


def read_start(source: Path) -> dict[str, Any]:
    """What a fresh run takes over: the state of another run, or `averaged` alone from a model.

    A model is named by its .safetensors file, or by its name if there is no file of that name. Raises ModelError.
    """
    if source.suffix == ".safetensors" or not (source.suffix == ".pt" or source.exists()):
        return {"averaged": _weights_of(registry.find(str(source)))}
    return read_state(source)


def read_mean(sources: Sequence[Path]) -> dict[str, Any]:
    """What a fresh run takes over from one or more: the means of their weights, and of what their bits weigh.

    Runs that went on from one another, or from one start, often have a mean that is better than each of them (model
    soups, arXiv 2203.05482). What only some of them know is left out: the teacher, lambdas. Raises ModelError, also
    where their networks differ.
    """
    first, *others = starts = [read_start(source) for source in sources]
    if not others:
        return first
    for source, start in zip(sources, starts, strict=True):
        if _shapes(start) != _shapes(first):
            raise ModelError(f"{source}: not the network of {sources[0]}")
    mean: dict[str, Any] = {"averaged": _mean([start["averaged"] for start in starts])}
    if all("averaged_teacher" in start for start in starts):
        mean["averaged_teacher"] = _mean([start["averaged_teacher"] for start in starts])
    if all("log_lambda" in start for start in starts):
        mean["log_lambda"] = torch.stack([start["log_lambda"] for start in starts]).mean(0)
    return mean


def _shapes(start: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in start.get("averaged", {}).items()}


def _mean(weights: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Means of what has one; of other numbers, the first."""
    return {
        name: torch.stack([each[name] for each in weights]).mean(0) if value.is_floating_point() else value
        for name, value in weights[0].items()
    }


def _weights_of(entry: registry.ModelEntry) -> dict[str, torch.Tensor]:
    """The weights of a model as they are trained, its prior in floats."""
    model = store.load(entry, torch.device("cpu"))
    prior = model.prior.as_floats(model.network.config).state_dict()
    return model.network.state_dict() | {f"{store.PRIOR}{name}": value for name, value in prior.items()}


def misfit(path: Path, error: Exception) -> ModelError:
    """That a state does not belong to the recipe, in one line."""
    return ModelError(f"{path}: does not fit the recipe: {' '.join(str(error).split())}")
