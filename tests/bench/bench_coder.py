"""The entropy coder beside constriction: symbols a second and bytes over the ideal length, in one run.

    python -m tests.bench.bench_coder [--symbols N] [--rounds N] [--streams N]

One thread, from numpy arrays of symbols and table indices to bytes, and from bytes and indices back to symbols. All
coders get the same symbols, drawn from 256 Gaussians with scales from 0.11 to 64. constriction runs in every form that
fits the job, and its fastest form in each direction is what we compare with:

* gaussian: one call with an array of scales; it computes each distribution on the way.
* grouped: a table for each scale made beforehand, symbols put in the order of their tables, one call per table. In
  arbitrary order that needs a sort on both sides, which counts; where the symbols are sorted already, it does not.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import constriction
import numpy as np

from dlfc.entropy.coder import Decoder, Encoder, Tables

queue, stack, model = constriction.stream.queue, constriction.stream.stack, constriction.stream.model

ROWS = 256
SCALES = np.exp(np.linspace(math.log(0.11), math.log(64), ROWS)).astype(np.float32)
ALPHABET = 400  # more than six times the largest scale; both ends of the alphabet of constriction's Gaussians


def gaussian_counts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """cdf, lengths and offsets of discrete Gaussians out to six standard deviations."""
    rows, offsets = [], []
    for scale in SCALES.tolist():
        reach = max(1, math.ceil(6 * scale))
        edges = [math.erf((i - 0.5) / (scale * math.sqrt(2))) / 2 for i in range(-reach, reach + 2)]
        counts = 1 + np.floor(np.append(np.diff(edges), 0) * (65536 - 2 * reach - 2)).astype(np.int64)
        counts[reach] += 65536 - counts.sum()
        rows.append(np.concatenate([[0], np.cumsum(counts)]))
        offsets.append(-reach)
    lengths = np.array([len(row) for row in rows])
    cdf = np.zeros((ROWS, lengths.max()), np.uint32)
    for i, row in enumerate(rows):
        cdf[i, : len(row)] = row
    return cdf, lengths, np.array(offsets, np.int32)


CDF, LENGTHS, OFFSETS = gaussian_counts()
TABLES = Tables(CDF, LENGTHS, OFFSETS)
FAMILY = model.QuantizedGaussian(-ALPHABET, ALPHABET, 0.0)
MODELS = [
    model.Categorical(np.diff(CDF[row, : LENGTHS[row]].astype(np.float64)) / 65536, perfect=False, lazy=False)
    for row in range(ROWS)
]


def draw(rng: np.random.Generator, count: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Symbols, all inside their tables, and the table of each."""
    indices = rng.integers(0, rows, count).astype(np.int32)
    reach = -OFFSETS[indices]
    symbols = np.rint(rng.normal(size=count) * SCALES[indices])
    return np.clip(symbols, -reach, reach).astype(np.int32), indices


def ideal_bytes(symbols: np.ndarray, indices: np.ndarray) -> float:
    slots = symbols - OFFSETS[indices]
    counts = CDF[indices, slots + 1].astype(float) - CDF[indices, slots]
    return float((16 - np.log2(counts)).sum() / 8)


class Coder(Protocol):
    """What is measured."""

    name: str

    def encode(self, symbols: np.ndarray, indices: np.ndarray) -> bytes: ...

    def decode(self, data: bytes, indices: np.ndarray) -> np.ndarray: ...


class Ours:
    name = "dlfc"

    def encode(self, symbols: np.ndarray, indices: np.ndarray) -> bytes:
        encoder = Encoder()
        encoder.put(symbols, indices, TABLES)
        return encoder.finish()

    def decode(self, data: bytes, indices: np.ndarray) -> np.ndarray:
        decoder = Decoder(data)
        symbols = decoder.get(indices, TABLES)
        decoder.finish()
        return symbols


class RangeGaussian:
    name = "constriction range, gaussian"

    def encode(self, symbols: np.ndarray, indices: np.ndarray) -> bytes:
        encoder = queue.RangeEncoder()
        encoder.encode(symbols, FAMILY, SCALES[indices])
        return encoder.get_compressed().tobytes()

    def decode(self, data: bytes, indices: np.ndarray) -> np.ndarray:
        return queue.RangeDecoder(np.frombuffer(data, np.uint32)).decode(FAMILY, SCALES[indices])


class AnsGaussian:
    name = "constriction ANS, gaussian"

    def encode(self, symbols: np.ndarray, indices: np.ndarray) -> bytes:
        coder = stack.AnsCoder()
        coder.encode_reverse(symbols, FAMILY, SCALES[indices])
        return coder.get_compressed().tobytes()

    def decode(self, data: bytes, indices: np.ndarray) -> np.ndarray:
        return stack.AnsCoder(np.frombuffer(data, np.uint32)).decode(FAMILY, SCALES[indices])


class Grouped:
    """Symbols in the order of their tables."""

    def __init__(self, presorted: bool) -> None:
        self.presorted = presorted

    def order(self, indices: np.ndarray) -> np.ndarray | slice:
        return slice(None) if self.presorted else np.argsort(indices.astype(np.uint8), kind="stable")  # a radix sort

    def groups(self, indices: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Table, first symbol and symbol after the last, for each table."""
        ends = np.cumsum(np.bincount(indices, minlength=ROWS)).tolist()
        return zip(range(ROWS), [0, *ends[:-1]], ends, strict=True)

    def join(self, parts: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
        symbols = np.empty(len(indices), np.int32)
        symbols[self.order(indices)] = np.concatenate(parts)
        return symbols


class RangeGrouped(Grouped):
    name = "constriction range, grouped"

    def encode(self, symbols: np.ndarray, indices: np.ndarray) -> bytes:
        encoder, symbols = queue.RangeEncoder(), symbols[self.order(indices)]
        for row, start, end in self.groups(indices):
            encoder.encode(symbols[start:end] - OFFSETS[row], MODELS[row])
        return encoder.get_compressed().tobytes()

    def decode(self, data: bytes, indices: np.ndarray) -> np.ndarray:
        decoder = queue.RangeDecoder(np.frombuffer(data, np.uint32))
        parts = [decoder.decode(MODELS[r], end - start) + OFFSETS[r] for r, start, end in self.groups(indices)]
        return self.join(parts, indices)


class AnsGrouped(Grouped):
    name = "constriction ANS, grouped"

    def encode(self, symbols: np.ndarray, indices: np.ndarray) -> bytes:
        coder, symbols = stack.AnsCoder(), symbols[self.order(indices)]
        for row, start, end in reversed(list(self.groups(indices))):
            coder.encode_reverse(symbols[start:end] - OFFSETS[row], MODELS[row])
        return coder.get_compressed().tobytes()

    def decode(self, data: bytes, indices: np.ndarray) -> np.ndarray:
        coder = stack.AnsCoder(np.frombuffer(data, np.uint32))
        parts = [coder.decode(MODELS[r], end - start) + OFFSETS[r] for r, start, end in self.groups(indices)]
        return self.join(parts, indices)


def seconds(call: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def compare(title: str, symbols: np.ndarray, indices: np.ndarray, coders: list[Coder], rounds: int) -> None:
    """Medians of interleaved rounds, so that a slow moment of the machine falls on everyone; ours comes first."""
    count = len(symbols)
    streams = [coder.encode(symbols, indices) for coder in coders]
    for coder, data in zip(coders, streams, strict=True):
        if not np.array_equal(coder.decode(data, indices), symbols):
            raise SystemExit(f"{coder.name} does not give the symbols back")
    times = np.zeros((len(coders), 2, rounds))
    for i in range(rounds):
        for coder, data, taken in zip(coders, streams, times, strict=True):
            taken[0, i] = seconds(coder.encode, symbols, indices)
            taken[1, i] = seconds(coder.decode, data, indices)
    rates = count / np.median(times, axis=2) / 1e6
    ratios = rates[0] / rates[1:].max(axis=0)
    print(f"\n{title}: {count} symbols of {ideal_bytes(symbols, indices) * 8 / count:.2f} bits, {rounds} rounds")
    print(f"{'million symbols/s':32}{'encode':>10}{'decode':>10}")
    for coder, (encode, decode) in zip(coders, rates.tolist(), strict=True):
        print(f"{coder.name:32}{encode:10.1f}{decode:10.1f}")
    print(f"{'dlfc / fastest other':32}{ratios[0]:10.2f}{ratios[1]:10.2f}")


def compare_lengths(coders: list[Coder], streams: int, count: int = 400) -> None:
    rng = np.random.default_rng(1)
    samples = [draw(rng, count) for _ in range(streams)]
    print(f"\n{'bytes over the ideal length':32}{'mean':>10}{'worst':>10}   {streams} streams of {count} symbols")
    for coder in coders:
        over = [len(coder.encode(*sample)) - ideal_bytes(*sample) for sample in samples]
        print(f"{coder.name:32}{statistics.mean(over):10.2f}{max(over):10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, default=2000, help="streams of 400 symbols for the overhead")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    anyhow: list[Coder] = [Ours(), RangeGaussian(), AnsGaussian(), RangeGrouped(False), AnsGrouped(False)]
    presorted: list[Coder] = [Ours(), RangeGrouped(True), AnsGrouped(True)]
    for name, rows in (("256 Gaussian tables", ROWS), ("mostly zero", ROWS // 4)):
        symbols, indices = draw(rng, options.symbols, rows)
        order = np.argsort(indices, kind="stable")
        compare(f"{name}, any order", symbols, indices, anyhow, options.rounds)
        compare(f"{name}, sorted by table", symbols[order], indices[order], presorted, options.rounds)
    # The Gaussian family stays out: its distributions are finer than 16 bits, so the ideal length is another.
    compare_lengths([anyhow[0], *anyhow[3:]], options.streams)


if __name__ == "__main__":
    main()
