"""What a weights file holds, read without torch: its header, and whether its bytes are those that were saved."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlfc.errors import ModelError
from dlfc.zoo.registry import ModelEntry

METADATA = "dlfc"  # the entry of the safetensors metadata that is ours
_MAX_HEADER_BYTES = 1 << 24  # the largest model needs less than a tenth
_CHUNK_BYTES = 1 << 20
_KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}


@dataclass(frozen=True)
class StoredTensor:
    """Type, shape and place of a tensor in a weights file; `start` and `end` count from the file's first byte."""

    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What stands before the weights: the network's configuration, and each tensor with its SHA-256."""

    config: dict[str, Any]
    digests: dict[str, str]
    tensors: dict[str, StoredTensor]


def fingerprint(digests: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """SHA-256 over the configuration and the digests of all tensors by name, so that half a model can be checked."""
    lines = [json.dumps(config, sort_keys=True)]
    lines += [f"{name} {digests[name]}" for name in sorted(digests)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_header(path: Path) -> Header:
    """The header of a weights file; raises ModelError if there is none or the file is cut short."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size_bytes - 8):
                raise ValueError("no header")
            fields = json.loads(file.read(length))
        about = json.loads(fields.pop("__metadata__")[METADATA])
        header = Header(
            dict(about["config"]),
            {str(name): str(value) for name, value in dict(about["digests"]).items()},
            {name: _place(tensor, 8 + length) for name, tensor in fields.items()},
        )
        if max((tensor.end for tensor in header.tensors.values()), default=0) != size_bytes:
            raise ValueError("it has another length than its header says")
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such weights file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot read the weights file: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a weights file of dlfc: {error}") from error
    return header


def _place(fields: Mapping[str, Any], base: int) -> StoredTensor:
    kind = _KINDS[fields["dtype"]]
    start, end = map(_count, fields["data_offsets"])
    shape = tuple(map(_count, fields["shape"]))
    if end - start != math.prod(shape) * int(kind[-2:]) // 8:
        raise ValueError("a tensor has more or fewer bytes than its shape says")
    return StoredTensor(f"torch.{kind}", shape, base + start, base + end)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.40} is no size")
    return value


def check(entry: ModelEntry, header: Header, names: Iterable[str] | None = None) -> None:
    """Raise ModelError unless the tensors `names`, by default all, are those of the model that `entry` describes.

    Reads with two threads, and holds nothing of the weights in memory.
    """
    chosen = header.tensors.keys() & (header.tensors if names is None else names)
    in_order = sorted(chosen, key=lambda name: header.tensors[name].start)

    def is_whole(name: str) -> bool:
        return digest(entry.weights, header.tensors[name]) == header.digests[name]

    known = fingerprint(header.digests, header.config) == entry.fingerprint
    with ThreadPoolExecutor(2) as pool:
        if not known or header.digests.keys() != header.tensors.keys() or not all(pool.map(is_whole, in_order)):
            raise ModelError(f"{entry.weights}: the weights are not those of model {entry.name!r}; install it anew")


def digest(path: Path, tensor: StoredTensor) -> str:
    """SHA-256 over type, shape and little-endian bytes of a tensor in a file; see `dlfc.zoo.store.digest`."""
    return _digest(tensor, _chunks(path, tensor, bytearray(_CHUNK_BYTES)))


def read(path: Path, tensor: StoredTensor, buffer: bytearray) -> str:
    """Read the bytes of a tensor to the beginning of `buffer`, which is made longer if need be; its digest."""
    missing = tensor.end - tensor.start - len(buffer)
    if missing > 0:
        buffer.extend(bytes(missing))
    return _digest(tensor, _chunks(path, tensor, buffer))


def _digest(tensor: StoredTensor, chunks: Iterator[memoryview]) -> str:
    total = hashlib.sha256(f"{tensor.kind} {list(tensor.shape)}\n".encode())
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()


def _chunks(path: Path, tensor: StoredTensor, buffer: bytearray) -> Iterator[memoryview]:
    """Read a tensor into `buffer`, from its beginning again when it is full, and give what each read brought."""
    left, at, view = tensor.end - tensor.start, 0, memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        while left and (count := file.readinto(view[at : at + min(left, _CHUNK_BYTES)])):
            yield view[at : at + count]
            left -= count
            at = (at + count) % len(buffer)
