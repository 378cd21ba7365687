"""The state of a training run on disk, `state.pt`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from dlfc.errors import ModelError


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


def misfit(path: Path, error: Exception) -> ModelError:
    """That a state does not belong to the recipe, in one line."""
    return ModelError(f"{path}: does not fit the recipe: {' '.join(str(error).split())}")
