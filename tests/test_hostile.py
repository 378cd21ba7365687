"""Files that want more of the decoder than they are worth: refused before the work, and in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import real_command, run_process
from networks import TINY, install, photo
from PIL import Image

from dlfc.alpha import pack_plane, unpack_plane
from dlfc.cli.codecs import Codecs
from dlfc.cli.decode import _Decoding, _Read
from dlfc.codec import Codec
from dlfc.entropy.coder import Decoder, Encoder, Tables
from dlfc.entropy.sections import SymbolCheck
from dlfc.errors import FormatError, LimitError
from dlfc.formats import DEFAULT_MAX_PIXELS, Container, Extra, pack, unpack
from dlfc.image import OUTPUT_FORMATS, save_image
from dlfc.model.dlf import DLF, Codebook
from dlfc.symbols import Symbols

MUTATE = Path(__file__).parent / "fuzz" / "mutate.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny")
    return Codec.load("tiny", device="cpu", models_dir=folder)


@pytest.fixture(scope="module")
def small() -> Codec:
    return Codec.load(device="cpu", purpose="decode")


def blank(codec: Codec, width_px: int, height_px: int) -> Container:
    """A file of tokens that cost what tokens cost, and of detail symbols 0."""
    config = codec.model.network.config
    tiles, across = codec.tiling.tiles(width_px, height_px)
    tokens = np.arange(tiles * config.tokens_per_tile, dtype=np.int32) * 7 % config.codebook_size
    tokens = tokens.reshape(tiles, config.tokens_per_tile)
    semantic = codec.model.tokens.pack(tokens, across)
    detail, check = Encoder(), SymbolCheck(codec.fingerprint)
    check.add(tokens)
    passes = codec.symbols.passes(50.0, width_px, height_px, torch.from_numpy(tokens).long())
    for indices in passes:
        symbols = np.zeros_like(indices)
        detail.put(symbols, indices, codec.model.detail_tables)
        check.add(symbols)
        passes.accept(symbols)
    return Container(codec.model_id, width_px, height_px, 50.0, check.value, semantic, detail.finish())


# --- large pictures from nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("semantic", [b"", b"\x5a", bytes(range(1, 200)), b"\xfe" * 8_000])
def test_a_large_picture_from_next_to_nothing_is_refused_before_the_work(
    small: Codec, semantic: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the decoder set to work")

    monkeypatch.setattr(Symbols, "passes", never)
    monkeypatch.setattr(DLF, "reconstruct_bands", never)
    side = int(DEFAULT_MAX_PIXELS**0.5)
    file = Container(small.model_id, side, side, 50.0, 0, semantic, b"")
    with pytest.raises(FormatError, match="too short for a picture of this size"):
        small.decode(pack(file))
    with pytest.raises(FormatError, match="too short for a picture of this size"):
        small.decode(pack(file)[:-1], allow_partial=True)


def test_the_program_refuses_a_bomb_at_once(small: Codec, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.dlf"
    bomb.write_bytes(pack(Container(small.model_id, 8192, 8192, 50.0, 0, b"\x5a", b"")))
    assert bomb.stat().st_size < 20
    assert run_process(real_command("info", bomb)).returncode == 0
    begun = os.times().children_user
    run = run_process(real_command("decode", bomb))
    assert os.times().children_user - begun < 30
    assert run.returncode == 1
    assert run.stderr.decode().startswith(f"dlfc: {bomb}: the semantic section is too short")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.dlf"]


def test_a_strip_that_is_padded_to_many_times_its_pixels_is_refused(small: Codec) -> None:
    strip = pack(Container(small.model_id, 2**20, 1, 50.0, 0, b"\x5a" * 200_000, b""))
    with pytest.raises(LimitError, match="when padded to whole tiles"):
        small.decode(strip, max_pixels=2**26)
    with pytest.raises(LimitError, match="when padded to whole tiles"):
        small.decode(pack(Container(small.model_id, 9000, 1, 50.0, 0, b"", b"")), max_pixels=10_000)


def test_a_strip_that_a_reader_would_refuse_is_not_encoded(tiny: Codec) -> None:
    with pytest.raises(LimitError, match="when padded to whole tiles"):
        tiny.encode(photo(2**20, 1), max_pixels=2**24)
    with pytest.raises(LimitError, match="have a side over the limit"):
        tiny.encode(Image.new("RGB", (2**20 + 1, 1)))


def test_a_large_picture_whose_tokens_cost_nothing_is_encoded_so_that_it_can_be_read(
    tiny: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Codebook, "nearest", lambda self, z: z.new_zeros(z[..., 0].numel()).long())
    small_file = unpack(tiny.encode(photo(70, 70)))
    assert small_file.semantic == b""
    large_file = unpack(tiny.encode(photo(1100, 1000)))
    monkeypatch.undo()
    assert not tiny.symbols.read(small_file)[0].any()
    tokens = tiny.symbols.read(large_file)[0].reshape(-1)
    assert not tokens[:-1].any()
    assert tokens[-1] > 0
    with pytest.raises(FormatError, match="too short"):
        tiny.symbols.read(replace(large_file, semantic=b""))


def test_the_least_that_a_symbol_costs_is_known() -> None:
    def least_bits(*rows: list[int]) -> int:
        longest = max(map(len, rows))
        cdf = np.array([row + [0] * (longest - len(row)) for row in rows])
        return Tables(cdf, np.array([len(row) for row in rows]), np.zeros(len(rows), np.int32)).least_bits

    assert least_bits([0, 65536]) == 0
    assert least_bits([0, 32768, 65536]) == 1
    assert least_bits([0, 32769, 65536]) == 0
    assert least_bits([0, 1000, 2024, *range(3000, 65536, 1000), 65536]) == 6
    assert least_bits([0, 16384, 32768, 49152, 65536], [0, 1, 65536]) == 0
    assert least_bits(list(range(65537))) == 16


def test_a_copied_decoder_goes_on_for_itself() -> None:
    tables = Tables(np.array([[0, 20000, 40000, 65535, 65536]]), np.array([5]), np.array([0]))
    symbols = np.array([0, 2, 1, 900, 1, -5, 2, 2], np.int32)
    encoder = Encoder()
    encoder.put(symbols, np.zeros_like(symbols), tables)
    decoder = Decoder(encoder.finish())
    indices = np.zeros(4, np.int32)
    decoder.get(indices[:3], tables)
    copy = decoder.copy()
    assert copy.get(indices, tables).tolist() == decoder.get(indices, tables).tolist() == [900, 1, -5, 2]
    copy.get(indices[:1], tables)
    copy.finish()
    assert decoder.get(indices[:1], tables).tolist() == [2]


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_a_lack_of_memory_is_an_error_of_ours(tiny: Codec, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    data = tiny.encode(photo(70, 50))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(DLF, "reconstruct_bands", fail)
    monkeypatch.setattr(DLF, "analyse_tokens", fail)
    for call in (lambda: tiny.decode(data), lambda: tiny.encode(photo(70, 50))):
        with pytest.raises(LimitError, match="not enough memory for a picture of 70x50 pixels"):
            call()


def test_large_files_of_small_pictures_are_not_gathered_in_memory(tiny: Codec) -> None:
    data = tiny.encode(photo(70, 50), extras=(Extra(0x2A, bytes(1 << 20)),))
    decoding = _Decoding(Codecs(None, "cpu", "decode"), "PNG", allow_partial=False, max_pixels=DEFAULT_MAX_PIXELS)
    assert decoding.extent(_Read(data, unpack(data), tiny)).pixels > 1 << 20


def test_an_error_of_the_network_stays_what_it_is(tiny: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    data = tiny.encode(photo(70, 50))
    monkeypatch.setattr(DLF, "reconstruct_bands", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        tiny.decode(data)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux counts it")
def test_a_picture_too_large_for_memory_is_one_line_and_no_file(small: Codec, tmp_path: Path) -> None:
    (tmp_path / "large.dlf").write_bytes(pack(blank(small, 2304, 2048)))
    limited = ["sh", "-c", 'ulimit -d "$1"; shift; exec "$@"', "sh", "450000"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # stacks count as memory
    run = run_process([*limited, *real_command("decode", "large.dlf")], cwd=tmp_path, env=one_thread)
    assert (run.returncode, run.stdout) == (1, b"")
    assert run.stderr == b"dlfc: large.dlf: not enough memory for a picture of 2304x2048 pixels\n"
    assert [path.name for path in tmp_path.iterdir()] == ["large.dlf"]


# --- anything -----------------------------------------------------------------------------------------------------


def test_damaged_cut_and_forged_files_end_in_a_picture_or_one_line() -> None:
    command = [sys.executable, str(MUTATE), "--files", "60", "--first", "1000000"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "60 files in" in run.stdout
    assert "decode --allow-partial: part of a picture" in run.stdout


def test_symbols_that_no_picture_would_give_become_a_picture(tiny: Codec) -> None:
    for symbol in (2**31 - 1, -(2**31), 2**13):
        tokens = np.full(TINY.tokens_per_tile, TINY.codebook_size - 1, np.int32)
        semantic, detail, check = Encoder(), Encoder(), SymbolCheck(tiny.fingerprint)
        semantic.put(tokens, np.zeros_like(tokens), tiny.model.tokens.tables)
        check.add(tokens)
        passes = tiny.symbols.passes(100.0, 60, 50)
        for indices in passes:
            symbols = np.full(len(indices), symbol, np.int32)
            detail.put(symbols, indices, tiny.model.detail_tables)
            check.add(symbols)
            passes.accept(symbols)
        file = Container(tiny.model_id, 60, 50, 100.0, check.value, semantic.finish(), detail.finish())
        assert tiny.decode(pack(file)).size == (60, 50)


# --- metadata and transparency ------------------------------------------------------------------------------------


def camera_exif() -> bytes:
    """EXIF data with a camera's directory and a place, as cameras write them."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[0x0001] = "N"
    return exif.tobytes()


@pytest.mark.parametrize("form", sorted(set(OUTPUT_FORMATS.values())))
def test_what_a_camera_says_goes_into_every_form(form: str) -> None:
    image = photo(30, 20)
    image.info["exif"] = camera_exif()
    with Image.open(BytesIO(save_image(image, form))) as saved:
        saved.load()
        exif = saved.getexif()
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
    assert exif.get_ifd(0x8825)[0x0001] == "N"


@pytest.mark.filterwarnings("ignore::UserWarning")  # when the picture is opened again
@pytest.mark.parametrize("form", sorted(set(OUTPUT_FORMATS.values())))
def test_damaged_metadata_cost_no_picture(form: str) -> None:
    random = np.random.default_rng(1)
    whole = np.frombuffer(camera_exif(), np.uint8)
    image = photo(30, 20)
    for _ in range(60):
        damaged = whole[: random.integers(6, len(whole) + 1)].copy()
        damaged[6:][random.integers(0, 4, len(damaged) - 6) == 0] = random.integers(0, 256)
        image.info = {"exif": damaged.tobytes(), "xmp": random.bytes(20)}
        with Image.open(BytesIO(save_image(image, form))) as saved:
            saved.load()
            assert saved.size == (30, 20)


def test_damaged_transparency_is_refused_or_is_of_the_right_size() -> None:
    random = np.random.default_rng(1)
    plane = Image.fromarray(random.integers(0, 256, (50, 60), np.uint8))
    whole = np.frombuffer(pack_plane(plane), np.uint8)
    refused = 0
    for _ in range(200):
        damaged = whole[: random.integers(1, len(whole) + 1) if random.random() < 0.3 else None].copy()
        damaged[random.integers(0, len(damaged))] ^= np.uint8(1 << random.integers(0, 8))
        damaged[0] = random.integers(0, 5) if random.random() < 0.2 else damaged[0]
        try:
            assert unpack_plane(damaged.tobytes(), plane.size).size == plane.size
        except FormatError:
            refused += 1
    assert 20 < refused < 200


def test_transparency_that_a_webp_encoder_has_no_room_for_is_coded_otherwise() -> None:
    for side in ((1, 1 << 14), ((1 << 14) + 1, 1)):
        plane = Image.linear_gradient("L").resize(side)
        assert unpack_plane(pack_plane(plane), side).tobytes() == plane.tobytes()
