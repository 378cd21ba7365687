"""Pixels of every kind that Pillow knows as 8-bit samples: colours without transparency, and transparency."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

_FAMILIES = {
    **dict.fromkeys(("P", "PA"), "palette"),
    **{mode: mode for mode in ("CMYK", "YCbCr", "LAB", "HSV")},
}


@dataclass(frozen=True)
class Pixels:
    """`colours` in mode L, RGB, CMYK, LAB, YCbCr or HSV; `alpha` in mode L, or None where everything is opaque.

    `notes` says what was lost on the way.
    """

    colours: Image.Image
    alpha: Image.Image | None
    notes: tuple[str, ...]


def separate(source: Image.Image, *, deep: bool = False) -> Pixels:
    """The pixels of a loaded picture; `deep` says that Pillow reduced them from 16 bits by itself."""
    notes = []
    if source.mode in _FAMILIES:
        notes.append(f"{_FAMILIES[source.mode]} converted to RGB")
    if deep or source.mode.startswith("I;16"):
        notes.append("16-bit samples reduced to 8 bits")
    colours, alpha = _split(source, deep, notes)
    if colours.mode.startswith("I") or colours.mode == "F":
        colours = _to_8_bit(colours, notes)
    elif colours.mode == "1":
        colours = colours.convert("L")
    elif colours.mode == "RGBX":
        colours = colours.convert("RGB")
    return Pixels(colours, alpha, tuple(notes))


def _split(source: Image.Image, deep: bool, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    mode = source.mode
    key_colour = "transparency" in source.info
    palette_alpha = source.palette is not None and source.palette.mode == "RGBA"
    if mode in {"La", "RGBa"}:  # colours multiplied by alpha
        source = source.convert(mode.upper())
    elif mode == "PA" or (mode == "P" and (key_colour or palette_alpha)):
        source = source.convert("RGBA")
    elif mode == "P":
        source = source.convert("RGB")
    elif mode in {"1", "L", "RGB"} and key_colour and not deep:
        source = source.convert("RGBA")
        if mode != "RGB":
            return source.convert("L"), source.getchannel("A")
    elif key_colour:  # a colour of 16 bits, to compare with pixels of which 8 bits are left
        notes.append("transparent colour ignored")
    if source.mode in {"LA", "RGBA"}:
        return source.convert(source.mode[:-1]), source.getchannel("A")
    return source, None


def _to_8_bit(gray: Image.Image, notes: list[str]) -> Image.Image:
    """Return gray samples of 16 or 32 bits, or floating-point ones, as 8 bits.

    Integers up to 65535 and fractions from 0 to 1 keep their meaning; any other range is stretched to 0..255.
    """
    import numpy as np

    values = np.asarray(gray)
    if values.dtype.itemsize == 2:
        return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if gray.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
        notes.append("floating-point samples reduced to 8 bits")
    elif gray.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
        notes.append("16-bit samples reduced to 8 bits")
    else:
        notes.append(f"samples from {low:g} to {high:g} stretched to 8 bits")
    scaled = (np.nan_to_num(values, nan=low).astype(np.float64) - low) * (255 / ((high - low) or 1))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
