"""Pictures that go through the network together: the same files and the same symbols as one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import TINY, install, photo
from PIL import Image

from dlfc import tiling
from dlfc.codec import Codec
from dlfc.entropy.prior import FourPasses
from dlfc.errors import FormatError, LimitError
from dlfc.formats import unpack
from dlfc.model.dlf import DLF
from dlfc.timing import collected

PHOTO = Path(__file__).parent / "data" / "photo.png"
SIZES = [(60, 50), (64, 64), (130, 70), (1, 1), (64, 40), (129, 65), (33, 64), (100, 200)]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny")
    return Codec.load("tiny", device="cpu", models_dir=folder)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [photo(*size, seed=seed) for seed, size in enumerate(SIZES)]


def test_many_pictures_become_the_files_of_each(codec: Codec, pictures: list[Image.Image]) -> None:
    assert codec.encode_many(pictures, quality=70) == [codec.encode(picture, quality=70) for picture in pictures]
    assert codec.encode_many([]) == []


def test_many_files_become_the_pictures_of_each(codec: Codec, pictures: list[Image.Image]) -> None:
    files = [codec.encode(picture, quality=10 * at) for at, picture in enumerate(pictures)]
    for together, data in zip(codec.decode_many(files), files, strict=True):
        alone = codec.decode(data)
        assert together.size == alone.size
        assert np.abs(np.asarray(together).astype(int) - np.asarray(alone)).max() <= 1
    assert codec.decode_many([]) == []


def test_symbols_read_together_are_those_read_alone_at_any_quality(codec: Codec) -> None:
    sizes = [(60, 50), (64, 64), (33, 40)]
    files = [unpack(codec.encode(photo(*size, seed=at), quality=30 * at)) for at, size in enumerate(sizes)]
    tokens, latents = codec.symbols.read(*files)
    for at, file in enumerate(files):
        mine, latent = codec.symbols.read(file)
        assert torch.equal(tokens[at : at + 1], mine)
        assert torch.equal(latents[at : at + 1], latent)


def test_a_target_holds_for_each_of_many_pictures(codec: Codec, pictures: list[Image.Image]) -> None:
    for data, picture in zip(codec.encode_many(pictures[:3], target_bpp=0.9), pictures, strict=False):
        assert 8 * len(data) <= 0.9 * picture.width * picture.height
        assert codec.encode(picture, target_bpp=0.9) == data


def test_whole_and_cut_files_can_be_decoded_together(codec: Codec) -> None:
    whole = codec.encode(photo(60, 50), quality=90)
    cut = whole[:-9]
    images = codec.decode_many([whole, cut, whole], allow_partial=True)
    for image, data in zip(images, (whole, cut, whole), strict=True):
        alone = np.asarray(codec.decode(data, allow_partial=True)).astype(int)
        assert np.abs(np.asarray(image) - alone).max() <= 1


def test_the_time_of_network_and_coder_is_told_apart(codec: Codec) -> None:
    with collected() as writing:
        data = codec.encode(photo(60, 50), target_size=300)
    with collected() as reading:
        codec.decode(data)
    assert set(writing) == set(reading) == {"network", "coder"}
    assert min(*writing.values(), *reading.values()) > 0


def test_one_damaged_file_is_the_error_of_all(codec: Codec) -> None:
    whole = codec.encode(photo(60, 50), quality=90)
    damaged = bytearray(whole)
    damaged[-3] ^= 16
    with pytest.raises(FormatError):
        codec.decode_many([whole, bytes(damaged)])
    with pytest.raises(LimitError):
        codec.encode_many([photo(9, 9), photo(40, 40)], max_pixels=1000)


def test_pictures_of_one_padded_size_share_the_network_up_to_a_limit(
    codec: Codec, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    original = DLF.analyse_tokens

    def watched(self: DLF, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append(tuple(x.shape))
        return original(self, x)

    monkeypatch.setattr(DLF, "analyse_tokens", watched)
    monkeypatch.setattr(tiling, "_TOGETHER_PX", 4 * 64 * 64)
    codec.encode_many(pictures)
    assert sorted(shapes) == sorted(
        [(4, 3, 64, 64), (1, 3, 64, 64), (1, 3, 128, 192), (1, 3, 128, 192), (1, 3, 256, 128)]
    )
    assert codec.tiling.together(64, 64) == codec.tiling.together(3, 5) == 4
    assert codec.tiling.together(65, 64) == 2
    assert codec.tiling.together(1000, 1000) == 1
    assert codec.tiling.padded_size(65, 64) == (128, 64)


def test_passes_side_by_side_are_the_passes_of_each(codec: Codec) -> None:
    def passes() -> list[FourPasses]:
        return [codec.symbols.passes(10 * at, *size) for at, size in enumerate([(60, 50), (64, 64), (1, 1)])]

    latents = torch.randn(3, TINY.latent_dim, 2, 2, generator=torch.Generator().manual_seed(1)) * 5
    alone, together = passes(), FourPasses.side_by_side(passes())
    for flat, *parts in zip(together, *alone, strict=True):
        assert together.counts == [len(part) for part in parts]
        assert np.array_equal(flat, np.concatenate(parts))
        symbols = together.residuals(latents.movedim(1, 0))
        assert np.array_equal(
            symbols, np.concatenate([one.residuals(latent) for one, latent in zip(alone, latents, strict=True)])
        )
        together.accept(symbols)
        for one, mine in zip(alone, np.split(symbols, np.cumsum(together.counts)[:-1]), strict=True):
            one.accept(mine)
    assert torch.equal(together.latent(), torch.cat([one.latent() for one in alone]))


def test_the_default_model_reads_the_same_symbols_together(default_codec: Codec) -> None:
    with Image.open(PHOTO) as source:
        parts = [source.convert("RGB").crop((at, at, at + 256, at + 200 + at)) for at in (0, 40)]
    files = default_codec.encode_many(parts, quality=30)
    together = default_codec.symbols.read(*map(unpack, files))
    alone = [default_codec.symbols.read(unpack(data)) for data in files]
    assert torch.equal(together[0], torch.cat([tokens for tokens, _ in alone]))
    assert torch.equal(together[1], torch.cat([latent for _, latent in alone]))


@pytest.fixture(scope="module")
def default_codec() -> Codec:
    return Codec.load(device="cpu")
