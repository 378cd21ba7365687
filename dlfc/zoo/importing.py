"""Published checkpoints and weights files of others: read without running anything in them, written as a model."""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dlfc.entropy.tables import gaussian_tables, token_table
from dlfc.errors import ModelError
from dlfc.zoo import published, store, weights_file
from dlfc.zoo.registry import ModelEntry

_FIRST_BYTES = 8


def import_checkpoint(checkpoint: Path, target: Path, config: Path | None = None) -> ModelEntry:
    """Write the model in a published checkpoint to the weights file `target` and its description.

    The checkpoint is a Lightning file, a state dict saved by torch, or safetensors, with published names. Its
    configuration is found from the shapes, or read from a published configuration in JSON. Tables are Gaussian, and
    all tokens equally likely, so the same checkpoint gives the same model everywhere. A weights file of dlfc is
    checked and copied. Raises ModelError.
    """
    if _is_weights_file(checkpoint):
        return _copy(checkpoint, target)
    state_dict = read_checkpoint(checkpoint)
    try:
        sizes = published.infer_config(state_dict)
        if config is not None:
            sizes = published.read_config(_read_json(config), sizes.levels)
        model = published.load(state_dict, sizes)
        for name, tensor in model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"{name} has values that are not numbers")
        tokens = token_table(np.zeros(sizes.codebook_size, np.int64))
        return store.save(model, target, gaussian_tables()[0], tokens, half=False)
    except ModelError as error:
        raise ModelError(f"{checkpoint}: {error}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{checkpoint}: the tensors do not make a model: {_one_line(error)}") from error


def _is_weights_file(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return weights_file.METADATA in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _copy(source: Path, target: Path) -> ModelEntry:
    header = weights_file.read_header(source)
    sizes = {name: math.prod(tensor.shape) for name, tensor in header.tensors.items()}
    parameters = sum(size for name, size in sizes.items() if not name.startswith("tables."))
    mark = weights_file.fingerprint(header.digests, header.config)
    levels = header.config.get("levels")
    if type(levels) is not int or levels < 1:
        raise ModelError(f"{source}: not a weights file of dlfc: it has no rate levels")
    entry = ModelEntry(target.stem, source, mark, parameters, levels)
    store.load(entry, torch.device("cpu"))
    with store.replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    entry = replace(entry, weights=target)
    entry.save()
    return entry


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, still in the file where it can be mapped; nothing in it is run.

    Raises ModelError if it is no checkpoint or holds anything but data, OSError if it cannot be opened.
    """
    with path.open("rb") as file:
        first = file.read(_FIRST_BYTES + 1)
    state_dict = _read_safetensors(path) if first[_FIRST_BYTES:] == b"{" else _read_pickle(path)
    size_bytes = path.stat().st_size
    for name, tensor in state_dict.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ModelError(f"{path}: tensor {name!r} is of a kind that no checkpoint has")
        if tensor.numel() * tensor.element_size() > size_bytes:  # one value can pretend to be many
            raise ModelError(f"{path}: tensor {name!r} claims more values than the file holds")
    return state_dict


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ModelError(f"{path}: not a whole safetensors file: {_one_line(error)}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = _load(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"more than data ({found[1]})" if found else "more than data, or is damaged"
        raise ModelError(f"{path}: refused, because it holds {what}; nothing in it was run") from error
    except MemoryError as error:
        raise ModelError(f"{path}: needs more memory than there is") from error
    except OSError:
        raise
    except Exception as error:  # a hostile or damaged pickle may raise anything
        raise ModelError(f"{path}: not a checkpoint: {_one_line(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path}: holds no state dict")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) < len(content) or not all(isinstance(name, str) for name in tensors):
        raise ModelError(f"{path}: its state dict has entries that are no named tensors")
    return tensors


def _load(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # torch comments on pickles that it then refuses
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the form of torch before 1.6 cannot be mapped


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(fields, Mapping):
        raise ModelError(f"{path.name} is not a published configuration")
    return fields


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
