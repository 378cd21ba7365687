"""The codec: pictures of every size to real .dlf bytes and back, and every file that it must refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import TINY, install, photo
from PIL import Image

import dlfc
from dlfc import api
from dlfc.codec import Codec
from dlfc.entropy.coder import Encoder, Tables
from dlfc.entropy.sections import CutStream
from dlfc.errors import FormatError, LimitError, ModelError
from dlfc.formats import Container, Extra, pack, unpack
from dlfc.zoo.registry import MODELS_DIR_VARIABLE

SIZES = [(1, 1), (1, 700), (700, 1), (31, 33), (64, 64), (256, 256), (300, 200)]
PHOTO = Path(__file__).parent / "data" / "photo.png"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny", seed=0)
    install(folder, "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def codec(models_dir: Path) -> Codec:
    return Codec.load("tiny", device="cpu", models_dir=models_dir)


@pytest.fixture(scope="module")
def default_codec() -> Codec:
    return Codec.load(device="cpu")


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


# --- round trips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("quality", [0, 50, 100])
def test_a_picture_comes_back_in_its_size(codec: Codec, size: tuple[int, int], quality: float) -> None:
    data = codec.encode(photo(*size), quality=quality)
    image = codec.decode(data)
    assert image.mode == "RGB"
    assert image.size == size
    fields = unpack(data)
    assert (fields.width_px, fields.height_px, fields.quality) == (*size, quality)
    assert fields.model_id == codec.model_id


@pytest.mark.parametrize("size", [*SIZES, (768, 512)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_what_is_not_payload_takes_at_most_20_bytes(codec: Codec, size: tuple[int, int]) -> None:
    data = codec.encode(photo(*size))
    assert len(data) - len(unpack(data).semantic) - len(unpack(data).detail) <= 20


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The symbols of every call of the entropy coder: tokens, then four passes."""
    parts: list[np.ndarray] = []
    original = Encoder.put

    def put(self: Encoder, symbols: np.ndarray, indices: np.ndarray, tables: Tables) -> None:
        parts.append(symbols)
        original(self, symbols, indices, tables)

    monkeypatch.setattr(Encoder, "put", put)
    return parts


def test_the_decoder_reads_the_symbols_that_the_encoder_wrote(codec: Codec, written: list[np.ndarray]) -> None:
    data = codec.encode(photo(150, 70), quality=25)
    assert len(written) == 5
    tokens, latent = codec.symbols.read(unpack(data))
    assert np.array_equal(tokens.numpy().reshape(-1), written[0])
    assert tokens.shape == (6, TINY.tokens_per_tile)
    assert latent.shape == (1, TINY.latent_dim, 4, 6)
    assert len(np.unique(written[0])) > 4
    assert np.abs(np.concatenate(written[1:])).max() > 2  # the tiny model codes something


def test_the_same_picture_gives_the_same_bytes_and_the_same_bytes_the_same_picture(codec: Codec) -> None:
    data = codec.encode(photo(100, 90), quality=70)
    assert codec.encode(photo(100, 90), quality=70) == data
    assert np.array_equal(pixels(codec.decode(data)), pixels(codec.decode(data)))


def test_another_picture_or_quality_gives_other_bytes(codec: Codec) -> None:
    data = codec.encode(photo(100, 90), quality=70)
    assert codec.encode(photo(100, 90, seed=1), quality=70) != data
    assert unpack(codec.encode(photo(100, 90), quality=71)).detail != unpack(data).detail


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_a_picture_of_any_mode_is_taken_as_rgb(codec: Codec, mode: str) -> None:
    image = photo(40, 30).convert("L").convert(mode) if mode in ("I;16", "F") else photo(40, 30).convert(mode)
    assert codec.encode(image) == codec.encode(image.convert("RGB"))


def test_quality_counts_in_half_steps(codec: Codec) -> None:
    assert codec.encode(photo(40, 30), quality=33.3) == codec.encode(photo(40, 30), quality=33.5)
    assert unpack(codec.encode(photo(40, 30), quality=33.3)).quality == 33.5


@pytest.mark.parametrize("quality", [-0.5, 100.5, float("nan"), float("inf")])
def test_a_quality_out_of_range_is_a_value_error(codec: Codec, quality: float) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        codec.encode(photo(4, 4), quality=quality)


def test_cells_that_lie_wholly_in_padding_cost_nothing(codec: Codec, written: list[np.ndarray]) -> None:
    codec.encode(photo(65, 33))
    assert 0 < sum(part.size for part in written[1:]) <= 3 * 2 * TINY.latent_dim  # of 4x2 cells, a column is outside
    written.clear()
    codec.encode(photo(1, 1))
    assert 0 < sum(part.size for part in written[1:]) <= TINY.latent_dim


def test_threads_that_share_a_codec_agree(codec: Codec) -> None:
    pictures = [photo(90 + i, 70 + 9 * i, seed=i) for i in range(6)]

    def both(image: Image.Image) -> tuple[bytes, bytes]:
        data = codec.encode(image)
        return data, codec.decode(data).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(both, pictures * 3)) == [both(image) for image in pictures] * 3


# --- files that are refused ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(codec: Codec) -> bytes:
    return codec.encode(photo(130, 100), quality=60)


def test_a_symbol_check_that_does_not_fit_is_refused(codec: Codec, file: bytes) -> None:
    fields = unpack(file)
    wrong = pack(replace(fields, symbol_check=fields.symbol_check ^ 0x0100))
    with pytest.raises(FormatError, match="symbols do not match"):
        codec.decode(wrong)


@pytest.mark.parametrize("section", ["semantic", "detail"])
def test_a_damaged_section_is_refused_even_where_the_file_check_fits(codec: Codec, file: bytes, section: str) -> None:
    fields = unpack(file)
    payload = getattr(fields, section)
    for at in range(0, 8 * len(payload), 29):
        damaged = bytearray(payload)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(FormatError):
            codec.decode(pack(replace(fields, **{section: bytes(damaged)})))


@pytest.mark.parametrize("section", ["semantic", "detail"])
@pytest.mark.parametrize("change", [lambda s: s + b"\1", lambda s: s + b"\0", lambda s: s[:-1], lambda s: b""])
def test_a_section_longer_or_shorter_than_its_symbols_is_refused(
    codec: Codec, file: bytes, section: str, change: Callable[[bytes], bytes]
) -> None:
    fields = unpack(file)
    with pytest.raises(FormatError):
        codec.decode(pack(replace(fields, **{section: change(getattr(fields, section))})))


@pytest.mark.parametrize("change", [{"width_px": 131}, {"height_px": 300}, {"quality": 60.5}])
def test_a_header_that_asks_for_other_symbols_is_refused(codec: Codec, change: dict[str, Any]) -> None:
    fields = unpack(codec.encode(photo(128, 100), quality=60))
    with pytest.raises(FormatError):
        codec.decode(pack(replace(fields, **change)))


def test_a_token_outside_the_codebook_is_refused(codec: Codec) -> None:
    for token in (TINY.codebook_size, -1, 2**31 - 1):
        semantic = Encoder()
        tokens = np.full(TINY.tokens_per_tile, token, np.int32)
        semantic.put(tokens, np.zeros_like(tokens), codec.model.tokens.tables)
        with pytest.raises(FormatError, match="codebook"):
            codec.decode(pack(Container(codec.model_id, 9, 9, 50.0, 0, semantic.finish(), b"")))


def test_a_file_of_another_model_is_refused_and_the_model_named(codec: Codec, models_dir: Path, file: bytes) -> None:
    other = Codec.load("other", device="cpu", models_dir=models_dir)
    with pytest.raises(ModelError, match=rf"{codec.model_id.hex()}.*'other' \({other.model_id.hex()}\)"):
        other.decode(file)


def test_two_models_whose_ids_collide_are_told_apart_by_the_symbol_check(
    codec: Codec, models_dir: Path, file: bytes
) -> None:
    other = Codec.load("other", device="cpu", models_dir=models_dir)
    with pytest.raises(FormatError):
        other.decode(pack(replace(unpack(file), model_id=other.model_id)))


@pytest.mark.parametrize("size", [(2**20, 2**20), (2**14, 2**14 + 1)])
def test_a_picture_above_the_limit_is_refused_before_anything_is_read(codec: Codec, size: tuple[int, int]) -> None:
    with pytest.raises(LimitError):
        codec.decode(pack(Container(codec.model_id, *size, 50.0, 0, b"", b"")))


def test_the_limit_can_be_lowered(codec: Codec, file: bytes) -> None:
    assert codec.decode(file, max_pixels=13000).size == (130, 100)
    with pytest.raises(LimitError):
        codec.decode(file, max_pixels=12999)


def test_a_picture_larger_than_the_limit_is_not_encoded(codec: Codec) -> None:
    assert codec.encode(photo(40, 30), max_pixels=1200)
    with pytest.raises(LimitError, match="40x30"):
        codec.encode(photo(40, 30), max_pixels=1199)
    with pytest.raises(LimitError, match="16384x8193"):
        codec.encode(Image.new("1", (1 << 14, (1 << 13) + 1)))


@pytest.mark.parametrize("data", [b"", b"\xdf", b"\xdf\x1c\x01", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_bytes_that_are_no_dlf_file_are_refused(codec: Codec, data: bytes) -> None:
    for allow_partial in (False, True):
        with pytest.raises(FormatError):
            codec.decode(data, allow_partial=allow_partial)


def test_optional_sections_do_not_change_the_picture(codec: Codec, file: bytes) -> None:
    more = pack(replace(unpack(file), extras=(Extra(0x02, b"exif"),)))
    assert codec.decode(more).tobytes() == codec.decode(file).tobytes()


# --- files that were cut ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(file: bytes) -> tuple[int, int]:
    """Where the semantic section and the detail section of `file` end."""
    fields = unpack(file)
    return file.index(fields.semantic) + len(fields.semantic), len(file)


def test_a_cut_file_is_refused_unless_partial_pictures_are_allowed(
    codec: Codec, file: bytes, ends: tuple[int, int]
) -> None:
    for end in (ends[0], (ends[0] + ends[1]) // 2, ends[1] - 1):
        with pytest.raises(FormatError, match="cut short"):
            codec.decode(file[:end])


def test_a_file_cut_anywhere_after_its_tokens_gives_a_picture(codec: Codec, file: bytes, ends: tuple[int, int]) -> None:
    whole = pixels(codec.decode(file))
    for end in [*range(ends[0], ends[1], 17), ends[1] - 2, ends[1] - 1]:
        image = codec.decode(file[:end], allow_partial=True)
        assert image.size == (130, 100)
        if end < ends[1] - 1:  # the last byte alone may hold nothing but what the symbols before it are followed by
            assert not np.array_equal(pixels(image), whole)


def test_a_file_cut_within_its_tokens_gives_no_picture(codec: Codec, file: bytes, ends: tuple[int, int]) -> None:
    for end in range(1, ends[0], 5):
        with pytest.raises(FormatError):
            codec.decode(file[:end], allow_partial=True)


def test_what_a_cut_stream_still_holds_is_read_and_the_rest_is_zero(
    codec: Codec, file: bytes, ends: tuple[int, int]
) -> None:
    def symbols(data: bytes) -> list[int]:
        read: list[int] = []
        fields = unpack(data, allow_partial=True)
        passes = codec.symbols.passes(fields.quality, fields.width_px, fields.height_px)
        reader = CutStream(fields.detail, codec.model.detail_tables)
        for indices in passes:
            part = reader.get(indices)
            passes.accept(part)
            read += part.tolist()
        return read

    whole = symbols(file)
    kept = []
    for end in (ends[0] + 1, (ends[0] + ends[1]) // 2, ends[1] - 2):
        part = symbols(file[:end])
        same = next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), len(part))
        kept.append(same)
        rest = part[same:]
        assert not any(rest)
    assert kept == sorted(kept)
    assert kept[0] < 64
    assert kept[1] > 0.25 * len(whole)
    assert kept[2] > 0.75 * len(whole)


def test_a_whole_file_gives_the_same_picture_with_partial_pictures_allowed(codec: Codec, file: bytes) -> None:
    assert codec.decode(file, allow_partial=True).tobytes() == codec.decode(file).tobytes()


# --- loading and the functions of the package ---------------------------------------------------------------------


def test_a_model_is_loaded_by_name_by_path_and_by_the_id_in_a_file(models_dir: Path, codec: Codec, file: bytes) -> None:
    for model in ("tiny", str(models_dir / "tiny.safetensors"), unpack(file).model_id):
        loaded = Codec.load(model, device="cpu", models_dir=models_dir)
        assert (loaded.name, loaded.fingerprint, loaded.model_id) == ("tiny", codec.fingerprint, codec.model_id)
        assert len(loaded.fingerprint) == 32
        assert loaded.fingerprint[:4] == loaded.model_id


def test_coding_does_not_load_the_compiler_of_torch(models_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from PIL import Image; from dlfc.codec import Codec;"
        "codec = Codec.load('tiny', device='cpu', models_dir=Path(sys.argv[1]));"
        "codec.decode(codec.encode(Image.new('RGB', (70, 50)))); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(models_dir)], check=False).returncode == 0


def test_an_unknown_device_is_a_model_error(models_dir: Path) -> None:
    with pytest.raises(ModelError, match="no device 'tpu'"):
        Codec.load("tiny", device="tpu", models_dir=models_dir)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_a_model_error(models_dir: Path) -> None:
    with pytest.raises(ModelError, match="CUDA"):
        Codec.load("tiny", device="cuda", models_dir=models_dir)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reads_the_symbols_that_a_cpu_wrote(models_dir: Path, codec: Codec, file: bytes) -> None:
    gpu = Codec.load("tiny", device="cuda", models_dir=models_dir)
    for ours, theirs in zip(codec.symbols.read(unpack(file)), gpu.symbols.read(unpack(file)), strict=True):
        assert torch.equal(ours, theirs.cpu())
    assert codec.decode(gpu.encode(photo(130, 100))).size == (130, 100)


@pytest.fixture
def shared_models(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the functions of the package find the tiny models."""
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(models_dir))
    api._codec.cache_clear()
    yield
    api._codec.cache_clear()


@pytest.mark.usefixtures("shared_models")
def test_encode_and_decode_of_the_package_find_the_model_that_a_file_names() -> None:
    for model in ("tiny", "other"):
        data = dlfc.encode(photo(50, 40), quality=80, model=model, device="cpu")
        assert dlfc.decode(data, device="cpu").size == (50, 40)
        assert dlfc.decode(data[:-1], device="cpu", allow_partial=True).size == (50, 40)


@pytest.mark.usefixtures("shared_models")
def test_decode_of_the_package_says_which_model_is_missing() -> None:
    data = pack(replace(unpack(dlfc.encode(photo(9, 9), model="tiny", device="cpu")), model_id=b"none"))
    with pytest.raises(ModelError, match=b"none".hex()):
        dlfc.decode(data, device="cpu")


# --- the default model --------------------------------------------------------------------------------------------


def test_the_default_model_codes_a_photograph_smaller_the_lower_the_quality(default_codec: Codec) -> None:
    with Image.open(PHOTO) as image:
        picture = image.convert("RGB").crop((0, 0, 400, 300))
    files = [default_codec.encode(picture, quality=quality) for quality in (0, 25, 50, 75, 100)]
    sizes = [len(data) for data in files]
    assert sizes == sorted(set(sizes))
    assert 8 * sizes[0] / (400 * 300) < 0.05
    errors = [np.square(pixels(default_codec.decode(data)) - pixels(picture)).mean() for data in (files[0], files[-1])]
    assert errors[1] < errors[0] < 1500  # a flat picture of the mean colour has 2735
    assert unpack(files[0]).overhead_bytes <= 20


def test_the_default_model_fits_its_size_limit(default_codec: Codec) -> None:
    assert default_codec.model.entry.weights.stat().st_size <= 40_000_000
    assert default_codec.model.network.config.levels >= 3
