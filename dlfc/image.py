"""Pictures in and out: any image file that people have becomes RGB pixels, and RGB pixels become a file again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms, UnidentifiedImageError

from dlfc.errors import ImageError, LimitError

# Formats of photographs. Others that Pillow knows start foreign programs (EPS) or have no magic number (TGA).
INPUT_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
INPUT_FORMATS_TEXT = "PNG, JPEG, WebP, TIFF, AVIF, JPEG 2000, GIF, BMP, PPM"
OUTPUT_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
DEFAULT_FORMAT = "PNG"

# A decoded picture is kept as it is where the format can do that, and nearly so where it cannot.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383}  # libjpeg's JPEG_MAX_DIMENSION, libwebp's WEBP_MAX_DIMENSION
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FAMILIES = {
    "1": "black and white",
    **dict.fromkeys(("L", "LA", "La", "I", "F"), "gray"),
    **dict.fromkeys(("P", "PA"), "palette"),
    **{mode: mode for mode in ("CMYK", "YCbCr", "LAB", "HSV")},
}
_DLF_MAGIC = b"\xdf\x1c"
_NEGLIGIBLE_COLOUR_CHANGE = 2  # of 255: profiles that say sRGB in other words round to within this


@dataclass(frozen=True)
class LoadedImage:
    """A picture in 8-bit RGB, with the EXIF orientation applied.

    `notes` says what of the picture was dropped or converted, `details` what else was not kept, such as EXIF data.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def load_image(data: bytes, *, max_pixels: int) -> LoadedImage:
    """Return the picture in the bytes of an image file.

    Gray, palette, 16-bit, floating-point, CMYK and Lab pictures become 8-bit RGB, colours of an embedded profile
    become sRGB, transparent parts are laid over white, and of several frames the first is taken.

    Raises ImageError for bytes that are no image or a damaged one, and LimitError for more than `max_pixels`
    pixels, before any pixel is decoded.
    """
    if not data:
        raise ImageError("not an image: the file is empty")
    if data.startswith(_DLF_MAGIC):
        raise ImageError("already a .dlf file; use dlfc decode to get a picture from it")
    with _pillow_errors():
        source = _open(data)
        _check_pixel_limit(source.size, max_pixels)
        form = source.format
        several_frames = bool(getattr(source, "is_animated", False))
        deep = _has_deep_samples(source)
        source.load()
    notes: list[str] = []
    details: list[str] = []
    if several_frames and form == "MPO":
        details.append("only the main picture of the file is kept")  # the others are previews or gain maps
    elif several_frames:
        notes.append("only the first of several frames is kept")
    with _pillow_errors():
        notes.extend(_conversions(source, deep))
        colours, alpha = _split_alpha(source, deep, notes)
        rgb = _to_rgb(colours, source.info.get("icc_profile"), notes, details)
        if alpha is not None:
            rgb = _flatten(rgb, alpha, notes)
        rgb = _apply_orientation(rgb, source, details)
    details.extend(_dropped_metadata(source))
    rgb.info = {}
    return LoadedImage(rgb, tuple(notes), tuple(details))


def output_format(name: str) -> str:
    """Return Pillow's name of the format that the suffix of a file name stands for. Raises ImageError."""
    suffix = os.path.splitext(name)[1]
    form = OUTPUT_FORMATS.get(suffix.lower())
    if form is None:
        known = ", ".join(OUTPUT_FORMATS)
        what = f"suffix {suffix} is not known" if suffix else "has no suffix"
        raise ImageError(f"{what}; the suffix chooses the form of the picture: {known}")
    return form


def check_side(width_px: int, height_px: int, form: str) -> None:
    """Raise ImageError if a picture of that size cannot be written as `form`."""
    limit_px = _MAX_SIDE_PX.get(form)
    if limit_px is not None and max(width_px, height_px) > limit_px:
        raise ImageError(f"{width_px}x{height_px} pixels do not fit into {form}, which ends at {limit_px}; use .png")


def save_image(image: Image.Image, form: str) -> bytes:
    """Return the bytes of an image file; `form` is a value of OUTPUT_FORMATS.

    PNG, TIFF and WebP hold the pixels exactly, JPEG at quality 95 without colour subsampling. Raises ImageError.
    """
    check_side(*image.size, form)
    buffer = BytesIO()
    image.save(buffer, form, **_SAVE_OPTIONS[form])
    return buffer.getvalue()


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turn what Pillow raises for foreign bytes, which is almost anything, into errors with one sentence."""
    try:
        yield
    except (ImageError, LimitError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image that can be read ({INPUT_FORMATS_TEXT})") from error
    except Image.DecompressionBombError as error:
        raise LimitError("the picture has too many pixels") from error
    except Exception as error:
        raise ImageError(f"the image is damaged or cut short ({error or type(error).__name__})") from error


def _open(data: bytes) -> Image.Image:
    Image.init()
    return Image.open(BytesIO(data), formats=[form for form in INPUT_FORMATS if form in Image.OPEN])


def _check_pixel_limit(size: tuple[int, int], max_pixels: int) -> None:
    width_px, height_px = size
    if width_px * height_px > max_pixels:
        raise LimitError(f"picture of {width_px}x{height_px} pixels is over the limit of {max_pixels} pixels")


def _has_deep_samples(source: Image.Image) -> bool:
    """Whether the file has more than 8 bits per sample where Pillow silently keeps 8; asked before loading."""
    for tile in getattr(source, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(argument, str) and ";16" in argument for argument in arguments):
            return True
        if source.format == "PPM" and any(isinstance(argument, int) and argument > 255 for argument in arguments):
            return True
    return False


def _conversions(source: Image.Image, deep: bool) -> list[str]:
    """Say in words what has to be converted before the pixels are 8-bit RGB."""
    family = source.mode.split(";")[0]
    notes = []
    if family in _FAMILIES:
        notes.append(f"{_FAMILIES[family]} converted to RGB")
    if deep or source.mode.startswith("I;16"):
        notes.append("16-bit samples reduced to 8 bits")
    return notes


def _split_alpha(source: Image.Image, deep: bool, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours without transparency, and the transparency as an 8-bit gray image if there is any."""
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


def _to_rgb(colours: Image.Image, profile: bytes | None, notes: list[str], details: list[str]) -> Image.Image:
    """Return 8-bit RGB, which is sRGB where an embedded profile says what the colours are."""
    if colours.mode.startswith("I") or colours.mode == "F":
        colours = _to_8_bit(colours, notes)
    elif colours.mode == "1":
        colours = colours.convert("L")
    if profile:
        converted = _apply_profile(colours, profile, notes, details)
        if converted is not None:
            return converted
    if colours.mode == "LAB":  # Image.convert does not know it
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return _transform(colours, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    return colours.convert("RGB")


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


def _apply_profile(colours: Image.Image, profile: bytes, notes: list[str], details: list[str]) -> Image.Image | None:
    """Return the colours in sRGB, or None where the profile already means sRGB or cannot be used."""
    srgb = ImageCms.createProfile("sRGB")
    try:
        embedded = ImageCms.ImageCmsProfile(BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(embedded).split()) or "unnamed"
        transform = ImageCms.buildTransform(embedded, srgb, colours.mode, "RGB")
        if colours.mode == "RGB" and _changes_little(transform):
            details.append(f"colour profile dropped ({name}, which is sRGB)")
            return None
        converted = _transform(colours, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        notes.append("unusable colour profile ignored")
        return None
    notes.append(f"colours converted from profile {name} to sRGB")
    return converted


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform from RGB to RGB leaves a grid over all colours as good as alone."""
    import numpy as np

    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(27, 27, 3)
    change = np.asarray(_transform(Image.fromarray(grid), transform)).astype(int) - grid
    return int(np.abs(change).max()) <= _NEGLIGIBLE_COLOUR_CHANGE


def _transform(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None only when asked to work in place
    return result


def _flatten(rgb: Image.Image, alpha: Image.Image, notes: list[str]) -> Image.Image:
    if alpha.getextrema() == (255, 255):
        notes.append("alpha channel dropped (fully opaque)")
        return rgb
    notes.append("transparency laid over white")
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def _apply_orientation(rgb: Image.Image, source: Image.Image, details: list[str]) -> Image.Image:
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises whatever the damaged block provokes; the pixels are sound
        details.append("damaged EXIF data ignored")
        return rgb
    if orientation not in _ORIENTATIONS:
        return rgb
    details.append("turned as its EXIF data says")
    return rgb.transpose(_ORIENTATIONS[orientation])


def _dropped_metadata(source: Image.Image) -> list[str]:
    names = {"exif": "EXIF data", "xmp": "XMP data", "XML:com.adobe.xmp": "XMP data"}
    return sorted({f"{name} dropped" for key, name in names.items() if source.info.get(key)})
