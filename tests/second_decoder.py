"""A second decoder of .dlf files, up to the network: bytes to tokens, detail symbols and latent, in plain Python.

Written from the text of formats/SPEC.md and native/README.md; it imports nothing of dlfc and no numerical library, so
that what it agrees on with the product is what the text says. It is slow and reads one file at a time:

    python tests/second_decoder.py MODEL.safetensors FILE.dlf
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from operator import mul
from pathlib import Path
from typing import Any

import vp8l

Map = list[list[int]]  # channels of cells, the cells row by row
Place = tuple[int, int]  # row and column in a grid of tokens

DEFAULT_MAX_PIXELS = 1 << 27
MAX_SIDE_PX = 1 << 20
PASSES = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))  # position of each channel group, by pass


ICC, EXIF, XMP, GRAY, COLOUR_SPACE, GRAIN, ALPHA = 1, 2, 3, 4, 5, 6, 0x84
CODINGS = STORED, DEFLATE, VP8L, CONSTANT = 0, 1, 2, 3


class Refused(Exception):
    """The file is not valid; `rule` is the number in the list "What a decoder must reject"."""

    def __init__(self, rule: int, why: str) -> None:
        super().__init__(f"rule {rule}: {why}")
        self.rule = rule


# --- container ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """The fields of a .dlf file."""

    model_id: bytes
    width_px: int
    height_px: int
    quality_step: int
    symbol_check: int
    semantic: bytes
    detail: bytes
    extras: tuple[tuple[int, bytes], ...]


class _Bytes:
    """Reads a file from its front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if len(self.data) - self.at < count:
            raise Refused(3, "the file ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value = 0
        for position in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * position
            if not byte & 0x80:
                if position and not byte:
                    raise Refused(5, "a number is not in its shortest form")
                return value
        raise Refused(5, "a number has more than five bytes")


def crc(data: bytes, value: int = 0xFFFF) -> int:
    """CRC-16/IBM-3740 of `data`, going on from `value`."""
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value


def read_container(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> File:
    """The fields of the file `data`; raises Refused."""
    if not data or data[:2] != b"\xdf\x1c"[: len(data)]:
        raise Refused(1, "no .dlf file")
    reader = _Bytes(data)
    reader.take(2)
    if reader.take(1) != b"\1":
        raise Refused(2, "unknown version")
    model_id = reader.take(4)
    width, height = reader.varint() + 1, reader.varint() + 1
    quality_step = reader.take(1)[0]
    if quality_step > 200:
        raise Refused(6, "quality over 100")
    check_at = reader.at
    file_check, symbol_check = struct.unpack("<HH", reader.take(4))
    if max(width, height) > MAX_SIDE_PX or width * height > max_pixels:
        raise Refused(7, "too large")

    def fits(end: int) -> bool:
        return crc(data[:check_at] + data[check_at + 2 : end]) == file_check

    kind = -1
    ends: list[int] = []
    payloads: list[bytes] = []
    extras: list[tuple[int, bytes]] = []
    try:
        while len(payloads) < 2:
            payloads.append(reader.take(reader.varint()))
            ends.append(reader.at)
        while reader.at < len(data):
            next_kind = reader.take(1)[0]
            length = reader.varint()
            if next_kind <= kind:
                raise Refused(8, "an optional section out of order")
            kind = next_kind
            extras.append((kind, reader.take(length)))
            ends.append(reader.at)
    except Refused:
        if any(fits(end) for end in ends[1:]):
            raise Refused(4, "bytes after the end") from None
        raise
    if not fits(len(data)):
        if any(fits(end) for end in ends[1:-1]):
            raise Refused(4, "bytes after the end")
        raise Refused(10, "the file check does not fit")
    for kind, payload in extras:
        if kind & 0x80 and not (kind == ALPHA and (not payload or payload[0] in CODINGS)):
            raise Refused(9, "an unknown critical section")
    return File(model_id, width, height, quality_step, symbol_check, payloads[0], payloads[1], tuple(extras))


# --- companions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Companions:
    """What the optional sections say; `alpha` is the plane, a byte for each pixel."""

    metadata: dict[int, bytes]
    gray: bool
    colour_space: int | None
    grain: int
    alpha: bytes | None


def read_companions(file: File) -> Companions:
    """The content of the optional sections that have a name; raises Refused."""
    found = dict(file.extras)
    metadata = {}
    for kind in (ICC, EXIF, XMP):
        payload = found.get(kind)
        if payload is None or (payload and payload[0] not in (STORED, DEFLATE)):
            continue
        metadata[kind] = _content(payload, 1 << 22)
    if found.get(GRAY):
        raise Refused(13, "gray with a payload")
    space = found.get(COLOUR_SPACE)
    if space is not None and len(space) != 1:
        raise Refused(13, "a colour space that is not one byte")
    grain = found.get(GRAIN, b"\0")
    if len(grain) != 1:
        raise Refused(13, "grain that is not one byte")
    alpha = None if ALPHA not in found else _plane(found[ALPHA], file.width_px, file.height_px)
    return Companions(metadata, GRAY in found, space[0] if space in (b"\1", b"\2") else None, grain[0], alpha)


def grain_at(row: int, column: int, strength: int) -> int:
    """What grain adds to the colours of a pixel."""

    def mixed(x: int) -> int:
        for _ in range(2):
            x = (x ^ x >> 16) * 0x045D9F3B & 0xFFFFFFFF
        return x ^ x >> 16

    drawn = mixed(mixed(row) + column & 0xFFFFFFFF)
    return (strength * ((drawn >> 16) + (drawn & 0xFFFF) - 65535) + (1 << 17)) // (1 << 18)


def _content(payload: bytes, limit: int) -> bytes:
    if not payload:
        raise Refused(13, "no coding byte")
    content = payload[1:]
    if payload[0] == DEFLATE:
        stream = zlib.decompressobj(-15)
        try:
            content = stream.decompress(content, limit + 1)
        except zlib.error:
            raise Refused(13, "a broken deflate stream") from None
        if not stream.eof or stream.unused_data:
            raise Refused(13, "a deflate stream that does not end with its payload")
    if len(content) > limit:
        raise Refused(13, "too much content")
    return content


def _plane(payload: bytes, width: int, height: int) -> bytes:
    if payload[:1] == bytes([CONSTANT]) and len(payload) == 2:
        return payload[1:] * (width * height)
    if payload[:1] == bytes([VP8L]) and max(width, height) <= 1 << 14:
        try:
            return vp8l.greens(payload[1:], width, height)
        except vp8l.Broken as error:
            raise Refused(13, str(error)) from None
    if payload[:1] not in (b"\0", b"\1"):
        raise Refused(13, "no plane")
    plane = _content(payload, width * height)
    if len(plane) != width * height:
        raise Refused(13, "a plane that is too short")
    return plane


# --- range coder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of a table: cumulative counts from 0 to 65536, and the symbol of slot 0."""

    counts: Sequence[int]
    offset: int


class RangeDecoder:
    """native/README.md, decoder side. Numbers are Python's own, so 64 bits are kept by hand where they matter."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.range = (1 << 64) - 1
        self.code, self.fetched = 0, 0
        self._fetch(8)

    def _fetch(self, count: int) -> None:
        for _ in range(count):
            byte = self.stream[self.fetched] if self.fetched < len(self.stream) else 0
            self.code, self.fetched = self.code << 8 | byte, self.fetched + 1

    def _step(self, bits: int, find: Callable[[int], tuple[int, int, int]]) -> int:
        part = self.range >> bits
        value = self.code // part
        if value >> bits:
            raise Refused(12, "no encoder writes this stream")
        found, start, width = find(value)
        self.code -= part * start
        self.range = part * width
        if self.range < 1 << 32:
            self._fetch(4)
            self.range <<= 32
        return found

    def uniform(self, bits: int) -> int:
        """A uniform value of `bits` bits."""
        return self._step(bits, lambda value: (value, value, 1))

    def symbol(self, row: Row) -> int:
        """A symbol with the table row `row`."""

        def find(value: int) -> tuple[int, int, int]:
            slot = next(i for i in range(len(row.counts) - 1) if value < row.counts[i + 1])
            return slot, row.counts[slot], row.counts[slot + 1] - row.counts[slot]

        slot = self._step(16, find)
        escape = len(row.counts) - 2
        if slot < escape:
            return row.offset + slot
        below = self.uniform(1)
        bits = 0
        while not self.uniform(1):
            bits += 1
            if bits > 32:
                raise Refused(12, "an escape of more than 32 bits")
        magnitude = 1
        if bits > 16:
            magnitude = magnitude << bits - 16 | self.uniform(bits - 16)
        if bits:
            magnitude = magnitude << min(bits, 16) | self.uniform(min(bits, 16))
        symbol = row.offset - magnitude if below else row.offset + escape + magnitude - 1
        if not -(1 << 31) <= symbol < 1 << 31:
            raise Refused(12, "a symbol outside int32")
        return symbol

    def finish(self) -> None:
        """Refuse the stream unless it ends as the encoder ends it."""
        window = (self.stream + bytes(max(0, self.fetched - len(self.stream))))[self.fetched - 8 : self.fetched]
        low = (int.from_bytes(window, "big") - self.code) % (1 << 64)
        k = 0
        while (multiple := -(-low // (1 << 64 - 8 * k)) << 64 - 8 * k) >= low + self.range:
            k += 1
        if len(self.stream) > self.fetched or self.stream[-1:] == b"\0" or self.code != multiple - low:
            raise Refused(12, "the stream does not end where its symbols do")


# --- model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """An integer tensor of the weights file, as the rows of its last axis."""

    shape: tuple[int, ...]
    rows: list[tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """What of a weights file decides symbols."""

    config: dict[str, Any]
    fingerprint: bytes
    prior: dict[str, Tensor]
    thresholds: tuple[int, ...]
    token_row: Row | None
    token_prior: dict[str, Tensor]  # empty where there is a row for tokens
    detail_rows: list[Row]


_TYPES = {
    "F16": ("torch.float16", 2),
    "F32": ("torch.float32", 4),
    "I32": ("torch.int32", 4),
    "I64": ("torch.int64", 8),
}


def read_model(path: Path) -> Model:
    """Read a weights file; raises ValueError unless every tensor has its digest and the prior keeps its bounds."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["dlfc"])
    tensors = {}
    for name, fields in header.items():
        start, end = fields["data_offsets"]
        raw = data[8 + length + start : 8 + length + end]
        kind, size = _TYPES[fields["dtype"]]
        line = f"{kind} {fields['shape']}\n"
        if hashlib.sha256(line.encode() + raw).hexdigest() != about["digests"][name]:
            raise ValueError(f"{name} is not what its digest says")
        if not name.startswith("network."):
            values = struct.unpack(f"<{len(raw) // size}{'q' if size == 8 else 'i'}", raw)
            last = fields["shape"][-1]
            tensors[name] = Tensor(tuple(fields["shape"]), [values[i : i + last] for i in range(0, len(values), last)])
    if header.keys() != about["digests"].keys():
        raise ValueError("the digests are not those of the tensors")
    lines = [json.dumps(about["config"], sort_keys=True)]
    lines += [f"{name} {about['digests'][name]}" for name in sorted(about["digests"], key=str.encode)]
    prior = {name.removeprefix("prior."): t for name, t in tensors.items() if name.startswith("prior.")}
    token_prior = {n.removeprefix("token_prior."): t for n, t in tensors.items() if n.startswith("token_prior.")}
    _check_bounds(prior)
    _check_bounds(token_prior)
    table = any(name.startswith("tables.token.") for name in tensors)
    if table == bool(token_prior) or (token_prior and not about["config"]["base_components"]):
        raise ValueError("a model has either a token table or, with a linear base, a token prior")
    return Model(
        about["config"],
        hashlib.sha256("\n".join(lines).encode()).digest(),
        prior,
        tensors["tables.thresholds"].rows[0],
        _rows(tensors, "token")[0] if table else None,
        token_prior,
        _rows(tensors, "detail"),
    )


def _rows(tensors: dict[str, Tensor], name: str) -> list[Row]:
    cdf, lengths, offsets = (tensors[f"tables.{name}.{part}"].rows for part in ("cdf", "lengths", "offsets"))
    return [Row(c[:n], offset) for c, n, offset in zip(cdf, lengths[0], offsets[0], strict=True)]


def _check_bounds(prior: dict[str, Tensor]) -> None:
    for name, tensor in prior.items():
        for row in tensor.rows:
            if name.endswith("weight") or name == "entries":
                fits = sum(map(abs, row)) < 1 << 26
            else:
                fits = max(map(abs, row)) < (1 << 51 if name.endswith("bias") else (1 << 26) + 1)
            if not fits:
                raise ValueError(f"{name} is out of bounds")


# --- detail prior -------------------------------------------------------------------------------------------------


def _clamp(x: int) -> int:
    return max(-(1 << 26), min(1 << 26, x))


def _rescale(x: int) -> int:
    return _clamp((x + (1 << 13)) >> 14)


def _leaky(x: int, slope: int) -> int:
    return x if x >= 0 else x * slope >> 16


class Prior:
    """SPEC.md, "Detail prior", for a grid of `height` x `width` cells."""

    def __init__(self, tensors: dict[str, Tensor], height: int, width: int) -> None:
        self.tensors, self.height, self.width = tensors, height, width

    def start(self, quality_step: int, regions: list[list[int]]) -> tuple[Map, Map, Map, Map]:
        """Step, scales, means and common; `regions` are the tokens by rows, for a prior with a context."""
        vector = self.tensors["vector"].rows
        n, f = divmod(quality_step * (len(vector) - 1), 200)
        m = min(n + 1, len(vector) - 1)
        cells = self.height * self.width
        x = [[(a * (200 - f) + b * f) // 200] * cells for a, b in zip(vector[n], vector[m], strict=True)]
        params = self.block("first.1", self.block("first.0", x))
        c = len(x)
        step = [[max(2048, value) for value in channel] for channel in params[:c]]
        scales, means, common = params[c : 2 * c], params[2 * c :], self.pointwise("reduce", params)
        if "context.codes" in self.tensors:
            more = self.context(x, regions)
            scales, means, common = (
                _combine(lambda a, b: _clamp(a + b), y, more[k * c : (k + 1) * c])
                for k, y in enumerate((scales, means, common))
            )
        return step, scales, means, common

    def context(self, x: Map, regions: list[list[int]]) -> Map:
        """What tokens add to scales, means and common."""
        tall, wide, c = self.height // len(regions), self.width // len(regions[0]), len(x)
        codes = [self.tensors["context.codes"].rows[token] for row in regions for token in row]
        spread = self.pointwise("context.spread", [list(channel) for channel in zip(*codes, strict=True)])
        of_cells: Map = [[0] * (self.height * self.width) for _ in range(c)]
        for channel, i, j in product(range(c), range(self.height), range(self.width)):
            part = i % tall * wide + j % wide
            region = i // tall * len(regions[0]) + j // wide
            of_cells[channel][i * self.width + j] = spread[part * c + channel][region]
        y = _combine(lambda a, b: _clamp(a + b), of_cells, x)
        return self.pointwise("context.out", self.block("context.blocks.1", self.block("context.blocks.0", y)))

    def refine(self, k: int, values: Map, common: Map) -> tuple[Map, Map]:
        """Scales and means of pass k."""
        x = self.block(f"adaptors.{k - 1}", values + common)
        for i in range(3):
            x = self.block(f"spatial.{i}", x)
        return x[: len(values)], x[len(values) :]

    def block(self, name: str, x: Map) -> Map:
        """One block of the prior."""
        y = self.pointwise(f"{name}.conv1", x)
        y = [[_leaky(value, 655) for value in channel] for channel in y]
        y = self.pointwise(f"{name}.conv2", self.depthwise(f"{name}.depthwise", y))
        if f"{name}.adaptor.weight" in self.tensors:
            x = self.pointwise(f"{name}.adaptor", x)
        x = _combine(lambda a, b: _clamp(a + b), y, x)
        u = self.pointwise(f"{name}.expand", x)
        half = len(u) // 2
        y = _combine(lambda a, b: _clamp(_leaky(a, 6554) + _leaky(b, 655)), u[:half], u[half:])
        return _combine(lambda a, b: _clamp(a + b), x, self.pointwise(f"{name}.contract", y))

    def pointwise(self, name: str, x: Map) -> Map:
        """A matrix in every cell."""
        weight, bias = self.tensors[f"{name}.weight"].rows, self.tensors[f"{name}.bias"].rows[0]
        cells = list(zip(*x, strict=True))
        return [[_rescale(sum(map(mul, row, cell)) + b) for cell in cells] for row, b in zip(weight, bias, strict=True)]

    def depthwise(self, name: str, x: Map) -> Map:
        """Three by three cells of every channel for itself."""
        weight, bias = self.tensors[f"{name}.weight"].rows, self.tensors[f"{name}.bias"].rows[0]
        result = []
        for channel, row, b in zip(x, weight, bias, strict=True):
            out = []
            for i in range(self.height):
                for j in range(self.width):
                    total = b
                    for tap in range(9):
                        r, s = i + tap // 3 - 1, j + tap % 3 - 1
                        if 0 <= r < self.height and 0 <= s < self.width:
                            total += row[tap] * channel[r * self.width + s]
                    out.append(_rescale(total))
            result.append(out)
        return result


def _combine(function: Callable[[int, int], int], a: Map, b: Map) -> Map:
    return [list(map(function, c, d)) for c, d in zip(a, b, strict=True)]


# --- tokens -------------------------------------------------------------------------------------------------------

GROUP, PIECE = 64, 256
POWERS = [round(2.0 ** (30 - f / 64)) for f in range(64)]


class TokenPrior:
    """SPEC.md, "Token prior"."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.size = tensors["bias"].shape[0]

    def weights_at(self, grid: Mapping[Place, int], place: Place) -> list[list[int]]:
        """The weights of all tokens at a place, group by group; `grid` has the tokens that are known."""
        i, j = place
        neighbours = (i, j - 1), (i - 1, j), (i - 1, j - 1), (i - 1, j + 1)
        return self.weights(tuple(grid.get(near, self.size) for near in neighbours))

    def weights(self, neighbours: tuple[int, ...]) -> list[list[int]]:
        """The weights of all tokens beside these, group by group; the size of the codebook stands for none."""
        x = [value for token in neighbours for value in self.tensors["context"].rows[token]]
        for name, least in (("first", 0), ("second", 0), ("third", -(1 << 26))):
            x = [max(least, min(1 << 26, y >> 14)) for y in self._sums(f"{name}.weight", f"{name}.bias", x)]
        scores = [y >> 20 for y in self._sums("entries", "bias", x)]
        below = [min(31 * 64, max(scores) - score) for score in scores]
        weights = [POWERS[d % 64] >> d // 64 for d in below] + [0] * (-self.size % GROUP)
        return [weights[first : first + GROUP] for first in range(0, len(weights), GROUP)]

    def _sums(self, weight: str, bias: str, x: Sequence[int]) -> list[int]:
        rows, biases = self.tensors[weight].rows, self.tensors[bias].rows[0]
        return [sum(map(mul, row, x)) + b for row, b in zip(rows, biases, strict=True)]


def token_counts(weights: Sequence[int], most: int) -> Row:
    """The table for symbols with these weights."""
    if not any(weights):
        weights = [1] * len(weights)
    m, total = len(weights), sum(weights)
    counts = [1 + w * (65535 - m) // total for w in weights]
    first = weights.index(max(weights))
    counts[first] = min(most, counts[first] + 65535 - sum(counts))
    return Row([0, *accumulate(counts), 65536], 0)


def waves(height: int, width: int) -> Iterator[list[Place]]:
    """The pieces in which a grid of tokens is coded."""
    for number in range(width + 2 * height):
        wave = [(i, number - 2 * i) for i in range(height) if 0 <= number - 2 * i < width]
        for start in range(0, len(wave), PIECE):
            yield wave[start : start + PIECE]


def tile_by_tile(rows: int, cols: int, tall: int, wide: int) -> Iterator[Place]:
    """The places of `rows` x `cols` tiles, each of `tall` x `wide` tokens."""
    for r, c, i, j in product(range(rows), range(cols), range(tall), range(wide)):
        yield r * tall + i, c * wide + j


def tokens_by_neighbours(stream: RangeDecoder, prior: TokenPrior, height: int, width: int) -> dict[Place, int]:
    """The tokens of a grid; raises Refused."""
    grid: dict[Place, int] = {}
    for piece in waves(height, width):
        weights = [prior.weights_at(grid, place) for place in piece]
        groups = [stream.symbol(token_counts([sum(group) for group in w], 32768)) for w in weights]
        if any(not 0 <= group < len(w) for group, w in zip(groups, weights, strict=True)):
            raise Refused(12, "a group outside the codebook")
        for place, group, w in zip(piece, groups, weights, strict=True):
            member = stream.symbol(token_counts(w[group], 65536))
            grid[place] = group * GROUP + member
            if not 0 <= member < GROUP or grid[place] >= prior.size:
                raise Refused(12, "a token outside the codebook")
    return grid


def _decode_tokens(file: File, model: Model, rows: int, cols: int) -> list[int]:
    """The tokens tile by tile; raises Refused."""
    config = model.config
    stream = RangeDecoder(file.semantic)
    if model.token_row is not None:
        tokens = [stream.symbol(model.token_row) for _ in range(rows * cols * config["tokens_per_tile"])]
    else:
        tall, wide = (config["tile_px"] // side for side in config["base_region_px"])
        grid = tokens_by_neighbours(stream, TokenPrior(model.token_prior), rows * tall, cols * wide)
        tokens = [grid[place] for place in tile_by_tile(rows, cols, tall, wide)]
    stream.finish()
    if not all(0 <= token < config["codebook_size"] for token in tokens):
        raise Refused(12, "a token outside the codebook")
    return tokens


# --- the whole ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symbols:
    """What a file says to the network, and the symbols that said it."""

    tokens: list[int]
    detail: list[int]
    latent: bytes  # float32, little endian, C H W


def decode(data: bytes, model: Model, max_pixels: int = DEFAULT_MAX_PIXELS) -> Symbols:
    """The symbols of the file `data`; raises Refused."""
    file = read_container(data, max_pixels)
    read_companions(file)
    if file.model_id != model.fingerprint[:4]:
        raise Refused(11, "another model")
    config = model.config
    rows, cols = -(-file.height_px // config["tile_px"]), -(-file.width_px // config["tile_px"])
    _refuse_too_short(file, model, rows * cols)
    tokens = _decode_tokens(file, model, rows, cols)
    detail, latent = _decode_detail(file, model, rows, cols, tokens)
    check = crc(struct.pack(f"<{len(tokens) + len(detail)}i", *tokens, *detail), crc(model.fingerprint))
    if check != file.symbol_check:
        raise Refused(12, "the symbol check does not fit")
    return Symbols(tokens, detail, latent)


def _refuse_too_short(file: File, model: Model, tiles: int) -> None:
    bits = 1
    if model.token_row is not None:
        widest = max(b - a for a, b in pairwise(model.token_row.counts))
        bits = max(b for b in range(17) if widest << b <= 1 << 16)
    if tiles * model.config["tile_px"] ** 2 > 1 << 20:
        tokens = tiles * model.config["tokens_per_tile"]
        if 8 * len(file.semantic) + 64 < bits * tokens:
            raise Refused(12, "too few bytes for so large a picture")


def _decode_detail(file: File, model: Model, rows: int, cols: int, tokens: list[int]) -> tuple[list[int], bytes]:
    tile, cell, c = model.config["tile_px"], 2 * model.config["patch_px"], model.config["latent_dim"]
    height, width = rows * tile // cell, cols * tile // cell
    visible = -(-file.height_px // cell), -(-file.width_px // cell)
    prior = Prior(model.prior, height, width)
    step, scales, means, common = prior.start(file.quality_step, _regions(model.config, rows, cols, tokens))
    values: Map = [[0] * (height * width) for _ in range(c)]
    stream = RangeDecoder(file.detail)
    coded = []
    for k in range(4):
        if k:
            scales, means = prior.refine(k, values, common)
        for channel, at, seen in _walk(k, c, height, width, visible):
            symbol = 0
            if seen and scales[channel][at] >= 492:
                row = sum(threshold <= scales[channel][at] for threshold in model.thresholds) - 1
                symbol = stream.symbol(model.detail_rows[max(row, 0)])
                coded.append(symbol)
            values[channel][at] = _clamp(4096 * symbol + means[channel][at])
    stream.finish()
    latent = [v * s * 2.0**-24 for a, b in zip(values, step, strict=True) for v, s in zip(a, b, strict=True)]
    return coded, struct.pack(f"<{len(latent)}f", *latent)


def _regions(config: dict[str, Any], rows: int, cols: int, tokens: list[int]) -> list[list[int]]:
    """The tokens by rows and columns of regions, if there are regions."""
    if not config["base_components"]:
        return []
    tall, wide = (config["tile_px"] // side for side in config["base_region_px"])
    grid = dict(zip(tile_by_tile(rows, cols, tall, wide), tokens, strict=True))
    return [[grid[i, j] for j in range(cols * wide)] for i in range(rows * tall)]


def _walk(k: int, c: int, height: int, width: int, visible: tuple[int, int]) -> Iterator[tuple[int, int, bool]]:
    """Channel, cell and whether it is visible, for everything that pass k codes, in order."""
    for channel in range(c // 4):
        for i in range(height):
            for j in range(width):
                group = PASSES[k].index(2 * (i % 2) + j % 2)
                yield group * c // 4 + channel, i * width + j, i < visible[0] and j < visible[1]


if __name__ == "__main__":
    found = decode(Path(sys.argv[2]).read_bytes(), read_model(Path(sys.argv[1])))
    print(f"{len(found.tokens)} tokens, {len(found.detail)} detail symbols; the latent's SHA-256 is")
    print(hashlib.sha256(found.latent).hexdigest())
