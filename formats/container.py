"""A .dlf file as a value: `pack` writes it, `unpack` reads it and refuses what SPEC.md says must be refused."""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass, field
from enum import IntEnum
from io import BytesIO
from typing import Any

from construct import ConstructError, StreamError, ValidationError

from dlfc.formats import layout
from dlfc.formats.errors import FormatError, LimitError, UnsupportedVersionError

DEFAULT_MAX_PIXELS = 2**27  # 11585 x 11585; decoding on a CPU takes about 40 bytes a pixel above 1 GB, here 6 GB
MAX_SIDE_PX = 2**20  # a thin strip within the pixel limit would still be padded to whole tiles

_CRC_START = 0xFFFF
_CRITICAL_BIT = 0x80


class Kind(IntEnum):
    """Names of optional sections; bit 7 set means that a reader must know the kind."""

    ICC = 0x01
    EXIF = 0x02
    XMP = 0x03
    GRAY = 0x04
    COLOUR = 0x05
    GRAIN = 0x06
    ALPHA = 0x84


class Coding(IntEnum):
    """First byte of the payload of metadata and transparency: how the rest is coded."""

    STORED = 0
    DEFLATE = 1
    VP8L = 2
    CONSTANT = 3


_CRITICAL_CODINGS = {Kind.ALPHA: frozenset(Coding)}


def kind_name(kind: int) -> str:
    """Return the name of an optional section for people and JSON: `icc`, or `0x2a` for a kind without a name."""
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return f"0x{kind:02x}"


def nearest_quality(quality: float) -> float:
    """Return the quality that a file can state, a multiple of 0.5, nearest to `quality` (0 to 100).

    Encode with the returned value, since it is what the decoder will read. Raises ValueError outside 0 to 100.
    """
    if not 0 <= quality <= 100:
        raise ValueError(f"quality is {quality}, not between 0 and 100")
    return round(quality * layout.QUALITY_STEPS_PER_UNIT) / layout.QUALITY_STEPS_PER_UNIT


@dataclass(frozen=True)
class Extra:
    """An optional section: its kind byte and its payload, as they stand in the file."""

    kind: int
    payload: bytes

    def __post_init__(self) -> None:
        _require(0 <= self.kind <= 0xFF, f"section kind {self.kind} is not a byte")


@dataclass(frozen=True)
class Container:
    """Everything that a .dlf file says, with the two payloads still entropy-coded.

    Sizes are in pixels, 1 to MAX_SIDE_PX; `quality` is a multiple of 0.5 from 0 to 100 (see `nearest_quality`);
    `symbol_check` is a 16-bit number that only the codec understands; `extras` stand in ascending order of kind,
    each kind once. `complete` is False when the file was cut: `detail` then holds what is left of it, perhaps
    nothing. Raises ValueError for fields that no file can hold, LimitError for a side that is too long.
    """

    model_id: bytes
    width_px: int
    height_px: int
    quality: float
    symbol_check: int
    semantic: bytes
    detail: bytes
    extras: tuple[Extra, ...] = ()
    version: int = layout.FORMAT_VERSION
    complete: bool = True

    def __post_init__(self) -> None:
        _require(self.version == layout.FORMAT_VERSION, f"format version {self.version} cannot be written")
        _require(len(self.model_id) == layout.MODEL_ID_SIZE_BYTES, "model id is not 4 bytes long")
        _require(self.width_px > 0 and self.height_px > 0, f"no picture is {self.width_px}x{self.height_px}")
        _check_sides(self.width_px, self.height_px)
        _require(self.quality == nearest_quality(self.quality), f"quality {self.quality} is not a multiple of 0.5")
        _require(0 <= self.symbol_check <= 0xFFFF, f"symbol check {self.symbol_check} has more than 16 bits")
        kinds = [extra.kind for extra in self.extras]
        _require(kinds == sorted(set(kinds)), "optional sections are not in ascending order, each kind once")

    @property
    def payload_bytes(self) -> int:
        """Size of the payloads of all sections."""
        return len(self.semantic) + len(self.detail) + sum(len(extra.payload) for extra in self.extras)

    @property
    def overhead_bytes(self) -> int:
        """Size of everything else: header, section lengths and section kinds."""
        return self.size_bytes - self.payload_bytes

    @property
    def size_bytes(self) -> int:
        """Size of the file; for a file that was cut, of a file that holds what is left."""
        return len(_build_header(self, file_check=0)) + len(_build_body(self))


def pack(container: Container) -> bytes:
    """Return the .dlf file of a container.

    The same container always gives the same bytes. Raises ValueError for a container that was read from a file
    that was cut, since its bytes would pass for a whole file.
    """
    _require(container.complete, "a container read from a file that was cut cannot be written")
    body = _build_body(container)
    blank_header = _build_header(container, file_check=0)
    file_check = _file_check(blank_header + body, len(blank_header))
    return _build_header(container, file_check) + body


def unpack(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, allow_partial: bool = False) -> Container:
    """Return what a .dlf file says, after every check that SPEC.md asks for.

    Time and memory are bounded by the size of `data`, whatever it claims. With `allow_partial`, a file that was
    cut somewhere after its semantic-token section is accepted with `complete=False`; its file check cannot be
    verified then. A cut exactly between two optional sections looks like damage and is refused all the same.

    Raises FormatError for bytes that are no .dlf file, are damaged, cut short or too long; UnsupportedVersionError
    for a newer version or an unknown critical section; LimitError for more than `max_pixels` pixels or a side of
    more than MAX_SIDE_PX.
    """
    header, header_size = _read_header(data)
    _check_sides(header.width_px, header.height_px)
    if header.width_px * header.height_px > max_pixels:
        size = f"{header.width_px}x{header.height_px}"
        raise LimitError(f"picture of {size} pixels is over the limit of {max_pixels} pixels")

    found = _read_sections(data, header_size)
    check_is_right = header.file_check == _file_check(data, header_size)
    if found.problem is not None or not check_is_right:
        _refuse_trailing_bytes(data, header_size, header.file_check, found)
        if not isinstance(found.problem, _CutShortError):
            raise found.problem or FormatError("damaged: file check fails")
        if not (allow_partial and found.whole_ends):
            raise found.problem
    extras = found.sections[2:]
    for extra in extras:
        _refuse_unknown_critical(extra.kind, extra.payload)
    return Container(
        model_id=header.model_id,
        width_px=header.width_px,
        height_px=header.height_px,
        quality=header.quality,
        symbol_check=header.symbol_check,
        semantic=found.sections[0].payload,
        detail=found.sections[1].payload if len(found.sections) > 1 else b"",
        extras=tuple(Extra(extra.kind, extra.payload) for extra in extras[: max(len(found.whole_ends) - 2, 0)]),
        complete=found.problem is None,
    )


class _CutShortError(FormatError):
    def __init__(self, size_bytes: int, needed_bytes: int) -> None:
        super().__init__(f"file is cut short: {size_bytes} of at least {needed_bytes} bytes")


@dataclass
class _FoundSections:
    """Sections in file order: semantic, detail, optional ones.

    Each entry of `whole_ends` is the offset where a section ends; when the file is cut, `sections` may hold one
    more, the one that was cut. `problem` says why reading stopped before the end of the file.
    """

    sections: list[Any] = field(default_factory=list)
    whole_ends: list[int] = field(default_factory=list)
    problem: FormatError | None = None


def _read_header(data: bytes) -> tuple[Any, int]:
    if not data:
        raise FormatError("not a .dlf file: it is empty")
    if data[: len(layout.MAGIC)] != layout.MAGIC[: len(data)]:
        raise FormatError("not a .dlf file")
    version = data[2] if len(data) > 2 else layout.FORMAT_VERSION
    if version != layout.FORMAT_VERSION:
        raise UnsupportedVersionError(
            f"format version {version} is not known, this program reads version {layout.FORMAT_VERSION}; "
            "decode it with a dlfc that knows it"
        )
    stream = BytesIO(data)
    try:
        header = layout.Header.parse_stream(stream)
    except StreamError as error:
        raise _CutShortError(len(data), max(layout.FILE_MIN_BYTES, len(data) + 1)) from error
    except ValidationError as error:
        raise FormatError("damaged: quality is over 100") from error
    except ConstructError as error:
        raise FormatError("damaged: width or height is not a number in its shortest form") from error
    return header, stream.tell()


def _read_sections(data: bytes, start: int) -> _FoundSections:
    """Read sections from `start` until the end of the file or the first thing that is wrong.

    Kinds must ascend, so at most 258 sections are read, however many a hostile file holds.
    """
    found = _FoundSections()
    stream = BytesIO(data)
    stream.seek(start)
    last_kind = -1
    while len(found.sections) < 2 or stream.tell() < len(data):
        try:
            section = (layout.Section if len(found.sections) < 2 else layout.ExtraSection).parse_stream(stream)
        except StreamError:
            found.problem = _CutShortError(len(data), len(data) + 1)
            return found
        except ConstructError:
            found.problem = FormatError("damaged: length of a section is not a number in its shortest form")
            return found
        kind = section.get("kind", last_kind)
        if len(found.sections) >= 2 and kind <= last_kind:
            found.problem = FormatError(f"damaged: section {kind_name(kind)} is out of order or stands twice")
            return found
        last_kind = kind
        found.sections.append(section)
        missing = section.length - len(section.payload)
        if missing:
            found.problem = _CutShortError(len(data), len(data) + missing)
            return found
        found.whole_ends.append(stream.tell())
    return found


def _refuse_trailing_bytes(data: bytes, header_size: int, file_check: int, found: _FoundSections) -> None:
    """Raise FormatError if the file is whole up to the end of one of its sections and something follows.

    Bytes after the end read like more optional sections; only the file check tells one from the other.
    """
    view = memoryview(data)
    check, checked_to = _file_check(view[:header_size], header_size), header_size
    for count, end in enumerate(found.whole_ends, start=1):
        check, checked_to = crc_hqx(view[checked_to:end], check), end
        surplus = len(data) - end
        if count >= 2 and surplus and check == file_check:
            raise FormatError(f"{surplus} byte{'s'[: surplus > 1]} after the end of the last section")


def _refuse_unknown_critical(kind: int, payload: bytes) -> None:
    """Raise UnsupportedVersionError for a critical section of unknown kind or coding, also for one that was cut."""
    known = kind in _CRITICAL_CODINGS and (not payload or payload[0] in _CRITICAL_CODINGS[Kind(kind)])
    if kind & _CRITICAL_BIT and not known:
        raise UnsupportedVersionError(
            f"the picture needs section {kind_name(kind)}, which this program does not know; "
            "decode it with a newer dlfc"
        )


def _check_sides(width_px: int, height_px: int) -> None:
    if max(width_px, height_px) > MAX_SIDE_PX:
        raise LimitError(f"picture of {width_px}x{height_px} pixels has a side over the limit of {MAX_SIDE_PX} pixels")


def _file_check(data: bytes | memoryview, header_size: int) -> int:
    """CRC-16 of every byte of the file except the two of the check itself (SPEC.md, "File check")."""
    check_at = header_size - layout.FILE_CHECK_FROM_HEADER_END
    view = memoryview(data)
    return crc_hqx(view[check_at + layout.FILE_CHECK_SIZE_BYTES :], crc_hqx(view[:check_at], _CRC_START))


def _build_header(container: Container, file_check: int) -> bytes:
    header: bytes = layout.Header.build(
        {
            "model_id": container.model_id,
            "width_px": container.width_px,
            "height_px": container.height_px,
            "quality": container.quality,
            "file_check": file_check,
            "symbol_check": container.symbol_check,
        }
    )
    return header


def _build_body(container: Container) -> bytes:
    body: bytes = layout.Body.build(
        {
            "semantic": {"payload": container.semantic},
            "detail": {"payload": container.detail},
            "extras": [{"kind": extra.kind, "payload": extra.payload} for extra in container.extras],
        }
    )
    return body


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
