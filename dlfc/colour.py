"""Colour spaces: which one an ICC profile describes, the way to sRGB, and profiles for the spaces that files name."""

from __future__ import annotations

import struct
from functools import lru_cache
from io import BytesIO

from PIL import Image, ImageCms

from dlfc.formats import ColourSpace

NAMES = {ColourSpace.DISPLAY_P3: "Display P3", ColourSpace.ADOBE_RGB: "Adobe RGB"}

_NEGLIGIBLE_CHANGE = {  # of 255: profiles that say one space in other words round to within this
    None: 2,  # sRGB
    ColourSpace.DISPLAY_P3: 2,
    ColourSpace.ADOBE_RGB: 6,  # its curve, steep at black, magnifies roundings of the primaries
}
_PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)

# ICC.1:2022. Red, green and blue as the connection space sees them, under D50, and the curve's parameters.
_PRIMARIES = {
    ColourSpace.DISPLAY_P3: ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    ColourSpace.ADOBE_RGB: ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
}
_CURVES = {
    ColourSpace.DISPLAY_P3: (3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),  # that of sRGB
    ColourSpace.ADOBE_RGB: (0, (2.19921875,)),
}
_D50 = (0.96420, 1.0, 0.82491)
_D65_TO_D50 = (1.04788, 0.02292, -0.05022, 0.02959, 0.99048, -0.01707, -0.00925, 0.01508, 0.75168)


class UnusableProfileError(Exception):
    """The profile is damaged or does not describe the picture."""


@lru_cache
def profile_of(space: ColourSpace) -> bytes:
    """A small ICC profile, version 4, of a colour space."""
    kind, numbers = _CURVES[space]
    curve = struct.pack(">4s4xH2x", b"para", kind) + _fixed(numbers)
    bodies = {
        b"desc": _text(NAMES[space]),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _xyz(_D50),
        b"chad": b"sf32" + bytes(4) + _fixed(_D65_TO_D50),
        **{tag: _xyz(primary) for tag, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _PRIMARIES[space], strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    start = 128 + 4 + 12 * len(bodies)
    places: dict[bytes, int] = {}  # equal bodies stand once
    data = b""
    for body in bodies.values():
        if body not in places:
            places[body] = start + len(data)
            data += body + bytes(-len(body) % 4)
    table = b"".join(struct.pack(">4sII", tag, places[body], len(body)) for tag, body in bodies.items())
    date = (2026, 11, 20, 0, 0, 0)
    header = struct.pack(">I4xI4s4s4s6H4s", start + len(data), 0x04400000, b"mntr", b"RGB ", b"XYZ ", *date, b"acsp")
    header += bytes(28) + _fixed(_D50)
    return header + bytes(128 - len(header)) + struct.pack(">I", len(bodies)) + table + data


def mode_of(profile: bytes) -> str | None:
    """Pillow's mode of the pixels that an ICC profile describes, as its header says it: L, RGB, CMYK, LAB or None."""
    return {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "LAB"}.get(profile[16:20])


def describe(profile: bytes) -> str:
    """The name that a profile gives itself. Raises UnusableProfileError."""
    try:
        return " ".join(ImageCms.getProfileDescription(_open(profile)).split()) or "unnamed"
    except _PROFILE_ERRORS as error:
        raise UnusableProfileError from error


def is_srgb(profile: bytes) -> bool:
    """Whether a profile of RGB pixels means sRGB. Raises UnusableProfileError."""
    return _is_like(profile, None)


def recognise(profile: bytes) -> ColourSpace | None:
    """The known space, other than sRGB, that a profile of RGB pixels means. Raises UnusableProfileError."""
    return next((space for space in ColourSpace if _is_like(profile, space)), None)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture in 8-bit sRGB, mode RGB. Raises UnusableProfileError."""
    try:
        transform = ImageCms.buildTransform(_open(profile), ImageCms.createProfile("sRGB"), image.mode, "RGB")
        return _apply(image, transform)
    except _PROFILE_ERRORS as error:
        raise UnusableProfileError from error


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """A picture of mode LAB in sRGB; Image.convert does not know that mode."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _apply(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))


def _is_like(profile: bytes, space: ColourSpace | None) -> bool:
    """Whether going from a profile to a space, None is sRGB, leaves a grid over all colours as good as alone."""
    import numpy as np

    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(27, 27, 3)
    other = ImageCms.createProfile("sRGB") if space is None else _open(profile_of(space))
    try:
        found = _apply(Image.fromarray(grid), ImageCms.buildTransform(_open(profile), other, "RGB", "RGB"))
    except _PROFILE_ERRORS as error:
        raise UnusableProfileError from error
    change = np.asarray(found).astype(int) - grid
    return int(np.abs(change).max()) <= _NEGLIGIBLE_CHANGE[space]


def _open(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(BytesIO(profile))


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None only when asked to work in place
    result.info.pop("icc_profile", None)
    return result


def _fixed(numbers: tuple[float, ...]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(numbers: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(numbers)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(encoded), 28) + encoded
