"""Published checkpoints: every tensor finds its place, and the network then computes what the reference computes.

No published weights are involved: all tensors are filled by a rule from their names, on both sides.
`reference/README.md` says what the compared numbers are. With DLFC_REFERENCE_DIR naming the folder that holds the
complete set, all of it is compared, the network of the published size as well (about 6 GB) unless `-m "not slow"`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from dlfc.entropy.coder import Encoder, Tables
from dlfc.entropy.prior import ONE, FourPasses, IntegerPrior, to_integers
from dlfc.entropy.tables import MAX_SCALE, MIN_SCALE, SCALES, detail_tables, scale_thresholds
from dlfc.errors import ModelError
from dlfc.model.bottleneck import SKIP_SCALE, pass_masks
from dlfc.model.config import PAPER, DLFConfig
from dlfc.model.dlf import DLF, Reconstruction
from dlfc.zoo import published

HERE = Path(__file__).parent / "reference"
COMPLETE = os.environ.get("DLFC_REFERENCE_DIR", "")
FLOAT_TOLERANCE = 1e-5  # rms difference per standard deviation; float32 against float64 differs by up to 2e-6
IMAGE_TOLERANCE = 1e-4
HALF_IMAGE_TOLERANCE = 5e-4  # where the expected picture is stored in half precision

Arrays = Mapping[str, npt.NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]


# --- the rule that fills weights and makes pictures ---------------------------------------------------------------


def generator_of(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def offset_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """The mean and deviation of a tensor's values."""
    leaf = name.split(".")[-1]
    if leaf in {"enc_q", "dec_q", "layer_scale", "factorized_prior_vec"}:
        return 1, 0.1
    if name.endswith("embedding.weight"):
        return 0, 1
    if leaf.endswith("bias"):
        return 0, 0.02
    if not leaf.endswith("weight"):
        return 0, 0.2
    if len(shape) == 1:
        return 1, 0.1
    gain = 1.0
    if ".quantize_feat." in name:
        gain = 0.6
    elif name.endswith(("in_proj_weight", "to_qkv.weight")):
        gain = 2
    elif name.endswith(("attn.out_proj.weight", "attention_block.to_out.weight")):
        gain = 0.5
    elif name.endswith(("patch_embed.weight", "prior_fusion.ffn.3.weight")):
        gain = 4
    return 0, gain / math.sqrt(math.prod(shape[1:]))


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 values of a tensor, from its name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    offset, scale = offset_and_scale(name, shape)
    return torch.from_numpy((offset + scale * generator_of(seed).standard_normal(shape)).astype(np.float32))


def state_dict(shapes: Shapes) -> dict[str, Tensor]:
    """A checkpoint: what the codec uses is filled, the rest is there but empty of meaning."""
    ignored = published._IGNORED
    return {k: torch.zeros(s) if ignored.match(k) else filled(k, s) for k, s in shapes.items()}


def synthetic_picture(height: int, width: int, seed: int) -> Tensor:
    """Waves, rectangles and noise, 1 3 H W in [-1, 1]."""
    random = generator_of(seed)
    y, x = np.mgrid[:height, :width] / 256.0
    image = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(2):
            across, down, phase, amplitude = (random.uniform(*r) for r in ((-3, 3), (-3, 3), (0, 6.28), (0.15, 0.4)))
            image[..., channel] += amplitude * np.sin(2 * math.pi * (across * x + down * y) + phase)
    for _ in range(12):
        top, left = int(random.uniform(0, 0.9) * height), int(random.uniform(0, 0.9) * width)
        tall, wide = 1 + int(random.uniform(0.03, 0.35) * height), 1 + int(random.uniform(0.03, 0.35) * width)
        image[top : top + tall, left : left + wide] = random.uniform(-0.9, 0.9, 3)
    image += 0.04 * random.standard_normal(image.shape)
    pixels = np.round((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8).astype(np.float32)
    scaled = pixels / np.float32(255) * np.float32(2) - np.float32(1)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))[None]


# --- running the network ------------------------------------------------------------------------------------------


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def merged(x: Tensor, k: int) -> Tensor:
    """The quarter of B C H W that pass `k` codes, as B C/4 H W."""
    b, c, h, w = x.shape
    return torch.where(pass_masks(c, h, w)[k], x, 0).view(b, 4, c // 4, h, w).sum(1)


def run(model: DLF, x: Tensor) -> tuple[Reconstruction, dict[str, npt.NDArray[Any]]]:
    """Everything that the reference names, in its layout."""
    seen: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> None:
        hooks.append(module.register_forward_hook(lambda _, __, out: seen.__setitem__(name, out)))

    hooks: list[Any] = []
    watch("patch_embed", model.encoder.patch_embed)
    watch("pix_emb_proj", model.encoder.to_detail)
    watch("enc_feat_in", model.encoder.detail_in)
    watch("latent_ln_post", model.encoder.norm_out)
    watch("y", model.bottleneck.encode_out)
    watch("prior_params", model.bottleneck.prior.first)
    watch("prior_common", model.bottleneck.prior.reduce)
    watch("dec_token_embed", model.decoder.from_token)
    watch("dec_init_feat_up", model.decoder.detail_in)
    watch("fuse_titok_in", model.fusion.semantic_in)
    watch("fuse_feat_in", model.fusion.detail_in)
    watch("fuse_merge", model.fusion.blocks)
    with torch.inference_mode():
        out = model(x, torch.zeros(1))
        vectors = model.codebook.lookup(out.tokens)
    for hook in hooks:
        hook.remove()
    for name in ("pix_emb_proj", "enc_feat_in", "dec_init_feat_up"):
        seen[name] = channels_first(seen[name])
    q = out.quantised
    z = out.token_inputs.mT
    seen |= {"z": z[:, :, None], "z_conv_out": z[..., None], "z_indices": out.tokens[:, None]}
    seen |= {"z_quantized": vectors.mT[:, :, None], "h": out.detail, "h_hat": out.detail_hat}
    coded = q.scales >= SKIP_SCALE
    seen["y_q"], seen["scales_hat"] = q.symbols, torch.where(coded, q.scales, 0)
    seen["y_res"] = seen["y"] / q.step - (q.values - q.symbols)
    seen["y_hat_latent"] = q.values * q.step
    step = (math.log(MAX_SCALE) - math.log(MIN_SCALE)) / (SCALES - 1)
    index = ((q.scales.clamp(min=MIN_SCALE).log() - math.log(MIN_SCALE)) / step).floor().clamp(0, SCALES - 1)
    for k in range(4):
        seen[f"part{k}_symbols"], seen[f"part{k}_scales"] = merged(q.symbols, k), merged(seen["scales_hat"], k)
        seen[f"part{k}_cdf_index"] = merged(torch.where(coded, index, -1), k)
    seen |= {"titok_hat": channels_first(out.semantic_map), "feat_hat": channels_first(out.detail_map)}
    seen |= {"logits": channels_first(out.logits), "latent": out.latent, "x_hat": out.image}
    return out, {name: value.numpy() for name, value in seen.items()}


def difference(ours: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Root mean square of the difference, per standard deviation of what is expected."""
    wide = expected.astype(np.float64)
    return float(np.sqrt(np.mean((ours - wide) ** 2)) / wide.std())


def assert_equal(name: str, ours: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert ours.shape == expected.shape, name
    if expected.dtype.kind in "iu":
        assert np.array_equal(ours, expected), f"{name}: {np.count_nonzero(ours != expected)} values differ"
        return
    tolerance = FLOAT_TOLERANCE
    if name == "x_hat":
        tolerance = HALF_IMAGE_TOLERANCE if expected.dtype == np.float16 else IMAGE_TOLERANCE
    assert difference(ours, expected) <= tolerance, f"{name}: {difference(ours, expected):.2g}"


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of a checkpoint's tensors, from a list or from the complete set's description."""
    if path.suffix == ".json":
        return {k: tuple(v["shape"]) for k, v in json.loads(path.read_text())["state_dict"].items()}
    lines = [line.split() for line in path.read_text().splitlines()]
    return {name: () if shape == "-" else tuple(map(int, shape.split("x"))) for name, shape in lines}


# --- names --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini_config() -> DLFConfig:
    return published.read_config(json.loads((HERE / "mini_config.json").read_text()))


@pytest.fixture(scope="module")
def mini_shapes() -> Shapes:
    return read_shapes(HERE / "mini_tensors.txt")


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_filling_rule_gives_the_published_check_value() -> None:
    assert filled("hybrid_codec.latent_tokens", (32, 1024))[0, :4].tolist() == pytest.approx(
        [0.24005412, -0.02252433, -0.47830668, 0.34306458], abs=1e-8
    )


def test_the_picture_rule_gives_the_published_picture() -> None:
    digest = hashlib.sha256(synthetic_picture(256, 256, 8).numpy().tobytes()).hexdigest()
    assert digest == "f002d716e8b4d546cd63cf595d30f04278a2c69f4aabead51f37852f61975e01"


def test_a_published_configuration_becomes_ours(mini_config: DLFConfig) -> None:
    expected = replace(PAPER, width=512, heads=8, encoder_layers=8, decoder_layers=8, detail_dim=128, latent_dim=16)
    expected = replace(expected, encoder_exchange=(1, 3, 5, 7), decoder_exchange=(1, 3, 5, 7), generator_channels=32)
    assert mini_config == replace(expected, mixture_size=64, mixture_dim=64)


@pytest.mark.parametrize("change", [{"feat_dim": None}, {"config": {}}, {"vqganconfig": 3}, {"in_pos_enc": 3}])
def test_a_configuration_of_an_unknown_kind_is_a_model_error(change: dict[str, object]) -> None:
    fields = {**json.loads((HERE / "mini_config.json").read_text()), **change}
    with pytest.raises(ModelError, match="not a published configuration"):
        published.read_config({k: v for k, v in fields.items() if v is not None})


def test_every_tensor_of_a_checkpoint_is_used_once_or_known_to_be_needless(
    mini_config: DLFConfig, mini_shapes: Shapes
) -> None:
    with torch.device("meta"):
        sources = published.published_names(DLF(mini_config)).values()
    used = [name for names in sources for name in names]
    assert len(used) == len(set(used))
    needless = set(mini_shapes) - set(used)
    assert set(used) <= set(mini_shapes)
    assert all(published._IGNORED.match(name) for name in needless)
    assert not any(published._IGNORED.match(name) for name in used)
    assert sum(math.prod(mini_shapes[name]) for name in used) == 130_295_485


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("add", "unknown tensor 'hybrid_codec.encoder.surprise'"),
        ("drop", "lacks tensor 'prior_fusion.ffn.1.bias'"),
        ("reshape", "'prior_fusion.ffn.1.bias' has shape"),
    ],
)
def test_a_tensor_that_is_unknown_missing_or_misshapen_is_named(
    mini_config: DLFConfig, mini_shapes: Shapes, change: str, complaint: str
) -> None:
    state, name = on_meta(mini_shapes), "prior_fusion.ffn.1.bias"
    if change == "add":
        state["hybrid_codec.encoder.surprise"] = torch.empty(1, device="meta")
    elif change == "drop":
        del state[name]
    else:
        state[name] = torch.empty(7, device="meta")
    with pytest.raises(ModelError, match=complaint):
        published.load(state, mini_config)


def test_losses_and_training_state_are_left_out(mini_config: DLFConfig, mini_shapes: Shapes) -> None:
    extra = {
        name: torch.empty(1, device="meta") for name in ("img_loss.discriminator.main.0.weight", "vqgan.loss.logvar")
    }
    assert isinstance(published.load({**on_meta(mini_shapes), **extra}, mini_config), DLF)


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini(mini_config: DLFConfig, mini_shapes: Shapes) -> DLF:
    return published.load(state_dict(mini_shapes), mini_config)


def test_the_network_computes_what_the_reference_computes(mini: DLF) -> None:
    """A sample of every intermediate tensor, all symbols, and the estimated bits."""
    expected: Arrays = np.load(HERE / "mini_256x256.npz")
    out, ours = run(mini, synthetic_picture(256, 256, 8))
    for name, given in ours.items():
        flat = thinned(given, "last axis [::4]" if name in ("fuse_titok_in", "fuse_merge") else "").reshape(-1)
        step = 1 if expected[name].dtype.kind in "iu" else max(1, flat.size // 1000) | 1
        assert_equal(name, flat[::step], expected[name])
    assert set(ours) == {name for name in expected if expected[name].ndim}
    assert float(out.quantised.bits.sum()) == pytest.approx(float(expected["bits"]), rel=1e-4)
    integers_agree(mini, ours)
    assert stream_bytes(ours) <= 1.01 * int(expected["h_bit_stream_bytes"])


def integers_agree(model: DLF, ours: Arrays) -> None:
    """The integer prior finds the symbols that the float prior of the reference finds."""
    latent = torch.from_numpy(ours["y"])[0]
    prior = IntegerPrior(to_integers(model.bottleneck.prior), torch.device("cpu"))
    size = (latent.shape[1], latent.shape[2])
    passes = FourPasses(prior, torch.from_numpy(scale_thresholds(ONE)), 0, size, size)
    same_symbols, same_tables = [], []
    for k, indices in enumerate(passes):
        coded = passes._coded.numpy()
        symbols, tables = np.zeros(coded.shape), np.full(coded.shape, -1)
        given = passes.residuals(latent)
        symbols[coded], tables[coded] = given, indices
        same_symbols.append(symbols == ours[f"part{k}_symbols"][0])
        same_tables.append(tables == ours[f"part{k}_cdf_index"][0])
        passes.accept(given)
    assert np.mean(same_symbols) > 0.999
    assert np.mean(same_tables) > 0.9  # a scale at the edge of its level may round to the next
    assert np.quantile(np.abs(passes.latent().numpy() - ours["y_hat_latent"]), 0.99) < 0.01


def stream_bytes(ours: Arrays) -> int:
    """What our coder makes of the reference's symbols with Gaussian tables."""
    tables, encoder = detail_tables(), Encoder()
    for k in range(4):
        index = ours[f"part{k}_cdf_index"].astype(np.int32).reshape(-1)
        symbols = ours[f"part{k}_symbols"].astype(np.int32).reshape(-1)
        encoder.put(symbols[index >= 0], index[index >= 0], Tables(tables.cdf, tables.lengths, tables.offsets))
    return len(encoder.finish())


complete_set = pytest.mark.skipif(not COMPLETE, reason="DLFC_REFERENCE_DIR does not name the complete reference data")


@complete_set
@pytest.mark.parametrize(("height", "width"), [(256, 256), (512, 768)])
def test_the_network_computes_all_that_the_reference_computes(mini: DLF, height: int, width: int) -> None:
    folder = Path(COMPLETE) / "golden_mini"
    expected: Arrays = np.load(folder / f"golden_{height}x{width}.npz")
    about = json.loads((folder / "meta.json").read_text())["sizes"][f"{height}x{width}"]
    x = synthetic_picture(height, width, 8)
    assert hashlib.sha256(x.numpy().tobytes()).hexdigest() == about["input_sha256_f32"]
    out, ours = run(mini, x)
    for name, given in ours.items():
        assert_equal(name, thinned(given, about["subsampled"].get(name, "")), expected[name])
    assert float(out.quantised.bits.sum()) == pytest.approx(about["bits_estimate"], rel=1e-4)
    assert stream_bytes(ours) <= 1.01 * about["h_stream_bytes"]


def thinned(x: npt.NDArray[Any], how: str) -> npt.NDArray[Any]:
    """Every n-th channel, where the complete set holds only those."""
    if not how:
        return x
    every = int(how.split("::")[1].split("]")[0])
    return x[:, ::every] if how.startswith("channels") else x[..., ::every]


@complete_set
@pytest.mark.slow
def test_the_network_of_the_published_size_computes_what_the_reference_computes() -> None:
    folder = Path(COMPLETE)
    config = published.read_config(json.loads((folder / "config_paper.json").read_text()))
    assert config == PAPER
    model = published.load(state_dict(read_shapes(folder / "state_dict_paper.json")), config)
    about = json.loads((folder / "golden_paper" / "meta.json").read_text())["sizes"]["256x256"]
    expected: Arrays = np.load(folder / "golden_paper" / "golden_256x256.npz")
    out, ours = run(model, synthetic_picture(256, 256, 2))
    for name, given in ours.items():
        if name in expected:
            assert_equal(name, given, expected[name])
        first = np.array(about["tensors"][name]["first64"])
        assert list(given.shape) == about["tensors"][name]["shape"], name
        if expected.get(name, np.empty(0, np.float32)).dtype.kind == "f":
            limit = IMAGE_TOLERANCE if name == "x_hat" else FLOAT_TOLERANCE
            deviation = about["tensors"][name]["std"]
            assert np.sqrt(np.mean((given.reshape(-1)[:64] - first) ** 2)) <= 3 * limit * deviation, name
            assert given.std(dtype=np.float64, ddof=1) == pytest.approx(deviation, rel=1e-4), name
    assert float(out.quantised.bits.sum()) == pytest.approx(about["bits_estimate"], rel=1e-4)
    integers_agree(model, ours)
