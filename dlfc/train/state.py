"""What a training run begins with: its own state on disk, `state.pt`, that of another run, or a finished model."""

from __future__ import annotations

import pickle
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


def _weights_of(entry: registry.ModelEntry) -> dict[str, torch.Tensor]:
    """The weights of a model as they are trained, its prior in floats."""
    model = store.load(entry, torch.device("cpu"))
    prior = model.prior.as_floats(model.network.config).state_dict()
    return model.network.state_dict() | {f"{store.PRIOR}{name}": value for name, value in prior.items()}


def misfit(path: Path, error: Exception) -> ModelError:
    """That a state does not belong to the recipe, in one line."""
    return ModelError(f"{path}: does not fit the recipe: {' '.join(str(error).split())}")
