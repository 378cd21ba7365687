"""Weights files: safetensors with the network, its integer prior and its probability tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dlfc.entropy.coder import Tables
from dlfc.entropy.prior import ONE, IntegerPrior, check_integers, to_integers
from dlfc.entropy.tables import TableSet, scale_thresholds
from dlfc.errors import ModelError
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.zoo.registry import ModelEntry

_PRIOR = "bottleneck.prior."  # the float prior, which files do not need
_METADATA = "dlfc"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to code pictures."""

    entry: ModelEntry
    network: DLF
    prior: IntegerPrior
    thresholds: Tensor  # int64 (256,), fixed-point scales
    detail_tables: Tables
    token_tables: Tables
    device: torch.device


def fingerprint(digests: Mapping[str, str], config: DLFConfig) -> str:
    """SHA-256 over the configuration and the digests of all tensors by name, so that half a model can be checked."""
    lines = [json.dumps(config.to_dict(), sort_keys=True)]
    lines += [f"{name} {digests[name]}" for name in sorted(digests)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digest(tensor: Tensor) -> str:
    """SHA-256 over type, shape and little-endian bytes of a tensor."""
    total = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save(network: DLF, path: Path, detail: TableSet, token: TableSet, *, half: bool = True) -> ModelEntry:
    """Write a weights file and its description for `network`; the name is the file's stem.

    With `half` the float weights are stored in 16 bits. Raises ModelError if the prior does not fit fixed point.
    """
    kind = torch.float16 if half else torch.float32
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(_PRIOR)}
    tensors = {f"network.{k}": v.detach().cpu().to(kind).contiguous() for k, v in state.items()}
    integers = {f"prior.{k}": v.cpu().contiguous() for k, v in to_integers(network.bottleneck.prior).items()}
    tensors.update(integers)
    tensors["tables.thresholds"] = torch.from_numpy(scale_thresholds(ONE))
    for name, tables in (("detail", detail), ("token", token)):
        for part in ("cdf", "lengths", "offsets"):
            tensors[f"tables.{name}.{part}"] = torch.from_numpy(getattr(tables, part)).contiguous()
    config = network.config
    digests = {name: digest(tensor) for name, tensor in tensors.items()}
    about = {"config": config.to_dict(), "digests": digests}
    save_file(tensors, path, {_METADATA: json.dumps(about, sort_keys=True)})
    count = sum(v.numel() for k, v in tensors.items() if not k.startswith("tables."))
    entry = ModelEntry(path.stem, path, fingerprint(digests, config), count, config.levels)
    entry.save()
    return entry


def load(entry: ModelEntry, device: torch.device) -> LoadedModel:
    """Read a model onto `device`, and check that it is the one that its description names.

    Raises ModelError if the file is missing, damaged, of another shape or not the described one.
    """
    try:
        with safe_open(entry.weights, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_METADATA])
            config, digests = DLFConfig.from_dict(about["config"]), dict(about["digests"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise ModelError(f"{entry.weights}: no such weights file") from error
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{entry.weights}: not a weights file of dlfc: {error}") from error
    true = fingerprint(digests, config) == entry.fingerprint and digests.keys() == tensors.keys()
    if not true or any(digest(tensor) != digests[name] for name, tensor in tensors.items()):
        raise ModelError(f"{entry.weights}: the weights are not those of model {entry.name!r}; install it anew")

    try:
        return _build(entry, config, tensors, device)
    except (ModelError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch explains itself in many lines
        raise ModelError(f"{entry.weights}: the tensors do not make a model: {reason}") from error


def _build(entry: ModelEntry, config: DLFConfig, tensors: Mapping[str, Tensor], device: torch.device) -> LoadedModel:
    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    def tables(name: str) -> Tables:
        return Tables(**{k: v.numpy() for k, v in part(f"tables.{name}.").items()})

    with torch.device("meta"):
        network = DLF(config)
    check_integers(part("prior."), network.bottleneck.prior)
    del network.bottleneck.prior
    network.load_state_dict({k: v.float() for k, v in part("network.").items()}, assign=True)
    network.requires_grad_(False)
    detail, thresholds = tables("detail"), tensors["tables.thresholds"]
    if thresholds.dtype != torch.int64 or thresholds.shape != (detail.rows,) or bool((thresholds.diff() <= 0).any()):
        raise ValueError("the thresholds are not one for each detail table, rising")
    return LoadedModel(
        entry,
        network.eval().to(device),
        IntegerPrior(part("prior."), device),
        thresholds,
        detail,
        tables("token"),
        device,
    )
