"""`dlfc models`: published checkpoints come in as data, and what lies in the model folder can be seen and removed."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Finished, real_command, run_process
from networks import TINY, install, make_network, photo
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dlfc.cli import main
from dlfc.codec import Codec
from dlfc.entropy.tables import detail_tables, gaussian_tables, scale_thresholds, write_gaussian_tables
from dlfc.errors import ModelError
from dlfc.model.config import PAPER, DLFConfig
from dlfc.model.dlf import DLF
from dlfc.model.linear import can_pack, packing_pays
from dlfc.zoo import published, registry, store, weights_file

# The published mechanisms with heads of 64, as small as those allow.
SMALL = replace(
    PAPER,
    width=64,
    heads=1,
    encoder_layers=3,
    decoder_layers=2,
    token_dim=6,
    codebook_size=32,
    detail_dim=64,
    latent_dim=8,
    encoder_exchange=(0, 1),
    decoder_exchange=(1,),
    exchange_attention=1,
    fusion_dim=64,
    mixture_size=12,
    mixture_dim=8,
    generator_channels=32,
    generator_mult=(1, 1, 1, 1, 2),
    generator_blocks=2,
)
CPU = torch.device("cpu")


def published_state(network: DLF) -> dict[str, Tensor]:
    """The tensors of a network under their published names, with what else a published checkpoint holds."""
    state: dict[str, Tensor] = {}
    values = network.state_dict()
    for ours, names in published.published_names(network).items():
        state |= dict(zip(names, (part.clone() for part in values[ours].chunk(len(names))), strict=True))
    extra = ("img_loss.discriminator.main.0.weight", "vqgan.loss.logvar", "vqgan.encoder.conv_in.weight", "lmbda_list")
    return state | {name: torch.zeros(3) for name in extra}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_state(make_network(SMALL))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, which does not exist yet."""
    path = tmp_path / "the models"
    monkeypatch.setenv(registry.MODELS_DIR_VARIABLE, str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def checkpoint(state: dict[str, Tensor], tmp_path: Path) -> Path:
    """A Lightning file, as published."""
    content = {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {}}], "hyper_parameters": {"lr": 4e-5}}
    torch.save(content, tmp_path / "dlf.ckpt")
    return tmp_path / "dlf.ckpt"


@pytest.fixture
def models(capfd: pytest.CaptureFixture[str], folder: Path) -> Callable[..., Finished]:
    """Run `dlfc models` in this process."""

    def run(*arguments: str | Path) -> Finished:
        capfd.readouterr()
        status = main(["models", *map(str, arguments)])
        return Finished(status, *capfd.readouterr())

    return run


# --- import -------------------------------------------------------------------------------------------------------


def test_an_imported_checkpoint_codes_pictures_in_processes_that_know_only_its_name(
    models: Callable[..., Finished], checkpoint: Path, tmp_path: Path
) -> None:
    run = models("import", checkpoint, "--name", "mine")
    assert (run.status, run.err) == (0, "")
    entry = registry.find("mine")
    assert run.out == f"mine: {entry.parameters:,} parameters, 1 rate level, fingerprint {entry.fingerprint}\n"
    photo(70, 50).save(tmp_path / "a.png")
    for command in (("encode", "-m", "mine", "a.png"), ("decode", "a.dlf", "-o", "b.png"), ("info", "a.dlf")):
        done = run_process(real_command(*command))
        assert done.returncode == 0, done.stderr
    assert b"mine" in done.stdout
    assert (tmp_path / "b.png").exists()


def test_the_imported_network_is_that_of_the_checkpoint_to_the_last_bit(
    models: Callable[..., Finished], checkpoint: Path
) -> None:
    models("import", checkpoint)
    loaded, expected = store.load(registry.find("dlf"), CPU).network, make_network(SMALL)
    given = loaded.state_dict()
    for name, value in expected.state_dict().items():
        if not name.startswith("bottleneck.prior."):
            assert torch.equal(given[name], value), name
    assert loaded.config == SMALL


@pytest.mark.parametrize("form", ["bare", "old torch", "safetensors", "half precision", "with a configuration"])
def test_every_form_of_a_checkpoint_is_read(
    models: Callable[..., Finished], state: dict[str, Tensor], tmp_path: Path, form: str
) -> None:
    path, options = tmp_path / "c.pt", []
    if form == "safetensors":
        save_file(state, path)
    elif form == "half precision":
        torch.save({name: value.half() for name, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "old torch")
    if form == "with a configuration":
        (tmp_path / "c.json").write_text(json.dumps(mini_configuration()))
        options = ["--config", "c.json"]
    run = models("import", path, *options)
    if form == "with a configuration":  # of another network
        assert run.status == 1
        assert "c.pt" in run.err
        assert "unknown tensor" in run.err
    else:
        assert (run.status, run.err) == (0, "")
        assert Codec.load("c").decode(Codec.load("c").encode(photo(20, 30))).size == (20, 30)


def mini_configuration() -> dict[str, object]:
    return json.loads((Path(__file__).parent / "reference" / "mini_config.json").read_text())


def test_a_checkpoint_becomes_the_same_model_in_every_form(
    models: Callable[..., Finished], state: dict[str, Tensor], checkpoint: Path, tmp_path: Path
) -> None:
    shuffled = dict(sorted(state.items(), reverse=True))
    save_file(shuffled, tmp_path / "other.safetensors")
    for path in (checkpoint, tmp_path / "other.safetensors"):
        assert models("import", path).status == 0
    assert registry.find("dlf").fingerprint == registry.find("other").fingerprint


def test_the_shapes_of_the_published_size_tell_its_configuration() -> None:
    with torch.device("meta"):
        network = DLF(PAPER)
        assert published.infer_config(published_state(network)) == PAPER
        assert published.infer_config(published_state(DLF(SMALL))) == SMALL


def test_a_weights_file_of_dlfc_is_checked_and_copied(models: Callable[..., Finished], tmp_path: Path) -> None:
    entry = install(tmp_path, "trained")
    run = models("import", entry.weights, "--name", "copy")
    assert (run.status, run.err) == (0, "")
    copy = registry.find("copy")
    assert copy.fingerprint == entry.fingerprint
    assert (copy.parameters, copy.levels) == (entry.parameters, entry.levels)
    assert copy.weights.read_bytes() == entry.weights.read_bytes()
    data = bytearray(entry.weights.read_bytes())
    data[-1] ^= 1
    entry.weights.write_bytes(data)
    assert models("import", entry.weights, "--name", "damaged").status == 1
    assert [e.name for e in registry.entries() if not e.bundled] == ["copy"]


class Runs:
    """Unpickled without care, it makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("form", ["zip", "plain", "beside tensors"])
def test_code_in_a_checkpoint_is_refused_in_one_line_and_not_run(
    models: Callable[..., Finished], folder: Path, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "evil.ckpt"
    if form == "plain":
        path.write_bytes(pickle.dumps(Runs()))
    else:
        torch.save(Runs() if form == "zip" else {"state_dict": {"a": torch.zeros(2), "b": Runs()}}, path)
    run = models("import", path)
    assert (run.status, run.out) == (1, "")
    assert run.err.count("\n") == 1
    assert run.err.startswith(f"dlfc: {path}: ")
    assert form == "plain" or "refused, because it holds more than data (posix.mkdir)" in run.err
    assert not (tmp_path / "ran").exists()
    assert list(folder.glob("*")) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\0" * 100, b"PK\3\4" + b"\0" * 50, pickle.dumps(3), pickle.dumps({"state_dict": {}}), b"\x80\x02."],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    models: Callable[..., Finished], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "no.ckpt").write_bytes(content)
    run = models("import", tmp_path / "no.ckpt")
    assert (run.status, run.out) == (1, "")
    assert run.err.count("\n") == 1
    assert run.err.startswith(f"dlfc: {tmp_path / 'no.ckpt'}: ")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("unknown", "unknown tensor 'surprise'"),
        ("missing", "lacks tensor 'prior_fusion.ffn.1.bias'"),
        ("misshapen", "'prior_fusion.ffn.1.bias' has shape [7]"),
        ("not a number", "has values that are not numbers"),
        ("too large", "fixed point"),
        ("from nothing", "claims more values than the file holds"),
        ("not a tensor", "no named tensors"),
        ("no network", "lacks tensor"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_with_the_reason(
    models: Callable[..., Finished], folder: Path, state: dict[str, Tensor], tmp_path: Path, change: str, complaint: str
) -> None:
    changed: dict[str, object] = dict(state)
    name = "prior_fusion.ffn.1.bias"
    if change == "unknown":
        changed["surprise"] = torch.zeros(1)
    elif change == "missing":
        del changed[name]
    elif change == "misshapen":
        changed[name] = torch.zeros(7)
    elif change == "not a number":
        changed[name] = torch.full_like(state[name], torch.nan)
    elif change == "too large":
        changed["hybrid_codec.quantize_feat.factorized_prior_vec"] = torch.full((1, 8), 1e9)
    elif change == "from nothing":
        changed[name] = torch.zeros(1).expand(10**11)
    elif change == "not a tensor":
        changed[name] = "text"
    else:
        changed = {"weight": torch.zeros(3, 3)}
    torch.save({"state_dict": changed}, tmp_path / "bad.ckpt")
    run = models("import", tmp_path / "bad.ckpt")
    assert (run.status, run.out) == (1, "")
    assert run.err.count("\n") == 1
    assert complaint in run.err
    assert "bad.ckpt" in run.err
    assert list(folder.glob("*")) == []


def test_a_model_is_replaced_only_with_force(models: Callable[..., Finished], checkpoint: Path) -> None:
    assert models("import", checkpoint).status == 0
    before = registry.find("dlf").weights.stat().st_mtime_ns
    run = models("import", checkpoint)
    assert run.status == 1
    assert run.err == "dlfc: there is a model 'dlf' already; choose another name with --name, or use -f\n"
    assert registry.find("dlf").weights.stat().st_mtime_ns == before
    assert models("import", checkpoint, "-f").status == 0
    assert registry.find("dlf").weights.stat().st_mtime_ns > before


def test_a_bundled_name_cannot_be_taken(models: Callable[..., Finished], checkpoint: Path) -> None:
    run = models("import", checkpoint, "--name", registry.DEFAULT_MODEL, "-f")
    assert run.status == 1
    assert "dlfc comes with a model 'small'" in run.err


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "x.safetensors", "-a", "ä", "a" * 101])
def test_a_name_that_would_be_trouble_as_a_file_is_a_usage_error(
    models: Callable[..., Finished], checkpoint: Path, name: str
) -> None:
    run = models("import", checkpoint, f"--name={name}")
    assert run.status == 2
    assert "cannot be the name of a model" in run.err


def test_a_missing_checkpoint_or_configuration_is_named(models: Callable[..., Finished], checkpoint: Path) -> None:
    assert models("import", "none.ckpt").err == "dlfc: none.ckpt: No such file or directory\n"
    assert models("import", checkpoint, "--config", "none.json").err == "dlfc: none.json: No such file or directory\n"


def test_others_may_read_an_imported_model_as_far_as_the_umask_lets_them(
    models: Callable[..., Finished], checkpoint: Path
) -> None:
    models("import", checkpoint)
    weights = registry.find("dlf").weights
    assert weights.stat().st_mode == weights.with_suffix(".json").stat().st_mode


# --- list, show, verify, remove -----------------------------------------------------------------------------------


def test_list_names_bundled_and_imported_models(models: Callable[..., Finished], folder: Path) -> None:
    folder.mkdir()
    entry = install(folder)
    lines = models("list").out.splitlines()
    assert lines[0].split() == ["model", "id", "parameters", "levels", "size", "where"]
    assert any(line.startswith("small ") and line.endswith("comes with dlfc") for line in lines)
    assert any(line.startswith("tiny ") and entry.model_id.hex() in line and str(folder) in line for line in lines)
    facts = [json.loads(line) for line in models("list", "--json").out.splitlines()]
    assert [fact["name"] for fact in facts] == ["small", "tiny"]
    assert facts[1] == {
        "name": "tiny",
        "model_id": entry.model_id.hex(),
        "fingerprint": entry.fingerprint,
        "parameters": entry.parameters,
        "levels": 3,
        "file_bytes": entry.weights.stat().st_size,
        "bundled": False,
        "weights": str(entry.weights),
    }


def test_the_option_names_another_folder(models: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    install(tmp_path / "elsewhere")
    assert "tiny" not in models("list").out
    assert "tiny" in models("list", "--models-dir", tmp_path / "elsewhere").out
    assert models("verify", "tiny", "--models-dir", tmp_path / "elsewhere").status == 0


def test_a_damaged_description_is_told_and_hides_no_other_model(models: Callable[..., Finished], folder: Path) -> None:
    folder.mkdir()
    install(folder)
    (folder / "broken.json").write_text("{")
    run = models("list")
    assert run.status == 1
    assert "tiny" in run.out
    assert "broken.json: not a model description" in run.err
    assert registry.find("tiny").name == "tiny"
    assert models("remove", "broken").status == 0
    assert models("list").status == 0


def test_show_says_the_configuration(models: Callable[..., Finished], folder: Path) -> None:
    folder.mkdir()
    entry = install(folder)
    out = models("show", "tiny").out
    assert entry.fingerprint in out
    assert "    tile_px              64\n" in out
    facts = json.loads(models("show", "tiny", "--json").out)
    assert DLFConfig.from_dict(facts["config"]) == store.load(entry, CPU).network.config
    run = models("show", "none", "tiny")
    assert run.status == 1
    assert "no model 'none'; there are: small, tiny" in run.err
    assert "tiny" in run.out


@pytest.mark.parametrize("at", [9, 4000, -1])
def test_verify_finds_a_changed_byte(models: Callable[..., Finished], folder: Path, at: int) -> None:
    folder.mkdir()
    weights = install(folder).weights
    run = models("verify")
    assert (run.status, run.out) == (0, "small: whole\ntiny: whole\n")
    data = bytearray(weights.read_bytes())
    data[at] ^= 1
    weights.write_bytes(data)
    run = models("verify")
    assert (run.status, run.out) == (1, "small: whole\n")
    assert run.err.startswith(f"dlfc: {weights}: ")
    facts = [json.loads(line) for line in models("verify", "--json").out.splitlines()]
    assert [fact["whole"] for fact in facts] == [True, False]


def test_remove_deletes_both_files_and_no_bundled_model(models: Callable[..., Finished], folder: Path) -> None:
    folder.mkdir()
    install(folder)
    run = models("remove", "small", "tiny", "none")
    assert run.status == 1
    assert "dlfc comes with model 'small', which cannot be removed" in run.err
    assert "no model 'none'" in run.err
    assert list(folder.iterdir()) == []
    assert [entry.name for entry in registry.entries()] == ["small"]


@pytest.mark.parametrize("arguments", [["list"], ["show", "small"], ["verify", "small"], ["--help"]], ids=" ".join)
def test_models_are_looked_at_without_torch(arguments: list[str]) -> None:
    check = "import sys; from dlfc.cli import main; s = main(); sys.exit(s or 'torch' in sys.modules)"
    assert run_process([sys.executable, "-c", check, "models", *arguments]).returncode == 0


def test_a_wrong_command_line_points_to_the_help_of_its_command(models: Callable[..., Finished]) -> None:
    assert models("bogus").err == "dlfc models: no such command 'bogus'; try 'dlfc models --help'\n"
    assert models("show").err == "dlfc models show: missing argument 'NAME...'; try 'dlfc models show --help'\n"


# --- tables, halves and 16 bits -----------------------------------------------------------------------------------


def test_the_shipped_gaussians_are_those_that_are_computed_within_one_count(tmp_path: Path) -> None:
    shipped, thresholds = gaussian_tables()
    computed = detail_tables()
    assert np.abs(shipped.cdf - computed.cdf).max() <= 1
    assert np.array_equal(shipped.lengths, computed.lengths)
    assert np.array_equal(shipped.offsets, computed.offsets)
    assert np.abs(thresholds - scale_thresholds(1 << 12)).max() <= 1
    write_gaussian_tables(tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again:
        assert np.abs(again["cdf"] - shipped.cdf).max() <= 1


def test_an_imported_model_has_the_shipped_tables_and_equal_tokens(
    models: Callable[..., Finished], checkpoint: Path
) -> None:
    models("import", checkpoint)
    with safe_open(registry.find("dlf").weights, framework="np") as file:
        shipped, thresholds = gaussian_tables()
        assert np.array_equal(file.get_tensor("tables.detail.cdf"), shipped.cdf)
        assert np.array_equal(file.get_tensor("tables.thresholds"), thresholds)
        counts = np.diff(file.get_tensor("tables.token.cdf")[0])
    assert counts[:-1].max() - counts[:-1].min() <= 1
    assert counts[-1] == 1


@pytest.mark.parametrize("closed_levels", [0, 1])
def test_each_half_of_a_model_does_its_work_alone(tmp_path: Path, closed_levels: int) -> None:
    entry, image = install(tmp_path, config=replace(TINY, closed_levels=closed_levels)), photo(100, 70)
    whole = Codec(store.load(entry, CPU))
    encoder, decoder = Codec(store.load(entry, CPU, "encode")), Codec(store.load(entry, CPU, "decode"))
    data = encoder.encode(image)
    assert data == whole.encode(image)
    assert decoder.decode(data).tobytes() == whole.decode(data).tobytes()
    parameters = [sum(p.numel() for p in codec.model.network.parameters()) for codec in (encoder, decoder, whole)]
    assert max(parameters[:2]) < 0.75 * parameters[2]
    with pytest.raises(ValueError, match="for encoding only"):
        encoder.decode(data)
    with pytest.raises(ValueError, match="for decoding only"):
        decoder.encode(image)


def test_half_a_model_is_checked_for_damage_in_that_half(tmp_path: Path) -> None:
    entry = install(tmp_path)
    header = weights_file.read_header(entry.weights)
    data = bytearray(entry.weights.read_bytes())
    data[header.tensors["network.encoder.to_token.weight"].start] ^= 1
    entry.weights.write_bytes(data)
    for packed in (False, True) if can_pack() else (False,):
        assert store.load(entry, CPU, "decode", packed=packed).part == "decode"
        with pytest.raises(ModelError, match=r"tiny\.safetensors"):
            store.load(entry, CPU, "encode", packed=packed)


@pytest.mark.parametrize(
    ("capabilities", "pays"),
    [
        ({"cpu_name": "Intel Xeon", "amx_bf16": False}, False),
        ({"cpu_name": "Intel Xeon", "amx_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "amx_bf16": False}, True),
        ({}, True),
    ],
)
def test_weights_are_packed_unless_the_processor_multiplies_16_bits_slowly(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], pays: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert packing_pays() == (pays and can_pack())


@pytest.mark.skipif(not can_pack(), reason="this processor has no instructions for 16-bit numbers")
def test_weights_in_16_bits_change_a_picture_little_and_no_symbol_of_a_file(tmp_path: Path) -> None:
    entry, image = install(tmp_path, config=SMALL), photo(300, 200)
    exact, packed = (Codec(store.load(entry, CPU, packed=packed)) for packed in (False, True))
    for data in (exact.encode(image), packed.encode(image)):
        pictures = [np.asarray(codec.decode(data), np.float64) for codec in (exact, packed)]
        noise = np.mean((pictures[0] - pictures[1]) ** 2)
        assert 0 < noise < 0.01 * pictures[0].var()


def test_the_precision_is_chosen_by_argument_or_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)

    def packed(precision: str | None = None) -> bool:
        network = Codec.load("tiny", device="cpu", models_dir=tmp_path, precision=precision).model.network
        return network.encoder.layers[0].mlp.expand.packed is not None

    monkeypatch.delenv("DLFC_PRECISION", raising=False)
    assert not packed()  # a small model
    assert not packed("float32")
    with pytest.raises(ModelError, match="there are: auto, float32, bfloat16"):
        packed("float16")
    if can_pack():
        assert packed("bfloat16")
        monkeypatch.setenv("DLFC_PRECISION", "bfloat16")
        assert packed()
        assert not packed("float32")
