"""Make formats/vectors: a small model, files of format version 1 that it wrote, and files that must be refused.

Run once for a format version, never to make a failing test pass: what it writes is frozen, and a reader that no longer
agrees with it does not read version 1. From the root of the repository:

    python tests/make_vectors.py formats/vectors
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import second_decoder
from networks import TINY, make_network
from PIL import Image

from dlfc.codec import Codec
from dlfc.entropy.coder import Encoder
from dlfc.entropy.prior import ONE
from dlfc.entropy.tables import TableSet, gaussian_masses, quantise_counts, token_table
from dlfc.formats import Container, Extra, pack, unpack
from dlfc.zoo import store

NAME = "vectors-1"
SHOWN = "200x150-q62.5"  # the file whose picture is kept too
CONFIG = replace(
    TINY, patch_px=8, width=8, heads=1, encoder_layers=1, decoder_layers=1, token_dim=4, codebook_size=24,
    swin_in=1, swin_out=1, swin_up=1, decoder_exchange=(0,), exchange_swin=1, exchange_convnext=1,
    fusion_dim=8, fusion_swin_in=1, fusion_swin=1, mixture_size=8, mixture_dim=4,
    generator_channels=4, generator_mult=(1, 1, 2), output_patch_px=2, base_components=3,
)  # fmt: skip
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


def make_model(folder: Path) -> Codec:
    """Write the model of the vectors to `folder` and load it."""
    tables, thresholds = short_tables()
    tokens = token_table(1000 // np.arange(1, CONFIG.codebook_size + 1) ** 1.2)
    with mock.patch.object(store, "gaussian_tables", return_value=(tables, thresholds)):  # its thresholds
        store.save(make_network(CONFIG, seed=5), folder / f"{NAME}.safetensors", tables, tokens)
    return Codec.load(NAME, device="cpu", models_dir=folder)


def write_symbols(
    codec: Codec, size: tuple[int, int], quality: float, tokens: np.ndarray, fill: Callable[[int], np.ndarray]
) -> Container:
    """A file that holds `tokens` and, pass by pass, the detail symbols that `fill` gives for their number."""
    semantic, detail = Encoder(), Encoder()
    tokens = tokens.astype(np.int32)
    semantic.put(tokens, np.zeros_like(tokens), codec.model.tokens.tables)
    check = second_decoder.crc(tokens.astype("<i4").tobytes(), second_decoder.crc(codec.fingerprint))
    passes = codec._passes(quality, *size)
    for indices in passes:
        symbols = fill(len(indices)).astype(np.int32)
        detail.put(symbols, indices, codec.model.detail_tables)
        passes.accept(symbols)
        check = second_decoder.crc(symbols.astype("<i4").tobytes(), check)
    return Container(codec.model_id, *size, quality, check, semantic.finish(), detail.finish())


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


def main(folder: Path) -> None:
    """Write model, files and manifest."""
    for name in ("model", "good", "bad"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    codec = make_model(folder / "model")
    model = second_decoder.read_model(folder / "model" / f"{NAME}.safetensors")
    manifest: dict[str, object] = {"format_version": 1, "model": codec.fingerprint.hex()}
    good, bad = {}, {}
    for name, data in sorted(good_files(codec).items()):
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
    for name, file in sorted(bad_files(codec).items()):
        (folder / "bad" / f"{name}.dlf").write_bytes(file.data)
        digest = hashlib.sha256(file.data).hexdigest()
        bad[name] = {"sha256": digest, "rule": file.rule, "error": file.error, "message": file.message}
    codec.decode((folder / "good" / f"{SHOWN}.dlf").read_bytes()).save(folder / f"{SHOWN}.png")
    text = json.dumps(manifest | {"good": good, "bad": bad}, indent=1) + "\n"
    (folder / "manifest.json").write_text(text)


def hash_of(symbols: list[int]) -> str:
    """SHA-256 of symbols, each as an int32 of four bytes, little endian."""
    return hashlib.sha256(struct.pack(f"<{len(symbols)}i", *symbols)).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
