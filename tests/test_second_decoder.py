"""The decoder written from the text of the specification agrees with the product, and so do the text's own examples."""

from __future__ import annotations

import ast
import hashlib
import re
import struct
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import second_decoder
from make_vectors import CONTEXT, NAME, NEIGHBOURS, hash_of, token_prior
from PIL import Image
from test_vectors import ALL, BAD, GOOD, VECTORS, Case, Vectors, codec_of, read

from dlfc.codec import Codec
from dlfc.entropy.tokens import ByNeighbours
from dlfc.errors import DlfcError
from dlfc.formats import unpack

ROOT = Path(__file__).parent.parent
PHOTO = Path(__file__).parent / "data" / "photo.png"


@pytest.fixture(scope="module")
def model() -> second_decoder.Model:
    return model_of(NAME)


@cache
def model_of(name: str) -> second_decoder.Model:
    return second_decoder.read_model(VECTORS / "model" / f"{name}.safetensors")


def test_it_uses_nothing_of_the_product_and_no_numerical_library() -> None:
    for part in (second_decoder, second_decoder.vp8l):
        tree = ast.parse(Path(part.__file__).read_text())
        imports = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imports |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert {name.split(".")[0] for name in imports if name} <= sys.stdlib_module_names | {"vp8l"}


@pytest.mark.parametrize("vectors", ALL, ids=lambda vectors: vectors.model)
def test_it_finds_the_fingerprint_of_the_model(vectors: Vectors) -> None:
    assert model_of(vectors.model).fingerprint.hex() == vectors.manifest["model"]


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_it_finds_the_symbols_of_a_good_vector(case: Case) -> None:
    found, facts = second_decoder.decode(case.data, model_of(case.model)), case.facts
    assert (len(found.tokens), hash_of(found.tokens)) == (facts["tokens"], facts["tokens_sha256"])
    assert (len(found.detail), hash_of(found.detail)) == (facts["detail_symbols"], facts["detail_symbols_sha256"])
    assert hashlib.sha256(found.latent).hexdigest() == facts["latent_sha256"]


@pytest.mark.parametrize("case", BAD, ids=str)
def test_it_refuses_a_bad_vector_by_its_rule(case: Case) -> None:
    with pytest.raises(second_decoder.Refused) as caught:
        second_decoder.decode(case.data, model_of(case.model))
    assert caught.value.rule == case.facts["rule"]


@pytest.mark.parametrize("name", [NAME, NEIGHBOURS, CONTEXT])
def test_both_refuse_the_same_damaged_files(name: str) -> None:
    model, codec = model_of(name), codec_of(name)
    vectors = next(vectors for vectors in ALL if vectors.model == name)
    whole = (vectors.folder / "good" / "31x33-q62.5.dlf").read_bytes()
    random = np.random.default_rng(3)
    accepted = 0
    for round_number in range(60):
        data = bytearray(whole)
        at = int(random.integers(7, len(data)))
        data[at] ^= int(random.integers(1, 256))
        if round_number % 3:  # with a file check that fits, where the sizes still say where it is
            data[10:12] = second_decoder.crc(bytes(data[:10] + data[12:])).to_bytes(2, "little")
        ours = theirs = None
        with suppress(second_decoder.Refused):
            ours = second_decoder.decode(bytes(data), model, max_pixels=1 << 16)
        with suppress(DlfcError):
            theirs = codec.symbols.read(unpack(bytes(data), max_pixels=1 << 16))
        assert (ours is None) == (theirs is None), bytes(data).hex()
        accepted += ours is not None
    assert accepted < 20


@pytest.mark.parametrize("size", [1, 64, 65, 150, 500])
def test_it_reads_tokens_of_codebooks_of_any_size(size: int) -> None:
    tensors = token_prior(size, seed=size)
    prior, random = second_decoder.TokenPrior(as_rows(tensors)), np.random.default_rng(size)
    for _ in range(4):
        tokens = random.integers(0, size, (6, 6)).astype(np.int32)
        stream = second_decoder.RangeDecoder(ByNeighbours(tensors, 2, 3).pack(tokens, 2))
        grid = second_decoder.tokens_by_neighbours(stream, prior, 6, 6)
        stream.finish()
        assert [grid[place] for place in second_decoder.tile_by_tile(3, 2, 2, 3)] == tokens.reshape(-1).tolist()


def test_both_ask_for_a_bit_of_every_token_of_a_large_picture() -> None:
    file = second_decoder.read_container(
        (VECTORS / "neighbours" / "bad" / "a-byte-too-few-for-the-size.dlf").read_bytes()
    )
    codec, tiles = codec_of(NEIGHBOURS), 257
    assert 8 * len(file.semantic) + 64 == tiles * 8 - 8
    with pytest.raises(second_decoder.Refused, match="too few"):
        second_decoder._refuse_too_short(file, model_of(NEIGHBOURS), tiles)
    assert codec.symbols.too_short(file.semantic, tiles)
    enough = replace(file, semantic=file.semantic + b"Z")
    second_decoder._refuse_too_short(enough, model_of(NEIGHBOURS), tiles)
    assert not codec.symbols.too_short(enough.semantic, tiles)


def test_a_wave_of_many_tokens_is_coded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = token_prior(2)
    prior = second_decoder.TokenPrior(as_rows(tensors))
    monkeypatch.setattr(prior, "weights", cache(prior.weights))  # two tokens have few surroundings
    tokens = np.random.default_rng(0).integers(0, 2, (1, 260 * 520)).astype(np.int32)
    section = ByNeighbours(tensors, 260, 520).pack(tokens, 1)
    stream = second_decoder.RangeDecoder(section)
    grid = second_decoder.tokens_by_neighbours(stream, prior, 260, 520)
    stream.finish()
    assert [grid[place] for place in sorted(grid)] == tokens.reshape(-1).tolist()


@pytest.mark.parametrize(
    ("name", "at", "most"),
    [
        ("context", (7, 1), 2**26),
        ("first.weight", (2, slice(3)), (2**26 - 1) // 3),
        ("entries", (4, slice(3)), (2**26 - 1) // 3),
        ("second.bias", (0,), 2**51 - 1),
        ("bias", (9,), 2**51 - 1),
    ],
)
def test_both_take_the_same_bounds_of_a_token_prior(name: str, at: tuple[int | slice, ...], most: int) -> None:
    tensors = token_prior(20)
    if len(at) == 2:
        tensors[name][at[0]] = 0
    for sign in (1, -1):
        tensors[name][at] = sign * most
        ByNeighbours(tensors, 2, 2)
        second_decoder._check_bounds(as_rows(tensors))
        tensors[name][at] = sign * (most + 1)
        with pytest.raises(ValueError, match="too large"):
            ByNeighbours(tensors, 2, 2)
        with pytest.raises(ValueError, match="out of bounds"):
            second_decoder._check_bounds(as_rows(tensors))


def as_rows(tensors: dict[str, np.ndarray]) -> dict[str, second_decoder.Tensor]:
    return {
        name: second_decoder.Tensor(values.shape, [tuple(map(int, row)) for row in np.atleast_2d(values)])
        for name, values in tensors.items()
    }


def test_it_reads_a_file_of_the_default_model() -> None:
    codec = Codec.load(device="cpu")
    with Image.open(PHOTO) as image:
        data = codec.encode(image.convert("RGB").crop((300, 200, 364, 232)), quality=75)
    found = second_decoder.decode(data, second_decoder.read_model(codec.model.entry.weights))
    tokens, latent = codec.symbols.read(unpack(data))
    assert found.tokens == tokens.reshape(-1).tolist()
    assert found.latent == latent.numpy().astype("<f4").tobytes()
    assert any(found.detail)


# --- the examples in the text -------------------------------------------------------------------------------------


def test_the_file_of_the_specification_reads_as_its_table_says() -> None:
    text = (ROOT / "formats" / "SPEC.md").read_text().partition("## A file, byte by byte")[2]
    lines = re.findall(r"^[0-9a-f]{8}  ([0-9a-f ]+)$", text, re.MULTILINE)
    data = bytes.fromhex("".join(lines))
    rows = re.findall(r"^\| (\d+) \| `([0-9a-f ]+)` \|", text, re.MULTILINE)
    assert b"".join(bytes.fromhex(cell) for _, cell in rows) == data
    for offset, cell in rows:
        assert data[int(offset) :].startswith(bytes.fromhex(cell))
    file = second_decoder.read_container(data)
    assert (file.width_px, file.height_px, file.quality_step) == (768, 512, 100)
    assert (file.model_id.hex(), file.symbol_check, file.extras) == ("5eed1234", 0xC0DE, ((0x2A, b"hi!"),))
    assert unpack(data).semantic == file.semantic


def test_the_numbers_of_the_specification_are_right() -> None:
    assert second_decoder.token_counts([5, 0, 2], 65536).counts == [0, 46810, 46811, 65535, 65536]
    assert second_decoder.token_counts([5, 0, 2], 32768).counts == [0, 32768, 32769, 51493, 65536]
    for f, power in enumerate(second_decoder.POWERS):  # 2 * power - 1 and + 1 are beside 2^(31 - f/64)
        assert (2 * power - 1) ** 64 < 1 << 64 * 31 - f < (2 * power + 1) ** 64
    assert second_decoder.crc(b"123456789") == 0x29B1
    for encoded, value in (("00", 0), ("7f", 127), ("8001", 128), ("ff05", 767)):
        assert second_decoder._Bytes(bytes.fromhex(encoded)).varint() == value
    with pytest.raises(second_decoder.Refused):
        second_decoder._Bytes(b"\x80\0").varint()


def test_the_stream_of_the_coder_s_description_decodes_to_its_symbols() -> None:
    text = (ROOT / "native" / "README.md").read_text().partition("## Example")[2]
    counts, offset = re.findall(r"c = ([0-9, ]+), offset (-?\d+)", text)[0]
    row = second_decoder.Row([int(count) for count in counts.split(",")], int(offset))
    stream = bytes.fromhex(re.findall(r"take 7 bytes, `([0-9a-f ]+)`", text)[0])
    expected = re.findall(r"The symbols\s+([-0-9, ]+) take", text)[0]
    decoder = second_decoder.RangeDecoder(stream)
    assert [decoder.symbol(row) for _ in range(4)] == [int(symbol) for symbol in expected.split(",")]
    decoder.finish()


def test_the_picture_of_one_pixel_reads_as_the_specification_says(model: second_decoder.Model) -> None:
    text = (ROOT / "formats" / "SPEC.md").read_text().partition("## A picture of one pixel")[2]
    data = bytes.fromhex("".join(re.findall(r"^((?:[0-9a-f]{2} )+[0-9a-f]{2})$", text, re.MULTILINE)))
    assert data == read("good", "1x1-q62.5")
    found, file = second_decoder.decode(data, model), second_decoder.read_container(data)
    for section, symbols in ((file.semantic, found.tokens), (file.detail, found.detail)):
        listed = ", ".join(map(str, symbols))
        assert re.search(rf"`{section.hex(' ')}`\s+holds\s+the\s+(tokens|symbols)\s+{listed}\.", text)
    prior, coded = second_decoder.Prior(model.prior, 4, 4), iter(found.detail)
    step, scales, means, common = prior.start(file.quality_step, [])
    values = [[0] * 16 for _ in range(8)]
    rows = []
    for k in range(4):
        if k:
            scales, means = prior.refine(k, values, common)
        for channel, at, seen in second_decoder._walk(k, 8, 4, 4, (1, 1)):
            scale, mean, table, symbol = scales[channel][at], means[channel][at], "-", 0
            if seen and scale >= 492:
                table, symbol = str(max(sum(t <= scale for t in model.thresholds) - 1, 0)), next(coded)
            values[channel][at] = 4096 * symbol + mean
            if seen:
                shown = "-" if table == "-" else symbol
                rows.append(f"| {k} | {channel} | {scale} | {mean} | {table} | {shown} | {4096 * symbol + mean} |")
                rows[-1] += f" {step[channel][at]} |"
    assert re.findall(r"^\| \d.*$", text, re.MULTILINE) == rows
    assert struct.unpack("<f", found.latent[:4])[0] == -324 * 2048 * 2**-24 == -0.03955078125
