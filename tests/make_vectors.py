"""Make formats/vectors: a small model, files of format version 1 that it wrote, and files that must be refused.

Run once for a format version, never to make a failing test pass: what it writes is frozen, and a reader that no longer
agrees with it does not read version 1. From the root of the repository:

    python tests/make_vectors.py formats/vectors
    python tests/make_vectors.py formats/vectors neighbours
    python tests/make_vectors.py formats/vectors context

The second line makes formats/vectors/neighbours and nothing else: a model whose tokens are coded by their neighbours,
beside the other model, and files with it. The third one makes formats/vectors/context in the same way: a model whose
detail prior sees tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from unittest import mock

import numpy as np
import second_decoder
import torch
from networks import TINY, make_network
from PIL import Image

from dlfc import hold
from dlfc.codec import Codec
from dlfc.entropy.coder import Encoder, Tables
from dlfc.entropy.prior import ONE
from dlfc.entropy.tables import TableSet, gaussian_masses, quantise_counts, token_table
from dlfc.entropy.tokens import GROUP
from dlfc.formats import Container, Extra, pack, unpack
from dlfc.model.dlf import DLF
from dlfc.zoo import store

NAME = "vectors-1"
NEIGHBOURS = "vectors-2"  # its tokens are coded by what is beside them
CONTEXT = "vectors-3"  # its detail prior sees tokens
SHOWN = "200x150-q62.5"  # the file whose picture is kept too
CONFIG = replace(
    TINY, patch_px=8, width=8, heads=1, encoder_layers=1, decoder_layers=1, token_dim=4, codebook_size=24,
    swin_in=1, swin_out=1, swin_up=1, decoder_exchange=(0,), exchange_swin=1, exchange_convnext=1,
    fusion_dim=8, fusion_swin_in=1, fusion_swin=1, mixture_size=8, mixture_dim=4,
    generator_channels=4, generator_mult=(1, 1, 2), output_patch_px=2, base_components=3,
)  # fmt: skip
NEIGHBOURS_CONFIG = replace(CONFIG, codebook_size=150, latent_dim=4)  # the third group of tokens is not full
CONTEXT_CONFIG = replace(CONFIG, latent_dim=4, prior_context=3)
NEIGHBOURS_SIZES = ((1, 1), (31, 33), (65, 129), (129, 65), (200, 150), (300, 140))
QUALITIES = (0, 0.5, 25, 49.5, 50, 62.5, 99.5, 100)
SIZES = ((1, 1), (1, 130), (130, 1), (31, 33), (64, 64), (65, 129), (200, 150), (700, 300))
SCALES = 32  # rows of the detail table; with 256, the model would be mostly tables
REACH_SIGMAS = 2.0  # short rows, so that one symbol in twenty is an escape
EXIF = b"II*\0" + bytes(range(200)) * 2


def picture(width_px: int, height_px: int) -> Image.Image:
    """A picture by formula: waves, a chequered pattern and a noise of integers."""
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.int64)
    noise = (x * 7919 + y * 104729 + x * y * 31) % 61 - 30
    waves = [np.sin(x / (9 + 7 * c)) * np.cos(y / (13 + 5 * c)) for c in range(3)]
    pixels = 128 + 70 * np.stack(waves, -1) + (60 * ((x // 23 + y // 31) % 2) + noise - 30)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def short_tables() -> tuple[TableSet, np.ndarray]:
    """Detail tables and their thresholds, few and short."""
    scales = [0.11 * 1.2**i for i in range(SCALES)]
    rows = []
    for scale in scales:
        first, masses = gaussian_masses(scale)
        reach = max(1, math.ceil(REACH_SIGMAS * scale))
        kept = masses[-first - reach : -first + reach + 1]
        rows.append(quantise_counts(np.array([*kept, max(1.0 - sum(kept), 1e-5)])))
    cdf = np.zeros((SCALES, max(map(len, rows)) + 1), np.int32)
    for target, row in zip(cdf, rows, strict=True):
        target[1 : len(row) + 1] = np.cumsum(row)
    lengths = np.array([len(row) + 1 for row in rows], np.int32)
    offsets = np.array([-((len(row) - 2) // 2) for row in rows], np.int32)
    return TableSet(cdf, lengths, offsets), np.array([math.ceil(scale * ONE) for scale in scales], np.int64)


def saved(folder: Path, name: str, network: DLF, tokens: TableSet | dict[str, torch.Tensor]) -> Codec:
    """Write `network` to `folder` as a model with short tables and load it."""
    tables, thresholds = short_tables()
    with mock.patch.object(store, "gaussian_tables", return_value=(tables, thresholds)):  # its thresholds
        store.save(network, folder / f"{name}.safetensors", tables, tokens)
    return Codec.load(name, device="cpu", models_dir=folder)


def make_model(folder: Path) -> Codec:
    """Write the model of the vectors to `folder` and load it."""
    tokens = token_table(1000 // np.arange(1, CONFIG.codebook_size + 1) ** 1.2)
    return saved(folder, NAME, make_network(CONFIG, seed=5), tokens)


def make_neighbours_model(folder: Path) -> Codec:
    """Write the model whose tokens have a prior to `folder` and load it."""
    prior = {name: torch.from_numpy(value) for name, value in token_prior(NEIGHBOURS_CONFIG.codebook_size).items()}
    return saved(folder, NEIGHBOURS, make_network(NEIGHBOURS_CONFIG, seed=7), prior)


def make_context_model(folder: Path) -> Codec:
    """Write the model whose detail prior sees tokens to `folder` and load it."""
    network = make_network(CONTEXT_CONFIG, seed=9)
    context = network.bottleneck.prior.context
    assert context is not None
    context.codes[7] = torch.tensor([2.0**14, -(2.0**14), 0.0])  # the bound
    tokens = token_table(np.full(CONTEXT_CONFIG.codebook_size, 10))
    return saved(folder, CONTEXT, network, tokens)


def token_prior(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of a token prior of `size` tokens, with numbers at all bounds; neighbours change much."""
    random, (own, first, second, third) = np.random.default_rng(seed), (3, 6, 5, 4)

    def normal(*shape: int, spread: float, unit: int) -> np.ndarray:
        values = np.round(random.normal(0, spread, shape) * 2**unit)
        return values.astype(np.int32 if len(shape) == 2 else np.int64)

    tensors = {
        "context": normal(size + 1, own, spread=1.0, unit=12),
        "first.weight": normal(first, 4 * own, spread=0.5, unit=14),
        "first.bias": normal(first, spread=0.3, unit=26),
        "second.weight": normal(second, first, spread=0.6, unit=14),
        "second.bias": normal(second, spread=0.3, unit=26),
        "third.weight": normal(third, second, spread=0.8, unit=14),
        "third.bias": normal(third, spread=0.3, unit=26),
        "entries": normal(size, third, spread=0.5, unit=14),
        "bias": normal(size, spread=1.0, unit=26),
    }
    tensors["entries"][:, 0] += (np.arange(size) // GROUP - 1) << 14  # groups differ
    tensors["context"][3:size:29] = random.choice([-(2**26), 2**26], tensors["context"][3:size:29].shape)
    tensors["first.bias"][-1] = 1 - 2**51  # always 0
    tensors["second.bias"][-1] = 2**51 - 1  # always 2^26,
    tensors["third.weight"][:, -1] = [1, -1, 0, 2]  # of which this makes 1.0, -1.0 and 2.0
    tensors["second.weight"][3] *= 8
    tensors["third.weight"][:, 3] = [0, 0, -(1500 << 14), 0]  # so the third channel is often -2^26,
    tensors["entries"][:, 2] = random.integers(-6, 7, size)  # and makes some tokens 64 times as likely
    return tensors


def write_symbols(
    codec: Codec, size: tuple[int, int], quality: float, tokens: np.ndarray, fill: Callable[[int], np.ndarray]
) -> Container:
    """A file that holds `tokens` and, pass by pass, the detail symbols that `fill` gives for their number."""
    semantic = Encoder()
    tokens = tokens.astype(np.int32)
    semantic.put(tokens, np.zeros_like(tokens), codec.model.tokens.tables)
    return with_detail(codec, size, quality, tokens, semantic.finish(), fill)


def with_detail(
    codec: Codec,
    size: tuple[int, int],
    quality: float,
    tokens: np.ndarray,
    semantic: bytes,
    fill: Callable[[int], np.ndarray],
) -> Container:
    """A file with the section `semantic` of these tokens, and detail as in `write_symbols`."""
    detail = Encoder()
    check = second_decoder.crc(tokens.astype("<i4").tobytes(), second_decoder.crc(codec.fingerprint))
    passes = codec.symbols.passes(quality, *size, torch.from_numpy(tokens).long().view(-1, CONFIG.tokens_per_tile))
    for indices in passes:
        symbols = fill(len(indices)).astype(np.int32)
        detail.put(symbols, indices, codec.model.detail_tables)
        passes.accept(symbols)
        check = second_decoder.crc(symbols.astype("<i4").tobytes(), check)
    return Container(codec.model_id, *size, quality, check, semantic, detail.finish())


def good_files(codec: Codec) -> dict[str, bytes]:
    """Valid files by name."""
    files = {}
    for size in SIZES:
        for quality in QUALITIES if size == (65, 129) else (0, 50, 100) if size == (64, 64) else (62.5,):
            name = f"{size[0]}x{size[1]}-q{quality:g}"
            files[name] = codec.encode(picture(*size), quality=quality)
    plain = unpack(codec.encode(picture(90, 70), quality=37.5))
    files |= {
        "extra-icc-exif-xmp": pack(replace(plain, extras=(Extra(1, b"icc"), Extra(2, EXIF), Extra(3, b"<x/>")))),
        "extra-of-unknown-kinds": pack(replace(plain, extras=(Extra(0, b""), Extra(0x2A, b"hi!"), Extra(0x7F, b"")))),
    }
    per_tile = CONFIG.tokens_per_tile
    wide = np.array([-(2**31), 2**31 - 1, 2**13, -(2**13), 65536, -65537, 0, 1], np.int64)
    first = codec.model.detail_tables
    assert first.rows == SCALES
    files |= {
        "empty-semantic-section": pack(
            write_symbols(codec, (64, 40), 50, np.zeros(per_tile), lambda n: np.arange(n) % 5 - 2)
        ),
        "symbols-up-to-int32": pack(
            write_symbols(codec, (64, 64), 100, np.arange(per_tile) * 3, lambda n: np.resize(wide, n))
        ),
        "every-token": pack(write_symbols(codec, (192, 64), 0, np.arange(3 * per_tile), lambda n: np.zeros(n))),
    }
    return files


@dataclass(frozen=True)
class Bad:
    """A file that is refused, and how: the rule in SPEC.md, the error of the product and words of its message."""

    data: bytes
    rule: int
    error: str
    message: str


def resealed(data: bytes) -> bytes:
    """The file with a file check that fits; the header must be readable."""
    at = 7
    for _ in range(2):
        while data[at] & 0x80:
            at += 1
        at += 1
    check = second_decoder.crc(data[: at + 1] + data[at + 3 :])
    return data[: at + 1] + struct.pack("<H", check) + data[at + 3 :]


def bad_files(codec: Codec) -> dict[str, Bad]:
    """Files that are refused, by name."""
    good = codec.encode(picture(150, 70), quality=62.5)
    fields = unpack(good)
    extras = (Extra(2, b"exif"), Extra(0x2A, b"hi!"))
    longer = pack(replace(fields, extras=extras))
    body = good.index(fields.semantic) - 1  # the section is shorter than 128 bytes
    head = good[:7]
    assert good[body] == len(fields.semantic)

    def sized(width_and_height: bytes, quality: int = 125) -> bytes:
        return resealed(head + width_and_height + bytes([quality]) + good[body - 4 :])

    def with_sections(**sections: bytes) -> bytes:
        return pack(replace(fields, **sections))

    escape = write_symbols(codec, (64, 64), 50, np.full(CONFIG.tokens_per_tile, CONFIG.codebook_size), np.zeros)
    negative = write_symbols(codec, (64, 64), 50, np.full(CONFIG.tokens_per_tile, -1), np.zeros)
    flipped = bytearray(good)
    flipped[-9] ^= 0x10
    in_tokens = bytearray(good)
    in_tokens[body + 5] ^= 0x01
    damaged = bytearray(fields.detail)
    damaged[len(damaged) // 2] ^= 0x04
    bad = {
        "empty": Bad(b"", 1, "FormatError", "it is empty"),
        "a-png": Bad(b"\x89PNG\r\n\x1a\n" + bytes(24), 1, "FormatError", "not a .dlf file"),
        "one-byte-of-magic": Bad(b"\xdf", 3, "FormatError", "cut short"),
        "version-0": Bad(resealed(b"\xdf\x1c\0" + good[3:]), 2, "UnsupportedVersionError", "format version 0"),
        "version-2": Bad(resealed(b"\xdf\x1c\2" + good[3:]), 2, "UnsupportedVersionError", "format version 2"),
        "cut-in-the-header": Bad(good[:9], 3, "FormatError", "cut short"),
        "cut-in-the-tokens": Bad(good[: body + 6], 3, "FormatError", "cut short"),
        "cut-after-the-tokens": Bad(good[: body + 1 + len(fields.semantic)], 3, "FormatError", "cut short"),
        "cut-in-the-detail": Bad(good[:-7], 3, "FormatError", "cut short"),
        "cut-in-an-optional-section": Bad(longer[:-1], 3, "FormatError", "cut short"),
        "cut-between-optional-sections": Bad(longer[:-5], 10, "FormatError", "file check fails"),
        "a-byte-after-the-end": Bad(good + b"\0", 4, "FormatError", "1 byte after the end"),
        "bytes-after-the-end": Bad(longer + b"\x2a\1\0more", 4, "FormatError", "after the end"),
        "a-file-after-the-end": Bad(good + good, 4, "FormatError", "after the end"),
        "width-not-in-its-shortest-form": Bad(sized(b"\x80\0\x45"), 5, "FormatError", "shortest form"),
        "height-of-six-bytes": Bad(sized(b"\x45\x80\x80\x80\x80\x80\1"), 5, "FormatError", "shortest form"),
        "length-not-in-its-shortest-form": Bad(
            resealed(good[:body] + bytes([good[body] | 0x80, 0]) + good[body + 1 :]), 5, "FormatError", "shortest form"
        ),
        "quality-over-100": Bad(sized(b"\x45\x45", 201), 6, "FormatError", "quality is over 100"),
        "a-side-too-long": Bad(sized(b"\x80\x80\x40\0"), 7, "LimitError", "side"),
        "too-many-pixels": Bad(sized(b"\xff\xff\3\xff\xff\3"), 7, "LimitError", "over the limit"),
        "the-largest-size": Bad(sized(b"\xff\xff\xff\xff\x7f" * 2), 7, "LimitError", "side"),
        "an-optional-section-twice": Bad(
            resealed(good + b"\x02\1a\x02\1b"), 8, "FormatError", "out of order or stands twice"
        ),
        "optional-sections-out-of-order": Bad(
            resealed(good + b"\x03\1a\x02\1b"), 8, "FormatError", "out of order or stands twice"
        ),
        "an-alpha-section": Bad(resealed(good + b"\x84\1a"), 9, "UnsupportedVersionError", "alpha"),
        "an-unknown-critical-section": Bad(resealed(good + b"\xff\0"), 9, "UnsupportedVersionError", "0xff"),
        "a-bit-of-the-detail": Bad(bytes(flipped), 10, "FormatError", "file check fails"),
        "a-bit-of-the-tokens": Bad(bytes(in_tokens), 10, "FormatError", "file check fails"),
        "another-model": Bad(pack(replace(fields, model_id=b"\0\1\2\3")), 11, "ModelError", "00010203"),
        "symbol-check": Bad(
            pack(replace(fields, symbol_check=fields.symbol_check ^ 1)), 12, "FormatError", "do not match"
        ),
        "a-byte-more-of-tokens": Bad(with_sections(semantic=fields.semantic + b"\1"), 12, "FormatError", ""),
        "a-zero-byte-more-of-tokens": Bad(with_sections(semantic=fields.semantic + b"\0"), 12, "FormatError", ""),
        "a-byte-less-of-tokens": Bad(with_sections(semantic=fields.semantic[:-1]), 12, "FormatError", ""),
        "no-tokens": Bad(with_sections(semantic=b""), 12, "FormatError", ""),
        "tokens-that-no-encoder-writes": Bad(with_sections(semantic=b"\xff" * 9), 12, "FormatError", ""),
        "a-byte-more-of-detail": Bad(with_sections(detail=fields.detail + b"\1"), 12, "FormatError", ""),
        "a-byte-less-of-detail": Bad(with_sections(detail=fields.detail[:-1]), 12, "FormatError", ""),
        "no-detail": Bad(with_sections(detail=b""), 12, "FormatError", ""),
        "a-bit-of-the-detail-with-its-check": Bad(with_sections(detail=bytes(damaged)), 12, "FormatError", ""),
        "another-size": Bad(pack(replace(fields, width_px=300)), 12, "FormatError", ""),
        "another-quality": Bad(pack(replace(fields, quality=63)), 12, "FormatError", ""),
        "a-token-above-the-codebook": Bad(pack(escape), 12, "FormatError", "outside the codebook"),
        "a-token-below-0": Bad(pack(negative), 12, "FormatError", "outside the codebook"),
        "a-picture-from-nothing": Bad(
            pack(replace(fields, width_px=8192, height_px=8192, semantic=b"\x5a", detail=b"")), 12, "FormatError",
            "too short",
        ),
    }  # fmt: skip
    return bad


def encoded(codec: Codec) -> dict[str, bytes]:
    """Pictures of some sizes, one of them at three qualities, by name."""
    files = {}
    for size in NEIGHBOURS_SIZES:
        for quality in (0, 62.5, 100) if size == (65, 129) else (62.5,):
            files[f"{size[0]}x{size[1]}-q{quality:g}"] = codec.encode(picture(*size), quality=quality)
    return files


def neighbours_good_files(codec: Codec) -> dict[str, bytes]:
    """Valid files by name, of the model with a token prior."""
    files = encoded(codec)
    wide, tall = (320, 256), (100, 450)
    every = np.arange(tokens_of(codec, wide)) * 7 % NEIGHBOURS_CONFIG.codebook_size
    sections = {
        "every-token": (wide, every),
        "tokens-at-random": (tall, np.random.default_rng(9).integers(0, 150, tokens_of(codec, tall))),
        "the-likeliest-tokens": (tall, likeliest(codec, tall)),
        "empty-semantic-section": (tall, np.zeros(tokens_of(codec, tall))),
    }
    return files | {name: pack(with_tokens(codec, *held)) for name, held in sections.items()}


def context_good_files(codec: Codec) -> dict[str, bytes]:
    """Valid files by name, of the model whose detail prior sees tokens."""
    files = encoded(codec)
    every = np.arange(3 * CONTEXT_CONFIG.tokens_per_tile) * 7 % CONTEXT_CONFIG.codebook_size
    return files | {"every-token": pack(write_symbols(codec, (192, 64), 25, every, lambda n: np.arange(n) % 7 // 6))}


def context_bad_files(codec: Codec) -> dict[str, Bad]:
    """Files that are refused, by name, of that model: their detail was coded beside other tokens."""
    fields = unpack(codec.encode(picture(150, 70), quality=62.5))
    tokens = codec.symbols.read(fields)[0].numpy().reshape(-1)
    others = write_symbols(codec, (150, 70), 62.5, np.roll(tokens, 1), np.zeros)
    return {
        "another-picture-s-tokens": Bad(pack(replace(fields, semantic=others.semantic)), 12, "FormatError", ""),
        "a-byte-less-of-detail": Bad(pack(replace(fields, detail=fields.detail[:-1])), 12, "FormatError", ""),
    }


def tokens_of(codec: Codec, size: tuple[int, int]) -> int:
    """How many tokens a picture has."""
    return codec.tiling.tiles(*size)[0] * NEIGHBOURS_CONFIG.tokens_per_tile


def with_tokens(codec: Codec, size: tuple[int, int], tokens: np.ndarray) -> Container:
    """A file of the model with a token prior that holds `tokens`, and few detail symbols other than 0."""
    tokens = tokens.astype(np.int32)
    semantic = codec.model.tokens.pack(tokens, codec.tiling.tiles(*size)[1])
    return with_detail(codec, size, 50, tokens, semantic, lambda n: np.arange(n) % 7 // 6)


def grid_of(codec: Codec, size: tuple[int, int]) -> tuple[int, int, list[second_decoder.Place]]:
    """Rows and columns of the tokens of a picture, and the places of tokens in the order of tiles."""
    tiles, across = codec.tiling.tiles(*size)
    tall, wide = (NEIGHBOURS_CONFIG.tile_px // side for side in NEIGHBOURS_CONFIG.base_region_px)
    rows = tiles // across
    return rows * tall, across * wide, list(second_decoder.tile_by_tile(rows, across, tall, wide))


def likeliest(codec: Codec, size: tuple[int, int]) -> np.ndarray:
    """The tokens of which each is the likeliest one after those before it."""
    prior, (height, width, places) = prior_of(codec), grid_of(codec, size)
    grid: dict[second_decoder.Place, int] = {}
    for place in chain(*second_decoder.waves(height, width)):
        weights = np.array(prior.weights_at(grid, place))
        group = int(weights.sum(1).argmax())
        grid[place] = group * GROUP + int(weights[group].argmax())
    return np.array([grid[place] for place in places])


def prior_of(codec: Codec) -> second_decoder.TokenPrior:
    """The token prior as the second decoder reads it."""
    return second_decoder.TokenPrior(second_decoder.read_model(codec.model.entry.weights).token_prior)


def ending_in(
    prior: second_decoder.TokenPrior,
    grid: Mapping[second_decoder.Place, int],
    pieces: Iterable[list[second_decoder.Place]],
    last: second_decoder.Place,
    ending: tuple[int, int],
) -> bytes:
    """The section of a grid of tokens, but for the group and the member of the last one, which are `ending`."""
    encoder = Encoder()

    def put(symbol: int, row: second_decoder.Row) -> None:
        tables = Tables([row.counts], [len(row.counts)], [row.offset])
        encoder.put(np.array([symbol]), np.zeros(1, np.int32), tables)

    for piece in pieces:
        weights = [prior.weights_at(grid, place) for place in piece]
        symbols = [ending if place == last else divmod(grid[place], GROUP) for place in piece]
        for (group, _), w in zip(symbols, weights, strict=True):
            put(group, second_decoder.token_counts([sum(one) for one in w], 32768))
        for (group, member), w in zip(symbols, weights, strict=True):
            put(member, second_decoder.token_counts(w[group if 0 <= group < len(w) else 0], 65536))
    return encoder.finish()


def neighbours_bad_files(codec: Codec) -> dict[str, Bad]:
    """Files that are refused, by name, of the model with a token prior."""
    size = (150, 70)
    fields = unpack(codec.encode(picture(*size), quality=62.5))
    found = second_decoder.decode(pack(fields), second_decoder.read_model(codec.model.entry.weights))
    height, width, places = grid_of(codec, size)
    grid, pieces = dict(zip(places, found.tokens, strict=True)), list(second_decoder.waves(height, width))
    known = {place: token for place, token in grid.items() if place != places[-1]}
    group, member = divmod(found.tokens[-1], GROUP)

    def with_sections(**sections: bytes) -> bytes:
        return pack(replace(fields, **sections))

    def ending(*symbols: int) -> bytes:
        return with_sections(semantic=ending_in(prior_of(codec), known, pieces, places[-1], symbols))

    assert ending(group, member) == pack(fields)
    in_waves = [grid[place] for place in chain(*pieces)]
    check = second_decoder.crc(struct.pack(f"<{len(in_waves)}i", *in_waves), second_decoder.crc(codec.fingerprint))
    check = second_decoder.crc(struct.pack(f"<{len(found.detail)}i", *found.detail), check)
    large = replace(fields, width_px=64, height_px=16448, detail=b"")  # 257 tiles with 2056 tokens
    size_of_codebook = NEIGHBOURS_CONFIG.codebook_size
    outside = 12, "FormatError", "outside the codebook"
    return {
        "a-token-of-the-last-group-above-the-codebook": Bad(ending(*divmod(size_of_codebook, GROUP)), *outside),
        "a-group-above-the-last": Bad(ending(-(-size_of_codebook // GROUP), member), *outside),
        "a-group-below-0": Bad(ending(-1, member), *outside),
        "a-member-above-its-group": Bad(ending(0, GROUP + 1), *outside),
        "a-member-below-0": Bad(ending(1, -1), *outside),
        "a-byte-more-of-tokens": Bad(with_sections(semantic=fields.semantic + b"\1"), 12, "FormatError", ""),
        "a-zero-byte-more-of-tokens": Bad(with_sections(semantic=fields.semantic + b"\0"), 12, "FormatError", ""),
        "a-byte-less-of-tokens": Bad(with_sections(semantic=fields.semantic[:-1]), 12, "FormatError", ""),
        "no-tokens": Bad(with_sections(semantic=b""), 12, "FormatError", ""),
        "tokens-that-no-encoder-writes": Bad(with_sections(semantic=b"\xff" * 9), 12, "FormatError", ""),
        "another-size": Bad(pack(replace(fields, width_px=70, height_px=150)), 12, "FormatError", ""),
        "the-symbol-check-in-the-order-of-waves": Bad(
            pack(replace(fields, symbol_check=check)), 12, "FormatError", "do not match"
        ),
        "a-byte-too-few-for-the-size": Bad(
            pack(replace(large, semantic=b"\x5a" * 248)), 12, "FormatError", "too short"
        ),
        "a-picture-from-nothing": Bad(
            pack(replace(fields, width_px=8192, height_px=8192, semantic=b"\x5a", detail=b"")), 12, "FormatError",
            "too short",
        ),
    }  # fmt: skip


def main(folder: Path) -> None:
    """Write model, files and manifest."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    codec = make_model(folder / "model")
    write(folder, codec, good_files(codec), bad_files(codec))
    codec.decode((folder / "good" / f"{SHOWN}.dlf").read_bytes()).save(folder / f"{SHOWN}.png")


def main_neighbours(folder: Path) -> None:
    """Write the model with a token prior, its files and their manifest."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    codec = make_neighbours_model(folder / "model")
    write(folder / "neighbours", codec, neighbours_good_files(codec), neighbours_bad_files(codec))


def main_context(folder: Path) -> None:
    """Write the model whose detail prior sees tokens, its files and their manifest."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    codec = make_context_model(folder / "model")
    with mock.patch.object(hold, "ATTEMPTS", 0):  # as in the other vectors, which are older than that rule
        write(folder / "context", codec, context_good_files(codec), context_bad_files(codec))


def write(folder: Path, codec: Codec, good_data: dict[str, bytes], bad_data: dict[str, Bad]) -> None:
    """Write files and manifest."""
    for name in ("good", "bad"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    model = second_decoder.read_model(codec.model.entry.weights)
    manifest: dict[str, object] = {"format_version": 1, "model": codec.fingerprint.hex()}
    good, bad = {}, {}
    for name, data in sorted(good_data.items()):
        (folder / "good" / f"{name}.dlf").write_bytes(data)
        fields, symbols = unpack(data), second_decoder.decode(data, model)
        good[name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "width": fields.width_px,
            "height": fields.height_px,
            "quality": fields.quality,
            "tokens": len(symbols.tokens),
            "tokens_sha256": hash_of(symbols.tokens),
            "detail_symbols": len(symbols.detail),
            "detail_symbols_sha256": hash_of(symbols.detail),
            "latent_sha256": hashlib.sha256(symbols.latent).hexdigest(),
        }
    for name, file in sorted(bad_data.items()):
        (folder / "bad" / f"{name}.dlf").write_bytes(file.data)
        digest = hashlib.sha256(file.data).hexdigest()
        bad[name] = {"sha256": digest, "rule": file.rule, "error": file.error, "message": file.message}
    text = json.dumps(manifest | {"good": good, "bad": bad}, indent=1) + "\n"
    (folder / "manifest.json").write_text(text)


def hash_of(symbols: list[int]) -> str:
    """SHA-256 of symbols, each as an int32 of four bytes, little endian."""
    return hashlib.sha256(struct.pack(f"<{len(symbols)}i", *symbols)).hexdigest()


if __name__ == "__main__":
    made = {"neighbours": main_neighbours, "context": main_context}
    made.get("".join(sys.argv[2:]), main)(Path(sys.argv[1]))
