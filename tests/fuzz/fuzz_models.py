"""Damaged and forged models under Hypothesis, as many as DLFC_FUZZ_EXAMPLES says.

A model is refused with a ModelError, or it encodes a picture and decodes what it encoded.

DLFC_FUZZ_EXAMPLES=2000 python -m pytest tests/fuzz/fuzz_models.py
"""

from __future__ import annotations

import copy
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from dlfc.codec import Codec
from dlfc.errors import DlfcError, ModelError
from dlfc.zoo import store, weights_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from networks import photo, random_token_prior

FIRST = Path(__file__).parents[2] / "formats" / "vectors" / "model" / "vectors-1.safetensors"
EXAMPLES = int(os.environ.get("DLFC_FUZZ_EXAMPLES", "200"))
PICTURE = photo(70, 50)


@dataclass(frozen=True)
class Seed:
    """A whole model, of which the fuzzer changes something."""

    raw: bytes
    description: dict[str, Any]

    @property
    def header_bytes(self) -> int:
        return int.from_bytes(self.raw[:8], "little")

    @property
    def header(self) -> dict[str, Any]:
        return json.loads(self.raw[8 : 8 + self.header_bytes])

    @property
    def about(self) -> dict[str, Any]:
        return json.loads(self.header["__metadata__"]["dlfc"])


def by_neighbours(seed: Seed) -> Seed:
    """The same model with a token prior in the place of its table."""
    tensors = {name: value for name, value in load(seed.raw).items() if not name.startswith("tables.token.")}
    prior = random_token_prior(seed.about["config"]["codebook_size"])
    tensors |= {f"token_prior.{name}": value for name, value in prior.items()}
    about = {**seed.about, "digests": {name: store.digest(value) for name, value in tensors.items()}}
    return Seed(save(tensors, {"dlfc": json.dumps(about)}), vouching(about, seed.description))


numbers = (
    st.integers(-3, 300)
    | st.sampled_from([-(2**63), 2**31, 2**53, 2**63, 2**64, 10**30])
    | st.floats()
    | st.sampled_from([0.5, 64.0])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def replaced(draw: st.DrawFn, tree: Any) -> Any:
    """A copy of `tree` in which one entry, at any depth, is another value, is missing or has a new neighbour."""
    tree = copy.deepcopy(tree)
    here = tree
    while True:
        keys: list[Any] = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return draw(values)
        key = draw(st.sampled_from(keys))
        if isinstance(here[key], dict | list) and here[key] and draw(st.integers(0, 3)):
            here = here[key]
            continue
        match draw(st.integers(0, 5)):
            case 0:
                del here[key]
            case 1 if isinstance(here, dict):
                here[draw(st.text(max_size=4))] = draw(values)
            case _:
                here[key] = draw(values)
        return tree


def weights(seed: Seed, header: Any, about: Any = None) -> bytes:
    """The weights file with another header, in which `about` is ours."""
    if about is not None:
        header = {**header, "__metadata__": {"dlfc": json.dumps(about)}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + seed.raw[8 + seed.header_bytes :]


def vouching(about: Any, description: dict[str, Any]) -> dict[str, Any]:
    """A description with the fingerprint of what a header says, if that has one."""
    with suppress(AttributeError, LookupError, TypeError, ValueError):
        return {**description, "fingerprint": weights_file.fingerprint(about["digests"], about["config"])}
    return description


def changed(draw: st.DrawFn, seed: Seed) -> tuple[bytes, dict[str, Any]]:
    """The model with some numbers of one tensor replaced, or its type, and digests that fit."""
    tensors = dict(sorted(load(seed.raw).items()))  # they come in any order
    starts = "network.", "prior.", "tables.", "token_prior."
    groups = [[name for name in tensors if name.startswith(start)] for start in starts]
    name = draw(st.sampled_from(draw(st.sampled_from([group for group in groups if group]))))
    tensor = tensors[name]
    if draw(st.integers(0, 4)) == 0:
        kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
        tensor = tensor.to(draw(st.sampled_from(kinds)))
    flat = tensor.clone().view(-1)
    if tensor.dtype.is_floating_point:
        extremes = [float("nan"), float("inf"), -float("inf"), 0.0, 6e4, -1.0]
    else:
        most = torch.iinfo(tensor.dtype).max
        extremes = [0, 1, -1, most, -most - 1, most // 2, 65536, 65535, 1 << 26]
    for _ in range(draw(st.integers(1, 4))):
        flat[draw(st.integers(0, len(flat) - 1))] = draw(st.sampled_from(extremes))
    tensors[name] = flat.view(tensor.shape)
    about = {**seed.about, "digests": {**seed.about["digests"], name: store.digest(tensors[name])}}
    return save(tensors, {"dlfc": json.dumps(about)}), vouching(about, seed.description)


@st.composite
def models(draw: st.DrawFn) -> tuple[bytes, str]:
    """A weights file and its description, of which something is not as it was."""
    seed = draw(st.sampled_from(SEEDS))
    raw, description = seed.raw, seed.description
    match draw(st.integers(0, 5)):
        case 0:
            return raw, json.dumps(replaced(draw, description))
        case 1:
            return weights(seed, replaced(draw, seed.header)), json.dumps(description)
        case 2:
            about = replaced(draw, seed.about)
            return weights(seed, seed.header, about), json.dumps(vouching(about, description))
        case 3:
            start = draw(st.integers(0, 200) | st.integers(0, len(raw)))
            cut = raw[:start] + draw(st.binary(max_size=12)) + raw[start + draw(st.integers(0, 12)) :]
            return cut, json.dumps(description)
        case _:
            data, description = changed(draw, seed)
            return data, json.dumps(description)


TABLE = Seed(FIRST.read_bytes(), json.loads(FIRST.with_suffix(".json").read_text()))
SEEDS = [TABLE, by_neighbours(TABLE)]


def test_the_models_that_are_changed_work(tmp_path: Path) -> None:
    for seed in SEEDS:
        (path := tmp_path / "m.safetensors").write_bytes(seed.raw)
        path.with_suffix(".json").write_text(json.dumps(seed.description))
        codec = Codec.load(str(path), device="cpu")
        assert codec.decode(codec.encode(PICTURE)).size == PICTURE.size


@pytest.mark.filterwarnings("ignore")
@given(models())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_model_is_refused_or_reads_what_it_writes(
    tmp_path_factory: pytest.TempPathFactory, model: tuple[bytes, str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "models"
    folder.mkdir(exist_ok=True)
    path = folder / "m.safetensors"
    path.write_bytes(model[0])
    path.with_suffix(".json").write_text(model[1], errors="surrogatepass")
    try:
        codec = Codec.load(str(path), device="cpu")
        data = codec.encode(PICTURE, quality=62.5)
    except ModelError:
        return
    assert codec.decode(data).size == PICTURE.size
    with suppress(DlfcError):
        codec.decode(data[:-1], allow_partial=True)
