"""EXIF and XMP data of a picture that was turned upright: the bytes as they were, apart from what is no longer true."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import Image

PREFIX = b"Exif\0\0"  # what JPEG files have before the data
ORIENTATION_TAG = 0x0112

_THUMBNAIL_START_TAG = 0x0201
_THUMBNAIL_LENGTH_TAG = 0x0202
_SHORT, _LONG = 3, 4
# A TIFF file has its EXIF data among what says how its pixels are stored; these are about the photograph.
_PHOTOGRAPH_TAGS = (0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825)
DIRECTORY_TAGS = (0x8769, 0x8825)  # the camera's and the satellites' part
_XMP_ORIENTATION = re.compile(
    rb"""(?P<before>tiff:Orientation\s*=\s*["']|<tiff:Orientation>\s*)[2-8](?P<after>["']|\s*</tiff:Orientation>)"""
)


def exif_of(image: Image.Image) -> bytes | None:
    """The EXIF data of a picture, as TIFF, or None if it has none."""
    data = image.info.get("exif")
    if not isinstance(data, bytes):
        photograph = about_photograph(image.getexif())
        data = photograph.tobytes() if photograph else b""
    return data.removeprefix(PREFIX) or None


def about_photograph(exif: Image.Exif) -> Image.Exif:
    """What of `exif` is about the photograph, without what says how its pixels are stored."""
    found = Image.Exif()
    for tag in _PHOTOGRAPH_TAGS:
        if tag in exif:
            found[tag] = exif.get_ifd(tag) if tag in DIRECTORY_TAGS else exif[tag]
    return found


def xmp_of(image: Image.Image) -> bytes | None:
    """The XMP data of a picture, or None if it has none."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        data = image.info.get(key)
        if data:
            return data.encode() if isinstance(data, str) else bytes(data)
    return None


def upright_exif(data: bytes) -> bytes:
    """EXIF data that says the picture is upright, and without the small copy of the picture that cameras add.

    Everything else stays at its place, since makers of cameras point into their own notes. Raises ValueError for
    data that cannot be read.
    """
    found = bytearray(data)
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[bytes(found[:4])]
        start = struct.unpack_from(order + "I", found, 4)[0]
        for tag, kind, _, at in _entries(found, order, start):
            if tag == ORIENTATION_TAG and kind in (_SHORT, _LONG):
                struct.pack_into(order + ("H" if kind == _SHORT else "I"), found, at, 1)
        _blank_thumbnail(found, order, start)
    except (KeyError, struct.error) as error:
        raise ValueError("EXIF data cannot be read") from error
    return bytes(found)


def upright_xmp(data: bytes) -> bytes:
    """XMP data that says the picture is upright."""
    return _XMP_ORIENTATION.sub(rb"\g<before>1\g<after>", data)


def _entries(data: bytearray, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """Tag, type, count and place of the value of each entry of the directory at `start`."""
    for index in range(struct.unpack_from(order + "H", data, start)[0]):
        at = start + 2 + 12 * index
        yield *struct.unpack_from(order + "HHI", data, at), at + 8


def _end_of(data: bytearray, order: str, start: int) -> int:
    """The place behind the entries of a directory, where that of the next directory stands."""
    end: int = start + 2 + 12 * struct.unpack_from(order + "H", data, start)[0]
    return end


def _blank_thumbnail(data: bytearray, order: str, first: int) -> None:
    """Cut the link to the second directory, the thumbnail's, and blank both; they then take no room when packed."""
    link = _end_of(data, order, first)
    if link + 4 > len(data):
        return  # some cameras end the directory without a link
    second = struct.unpack_from(order + "I", data, link)[0]
    if not second:
        return
    struct.pack_into(order + "I", data, link, 0)
    end = _end_of(data, order, second) + 4
    values = {tag: struct.unpack_from(order + "I", data, at)[0] for tag, _, _, at in _entries(data, order, second)}
    picture, length = values.get(_THUMBNAIL_START_TAG, 0), values.get(_THUMBNAIL_LENGTH_TAG, 0)
    for low, high in ((second, end), (picture, picture + length)):
        if low >= link + 4 and high <= len(data):  # never the first directory, which stands before them
            data[low:high] = bytes(high - low)
