"""The frozen files of formats/vectors: what they hold is what every reader of format version 1 must find.

Those of the folder itself have a model whose tokens share a table, those of `neighbours` one with a token prior, those
of `context` one whose detail prior sees tokens.

Nothing here may be made to pass by writing the vectors anew. Where bytes or symbols have changed, either the change is
a mistake, or a new format version is due, with vectors of its own beside these.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_vectors import CONTEXT, NAME, NEIGHBOURS, hash_of, picture
from PIL import Image

from dlfc import errors, hold
from dlfc.codec import Codec
from dlfc.entropy.coder import Decoder, Encoder, Tables
from dlfc.formats import Container, pack, unpack
from dlfc.info import read_info
from dlfc.tensors import as_integers

VECTORS = Path(__file__).parent.parent / "formats" / "vectors"
FROZEN = "the vectors of version 1 are frozen; if readers are to find something else, a new format version is due"
Batch = tuple[np.ndarray, np.ndarray, Tables]


@dataclass(frozen=True)
class Case:
    """A frozen file, and what the manifest beside it says of it."""

    path: Path
    model: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        return str(self.path.relative_to(VECTORS).with_suffix(""))

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class Vectors:
    """A folder of frozen files, all made with one model."""

    folder: Path
    model: str
    manifest_sha256: str

    @property
    def manifest(self) -> dict[str, Any]:
        """What the folder says of its files."""
        return dict(json.loads((self.folder / "manifest.json").read_text()))

    def cases(self, kind: str) -> list[Case]:
        """Its good or bad files."""
        facts = self.manifest[kind]
        return [Case(self.folder / kind / f"{name}.dlf", self.model, facts[name]) for name in facts]


ALL = [
    Vectors(VECTORS, NAME, "5280667d3a784d15a7e20d78fdf656a16ab12db6ea28ad8b5173238ad99900f4"),
    Vectors(VECTORS / "neighbours", NEIGHBOURS, "e4f883baf099bceeea9a9bedd3c4e2b8d0ecbe8dd51b73a0224af12e37f2b0f4"),
    Vectors(VECTORS / "context", CONTEXT, "a5807ee6d04873fbeb0bdf0c560dde7d8981d11642357b0236e0a185c1cc6ae3"),
]
GOOD = [case for vectors in ALL for case in vectors.cases("good")]
BAD = [case for vectors in ALL for case in vectors.cases("bad")]


@cache
def codec_of(model: str) -> Codec:
    """One of the frozen models."""
    return Codec.load(str(VECTORS / "model" / f"{model}.safetensors"), device="cpu")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Batch]]:
    """What the entropy decoder gives, batch by batch: symbols, indices, tables."""
    batches: list[Batch] = []
    original = Decoder.get

    def get(self: Decoder, indices: np.ndarray, tables: Tables) -> np.ndarray:
        symbols = original(self, indices, tables)
        batches.append((symbols, indices, tables))
        return symbols

    monkeypatch.setattr(Decoder, "get", get)
    return batches


def read(kind: str, name: str) -> bytes:
    return (VECTORS / kind / f"{name}.dlf").read_bytes()


@pytest.mark.parametrize("vectors", ALL, ids=lambda vectors: vectors.model)
def test_the_files_are_those_that_were_frozen(vectors: Vectors) -> None:
    found = hashlib.sha256((vectors.folder / "manifest.json").read_bytes()).hexdigest()
    assert found == vectors.manifest_sha256, FROZEN
    for kind in ("good", "bad"):
        cases = vectors.cases(kind)
        assert set((vectors.folder / kind).iterdir()) == {case.path for case in cases}, FROZEN
        for case in cases:
            assert hashlib.sha256(case.data).hexdigest() == case.facts["sha256"], f"{case}: {FROZEN}"


@pytest.mark.parametrize("vectors", ALL, ids=lambda vectors: vectors.model)
def test_the_model_is_the_one_that_was_frozen(vectors: Vectors) -> None:
    assert codec_of(vectors.model).fingerprint.hex() == vectors.manifest["model"], FROZEN


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_a_good_file_holds_the_symbols_that_were_frozen(case: Case, taken: list[Batch]) -> None:
    codec, fields, facts = codec_of(case.model), unpack(case.data), case.facts
    assert [fields.width_px, fields.height_px, fields.quality] == [facts["width"], facts["height"], facts["quality"]]
    tokens, latent = codec.symbols.read(fields)
    detail = np.concatenate([symbols for symbols, _, tables in taken if tables is codec.model.detail_tables])
    found = tokens.numel(), hash_of(tokens.reshape(-1).tolist())
    assert found == (facts["tokens"], facts["tokens_sha256"]), FROZEN
    found = len(detail), hash_of(detail.tolist())
    assert found == (facts["detail_symbols"], facts["detail_symbols_sha256"]), FROZEN
    assert hashlib.sha256(latent.numpy().astype("<f4").tobytes()).hexdigest() == facts["latent_sha256"], FROZEN


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_the_symbols_of_a_good_file_become_its_bytes_again(case: Case, taken: list[Batch]) -> None:
    codec, fields = codec_of(case.model), unpack(case.data)
    tokens, _ = codec.symbols.read(fields)
    detail = Encoder()
    for symbols, indices, tables in taken:
        if tables is codec.model.detail_tables:
            detail.put(symbols, indices, tables)
    _, across = codec.tiling.tiles(fields.width_px, fields.height_px)
    again = Container(
        codec.model_id, fields.width_px, fields.height_px, fields.quality, fields.symbol_check,
        codec.model.tokens.pack(as_integers(tokens), across), detail.finish(), fields.extras,
    )  # fmt: skip
    assert pack(again) == case.data, FROZEN


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_a_good_file_becomes_a_picture(case: Case) -> None:
    codec = codec_of(case.model)
    assert codec.decode(case.data).size == (case.facts["width"], case.facts["height"])
    info = read_info(case.data)
    assert (info.model_id, info.file_bytes) == (codec.model_id.hex(), len(case.data))


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_file_is_refused_with_the_error_that_was_frozen(case: Case) -> None:
    with pytest.raises(errors.DlfcError) as caught:
        codec_of(case.model).decode(case.data)
    public = next(kind for kind in type(caught.value).__mro__ if kind.__name__ in errors.__all__)
    assert public.__name__ == case.facts["error"]
    assert case.facts["message"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_processor_would_find_the_same_symbols() -> None:
    setting = {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    chosen = [sys.executable, "-m", "pytest", __file__, "-k", "holds_the_symbols"]
    run = subprocess.run(chosen, env=os.environ | setting, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert f"{len(GOOD)} passed" in run.stdout


def test_every_rule_has_a_bad_file_that_breaks_it() -> None:
    assert {case.facts["rule"] for case in BAD} == set(range(1, 13))


def test_the_network_still_makes_the_same_picture() -> None:
    """Pixels may differ in their last bits between machines, but old files must not turn into other pictures."""
    with Image.open(VECTORS / "200x150-q62.5.png") as image:
        frozen = np.asarray(image).astype(int)
    found = np.asarray(codec_of(NAME).decode(read("good", "200x150-q62.5"))).astype(int)
    assert frozen.std() > 10
    assert np.abs(found - frozen).max() <= 4


@pytest.mark.parametrize("vectors", ALL, ids=lambda vectors: vectors.model)
def test_encoding_the_picture_of_a_vector_gives_nearly_its_symbols(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder may round its floats otherwise on another machine, so a few symbols may differ."""
    monkeypatch.setattr(hold, "ATTEMPTS", 0)  # vectors are older than the rule about mean colours
    codec = codec_of(vectors.model)
    fields = unpack(codec.encode(picture(200, 150), quality=62.5))
    frozen = unpack((vectors.folder / "good" / "200x150-q62.5.dlf").read_bytes())
    ours, theirs = codec.symbols.read(fields)[0], codec.symbols.read(frozen)[0]
    assert (ours == theirs).float().mean() > 0.95
    assert abs(fields.size_bytes - frozen.size_bytes) < 0.05 * frozen.size_bytes


def test_every_token_has_been_seen_by_its_neighbours() -> None:
    fields, codec = unpack((VECTORS / "neighbours" / "good" / "every-token.dlf").read_bytes()), codec_of(NEIGHBOURS)
    assert set(codec.symbols.read(fields)[0].reshape(-1).tolist()) == set(range(150))


def test_the_vectors_stay_small() -> None:
    assert sum(path.stat().st_size for path in VECTORS.rglob("*") if path.is_file()) < 1_500_000
