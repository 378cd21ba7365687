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
from networks import TINY, install
from safetensors.torch import load_file, save_file

from dlfc.entropy.coder import Tables
from dlfc.errors import ModelError
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.zoo import registry, store, weights_file
from dlfc.zoo.registry import ModelEntry


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return install(tmp_path_factory.mktemp("models"))


@pytest.fixture
def entry(made: ModelEntry, tmp_path: Path) -> ModelEntry:
    """A model in a folder of its own."""
    for path in (made.weights, made.description):
        shutil.copy(path, tmp_path)
    return replace(made, weights=tmp_path / made.weights.name)


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
