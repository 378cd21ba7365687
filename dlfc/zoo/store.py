"""Weights files: safetensors with the network, its integer prior and its probability tables."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dlfc.entropy.coder import Tables
from dlfc.entropy.prior import IntegerPrior, check_integers, to_integers
from dlfc.entropy.tables import TableSet, gaussian_tables
from dlfc.entropy.tokens import ByNeighbours, OneTable, TokenCoding
from dlfc.errors import ModelError
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF, Part
from dlfc.zoo import weights_file
from dlfc.zoo.registry import ModelEntry

PRIOR = "bottleneck.prior."  # the float prior, which files do not need
_TOKEN_PRIOR = "token_prior."


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to code pictures, or the half of it that encodes or decodes them."""

    entry: ModelEntry
    network: DLF
    prior: IntegerPrior
    thresholds: Tensor  # int64 (256,), fixed-point scales
    detail_tables: Tables
    tokens: TokenCoding
    device: torch.device
    part: Part = "both"


def fingerprint(digests: Mapping[str, str], config: DLFConfig) -> str:
    """SHA-256 over the configuration and the digests of all tensors by name, so that half a model can be checked."""
    return weights_file.fingerprint(digests, config.to_dict())


def digest(tensor: Tensor) -> str:
    """SHA-256 over type, shape and little-endian bytes of a tensor."""
    total = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save(
    network: DLF, path: Path, detail: TableSet, token: TableSet | Mapping[str, Tensor], *, half: bool = True
) -> ModelEntry:
    """Write a weights file and its description for `network`; the name is the file's stem.

    Tokens are coded by one table, or by a prior of these tensors (see `dlfc.entropy.tokens.ByNeighbours`). With `half`
    the float weights are stored in 16 bits. The files appear when they are complete, and replace others. Raises
    ModelError if the prior does not fit fixed point.
    """
    kind = torch.float16 if half else torch.float32
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(PRIOR)}
    tensors = {f"network.{k}": v.detach().cpu().to(kind).contiguous() for k, v in state.items()}
    integers = {f"prior.{k}": v.cpu().contiguous() for k, v in to_integers(network.bottleneck.prior).items()}
    tensors.update(integers)
    tensors["tables.thresholds"] = torch.from_numpy(gaussian_tables()[1])
    sets = {"detail": detail}
    if isinstance(token, TableSet):
        sets["token"] = token
    else:
        tensors.update({f"{_TOKEN_PRIOR}{k}": v.contiguous() for k, v in token.items()})
    for name, tables in sets.items():
        for part in ("cdf", "lengths", "offsets"):
            tensors[f"tables.{name}.{part}"] = torch.from_numpy(getattr(tables, part)).contiguous()
    config = network.config
    with ThreadPoolExecutor(2) as pool:
        digests = dict(zip(tensors, pool.map(digest, tensors.values()), strict=True))
    about = {"config": config.to_dict(), "digests": digests}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {weights_file.METADATA: json.dumps(about, sort_keys=True)})
    count = sum(v.numel() for k, v in tensors.items() if not k.startswith("tables."))
    entry = ModelEntry(path.stem, path, fingerprint(digests, config), count, config.levels)
    entry.save()
    shutil.copymode(entry.description, path)  # safetensors lets nobody else read its files
    return entry


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which becomes `path` when all has gone well."""
    temporary = path.with_name(f".dlfc-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(entry: ModelEntry, device: torch.device, part: Part = "both", *, packed: bool = False) -> LoadedModel:
    """Read a model onto `device`, or the half that `part` names, and check that it is the one described.

    On the CPU, weights of 32 bits stay in the file, which is mapped into memory; with `packed` they become 16 bits
    wide where that is faster (see `DLF.put`). Raises ModelError if the file is missing, damaged, of another shape or
    not the described one.
    """
    header = weights_file.read_header(entry.weights)
    weights_file.check(entry, header, [])  # before anything is made of what the header says
    try:
        config = DLFConfig.from_dict(header.config)
        with torch.device("meta"):
            network = DLF(config)
    except (RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{entry.weights}: not a weights file of dlfc: {error}") from error
    prior = network.bottleneck.prior
    del network.bottleneck.prior
    if part != "both":
        network.keep_half(part)
    network_names = [f"network.{name}" for name in network.state_dict()]
    names = [name for name in header.tensors if not name.startswith("network.")]
    weights_file.check(entry, header, names if packed else [*names, *network_names])
    try:
        with safe_open(entry.weights, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in (names if packed else [*names, *network_names])}
    except (SafetensorError, OSError) as error:  # a tensor is missing, or the file has changed
        raise ModelError(f"{entry.weights}: not a weights file of dlfc: {error}") from error
    try:
        check_integers(_select(tensors, "prior."), prior)
        if packed:
            _pack(entry, header, network, network_names)
        else:
            network.load_state_dict({k: v.float() for k, v in _select(tensors, "network.").items()}, assign=True)
        network.requires_grad_(False)
        return _complete(entry, network.eval().to(device), tensors, device, part)
    except (ModelError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch explains itself in many lines
        raise ModelError(f"{entry.weights}: the tensors do not make a model: {reason}") from error


def _pack(entry: ModelEntry, header: weights_file.Header, network: DLF, names: Sequence[str]) -> None:
    """Fill the network from the file with two threads, each holding one tensor in 32 bits at a time."""
    own = threading.local()

    def put(name: str) -> None:
        stored = header.tensors[name]
        buffer = own.__dict__.setdefault("buffer", bytearray())
        if weights_file.read(entry.weights, stored, buffer) != header.digests[name]:
            raise ModelError(f"tensor {name!r} is damaged; install the model anew")
        kind, count = getattr(torch, stored.kind.removeprefix("torch.")), math.prod(stored.shape)
        with torch.inference_mode():
            value = torch.frombuffer(buffer, dtype=kind, count=count).view(stored.shape)
            network.put(name.removeprefix("network."), value.float())
        del value  # a buffer that is looked at cannot grow

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(put, sorted(names, key=lambda name: header.tensors[name].start)):
            pass


def _select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _complete(
    entry: ModelEntry, network: DLF, tensors: Mapping[str, Tensor], device: torch.device, part: Part
) -> LoadedModel:
    """Add to the network what the entropy coder needs."""

    def tables(name: str) -> Tables:
        return Tables(**{k: v.numpy() for k, v in _select(tensors, f"tables.{name}.").items()})

    detail, thresholds = tables("detail"), tensors["tables.thresholds"]
    if thresholds.dtype != torch.int64 or thresholds.shape != (detail.rows,) or bool((thresholds.diff() <= 0).any()):
        raise ValueError("the thresholds are not one for each detail table, rising")
    prior = IntegerPrior(_select(tensors, "prior."), device)
    return LoadedModel(entry, network, prior, thresholds, detail, _token_coding(network.config, tensors), device, part)


def _token_coding(config: DLFConfig, tensors: Mapping[str, Tensor]) -> TokenCoding:
    """By neighbours if the file has a prior for that, else by one table. Raises ValueError."""
    prior = {name: value.numpy() for name, value in _select(tensors, _TOKEN_PRIOR).items()}
    table = {name: value.numpy() for name, value in _select(tensors, "tables.token.").items()}
    if not prior:
        return OneTable(Tables(**table), config.codebook_size, config.tokens_per_tile)
    if table or not config.base_components:
        raise ValueError("tokens have a prior beside their table, or one although they stand for no regions")
    coding = ByNeighbours(prior, *config.base_regions)
    if coding.size != config.codebook_size or coding.size < 2:  # with one token no section could be made longer
        raise ValueError("the token prior is not one of this codebook")
    return coding
