"""Symbols to bytes and back: numpy arrays around the range coder in C.

A stream holds no counts and no lengths. The decoder asks for what the encoder put, in the same order, with the same
tables; how the calls cut that order into batches does not matter. `native/README.md` describes the bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlfc._native import ffi, lib
from dlfc.errors import FormatError

__all__ = ["Decoder", "Encoder", "Tables"]

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

_INT32 = np.iinfo(np.int32)
_MAX_ROWS = 1 << 12  # sixteen times what any model has; the C code counts entries and lookups in 32 bits
_MIN_CAPACITY = 1024  # bytes; a whole photograph at our rates fits, so most streams never move
_ROW = np.dtype(  # as dlfc_row in the C header
    {"names": ["offset", "escape", "first", "lookup", "lookup_shift"], "formats": [np.int32] + 4 * [np.uint32]}
)


class Tables:
    """Frequency tables of 16 bits, one row for each distribution, frozen and ready for the C coder.

    There are at most 4096 rows. Row r has `lengths[r]` cumulative counts: 0 first, then strictly rising, 65536 last,
    so every slot has a count of at least 1 and the counts sum to exactly 65536. Its `lengths[r] - 1` slots stand for
    the symbols `offsets[r]`, `offsets[r] + 1`, ...; the last slot is the escape, for every int32 symbol that is not in
    the row.
    """

    __slots__ = ("_keep", "_native", "least_bits", "rows")

    rows: int
    least_bits: int  # no symbol of any row costs fewer bits; a whole number, rounded down

    def __init__(self, cdf: npt.ArrayLike, lengths: npt.ArrayLike, offsets: npt.ArrayLike) -> None:
        """Check the tables and build the decoder's lookups.

        Args:
            cdf: cumulative counts, integers, shape (n, max_length); what follows the first `lengths[r]` is ignored.
            lengths: entries of each row, integers in 2..max_length, shape (n,).
            offsets: symbol of each row's first slot, int32, shape (n,).

        Raises:
            ValueError: a shape, a type, a range or the order of the counts is wrong.
        """
        counts, sizes, starts = _checked_tables(cdf, lengths, offsets)
        padded = sizes + lib.DLFC_TABLE_PADDING
        rows = np.zeros(len(sizes), _ROW)
        rows["offset"], rows["escape"], rows["first"] = starts, sizes - 2, np.cumsum(padded) - padded
        row, column = np.nonzero(np.arange(counts.shape[1]) < sizes[:, None])
        last = np.full(int(padded.sum()), 0xFFFF, np.uint16)
        last[rows["first"][row] + column] = ((counts[row, column] - 1) & 0xFFFF).astype(np.uint16)
        lookup = np.empty(len(rows) << lib.DLFC_MAX_LOOKUP_BITS, np.uint16)
        rows_pointer = ffi.from_buffer("dlfc_row[]", rows, require_writable=True)
        last_pointer = ffi.from_buffer("uint16_t[]", last)
        lookup_pointer = ffi.from_buffer("uint16_t[]", lookup, require_writable=True)
        used = lib.dlfc_index_tables(rows_pointer, len(rows), last_pointer, lookup_pointer)
        lookup_pointer = ffi.from_buffer("uint16_t[]", lookup[:used].copy())

        self.rows = len(rows)
        inside = np.arange(1, counts.shape[1]) < sizes[:, None]
        self.least_bits = lib.DLFC_TABLE_BITS - int(np.diff(counts, axis=1)[inside].max() - 1).bit_length()
        self._native: Any = ffi.new("dlfc_tables *", (rows_pointer, len(rows), last_pointer, lookup_pointer))
        self._keep = (rows_pointer, last_pointer, lookup_pointer)  # the C struct does not own what it points to


class Encoder:
    """Collects symbols into one stream. For one thread at a time: the C code runs without the interpreter's lock."""

    __slots__ = ("_buffer", "_done", "_finished", "_native")

    def __init__(self) -> None:
        self._buffer: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._native: Any = ffi.new("dlfc_encoder *")
        self._done: Any = ffi.new("size_t *")
        self._finished = False
        lib.dlfc_encoder_init(self._native)
        self._grow()

    def put(self, symbols: npt.NDArray[Any], indices: npt.NDArray[Any], tables: Tables) -> None:
        """Append `symbols`, each with the table row that `indices` names; integers, equal shapes, in C order.

        Raises:
            ValueError: the shapes differ, a symbol is not int32 or an index is not a row; nothing was appended.
        """
        symbols, indices = _int32(symbols, "symbols"), _int32(indices, "indices")
        if symbols.shape != indices.shape:
            raise ValueError(f"symbols {symbols.shape} and indices {indices.shape} differ in shape")
        symbols_pointer, indices_pointer = _pointer(symbols), _pointer(indices)
        self._run(
            symbols.size,
            lambda at, left: lib.dlfc_encode(
                self._native, tables._native, symbols_pointer + at, indices_pointer + at, left, self._done
            ),
            f"indices must be in 0..{tables.rows - 1}",
        )

    def put_uniform(self, values: npt.NDArray[Any], bits: int) -> None:
        """Append `values` at `bits` bits each, all equally likely; integers with 0 <= value < 2**bits, bits 1..16.

        Raises:
            ValueError: `bits` or a value is out of range; nothing was appended.
        """
        _check_bits(bits)
        values = _int32(values, "values")
        pointer = _pointer(values)
        self._run(
            values.size,
            lambda at, left: lib.dlfc_encode_uniform(self._native, pointer + at, bits, left, self._done),
            f"values must be in 0..{(1 << bits) - 1}",
        )

    def finish(self) -> bytes:
        """The stream, with its shortest ending; the encoder takes no more symbols after this.

        Less than one byte longer than the ideal code length, plus rounding of about 2^-21 bits a symbol. The last
        byte is never zero; no symbols give b"", and so do symbols that all are the first of their rows.
        """
        self._check_open()
        while lib.dlfc_encoder_finish(self._native) == lib.DLFC_FULL:
            self._grow()
        self._finished = True
        return bytes(ffi.buffer(self._native.bytes, self._native.size))

    def _run(self, count: int, step: Any, complaint: str) -> None:
        """Call `step(at, left)` until `count` items are in, with more room whenever it stops for lack of it."""
        self._check_open()
        at = 0
        while (status := step(at, count - at)) == lib.DLFC_FULL:
            at += self._done[0]
            self._grow()
        if status != lib.DLFC_OK:
            raise ValueError(complaint)

    def _grow(self) -> None:
        buffer = np.empty(max(_MIN_CAPACITY, 2 * self._buffer.size), np.uint8)
        buffer[: self._buffer.size] = self._buffer
        self._buffer = buffer  # the C struct does not own it
        self._native.bytes = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        self._native.capacity = buffer.size

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("the encoder is finished; start another one")


class Decoder:
    """Takes symbols out of one stream, in the order in which they were put. For one thread at a time."""

    __slots__ = ("_data", "_native")

    def __init__(self, data: bytes) -> None:
        self._data = ffi.from_buffer("uint8_t[]", data)  # keeps the bytes alive; the C struct does not own them
        self._native: Any = ffi.new("dlfc_decoder *")
        lib.dlfc_decoder_init(self._native, self._data, len(self._data))

    def copy(self) -> Decoder:
        """A decoder of the same stream that stands where this one stands; each goes on for itself."""
        other = object.__new__(Decoder)
        other._data, other._native = self._data, ffi.new("dlfc_decoder *", self._native[0])
        return other

    def get(self, indices: npt.NDArray[Any], tables: Tables) -> Int32Array:
        """The next symbols, one for each of `indices` and in their shape.

        Bytes past the end read as zero, so a stream that was cut gives symbols too, wrong ones after the cut; see
        `overrun`.

        Raises:
            FormatError: no encoder writes this stream; the decoder gives nothing more after that.
            ValueError: an index is not a row of the tables; nothing was taken.
        """
        indices = _int32(indices, "indices")
        symbols = np.empty(indices.shape, np.int32)
        status = lib.dlfc_decode(self._native, tables._native, _pointer(symbols), _pointer(indices), indices.size)
        _raise_on(status, f"indices must be in 0..{tables.rows - 1}")
        return symbols

    def get_uniform(self, count: int, bits: int) -> Int32Array:
        """The next `count` values of `bits` bits, shape (count,).

        Raises:
            FormatError: no encoder writes this stream; the decoder gives nothing more after that.
            ValueError: `bits` is not in 1..16, or `count` is negative.
        """
        _check_bits(bits)
        values = np.empty(count, np.int32)
        _raise_on(lib.dlfc_decode_uniform(self._native, _pointer(values), bits, count), "bits")
        return values

    @property
    def overrun(self) -> bool:
        """True if bytes after the end, had there been any, could have changed the symbols taken so far.

        For a stream that was cut: what was taken before this turned true is certain. The last symbols of a whole
        stream are mostly past that point, for its ending is the shortest that is right with zeros after it.
        """
        return bool(lib.dlfc_decoder_overrun(self._native))

    def finish(self) -> None:
        """Check that the stream ends here.

        Passes if, and only if, encoding everything that was taken gives exactly these bytes: bytes left over, zero
        bytes at the end and an ending that another encoder might choose are refused. A stream that was cut is not
        noticed here, for it is the stream of other symbols; that takes a length or a checksum outside.

        Raises:
            FormatError: the stream does not end here.
        """
        if lib.dlfc_decoder_finish(self._native) != lib.DLFC_OK:
            raise FormatError("the entropy-coded stream does not end where its symbols do; the file is damaged")


def _checked_tables(cdf: npt.ArrayLike, lengths: npt.ArrayLike, offsets: npt.ArrayLike) -> tuple[Int64Array, ...]:
    """The three arrays of `Tables` as int64, or ValueError."""
    counts, sizes, starts = _int64(cdf, "cdf"), _int64(lengths, "lengths"), _int64(offsets, "offsets")
    if counts.ndim != 2 or not counts.size or {sizes.shape, starts.shape} != {counts.shape[:1]}:
        raise ValueError(
            f"tables need cdf (n, m), lengths (n,), offsets (n,), not {counts.shape}, {sizes.shape}, {starts.shape}"
        )
    if len(sizes) > _MAX_ROWS:
        raise ValueError(f"{len(sizes)} rows are more than tables may have, {_MAX_ROWS}")
    if sizes.min() < 2 or sizes.max() > counts.shape[1]:
        raise ValueError(f"row lengths must be in 2..{counts.shape[1]}, not {sizes.min()}..{sizes.max()}")
    if starts.min() < _INT32.min or starts.max() > _INT32.max or (starts + sizes - 3).max() > _INT32.max:
        raise ValueError("the symbols of every row must fit int32")
    ends = counts[np.arange(len(sizes)), sizes - 1]
    inside = np.arange(1, counts.shape[1]) < sizes[:, None]
    falls = (inside & (counts[:, 1:] <= counts[:, :-1])).any(axis=1)  # a difference of any two integers may overflow
    wrong = (counts[:, 0] != 0) | (ends != 1 << lib.DLFC_TABLE_BITS) | falls
    if wrong.any():
        raise ValueError(f"row {int(np.argmax(wrong))} does not rise strictly from 0 to {1 << lib.DLFC_TABLE_BITS}")
    return counts, sizes, starts


def _integers(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    return array


def _int64(values: npt.ArrayLike, name: str) -> Int64Array:
    return _integers(values, name).astype(np.int64)


def _int32(values: npt.ArrayLike, name: str) -> Int32Array:
    """As a contiguous int32 array; another integer type is converted if nothing is lost."""
    array = _integers(values, name)
    if array.dtype != np.int32 and array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
        raise ValueError(f"{name} must fit int32")
    return np.ascontiguousarray(array, np.int32).reshape(array.shape)


def _pointer(array: Int32Array) -> Any:
    return ffi.from_buffer("int32_t[]", array)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= lib.DLFC_MAX_UNIFORM_BITS:
        raise ValueError(f"bits must be in 1..{lib.DLFC_MAX_UNIFORM_BITS}, got {bits}")


def _raise_on(status: int, complaint: str) -> None:
    if status == lib.DLFC_MALFORMED:
        raise FormatError("the entropy-coded stream is damaged")
    if status != lib.DLFC_OK:
        raise ValueError(complaint)
