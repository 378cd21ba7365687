"""A checkpoint of the published kind and any size, filled by the rule of `test_published.py`."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from test_published import filled
from torch import Tensor

from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.zoo import published


def rule_state_dict(config: DLFConfig) -> dict[str, Tensor]:
    """Every tensor that the codec uses, under its published name."""
    with torch.device("meta"):
        network = DLF(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state: dict[str, Tensor] = {}
    for ours, names in published.published_names(network).items():
        shape = shapes[ours]
        for name in names:
            state[name] = filled(name, (shape[0] // len(names), *shape[1:]))
    return state


def write_checkpoint(path: Path, config: DLFConfig) -> int:
    """Write it as a Lightning file with a loss in it; returns the number of values that the codec uses.

    That happens in a process of its own: processes started later count the memory of their parent as theirs.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_write, path, config).result()


def _write(path: Path, config: DLFConfig) -> int:
    state = rule_state_dict(config)
    count = sum(math.prod(tensor.shape) for tensor in state.values())
    torch.save({"epoch": 0, "state_dict": state | {"img_loss.logvar": torch.zeros(1)}}, path)
    return count
