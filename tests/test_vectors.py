"""The frozen files of formats/vectors: what they hold is what every reader of format version 1 must find.

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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_vectors import NAME, hash_of, picture
from PIL import Image

from dlfc import errors
from dlfc.codec import Codec
from dlfc.entropy.coder import Decoder, Encoder, Tables
from dlfc.formats import Container, pack, unpack
from dlfc.info import read_info

VECTORS = Path(__file__).parent.parent / "formats" / "vectors"
MANIFEST: dict[str, Any] = json.loads((VECTORS / "manifest.json").read_text())
GOOD: dict[str, Any] = MANIFEST["good"]
BAD: dict[str, Any] = MANIFEST["bad"]
MANIFEST_SHA256 = "5280667d3a784d15a7e20d78fdf656a16ab12db6ea28ad8b5173238ad99900f4"
FROZEN = "the vectors of version 1 are frozen; if readers are to find something else, a new format version is due"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(str(VECTORS / "model" / f"{NAME}.safetensors"), device="cpu")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[np.ndarray, np.ndarray, Tables]]]:
    """What the entropy decoder gives, batch by batch: symbols, indices, tables."""
    batches: list[tuple[np.ndarray, np.ndarray, Tables]] = []
    original = Decoder.get

    def get(self: Decoder, indices: np.ndarray, tables: Tables) -> np.ndarray:
        symbols = original(self, indices, tables)
        batches.append((symbols, indices, tables))
        return symbols

    monkeypatch.setattr(Decoder, "get", get)
    return batches


def read(kind: str, name: str) -> bytes:
    return (VECTORS / kind / f"{name}.dlf").read_bytes()


def test_the_files_are_those_that_were_frozen() -> None:
    assert hashlib.sha256((VECTORS / "manifest.json").read_bytes()).hexdigest() == MANIFEST_SHA256, FROZEN
    for kind in ("good", "bad"):
        assert {path.stem for path in (VECTORS / kind).iterdir()} == MANIFEST[kind].keys(), FROZEN
        for name, facts in MANIFEST[kind].items():
            assert hashlib.sha256(read(kind, name)).hexdigest() == facts["sha256"], f"{name}: {FROZEN}"


def test_the_model_is_the_one_that_was_frozen(codec: Codec) -> None:
    assert codec.fingerprint.hex() == MANIFEST["model"], FROZEN


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_holds_the_symbols_that_were_frozen(
    codec: Codec, name: str, taken: list[tuple[np.ndarray, np.ndarray, Tables]]
) -> None:
    fields, facts = unpack(read("good", name)), GOOD[name]
    assert [fields.width_px, fields.height_px, fields.quality] == [facts["width"], facts["height"], facts["quality"]]
    _, latent = codec._read_symbols(fields)
    tokens, detail = taken[0][0], np.concatenate([symbols for symbols, _, _ in taken[1:]])
    assert (len(tokens), hash_of(tokens.tolist())) == (facts["tokens"], facts["tokens_sha256"]), FROZEN
    found = len(detail), hash_of(detail.tolist())
    assert found == (facts["detail_symbols"], facts["detail_symbols_sha256"]), FROZEN
    assert hashlib.sha256(latent.numpy().astype("<f4").tobytes()).hexdigest() == facts["latent_sha256"], FROZEN


@pytest.mark.parametrize("name", GOOD)
def test_the_symbols_of_a_good_file_become_its_bytes_again(
    codec: Codec, name: str, taken: list[tuple[np.ndarray, np.ndarray, Tables]]
) -> None:
    fields = unpack(read("good", name))
    codec._read_symbols(fields)
    semantic, detail = Encoder(), Encoder()
    semantic.put(*taken[0])
    for batch in taken[1:]:
        detail.put(*batch)
    again = Container(
        codec.model_id, fields.width_px, fields.height_px, fields.quality, fields.symbol_check,
        semantic.finish(), detail.finish(), fields.extras,
    )  # fmt: skip
    assert pack(again) == read("good", name), FROZEN


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_becomes_a_picture(codec: Codec, name: str) -> None:
    data, facts = read("good", name), GOOD[name]
    assert codec.decode(data).size == (facts["width"], facts["height"])
    info = read_info(data)
    assert (info.model_id, info.file_bytes) == (MANIFEST["model"][:8], len(data))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_the_error_that_was_frozen(codec: Codec, name: str) -> None:
    facts = BAD[name]
    with pytest.raises(errors.DlfcError) as caught:
        codec.decode(read("bad", name))
    public = next(kind for kind in type(caught.value).__mro__ if kind.__name__ in errors.__all__)
    assert public.__name__ == facts["error"]
    assert facts["message"] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_processor_would_find_the_same_symbols() -> None:
    setting = {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    chosen = [sys.executable, "-m", "pytest", __file__, "-k", "holds_the_symbols"]
    run = subprocess.run(chosen, env=os.environ | setting, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert f"{len(GOOD)} passed" in run.stdout


def test_every_rule_has_a_bad_file_that_breaks_it() -> None:
    assert {facts["rule"] for facts in BAD.values()} == set(range(1, 13))


def test_the_network_still_makes_the_same_picture(codec: Codec) -> None:
    """Pixels may differ in their last bits between machines, but old files must not turn into other pictures."""
    with Image.open(VECTORS / "200x150-q62.5.png") as image:
        frozen = np.asarray(image).astype(int)
    found = np.asarray(codec.decode(read("good", "200x150-q62.5"))).astype(int)
    assert frozen.std() > 10
    assert np.abs(found - frozen).max() <= 4


def test_encoding_the_picture_of_a_vector_gives_nearly_its_symbols(codec: Codec) -> None:
    """An encoder may round its floats otherwise on another machine, so a few symbols may differ."""
    fields = unpack(codec.encode(picture(200, 150), quality=62.5))
    frozen = unpack(read("good", "200x150-q62.5"))
    ours, theirs = codec._read_symbols(fields)[0], codec._read_symbols(frozen)[0]
    assert (ours == theirs).float().mean() > 0.95
    assert abs(fields.size_bytes - frozen.size_bytes) < 0.05 * frozen.size_bytes


def test_the_vectors_stay_small() -> None:
    assert sum(path.stat().st_size for path in VECTORS.rglob("*") if path.is_file()) < 600_000
