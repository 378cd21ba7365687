"""Models on disk: what is saved is what is loaded, anything else is refused with the name of the file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import PUBLISHED_TINY, TINY, install, make_network, photo, random_token_prior
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlfc.codec import Codec
from dlfc.entropy.prior import ONE, to_integers
from dlfc.entropy.tables import detail_tables, scale_thresholds
from dlfc.entropy.tokens import ByNeighbours
from dlfc.errors import ModelError
from dlfc.formats import unpack
from dlfc.model.dlf import Part
from dlfc.zoo import registry, store
from dlfc.zoo.registry import MODELS_DIR_VARIABLE, ModelEntry

CPU = torch.device("cpu")
NOWHERE = Path("no-such-folder")


@pytest.fixture
def entry(tmp_path: Path) -> ModelEntry:
    return install(tmp_path)


def rewrite(entry: ModelEntry, tensors: dict[str, Tensor], config: dict[str, object] | None = None) -> ModelEntry:
    """Replace the weights file and let its description vouch for it."""
    digests = {name: store.digest(tensor) for name, tensor in tensors.items()}
    about = {"config": TINY.to_dict() if config is None else config, "digests": digests}
    save_file(tensors, entry.weights, {"dlfc": json.dumps(about)})
    vouched = replace(entry, fingerprint=store.fingerprint(digests, TINY))
    vouched.save()
    return vouched


# --- save and load ------------------------------------------------------------------------------------------------


def test_a_model_that_is_saved_and_loaded_is_the_same_within_16_bits(entry: ModelEntry) -> None:
    loaded, network = store.load(entry, CPU), make_network()
    expected = {k: v for k, v in network.state_dict().items() if not k.startswith("bottleneck.prior.")}
    given = loaded.network.state_dict()
    assert set(given) == set(expected)
    for name, value in expected.items():
        assert torch.equal(given[name], value.half().float()), name
    for name, value in to_integers(network.bottleneck.prior).items():
        ours = loaded.prior.vector if name == "vector" else loaded.prior._tensors[name]
        assert torch.equal(ours, value.to(ours.dtype)), name
    assert torch.equal(loaded.thresholds, torch.from_numpy(scale_thresholds(ONE)))
    assert loaded.detail_tables.rows == 256
    assert loaded.tokens.tables.rows == 1
    assert loaded.network.config == TINY
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert not loaded.network.training


def test_a_model_saved_in_32_bits_is_exactly_the_same(tmp_path: Path) -> None:
    written = store.save(make_network(), tmp_path / "exact.safetensors", detail_tables(), detail_tables(), half=False)
    given = store.load(written, CPU).network.state_dict()
    expected = make_network().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in given.items())


def test_the_float_prior_is_not_in_the_file_and_the_integers_are_integers(entry: ModelEntry) -> None:
    tensors = load_file(entry.weights)
    assert not [name for name in tensors if name.startswith("network.bottleneck.prior")]
    for name, value in tensors.items():
        if name.startswith(("prior.", "tables.")):
            assert value.dtype in (torch.int32, torch.int64), name
        else:
            assert name.startswith("network.")
            assert value.dtype == torch.float16, name


def test_saving_the_same_model_again_gives_the_same_fingerprint(tmp_path: Path) -> None:
    entries = [install(tmp_path, name) for name in ("first", "second")]
    assert entries[0].fingerprint == entries[1].fingerprint
    assert entries[0].model_id == bytes.fromhex(entries[0].fingerprint[:8])


def test_the_entry_says_how_many_numbers_the_model_has(entry: ModelEntry) -> None:
    tensors = load_file(entry.weights)
    counted = sum(value.numel() for name, value in tensors.items() if not name.startswith("tables."))
    assert entry.parameters == counted
    assert entry.levels == TINY.levels
    assert registry.read_entry(entry.weights) == entry


# --- the fingerprint ----------------------------------------------------------------------------------------------


def fingerprint(tensors: dict[str, Tensor]) -> str:
    return store.fingerprint({name: store.digest(tensor) for name, tensor in tensors.items()}, TINY)


def test_the_fingerprint_changes_with_every_tensor(entry: ModelEntry) -> None:
    tensors = load_file(entry.weights)
    assert fingerprint(tensors) == entry.fingerprint
    digests = {name: store.digest(tensor) for name, tensor in tensors.items()}
    seen = {entry.fingerprint}
    for name, value in tensors.items():
        changed = value.clone()
        changed.view(-1)[-1] += 1
        seen.add(store.fingerprint({**digests, name: store.digest(changed)}, TINY))
    assert len(seen) == len(tensors) + 1


def test_the_fingerprint_changes_with_a_name_a_type_and_a_shape() -> None:
    plain = {"a": torch.zeros(4, dtype=torch.int32)}
    others = [
        {"b": plain["a"]},
        {"a": plain["a"].float()},
        {"a": plain["a"].view(2, 2)},
        {"a": torch.zeros(2, dtype=torch.int64)},
        {**plain, "b": torch.zeros(0)},
    ]
    assert len({fingerprint(tensors) for tensors in [plain, *others]}) == len(others) + 1


def test_the_fingerprint_changes_with_the_configuration_and_not_with_the_order_of_tensors() -> None:
    digests = {"a": "12", "b": "34"}
    first = store.fingerprint(digests, TINY)
    assert store.fingerprint(digests, replace(TINY, published_reshape=True)) != first
    assert store.fingerprint(dict(reversed(digests.items())), TINY) == first


def test_the_fingerprint_is_the_sha_256_that_the_specification_states() -> None:
    tensors = {"b": torch.tensor([1, -2], dtype=torch.int32), "a": torch.tensor([[1.5]], dtype=torch.float16)}
    digest_a = hashlib.sha256(b"torch.float16 [1, 1]\n\x00\x3e").hexdigest()
    digest_b = hashlib.sha256(b"torch.int32 [2]\n\x01\0\0\0\xfe\xff\xff\xff").hexdigest()
    config = json.dumps(TINY.to_dict(), sort_keys=True)
    text = f"{config}\na {digest_a}\nb {digest_b}"
    assert fingerprint(tensors) == hashlib.sha256(text.encode()).hexdigest()


# --- a prior of tokens --------------------------------------------------------------------------------------------


@pytest.fixture
def with_prior(tmp_path: Path) -> ModelEntry:
    return install(tmp_path, by_neighbours=True)


def test_a_token_prior_takes_the_place_of_the_table(with_prior: ModelEntry) -> None:
    tensors, expected = load_file(with_prior.weights), random_token_prior()
    assert not [name for name in tensors if name.startswith("tables.token.")]
    assert {name for name in tensors if name.startswith("token_prior.")} == {f"token_prior.{name}" for name in expected}
    assert all(torch.equal(tensors[f"token_prior.{name}"], value) for name, value in expected.items())
    assert with_prior.parameters == sum(v.numel() for k, v in tensors.items() if not k.startswith("tables."))


def test_a_token_prior_knows_the_regions_of_a_tile(with_prior: ModelEntry) -> None:
    tokens = store.load(with_prior, CPU).tokens
    assert isinstance(tokens, ByNeighbours)
    assert (tokens.rows, tokens.columns, tokens.size) == (4, 2, TINY.codebook_size)


@pytest.mark.parametrize("packed", [False, True])
def test_both_halves_of_a_model_have_its_token_prior(with_prior: ModelEntry, packed: bool) -> None:
    tokens = np.random.default_rng(0).integers(0, TINY.codebook_size, (6, 8)).astype(np.int32)
    expected = ByNeighbours({name: value.numpy() for name, value in random_token_prior().items()}, 4, 2)
    parts: tuple[Part, ...] = ("both", "encode", "decode")
    for part in parts:
        loaded = store.load(with_prior, CPU, part, packed=packed)
        section = loaded.tokens.pack(tokens, 3)
        assert section == expected.pack(tokens, 3)
        assert np.array_equal(loaded.tokens.unpack(section, 6, 3), tokens)


@pytest.mark.parametrize("size", [(60, 50), (200, 150), (64, 300)])
def test_a_model_with_a_token_prior_codes_pictures_in_halves(with_prior: ModelEntry, size: tuple[int, int]) -> None:
    picture, whole = photo(*size), Codec.load(str(with_prior.weights), device="cpu", precision="float32")
    halves = [
        Codec.load(str(with_prior.weights), device="cpu", purpose=purpose, precision="float32")
        for purpose in ("encode", "decode")
    ]
    data = halves[0].encode(picture, quality=70)
    assert whole.encode(picture, quality=70) == data
    assert halves[1].decode(data).tobytes() == whole.decode(data).tobytes()
    analysis = whole.analyse([picture])[0]
    found = whole.model.tokens.unpack(unpack(data).semantic, *whole.tiling.tiles(*size))
    assert np.array_equal(found, analysis.tokens.numpy())
    assert len(np.unique(found)) > 1


def test_tokens_and_pixels_are_those_of_the_model_with_a_table(entry: ModelEntry, tmp_path: Path) -> None:
    codecs = [
        Codec.load(str(each.weights), device="cpu") for each in (entry, install(tmp_path, "other", by_neighbours=True))
    ]
    files = [codec.encode(photo(150, 130), quality=80) for codec in codecs]
    table, prior = (unpack(file) for file in files)
    assert table.semantic != prior.semantic
    assert table.detail == prior.detail
    assert table.symbol_check != prior.symbol_check  # which the fingerprint is in
    assert codecs[0].decode(files[0]).tobytes() == codecs[1].decode(files[1]).tobytes()


def test_the_fingerprint_changes_with_the_token_prior(entry: ModelEntry, with_prior: ModelEntry) -> None:
    tensors = load_file(with_prior.weights)
    seen = {fingerprint(tensors)}
    assert seen == {with_prior.fingerprint}
    for name in [name for name in tensors if name.startswith("token_prior.")]:
        changed = tensors[name].clone()
        changed.view(-1)[0] += 1
        seen.add(fingerprint({**tensors, name: changed}))
    assert len(seen) == 10


# --- files that are refused ---------------------------------------------------------------------------------------


def test_weights_that_are_not_those_described_are_refused_by_name(tmp_path: Path) -> None:
    first, second = install(tmp_path, "first", seed=1), install(tmp_path, "second", seed=2)
    first.weights.write_bytes(second.weights.read_bytes())
    with pytest.raises(ModelError, match=r"first\.safetensors.*not those of model 'first'"):
        store.load(first, CPU)


@pytest.mark.parametrize("at", [0, 3, 9, 4000, -1])
def test_a_damaged_weights_file_is_refused_by_name(entry: ModelEntry, at: int) -> None:
    data = bytearray(entry.weights.read_bytes())
    data[at] ^= 0x10
    entry.weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        store.load(entry, CPU)


@pytest.mark.parametrize("size", [0, 7, 100, 300_000])
def test_a_weights_file_that_was_cut_is_refused_by_name(entry: ModelEntry, size: int) -> None:
    entry.weights.write_bytes(entry.weights.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        store.load(entry, CPU)


def test_a_weights_file_that_is_missing_is_refused_by_name(entry: ModelEntry) -> None:
    entry.weights.unlink()
    with pytest.raises(ModelError, match=r"tiny\.safetensors: no such"):
        store.load(entry, CPU)


def test_a_safetensors_file_of_something_else_is_refused(entry: ModelEntry) -> None:
    save_file({"a": torch.ones(2)}, entry.weights)
    with pytest.raises(ModelError, match=r"tiny\.safetensors: not a weights file of dlfc"):
        store.load(entry, CPU)


@pytest.mark.parametrize(
    "config", [[], {"wdith": 3}, {**TINY.to_dict(), "latent_dim": 9}, {**TINY.to_dict(), "width": "x"}]
)
def test_a_configuration_that_makes_no_sense_is_refused(entry: ModelEntry, config: dict[str, object]) -> None:
    vouched = rewrite(entry, load_file(entry.weights), config)
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        store.load(vouched, CPU)


@pytest.mark.parametrize(
    "name",
    [
        "network.mixture",
        "prior.vector",
        "prior.reduce.bias",
        "tables.thresholds",
        "tables.detail.cdf",
        "tables.token.lengths",
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused_even_if_its_description_vouches_for_it(
    entry: ModelEntry, name: str
) -> None:
    tensors = load_file(entry.weights)
    del tensors[name]
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        store.load(rewrite(entry, tensors), CPU)


@pytest.mark.parametrize("name", ["network.mixture", "prior.vector", "prior.reduce.weight", "tables.thresholds"])
def test_a_tensor_of_another_shape_is_refused_even_if_its_description_vouches_for_it(
    entry: ModelEntry, name: str
) -> None:
    tensors = load_file(entry.weights)
    tensors[name] = tensors[name].view(-1)[:-1].clone()
    with pytest.raises(ModelError, match=r"tiny\.safetensors"):
        store.load(rewrite(entry, tensors), CPU)


@pytest.mark.parametrize("name", sorted(random_token_prior()))
def test_a_file_with_part_of_a_token_prior_is_refused(with_prior: ModelEntry, name: str) -> None:
    tensors = load_file(with_prior.weights)
    del tensors[f"token_prior.{name}"]
    with pytest.raises(ModelError, match=rf"tiny\.safetensors.*token prior's {name} is missing"):
        store.load(rewrite(with_prior, tensors), CPU)


def test_a_file_with_a_token_prior_and_a_table_is_refused(with_prior: ModelEntry, tmp_path: Path) -> None:
    table = load_file(install(tmp_path, "table").weights)
    tensors = load_file(with_prior.weights) | {k: v for k, v in table.items() if k.startswith("tables.token.")}
    with pytest.raises(ModelError, match=r"tiny\.safetensors.*tokens have a prior beside their table"):
        store.load(rewrite(with_prior, tensors), CPU)


def test_a_file_with_neither_a_token_prior_nor_a_table_is_refused(entry: ModelEntry) -> None:
    tensors = {k: v for k, v in load_file(entry.weights).items() if not k.startswith("tables.token.")}
    with pytest.raises(ModelError, match=r"tiny\.safetensors: the tensors do not make a model") as caught:
        store.load(rewrite(entry, tensors), CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [TINY.codebook_size - 1, TINY.codebook_size + 1, 3 * TINY.codebook_size])
def test_a_token_prior_of_another_codebook_is_refused(with_prior: ModelEntry, size: int) -> None:
    other = {f"token_prior.{name}": value for name, value in random_token_prior(size).items()}
    with pytest.raises(ModelError, match=r"tiny\.safetensors.*not one of this codebook"):
        store.load(rewrite(with_prior, load_file(with_prior.weights) | other), CPU)


def test_a_token_prior_without_regions_is_refused(tmp_path: Path) -> None:
    published = install(tmp_path, "published", PUBLISHED_TINY, by_neighbours=True)
    for part in ("both", "encode", "decode"):
        with pytest.raises(ModelError, match=r"published\.safetensors.*although they stand for no regions"):
            store.load(published, CPU, part)


def test_tables_that_do_not_rise_are_refused(entry: ModelEntry) -> None:
    tensors = load_file(entry.weights)
    tensors["tables.detail.cdf"][7, 2] = 0
    with pytest.raises(ModelError, match=r"tiny\.safetensors.*row 7"):
        store.load(rewrite(entry, tensors), CPU)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"name": "x"}', '{"name":"x","fingerprint":"00","parameters":1,"levels":1}', "\xff\xfe"],
)
def test_a_damaged_description_is_refused_by_name(entry: ModelEntry, text: str) -> None:
    description = entry.weights.with_suffix(".json")
    description.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"tiny\.json: not a model description"):
        registry.read_entry(entry.weights)
    with pytest.raises(ModelError, match=r"tiny\.json"):
        registry.find("tiny", entry.weights.parent)


def test_a_weights_file_that_is_not_there_is_named_itself(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors: no such weights file"):
        registry.find(str(tmp_path / "none.safetensors"))


def test_a_weights_file_without_its_description_is_refused(entry: ModelEntry) -> None:
    entry.weights.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"tiny\.json: cannot read the model's description"):
        registry.find(str(entry.weights))


# --- finding models -----------------------------------------------------------------------------------------------


def test_models_are_found_by_name_path_and_id(entry: ModelEntry) -> None:
    folder = entry.weights.parent
    for model in ("tiny", str(entry.weights), entry.model_id):
        assert registry.find(model, folder) == entry


def test_an_unknown_name_is_refused_with_the_names_that_there_are(entry: ModelEntry) -> None:
    install(entry.weights.parent, "second")
    with pytest.raises(ModelError, match=r"no model 'tyni'; there are: .*second, tiny"):
        registry.find("tyni", entry.weights.parent)


def test_an_unknown_id_is_refused_with_where_its_weights_belong(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"model 01020304, which is not installed.*{tmp_path.name}"):
        registry.find(b"\1\2\3\4", tmp_path)


def test_the_models_folder_is_taken_from_the_environment(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(entry.weights.parent))
    assert registry.user_models_dir() == entry.weights.parent
    assert registry.find("tiny") == entry
    assert registry.name_of(entry.model_id) == "tiny"
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(NOWHERE))
    with pytest.raises(ModelError):
        registry.find("tiny")


def test_without_the_variable_models_lie_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(MODELS_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert registry.user_models_dir() == tmp_path / "dlfc" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.user_models_dir() == tmp_path / ".local" / "share" / "dlfc" / "models"


def test_the_name_of_an_id_that_no_model_has_is_none(entry: ModelEntry) -> None:
    folder = entry.weights.parent
    assert registry.name_of(entry.model_id, folder) == "tiny"
    assert registry.name_of(b"\0\0\0\0", folder) is None
    assert registry.name_of(b"\0\0\0\0", NOWHERE) is None


def test_the_registry_needs_no_torch() -> None:
    check = "import sys, dlfc.zoo.registry as r; r.name_of(bytes(4)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# --- the bundled models -------------------------------------------------------------------------------------------


def test_the_default_model_is_bundled_and_is_the_one_described() -> None:
    found = registry.find(None, NOWHERE)
    assert found.name == registry.DEFAULT_MODEL
    with safe_open(found.weights, framework="pt") as file:
        assert "dlfc" in file.metadata()
    assert store.load(found, CPU).network.config.levels == found.levels
