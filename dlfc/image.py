"""Image files in and out: any that people have becomes what is encoded, and a decoded picture becomes a file again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from dlfc.companions import Prepared, over_white, prepare, prepare_raw
from dlfc.errors import ImageError, LimitError
from dlfc.exif import DIRECTORY_TAGS, about_photograph
from dlfc.keep import PIXELS_ONLY, Keep
from dlfc.memory import LARGE_PX
from dlfc.raw import find_raw

if TYPE_CHECKING:
    from dlfc.painting import Strips

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
    "PNG": {"compress_level": 4},  # a third of the time of the usual 6, for files larger by 0.7 %
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383}  # libjpeg's JPEG_MAX_DIMENSION, libwebp's WEBP_MAX_DIMENSION
_JPEG_SEGMENT_BYTES = 65533 - 29  # what a marker holds, less the name that stands before XMP data
_XMP_TAG = 0x02BC
_METADATA = {"exif": "EXIF", "xmp": "XMP"}
_DLF_MAGIC = b"\xdf\x1c"


def load_image(data: bytes, *, max_pixels: int, keep: Keep = PIXELS_ONLY) -> Prepared:
    """Return the picture in the bytes of an image file, as it is encoded.

    The pixels are 8-bit RGB, upright; gray, palette, 16-bit, floating-point, CMYK and Lab pictures are converted, and
    of several frames the first is taken. What else comes with a picture is kept as `keep` says; without it, colours of
    an embedded profile become sRGB and transparent parts are laid over white. Of a large picture
    that lies uncompressed in `data`, the result takes rows from there when they are asked for.

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
        prepared = _prepared_raw(source, data, keep)
        if prepared is None:
            deep = _has_deep_samples(source)
            source.load()
            prepared = prepare(source, keep, deep=deep, find_gray=True)
    if several_frames and form == "MPO":  # the others are previews or gain maps
        return replace(prepared, details=("only the main picture of the file is kept", *prepared.details))
    if several_frames:
        return replace(prepared, notes=("only the first of several frames is kept", *prepared.notes))
    return prepared


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

    PNG, TIFF and WebP hold the pixels exactly, JPEG at quality 95 without colour subsampling and with transparent
    parts laid over white. Colour profile, EXIF and XMP data in the `info` of the image go along, where the form has
    room for them. Raises ImageError.
    """
    check_side(*image.size, form)
    if form == "JPEG" and image.mode in ("LA", "RGBA"):
        image = over_white(image)
    buffer = BytesIO()
    image.save(buffer, form, **_SAVE_OPTIONS[form] | _metadata_options(image, form))
    return buffer.getvalue()


def png_pieces(strips: Strips) -> Iterator[bytes]:
    """The bytes of a PNG file, as `save_image` makes it, of a picture that is never whole in memory."""
    from dlfc import png

    alike = Image.new(strips.mode, (1, 1))
    alike.info.update(strips.info)
    return png.write(strips, png.metadata(save_image(alike, "PNG")))


def losses(image: Image.Image, form: str) -> list[str]:
    """What `save_image` leaves out of `image` in that form, in words."""
    found = ["transparency laid over white"] if form == "JPEG" and image.mode in ("LA", "RGBA") else []
    return found + [f"{_METADATA[name]} data dropped, which are too long for {form}" for name in _too_long(image, form)]


def _too_long(image: Image.Image, form: str) -> list[str]:
    limit = _JPEG_SEGMENT_BYTES if form == "JPEG" else None
    return [name for name in _METADATA if limit is not None and len(image.info.get(name, b"")) > limit]


def _metadata_options(image: Image.Image, form: str) -> dict[str, Any]:
    """The arguments of Image.save that write what is in `image.info`."""
    left_out = _too_long(image, form)
    found: dict[str, Any] = {
        name: image.info[name] for name in ("icc_profile", *_METADATA) if name in image.info and name not in left_out
    }
    xmp = found.get("xmp")
    if form == "PNG" and xmp is not None:
        chunks = PngImagePlugin.PngInfo()
        chunks.add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + found.pop("xmp"))
        return {**found, "pnginfo": chunks}
    if form == "TIFF":
        exif = _readable(found.pop("exif", b""))
        if xmp is not None:
            exif[_XMP_TAG] = found.pop("xmp")
        if not exif.keys().isdisjoint(DIRECTORY_TAGS):
            found["compression"] = "raw"  # libtiff writes no directories, Pillow itself does
        return {**found, "exif": exif.tobytes()}
    return found


def _readable(data: bytes) -> Image.Exif:
    """What of EXIF data belongs into a TIFF file, whose tags they become; nothing where Pillow cannot write it."""
    exif = Image.Exif()
    with warnings.catch_warnings(action="ignore"):
        try:
            exif.load(data)
            photograph = about_photograph(exif)
            photograph.tobytes()
        except Exception:  # Pillow raises whatever the damaged data provoke; the pixels are sound
            return Image.Exif()
    return photograph


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


def _prepared_raw(source: Image.Image, data: bytes, keep: Keep) -> Prepared | None:
    """What is encoded of an opened picture if it is large and lies in the file as it is encoded, else None."""
    picture = find_raw(source, data) if source.width * source.height > LARGE_PX else None
    if picture is None:
        return None
    return prepare_raw(_open(data), picture, keep)  # `source` stays as it is: Pillow reports damaged EXIF data once


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
