"""The bytes of a .dlf file, declared with construct; SPEC.md says the same in words.

Surprises first: `Section` reads as much of its payload as there is, so that a file that was cut can still be
understood; whoever parses compares `length` with the payload. The two checks close the header, so the file check
always stands `FILE_CHECK_FROM_HEADER_END` bytes before the first section.
"""

from __future__ import annotations

from typing import Any

from construct import (
    Byte,
    Bytes,
    Const,
    Construct,
    ExprAdapter,
    ExprValidator,
    GreedyRange,
    Int16ul,
    IntegerError,
    Rebuild,
    Struct,
    len_,
    obj_,
    stream_read,
    stream_write,
    this,
)

MAGIC = b"\xdf\x1c"  # neither a letter nor a digit: no text file and no common image begins like this
FORMAT_VERSION = 1
MODEL_ID_SIZE_BYTES = 4
QUALITY_STEPS_PER_UNIT = 2
QUALITY_STEP_MAX = 200  # quality 100.0
VARINT_MAX_BYTES = 5  # 35 bits: more than any size or length that a limit lets through
FILE_CHECK_SIZE_BYTES = 2
FILE_CHECK_FROM_HEADER_END = 4  # file check and symbol check, two bytes each, end the header
HEADER_MIN_BYTES = 14  # both sizes in one byte
FILE_MIN_BYTES = HEADER_MIN_BYTES + 2  # two empty sections


class _Varint(Construct):
    """Unsigned LEB128 of at most five bytes, shortest form only (SPEC.md, "Numbers")."""

    def _parse(self, stream: Any, context: Any, path: str) -> int:
        value = 0
        for position in range(VARINT_MAX_BYTES):
            byte = stream_read(stream, 1, path)[0]
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if byte == 0 and position > 0:
                    raise IntegerError("number is not in its shortest form", path=path)
                return value
        raise IntegerError(f"number is longer than {VARINT_MAX_BYTES} bytes", path=path)

    def _build(self, obj: int, stream: Any, context: Any, path: str) -> int:
        if not 0 <= obj < 1 << (7 * VARINT_MAX_BYTES):
            raise IntegerError(f"{obj} does not fit {VARINT_MAX_BYTES} bytes", path=path)
        value = obj
        encoded = bytearray()
        while value >= 0x80:
            encoded.append(0x80 | (value & 0x7F))
            value >>= 7
        encoded.append(value)
        stream_write(stream, bytes(encoded), len(encoded), path)
        return obj


class _BytesUpTo(Construct):
    """The next `length` bytes, or what is left of the stream when that is less."""

    def __init__(self, length: Any) -> None:
        super().__init__()
        self.length = length

    def _parse(self, stream: Any, context: Any, path: str) -> bytes:
        found: bytes = stream.read(self.length(context))
        return found

    def _build(self, obj: bytes, stream: Any, context: Any, path: str) -> bytes:
        stream_write(stream, obj, len(obj), path)
        return obj


Varint = _Varint()

SizeMinusOne = ExprAdapter(Varint, obj_ + 1, obj_ - 1)  # no picture has a side of 0, so 0 need not be writable
Quality = ExprAdapter(
    ExprValidator(Byte, obj_ <= QUALITY_STEP_MAX),
    obj_ / QUALITY_STEPS_PER_UNIT,
    lambda quality, _: round(quality * QUALITY_STEPS_PER_UNIT),
)

# SPEC.md, "Header"
Header = Struct(
    "magic" / Const(MAGIC),
    "version" / Const(FORMAT_VERSION, Byte),
    "model_id" / Bytes(MODEL_ID_SIZE_BYTES),
    "width_px" / SizeMinusOne,
    "height_px" / SizeMinusOne,
    "quality" / Quality,
    "file_check" / Int16ul,
    "symbol_check" / Int16ul,
)

# SPEC.md, "Sections"
Section = Struct(
    "length" / Rebuild(Varint, len_(this.payload)),
    "payload" / _BytesUpTo(this.length),
)

# SPEC.md, "Optional sections"
ExtraSection = Struct(
    "kind" / Byte,
    "length" / Rebuild(Varint, len_(this.payload)),
    "payload" / _BytesUpTo(this.length),
)

# Only built: GreedyRange hides errors, so reading goes section by section (container.py).
Body = Struct(
    "semantic" / Section,
    "detail" / Section,
    "extras" / GreedyRange(ExtraSection),
)
