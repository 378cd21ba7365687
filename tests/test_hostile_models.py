"""Models that were made to harm: refused in one line, before anything is built of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import TINY, install, random_token_prior
from safetensors.torch import load_file, save_file

from dlfc.codec import Codec
from dlfc.entropy.coder import Tables
from dlfc.errors import FormatError, ModelError
from dlfc.formats import Container, pack
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.zoo import registry, store, weights_file
from dlfc.zoo.registry import ModelEntry


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return install(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def made_by_neighbours(tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return install(tmp_path_factory.mktemp("models"), by_neighbours=True)


def copied(made: ModelEntry, folder: Path) -> ModelEntry:
    for path in (made.weights, made.description):
        shutil.copy(path, folder)
    return replace(made, weights=folder / made.weights.name)


@pytest.fixture
def entry(made: ModelEntry, tmp_path: Path) -> ModelEntry:
    """A model in a folder of its own."""
    return copied(made, tmp_path)


@pytest.fixture
def by_neighbours(made_by_neighbours: ModelEntry, tmp_path: Path) -> ModelEntry:
    """A model with a token prior, in a folder of its own."""
    return copied(made_by_neighbours, tmp_path)


def forge(entry: ModelEntry, config: dict[str, object] | None = None, **tensors: torch.Tensor) -> ModelEntry:
    """Change a model and let its description vouch for it; `tensors` are named with __ for dots."""
    found = load_file(entry.weights) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    about = {
        "config": TINY.to_dict() | (config or {}),
        "digests": {name: store.digest(tensor) for name, tensor in found.items()},
    }
    save_file(found, entry.weights, {"dlfc": json.dumps(about)})
    vouched = replace(entry, fingerprint=weights_file.fingerprint(about["digests"], about["config"]))
    vouched.save()
    return vouched


@pytest.mark.parametrize(
    "config",
    [
        {"heads": 0},
        {"heads": 3},
        {"head_dim": 5},
        {"tile_px": 0},
        {"tile_px": 64.0},
        {"levels": True},
        {"encoder_layers": 10**9},
        {"encoder_exchange": "0"},
        {"encoder_exchange": [-1]},
        {"width": 10**12},
        {"published_reshape": "no"},
        {"base_region_px": [16]},
    ],
)
def test_a_model_of_sizes_that_make_no_network_is_refused_before_it_is_built(
    config: dict[str, object], entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = forge(entry, config)
    monkeypatch.setattr(DLF, "__init__", None)
    with pytest.raises(ModelError, match=r"tiny\.safetensors: not a weights file of dlfc"):
        store.load(forged, torch.device("cpu"))


def test_nothing_is_built_of_a_header_that_nobody_vouches_for(
    entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(entry, {"encoder_layers": 3})
    monkeypatch.setattr(DLFConfig, "from_dict", None)
    with pytest.raises(ModelError, match="not those of model 'tiny'"):
        store.load(entry, torch.device("cpu"))


def test_tables_whose_differences_overflow_are_refused(entry: ModelEntry) -> None:
    counts = torch.tensor([[0, 2**63 - 1, -(2**63), -(2**62), 0, 65536]])
    forged = forge(
        entry,
        tables__token__cdf=counts,
        tables__token__lengths=torch.tensor([6]),
        tables__token__offsets=torch.tensor([0]),
    )
    with pytest.raises(ModelError, match="row 0 does not rise"):
        store.load(forged, torch.device("cpu"))


def test_tables_of_more_rows_than_the_coder_counts_are_refused() -> None:
    rows = 5000
    with pytest.raises(ValueError, match="5000 rows"):
        Tables(np.tile([0, 65536], (rows, 1)), np.full(rows, 2), np.zeros(rows, np.int32))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"context": torch.zeros(33, 4)}, "no integers"),
        ({"first.bias": torch.zeros(8, dtype=torch.float16)}, "no integers"),
        ({"context": torch.full((33, 4), 2**31 - 1, dtype=torch.int32)}, "context has values that are too large"),
        ({"bias": torch.full((32,), -(2**63))}, "bias has values that are too large"),
        ({"bias": torch.zeros(32, 1, dtype=torch.int64)}, "other dimensions"),
        ({"bias": torch.zeros((), dtype=torch.int64)}, "other dimensions"),
        ({"entries": torch.zeros(32, 0, dtype=torch.int32)}, "not of one codebook"),
        ({"first.weight": torch.zeros(8, 15, dtype=torch.int32)}, "first does not fit"),
        ({"second.weight": torch.full((8, 8), 2**23, dtype=torch.int32)}, "second.weight has values"),
        ({"third.bias": torch.full((6,), 2**51)}, "third.bias has values"),
        ({"fourth.weight": torch.zeros(6, 6, dtype=torch.int32)}, "fourth.weight is missing or unknown"),
        ({"": torch.zeros(6, dtype=torch.int32)}, "is missing or unknown"),
    ],
)
def test_a_token_prior_that_was_made_to_harm_is_refused_in_one_line(
    tensors: dict[str, torch.Tensor], reason: str, by_neighbours: ModelEntry
) -> None:
    changes = {f"token_prior.{name}": tensor for name, tensor in tensors.items()}
    forged = forge(by_neighbours, **changes)
    with pytest.raises(ModelError, match=rf"tiny\.safetensors: the tensors do not make a model.*{reason}") as caught:
        store.load(forged, torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_token_prior_beside_a_table_is_refused(entry: ModelEntry) -> None:
    forged = forge(entry, **{f"token_prior.{name}": tensor for name, tensor in random_token_prior().items()})
    with pytest.raises(ModelError, match=r"tiny\.safetensors.*tokens have a prior beside their table"):
        store.load(forged, torch.device("cpu"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_token_prior_is_refused(packed: bool, by_neighbours: ModelEntry) -> None:
    stored = weights_file.read_header(by_neighbours.weights).tensors["token_prior.entries"]
    data = bytearray(by_neighbours.weights.read_bytes())
    data[stored.start + 1] ^= 1
    by_neighbours.weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"tiny\.safetensors: the weights are not those of model 'tiny'"):
        store.load(by_neighbours, torch.device("cpu"), packed=packed)


def test_no_large_picture_comes_from_next_to_nothing_however_sure_a_prior_is(by_neighbours: ModelEntry) -> None:
    sure = torch.full((TINY.codebook_size,), -(2**40))
    sure[0] = 0
    codec = Codec.load(str(forge(by_neighbours, token_prior__bias=sure).weights), device="cpu")
    for size in ((1025, 1024), (8000, 8000)):
        file = pack(Container(codec.model_id, *size, 50.0, 0, b"", b""))
        with pytest.raises(FormatError, match="too short for a picture of this size"):
            codec.decode(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [float("inf")]),
        ("shape", [3.0, 8]),
        ("shape", [-3, -8]),
        ("shape", [True, 24]),
        ("shape", [3, 2**70]),
        ("data_offsets", [0.0, 96.0]),
        ("data_offsets", [96, 0]),
        ("data_offsets", [0, 10**30]),
        ("dtype", "F8"),
        ("dtype", []),
    ],
)
def test_a_tensor_that_lies_nowhere_is_refused(field: str, value: object, entry: ModelEntry) -> None:
    data = entry.weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["prior.vector"][field] = value
    text = json.dumps(header).encode()
    entry.weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(ModelError, match=r"tiny\.safetensors: not a weights file of dlfc"):
        weights_file.read_header(entry.weights)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 5},
        {"name": ""},
        {"name": "\x1b]0;owned\x07"},
        {"parameters": "many"},
        {"parameters": None},
        {"levels": True},
        {"levels": 0},
        {"fingerprint": 5},
        {"fingerprint": "AB" * 32},
    ],
)
def test_a_description_of_no_model_does_not_keep_others_from_their_work(
    change: dict[str, object], entry: ModelEntry
) -> None:
    fields = json.loads(entry.description.read_text())
    entry.description.with_name("bad.json").write_text(json.dumps(fields | change))
    known, problems = registry.scan(entry.weights.parent)
    assert entry in known
    assert list(problems) == ["bad"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_pipes_and_endless_descriptions_in_the_models_folder_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "weights.safetensors")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    (tmp_path / "long.json").write_text(" " * 100_000)
    (tmp_path / "deep.json").write_text("[" * 50_000)
    known, problems = registry.scan(tmp_path)
    assert all(entry.bundled for entry in known)
    assert sorted(problems) == ["deep", "endless", "long", "pipe"]
    with pytest.raises(ModelError, match="no regular file"):
        weights_file.read_header(tmp_path / "weights.safetensors")


def test_no_model_takes_the_place_of_a_bundled_one(entry: ModelEntry) -> None:
    default, folder = registry.find(), entry.weights.parent
    replace(entry, name=default.name, fingerprint=default.fingerprint).save()
    assert registry.find(default.name, folder).bundled
    assert registry.find(default.model_id, folder).bundled
