"""The semantic-token section: all tokens by one table, or each by what its neighbours make likely.

Where every token stands for a region of the picture, its neighbours say much about it: a small network of integers
gives each of the `codebook_size` tokens a weight, from the tokens at its left, above it, and above at both sides. As
with the detail prior, integers make the same counts everywhere. SPEC.md, section "Token prior", states the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from dlfc.entropy.coder import Decoder, Encoder, Tables
from dlfc.entropy.prior import ACTIVATION_BITS, MAX_ACTIVATION, MAX_BIAS, MAX_ROW, WEIGHT_BITS
from dlfc.errors import FormatError

GROUP = 64  # tokens of a group: first the group is coded, then which of its tokens it is, each by a short table
NEIGHBOURS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))  # rows down, columns right: left, above, above at left and right
SCORE_BITS = 6  # a score is a logarithm to base 2, in units of 1/64
TOTAL = 1 << 16
MOST = TOTAL // 2  # of a group: no token is free, so no picture comes from next to nothing

PIECE = 256  # places of a wave that are coded at a time: the weights of 4096 tokens at each of them take 4 MB
_AT_ONCE = 256  # places, about, that an encoder looks at together
_POWERS = np.round(2.0 ** (30 - np.arange(1 << SCORE_BITS) / (1 << SCORE_BITS))).astype(np.int32)
_LAYERS = ("first", "second", "third")

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Places = tuple[Int64Array, Int64Array]  # rows and columns of a grid


class TokenCoding(Protocol):
    """How a model's tokens become bytes and come back."""

    @property
    def least_bits(self) -> int:
        """No token costs fewer; a whole number."""

    def pack(self, tokens: Int32Array, across: int) -> bytes:
        """The section of `tokens` T N, of tiles in raster order, `across` of them in a row."""

    def unpack(self, data: bytes, tiles: int, across: int) -> Int32Array:
        """The tokens T N of a section. Raises FormatError if it does not hold exactly those."""

    def unpack_many(self, sections: Sequence[bytes], tiles: int, across: int) -> list[Int32Array]:
        """The tokens of several sections of pictures of one size. Raises FormatError for the first that is bad."""


@dataclass(frozen=True)
class OneTable:
    """Tile by tile and token by token, all by row 0 of `tables`."""

    tables: Tables
    codebook_size: int
    per_tile: int

    @property
    def least_bits(self) -> int:
        """No token costs fewer."""
        return self.tables.least_bits

    def pack(self, tokens: Int32Array, across: int) -> bytes:
        """See `TokenCoding`."""
        encoder, flat = Encoder(), tokens.reshape(-1)
        encoder.put(flat, np.zeros_like(flat), self.tables)
        return encoder.finish()

    def unpack(self, data: bytes, tiles: int, across: int) -> Int32Array:
        """See `TokenCoding`."""
        decoder = Decoder(data)
        tokens = decoder.get(np.zeros(tiles * self.per_tile, np.int32), self.tables)
        decoder.finish()
        _check(tokens, self.codebook_size)
        return tokens.reshape(tiles, self.per_tile)

    def unpack_many(self, sections: Sequence[bytes], tiles: int, across: int) -> list[Int32Array]:
        """See `TokenCoding`."""
        return [self.unpack(data, tiles, across) for data in sections]


def _check(tokens: Int32Array | Int64Array, size: int) -> None:
    if tokens.min() < 0 or tokens.max() >= size:
        raise FormatError("a token is outside the codebook; the file is damaged")


class ByNeighbours:
    """Each token by tables of its own, of tiles with `rows` x `columns` tokens, from the tensors of a weights file.

    `tensors` are integers: `context` (V + 1, D), of each of V tokens and of none; `first`, `second` and `third`, each
    with `.weight` (out, in) and `.bias` (out,), of which the first takes 4 D numbers and the third gives E; `entries`
    (V, E) and `bias` (V,). Raises ValueError if they are not, or too large for the fixed point.
    """

    least_bits = 1

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.generic]], rows: int, columns: int) -> None:
        held = _checked(tensors)
        self.rows, self.columns = rows, columns
        self.size = len(held["bias"])
        self._context = held["context"]
        self._layers = [(held[f"{name}.weight"].T.copy(), held[f"{name}.bias"]) for name in _LAYERS]
        self._entries, self._bias = held["entries"].T.copy(), held["bias"]

    def pack(self, tokens: Int32Array, across: int) -> bytes:
        """See `TokenCoding`."""
        grid, encoder = self._framed(self._joined(tokens, across)), Encoder()
        for waves in _batches(self._waves(*grid.shape)):
            rows, columns = (np.concatenate(places) for places in zip(*waves, strict=True))
            weights, order = self._weights(grid[None], rows, columns), np.arange(len(rows), dtype=np.int32)
            group, member = np.divmod(grid[rows, columns].astype(np.int32), np.int32(GROUP))
            groups, members = _tables(weights.sum(2, dtype=np.int64), MOST), _tables(weights[order, group], TOTAL)
            for part in np.split(order, np.cumsum([len(wave[0]) for wave in waves])[:-1]):
                encoder.put(group[part], part, groups)
                encoder.put(member[part], part, members)
        return encoder.finish()

    def unpack(self, data: bytes, tiles: int, across: int) -> Int32Array:
        """See `TokenCoding`."""
        return self.unpack_many([data], tiles, across)[0]

    def unpack_many(self, sections: Sequence[bytes], tiles: int, across: int) -> list[Int32Array]:
        """See `TokenCoding`. Of several sections a wave of each goes through the network together."""
        height, width = tiles // across * self.rows, across * self.columns
        grids = np.stack([self._framed(np.zeros((height, width), np.int64)) for _ in sections])
        try:
            decoders = [Decoder(data) for data in sections]
            for rows, columns in self._waves(*grids.shape[1:]):
                weights = self._weights(grids, rows, columns)
                order = np.arange(len(weights), dtype=np.int32)
                parts = np.split(order, len(sections))
                tables = _tables(weights.sum(2, dtype=np.int64), MOST)
                group = np.concatenate([d.get(part, tables) for d, part in zip(decoders, parts, strict=True)])
                _check(group, weights.shape[1])
                tables = _tables(weights[order, group], TOTAL)
                member = np.concatenate([d.get(part, tables) for d, part in zip(decoders, parts, strict=True)])
                _check(member, GROUP)
                found = group.astype(np.int64) * GROUP + member
                _check(found, self.size)
                grids[:, rows, columns] = found.reshape(len(sections), -1)
            for decoder in decoders:
                decoder.finish()
        except FormatError:
            if (
                len(sections) > 1
            ):  # what is wrong with the first bad one, not with the one that failed in the first wave
                for data in sections:
                    self.unpack(data, tiles, across)
            raise
        return [self._cut(grid[1:, 1:-1], across) for grid in grids]

    def _joined(self, tokens: Int32Array, across: int) -> Int64Array:
        """Tokens of tiles, T rows*columns -> those of the picture, by rows."""
        tiles = tokens.reshape(-1, across, self.rows, self.columns).swapaxes(1, 2)
        return tiles.reshape(-1, across * self.columns).astype(np.int64)

    def _cut(self, grid: Int64Array, across: int) -> Int32Array:
        """The inverse of `_joined`."""
        tiles = grid.reshape(-1, self.rows, across, self.columns).swapaxes(1, 2)
        return tiles.reshape(-1, self.rows * self.columns).astype(np.int32)

    def _framed(self, grid: Int64Array) -> Int64Array:
        """The grid with `size`, which stands for no token, above it and at both sides."""
        return np.pad(grid, ((1, 0), (1, 1)), constant_values=self.size)

    @staticmethod
    def _waves(height: int, width: int) -> Iterator[Places]:
        """Places in a framed grid of this size whose neighbours have all been in earlier waves."""
        height, width = height - 1, width - 2
        for wave in range(width + 2 * (height - 1)):
            first, end = max(0, (wave - width + 2) // 2), min(height - 1, wave // 2) + 1
            for top in range(first, end, PIECE):
                rows = np.arange(top, min(top + PIECE, end))
                yield rows + 1, wave - 2 * rows + 1

    def _weights(self, grids: Int64Array, rows: Int64Array, columns: Int64Array) -> Int32Array:
        """Integer weights of all tokens at places of framed grids: places of all grids, groups, GROUP.

        The largest is about 2^30.
        """
        near = [grids[:, rows + down, columns + right].reshape(-1) for down, right in NEIGHBOURS]
        x = np.concatenate([self._context[tokens] for tokens in near], 1)
        for name, (weight, bias) in zip(_LAYERS, self._layers, strict=True):
            x = np.floor((_product(x, weight) + bias) / (1 << WEIGHT_BITS))
            x = x.clip(-MAX_ACTIVATION if name == _LAYERS[-1] else 0, MAX_ACTIVATION)
        scores = np.floor((_product(x, self._entries) + self._bias) / (1 << ACTIVATION_BITS + WEIGHT_BITS - SCORE_BITS))
        below = np.minimum(scores.max(1, keepdims=True) - scores, 31 << SCORE_BITS).astype(np.int32)
        weights = _POWERS[below & ((1 << SCORE_BITS) - 1)] >> (below >> SCORE_BITS)
        groups = -(-self.size // GROUP)
        if groups * GROUP > self.size:
            weights = np.pad(weights, ((0, 0), (0, groups * GROUP - self.size)))
        return weights.reshape(len(x), groups, GROUP)


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """The matrix product, by torch: numpy's library has threads of its own, which would fight with torch's."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def _batches(waves: Iterator[Places]) -> Iterator[list[Places]]:
    """Waves together until they are `_AT_ONCE` places or more: who knows all tokens can look at many at once."""
    held: list[Places] = []
    for wave in waves:
        held.append(wave)
        if sum(len(rows) for rows, _ in held) >= _AT_ONCE:
            yield held
            held = []
    if held:
        yield held


def _tables(weights: Int32Array | Int64Array, most: int) -> Tables:
    """Tables of counts in proportion to `weights` N M, each at least 1 and at most `most`; the escape has the rest."""
    n, m = weights.shape
    weights = np.where(weights.any(1, keepdims=True), weights, 1).astype(np.int64)
    counts = 1 + weights * (TOTAL - 1 - m) // weights.sum(1, keepdims=True)
    first = np.arange(n), weights.argmax(1)
    counts[first] = np.minimum(counts[first] + TOTAL - 1 - counts.sum(1), most)
    cdf = np.zeros((n, m + 2), np.int64)
    cdf[:, 1:-1] = counts.cumsum(1)
    cdf[:, -1] = TOTAL
    return Tables(cdf, np.full(n, m + 2), np.zeros(n, np.int32))


def _checked(tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, FloatArray]:
    """The tensors as integers in float64. Raises ValueError."""
    named = {"context", "entries", "bias"} | {f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")}
    for name in sorted(named ^ tensors.keys()):
        raise ValueError(f"the token prior's {name} is missing or unknown")
    if any(values.dtype not in (np.int32, np.int64) for values in tensors.values()):
        raise ValueError("the token prior has tensors that are no integers")
    held = {name: values.astype(np.float64) for name, values in tensors.items()}
    if any(values.ndim != (1 if name.endswith("bias") else 2) for name, values in held.items()):
        raise ValueError("the token prior has tensors of other dimensions")
    size, width = len(held["bias"]), len(NEIGHBOURS) * held["context"].shape[1]
    for layer in _LAYERS:
        if held[f"{layer}.weight"].shape != (len(held[f"{layer}.bias"]), width):
            raise ValueError(f"the token prior's {layer} does not fit what is before it")
        width = len(held[f"{layer}.bias"])
    if size == 0 or held["entries"].shape != (size, width) or len(held["context"]) != size + 1:
        raise ValueError("the token prior's context, entries and bias are not of one codebook")
    for name, values in held.items():
        if name.endswith("bias"):
            fits = np.abs(values) < MAX_BIAS
        elif name == "context":
            fits = np.abs(values) <= MAX_ACTIVATION
        else:
            fits = np.abs(values).sum(1) < MAX_ROW
        if not fits.all():
            raise ValueError(f"the token prior's {name} has values that are too large for fixed point")
    return held
