"""Efforts above 1: other symbols for the same decoder, nearer to the photo for their size, within what is asked for."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FakeCodec, Finished
from networks import PUBLISHED_TINY, install, make_network, photo
from PIL import Image
from torch import Tensor

import dlfc
import dlfc.pillow
from dlfc import api, likeness, refine
from dlfc.cli.codecs import Codecs
from dlfc.codec import Codec
from dlfc.entropy.prior import IntegerPrior, to_integers
from dlfc.errors import ModelError
from dlfc.formats import unpack
from dlfc.likeness import Likeness
from dlfc.model.dlf import as_floats
from dlfc.model.linear import can_pack
from dlfc.zoo.registry import MODELS_DIR_VARIABLE


@pytest.fixture(autouse=True)
def _squares_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network of random weights nothing gains texture that does not cost squared error."""
    monkeypatch.setattr(likeness, "_TEXTURE", 0.75)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny")
    install(folder, "published", PUBLISHED_TINY)
    return folder


@pytest.fixture(scope="module")
def codec(models: Path) -> Codec:
    return Codec.load("tiny", device="cpu", models_dir=models)


def pixels(image: Image.Image) -> Tensor:
    return as_floats(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])


def cost(codec: Codec, image: Image.Image, data: bytes) -> float:
    """What refining makes smaller, measured from outside."""
    distance = float(Likeness(pixels(image)).log_distances(pixels(codec.decode(data)))[0])
    return distance + refine._TRADE * math.log(len(data))


def test_effort_1_is_the_plain_file(codec: Codec) -> None:
    image = photo(70, 50)
    assert codec.encode(image, effort=1) == codec.encode(image)


def test_more_effort_makes_more_of_the_size(codec: Codec) -> None:
    image = photo(128, 60)
    files = [codec.encode(image, quality=90, effort=effort) for effort in (1, 5, 8)]
    costs = [cost(codec, image, data) for data in files]
    assert costs[1] < costs[0]
    assert costs[2] < costs[0] - 0.02
    assert [unpack(data).quality for data in files] == [90, 90, 90]


def test_refining_twice_gives_the_same_file(codec: Codec) -> None:
    image = photo(70, 50)
    assert codec.encode(image, effort=3) == codec.encode(image, effort=3)


def test_large_pictures_are_refined_in_parts(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    image, sizes = photo(190, 120), []
    original = Likeness.__init__

    def watched(self: Likeness, x: Tensor) -> None:
        sizes.append(tuple(x.shape[2:]))
        original(self, x)

    monkeypatch.setattr(Likeness, "__init__", watched)
    monkeypatch.setattr(refine, "_REGION_VALUES", 4 * 64**2 / 2)  # four tiles of 64 pixels
    data = codec.encode(image, quality=90, effort=5)
    assert sizes == [(128, 128), (128, 64)]
    monkeypatch.undo()
    assert cost(codec, image, data) < cost(codec, image, codec.encode(image, quality=90))


def test_a_batch_gives_the_files_of_its_pictures(codec: Codec) -> None:
    images = [photo(70, 50, seed) for seed in (1, 2)]
    assert codec.encode_many(images, effort=2) == [codec.encode(image, effort=2) for image in images]


@pytest.mark.parametrize("limit", [100, 150, 230])
def test_a_target_is_never_exceeded(codec: Codec, limit: int) -> None:
    assert len(codec.encode(photo(120, 60), target_size=limit, effort=3)) <= limit


def test_a_refined_file_above_the_target_is_not_taken(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(120, 60)
    plain = codec.encode(image, quality=50)
    monkeypatch.setattr("dlfc.codec.refine", lambda *arguments, **options: 60 * torch.randn_like(arguments[2].latent))
    assert len(codec.encode(image, quality=50, effort=2)) > len(plain)
    assert codec.encode(image, target_size=len(plain), effort=2) == codec.encode(image, target_size=len(plain))


@pytest.mark.parametrize("size", [(1, 1), (64, 3), (65, 64)])
def test_any_size_can_be_refined(codec: Codec, size: tuple[int, int]) -> None:
    assert codec.decode(codec.encode(photo(*size), effort=2)).size == size


def test_a_picture_of_one_colour_can_be_refined(codec: Codec) -> None:
    assert codec.decode(codec.encode(Image.new("RGB", (64, 64), "white"), effort=3)).size == (64, 64)


def test_a_network_as_published_can_refine(models: Path) -> None:
    codec = Codec.load("published", device="cpu", models_dir=models, precision="float32")
    image = photo(256, 256)
    assert cost(codec, image, codec.encode(image, effort=2)) <= cost(codec, image, codec.encode(image))


def test_the_prior_in_floats_is_the_one_that_was_rounded() -> None:
    network = make_network()
    exact = network.bottleneck.prior
    floats = IntegerPrior(to_integers(exact), torch.device("cpu")).as_floats(network.config)
    for mine, its in zip(floats.parameters(), exact.parameters(), strict=True):
        assert torch.allclose(mine, its, atol=2.0**-12)


@pytest.mark.parametrize("effort", [0, 10, -1, 2.5, "5", None])
def test_an_effort_that_means_nothing_is_a_value_error(codec: Codec, effort: object) -> None:
    with pytest.raises(ValueError, match="effort must be a whole number from 1 to 9"):
        codec.encode(photo(9, 9), effort=effort)  # type: ignore[arg-type]


def test_half_a_codec_cannot_refine(models: Path) -> None:
    codec = Codec.load("tiny", device="cpu", models_dir=models, purpose="encode")
    with pytest.raises(ValueError, match="both halves"):
        codec.encode(photo(9, 9), effort=2)


@pytest.mark.skipif(not can_pack(), reason="this processor cannot pack weights")
def test_packed_weights_cannot_be_refined_with(models: Path) -> None:
    codec = Codec.load("tiny", device="cpu", models_dir=models, precision="bfloat16")
    with pytest.raises(ModelError, match="precision float32"):
        codec.encode(photo(9, 9), effort=2)


def test_the_package_and_pillow_take_an_effort(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(models))
    api._codec.cache_clear()
    image = photo(128, 60)
    data = dlfc.encode(image, quality=90, effort=5, model="tiny", device="cpu")
    image.save(tmp_path / "photo.dlf", quality=90, effort=5, model="tiny", device="cpu")
    assert (tmp_path / "photo.dlf").read_bytes() == data != dlfc.encode(image, quality=90, model="tiny", device="cpu")
    api._codec.cache_clear()


def test_the_command_passes_the_effort_on(
    dlfc: Callable[..., Finished], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, loaded = [], []
    encode, load = FakeCodec.encode, FakeCodec.load

    def watched_encode(self: FakeCodec, *arguments: object, effort: int, **options: object) -> bytes:
        asked.append(effort)
        return encode(self, *arguments, **options)  # type: ignore[arg-type]

    def watched_load(cls: type[FakeCodec], *arguments: object, **options: object) -> object:
        loaded.append((options["purpose"], options["precision"]))
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeCodec, "encode", watched_encode)
    monkeypatch.setattr(FakeCodec, "load", classmethod(watched_load))
    assert dlfc("encode", "photo.png", "-o", "a.dlf").status == 0
    assert dlfc("encode", "photo.png", "-o", "b.dlf", "--effort", "9").status == 0
    assert (asked, loaded) == ([1, 9], [("encode", None), ("both", "float32")])


@pytest.mark.parametrize("effort", ["0", "10", "x", "", "1.5", "-3"])
def test_an_effort_that_means_nothing_is_a_usage_error(dlfc: Callable[..., Finished], photo: Path, effort: str) -> None:
    run = dlfc("encode", "photo.png", "--effort", effort)
    assert (run.status, run.err.count("\n")) == (2, 1)
    assert "is not a whole number from 1 to 9" in run.err


def test_other_machines_load_what_refining_needs() -> None:
    codecs = pickle.loads(pickle.dumps(Codecs("tiny", "cpu", "both", "float32")))
    assert (codecs._purpose, codecs._precision) == ("both", "float32")
