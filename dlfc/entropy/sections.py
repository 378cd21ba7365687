"""What stands between the symbols of a picture and the sections of its file: the check, and streams that were cut."""

from __future__ import annotations

import binascii

import numpy as np
import numpy.typing as npt

from dlfc.entropy.coder import Decoder, Tables
from dlfc.errors import FormatError

Int32Array = npt.NDArray[np.int32]


class SymbolCheck:
    """CRC-16 over the fingerprint of the model and all symbols, as four bytes each (SPEC.md, "Symbol check")."""

    def __init__(self, fingerprint: bytes) -> None:
        self.value = binascii.crc_hqx(fingerprint, 0xFFFF)

    def add(self, symbols: Int32Array) -> None:
        """Let the next symbols count, in the order in which they are coded."""
        self.value = binascii.crc_hqx(symbols.astype("<i4").tobytes(), self.value)


class WholeStream:
    """Reads a detail stream that is all there."""

    def __init__(self, data: bytes, tables: Tables, check: SymbolCheck) -> None:
        self._decoder, self._tables, self._check = Decoder(data), tables, check

    def get(self, indices: Int32Array) -> Int32Array:
        """The next symbols. Raises FormatError if no encoder writes this stream."""
        symbols = self._decoder.get(indices, self._tables)
        self._check.add(symbols)
        return symbols

    def finish(self, symbol_check: int) -> None:
        """Raise FormatError unless the stream ends here and the symbols are those of `symbol_check`."""
        self._decoder.finish()
        if self._check.value != symbol_check:
            raise FormatError("the decoded symbols do not match the file's check; file or decoder is damaged")


class CutStream:
    """Reads of a detail stream what is certain whatever the lost bytes were, and takes all the rest as 0."""

    def __init__(self, data: bytes, tables: Tables) -> None:
        self._decoder, self._tables = Decoder(data), tables  # stands after the last certain symbol
        self._ended = False

    def get(self, indices: Int32Array) -> Int32Array:
        """The next symbols."""
        symbols = np.zeros_like(indices)
        at, count = 0, 0 if self._ended else len(indices)
        while count and at < len(indices):  # as many as are certain, found by halving
            ahead = self._decoder.copy()
            try:
                part = ahead.get(indices[at : at + count], self._tables)
            except FormatError:
                part = None
            if part is None or ahead.overrun:
                count //= 2
            else:
                symbols[at : at + len(part)] = part
                self._decoder, at = ahead, at + len(part)
        self._ended = at < len(indices)
        return symbols

    def finish(self, symbol_check: int) -> None:
        """Nothing verifies the symbols of a cut stream."""
