"""What optional sections hold: metadata, gray, colour space, grain, transparency. SPEC.md, "Companions", says the same.

Unpacking is bounded by the limits here and by the size of the picture, whatever a payload claims.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from dlfc.formats.container import Coding, Extra, Kind, kind_name
from dlfc.formats.errors import FormatError

METADATA_MAX_BYTES = 1 << 22  # each, unpacked; more than cameras write

_RAW_DEFLATE = -15  # the file check makes the checksum of zlib superfluous
_METADATA = {"icc": Kind.ICC, "exif": Kind.EXIF, "xmp": Kind.XMP}


class ColourSpace(IntEnum):
    """What the numbers of a pixel mean where it is not sRGB."""

    DISPLAY_P3 = 1
    ADOBE_RGB = 2


@dataclass(frozen=True)
class Companions:
    """What comes with a picture.

    `icc`, `exif` (as TIFF, from its `II` or `MM` on) and `xmp` are as they were, `gray` says that the picture has no
    colours. Without `icc` and `colour_space` it is sRGB. `grain` is the strength of its noise, 0 to 255. `alpha` is the
    coded plane, as it stands in the file.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    gray: bool = False
    colour_space: ColourSpace | None = None
    grain: int = 0
    alpha: bytes | None = None

    @property
    def mode(self) -> str:
        """Pillow's name for the form of the pixels: L, LA, RGB or RGBA."""
        return ("L" if self.gray else "RGB") + ("A" if self.alpha is not None else "")


def pack_companions(companions: Companions) -> tuple[Extra, ...]:
    """The optional sections of `companions`, in the order of a file. Raises ValueError for metadata over the limit."""
    sections = []
    for name, kind in _METADATA.items():
        content = getattr(companions, name)
        if content is not None:
            sections.append(Extra(kind, _pack_metadata(content)))
    if companions.gray:
        sections.append(Extra(Kind.GRAY, b""))
    if companions.colour_space is not None:
        sections.append(Extra(Kind.COLOUR, bytes([companions.colour_space])))
    if companions.grain:
        sections.append(Extra(Kind.GRAIN, bytes([companions.grain])))
    if companions.alpha is not None:
        sections.append(Extra(Kind.ALPHA, companions.alpha))
    return tuple(sections)


def unpack_companions(extras: Iterable[Extra]) -> Companions:
    """What the optional sections of a file say; kinds, codings and colour spaces not known here count as absent.

    The plane of transparency stays coded. Raises FormatError for a section that does not hold what its kind demands.
    """
    payloads = {extra.kind: extra.payload for extra in extras}
    metadata = {name: _unpack_metadata(kind, payloads[kind]) for name, kind in _METADATA.items() if kind in payloads}
    if payloads.get(Kind.GRAY):
        raise damaged(Kind.GRAY)
    colour = payloads.get(Kind.COLOUR)
    if colour is not None and len(colour) != 1:
        raise damaged(Kind.COLOUR)
    grain = payloads.get(Kind.GRAIN, b"\0")
    if len(grain) != 1:
        raise damaged(Kind.GRAIN)
    alpha = payloads.get(Kind.ALPHA)
    if alpha == b"":
        raise damaged(Kind.ALPHA)
    known = colour is not None and colour[0] in set(ColourSpace)
    return Companions(
        **metadata,
        gray=Kind.GRAY in payloads,
        colour_space=ColourSpace(colour[0]) if colour is not None and known else None,
        grain=grain[0],
        alpha=alpha,
    )


def damaged(kind: Kind) -> FormatError:
    """The error of a section that does not hold what its kind demands."""
    return FormatError(f"damaged: section {kind_name(kind)} does not hold what it should")


def deflate(content: bytes) -> bytes:
    """`content` as a raw deflate stream (RFC 1951)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, 9)
    return packer.compress(content) + packer.flush()


def inflate(stream: bytes, max_bytes: int) -> bytes | None:
    """What a raw deflate stream holds, or None unless it ends with `stream` and holds at most `max_bytes`."""
    unpacker = zlib.decompressobj(_RAW_DEFLATE)
    try:
        content = unpacker.decompress(stream, max_bytes + 1)
    except zlib.error:
        return None
    whole = unpacker.eof and not unpacker.unused_data and len(content) <= max_bytes
    return content if whole else None


def _pack_metadata(content: bytes) -> bytes:
    if len(content) > METADATA_MAX_BYTES:
        raise ValueError(f"metadata of {len(content)} bytes are over the limit of {METADATA_MAX_BYTES}")
    stored, packed = bytes([Coding.STORED]) + content, bytes([Coding.DEFLATE]) + deflate(content)
    return min(stored, packed, key=len)


def _unpack_metadata(kind: Kind, payload: bytes) -> bytes | None:
    coding, content = payload[:1], payload[1:]
    found: bytes | None
    if coding == bytes([Coding.STORED]):
        found = content if len(content) <= METADATA_MAX_BYTES else None
    elif coding == bytes([Coding.DEFLATE]):
        found = inflate(content, METADATA_MAX_BYTES)
    elif coding:
        return None  # a coding of the future
    else:
        found = None
    if found is None:
        raise damaged(kind)
    return found
