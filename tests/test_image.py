"""Pictures of every kind become 8-bit sRGB, and what was changed is said."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dlfc.companions import Prepared
from dlfc.errors import ImageError, LimitError
from dlfc.image import OUTPUT_FORMATS, check_side, load_image, output_format, save_image

LIMIT = 10**6


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _load(data: bytes) -> Prepared:
    return load_image(data, max_pixels=LIMIT)


def _largest_difference(left: Image.Image, right: Image.Image) -> int:
    assert left.size == right.size
    return int(np.abs(np.asarray(left).astype(int) - np.asarray(right).astype(int)).max())


def _png(width_px: int, height_px: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Build a PNG file chunk by chunk, for the kinds that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, depth, colour, 0, 0, 0))
    middle = b"".join(chunk(kind, body) for kind, body in extra)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM"])
def test_an_rgb_picture_is_taken_as_it_is(form: str) -> None:
    loaded = _load(_saved(picture(), form))
    assert loaded.image.mode == "RGB"
    assert loaded.image.tobytes() == picture().tobytes()
    assert (loaded.notes, loaded.details) == ((), ())


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_a_lossy_picture_is_read(form: str) -> None:
    loaded = _load(_saved(picture(), form, quality=95))
    assert _largest_difference(loaded.image, picture()) < 60
    assert loaded.notes == ()


@pytest.mark.parametrize(
    ("mode", "form", "note"),
    [
        ("L", "PNG", None),
        ("1", "PNG", None),
        ("P", "PNG", "palette converted to RGB"),
        ("CMYK", "JPEG", "CMYK converted to RGB"),
        ("CMYK", "TIFF", "CMYK converted to RGB"),
        ("LAB", "TIFF", "LAB converted to RGB"),
        ("YCbCr", "TIFF", None),
    ],
)
def test_other_colour_modes_are_converted_and_named(mode: str, form: str, note: str | None) -> None:
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        source = ImageCms.profileToProfile(picture(), srgb, lab, outputMode="LAB")
        assert source is not None
        del source.info["icc_profile"]
        expected = picture()
    else:
        source = picture().convert(mode)
        expected = source.convert("RGB")
    loaded = _load(_saved(source, form))
    assert loaded.image.mode == "RGB"
    assert _largest_difference(loaded.image, expected) < 40
    assert note is None or loaded.notes == (note,)


def test_transparent_parts_are_laid_over_white() -> None:
    source = picture(2, 1).convert("RGBA")
    source.putpixel((0, 0), (10, 20, 30, 0))
    source.putpixel((1, 0), (100, 0, 200, 128))
    loaded = _load(_saved(source, "PNG"))
    assert loaded.image.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.image.getpixel((1, 0)) == pytest.approx((177, 127, 227), abs=1)
    assert loaded.notes == ("transparency laid over white",)


def test_an_opaque_alpha_channel_leaves_the_colours_exactly_as_they_are() -> None:
    loaded = _load(_saved(picture().convert("RGBA"), "PNG"))
    assert loaded.image.tobytes() == picture().tobytes()
    assert (loaded.notes, loaded.details) == ((), ("alpha channel dropped (fully opaque)",))


def test_gray_with_alpha_is_laid_over_white() -> None:
    source = Image.new("LA", (3, 3), (0, 0))
    loaded = _load(_saved(source, "PNG"))
    assert loaded.image.getpixel((1, 1)) == (255, 255, 255)
    assert loaded.notes == ("transparency laid over white",)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(form: str) -> None:
    source = Image.new("P", (2, 1))
    source.putpalette([255, 0, 0, 0, 0, 255])
    source.putpixel((1, 0), 1)
    loaded = _load(_saved(source, form, transparency=0))
    assert [loaded.image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]
    assert loaded.notes == ("palette converted to RGB", "transparency laid over white")


@pytest.mark.parametrize(("mode", "key"), [("RGB", (9, 9, 9)), ("L", 9)])
def test_a_transparent_colour_becomes_white(mode: str, key: Any) -> None:
    source = Image.new(mode, (2, 1), key)
    source.putpixel((1, 0), 0)
    loaded = _load(_saved(source, "PNG", transparency=key))
    assert [loaded.image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]
    assert loaded.notes[-1] == "transparency laid over white"


def test_16_bit_gray_keeps_its_range() -> None:
    values = np.array([[0, 128, 257, 32896, 65535]], dtype=np.uint16)
    for form in ("PNG", "TIFF"):
        loaded = _load(_saved(Image.fromarray(values), form))
        assert np.asarray(loaded.image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]
        assert loaded.notes == ("16-bit samples reduced to 8 bits",)


def test_16_bit_colour_is_noticed_although_pillow_reduces_it_by_itself() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 32896, 65535, 65535, 32896, 0)
    loaded = _load(_png(2, 1, 16, 2, rows))
    assert [loaded.image.getpixel((x, 0)) for x in (0, 1)] == [(0, 128, 255), (255, 128, 0)]
    assert loaded.notes == ("16-bit samples reduced to 8 bits",)
    assert _load(b"P6 1 1 65535\n" + bytes(6)).notes == ("16-bit samples reduced to 8 bits",)


def test_16_bit_colour_with_alpha_says_both() -> None:
    rows = b"\0" + struct.pack(">4H", 0, 0, 0, 0)
    loaded = _load(_png(1, 1, 16, 6, rows))
    assert loaded.image.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.notes == ("16-bit samples reduced to 8 bits", "transparency laid over white")


@pytest.mark.parametrize(("colour", "key"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_16_bits_is_ignored_and_said(colour: int, key: int) -> None:
    rows = b"\0" + struct.pack(f">{key}H", *[65535] * key)
    loaded = _load(_png(1, 1, 16, colour, rows, (b"tRNS", struct.pack(f">{key}H", *[65535] * key))))
    assert loaded.image.getpixel((0, 0)) == (255, 255, 255)
    assert "transparent colour ignored" in loaded.notes


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255], "floating-point samples reduced to 8 bits"),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255], "samples from -1 to 1 stretched to 8 bits"),
        (np.array([[np.nan, 5.0, np.inf]], np.float32), [0, 0, 255], "samples from 5 to 5 stretched to 8 bits"),
        (np.array([[7, 7]], np.int32), [0, 0], "16-bit samples reduced to 8 bits"),
        (np.array([[-10, 100000]], np.int32), [0, 255], "samples from -10 to 100000 stretched to 8 bits"),
    ],
)
def test_wide_samples_are_scaled_and_said(values: np.ndarray, expected: list[int], note: str) -> None:
    loaded = _load(_saved(Image.fromarray(values), "TIFF"))
    assert np.asarray(loaded.image)[0, :, 1].tolist() == expected
    assert loaded.notes == (note,)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(form: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 16, 8))  # upper left
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # undoes what the tag asks for
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = _load(_saved(stored, form, exif=exif))
    assert _largest_difference(loaded.image, upright) < 60
    assert loaded.notes == ()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_does_not_stop_a_picture() -> None:
    data = _saved(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert _load(data).image.size == (24, 16)


def test_dropped_metadata_is_a_detail() -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    loaded = _load(_saved(picture(), "WEBP", exif=exif, xmp=b"<x/>"))
    assert loaded.notes == ()
    assert loaded.details == ("EXIF and XMP data dropped",)
    assert not loaded.image.getexif()


def _swapped_colours_profile() -> bytes:
    """An sRGB profile whose red and blue columns changed places, so that applying it swaps these colours."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    entries = {bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    data[red : red + 8], data[blue : blue + 8] = data[blue : blue + 8], data[red : red + 8]
    return bytes(data)


def test_colours_of_another_profile_become_srgb() -> None:
    loaded = _load(_saved(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG", icc_profile=_swapped_colours_profile()))
    assert loaded.image.getpixel((0, 0)) == pytest.approx((0, 0, 255), abs=2)
    assert loaded.notes == ("colours converted from profile sRGB built-in to sRGB",)


def test_a_profile_that_means_srgb_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    loaded = _load(_saved(picture(), "PNG", icc_profile=profile))
    assert loaded.image.tobytes() == picture().tobytes()
    assert loaded.notes == ()
    assert loaded.details == ("colour profile dropped (sRGB built-in, which is sRGB)",)


def test_a_damaged_profile_is_ignored_and_said() -> None:
    loaded = _load(_saved(picture(), "PNG", icc_profile=b"no profile"))
    assert loaded.image.tobytes() == picture().tobytes()
    assert loaded.notes == ("unusable colour profile ignored",)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if form == "WEBP" else {}
    loaded = _load(_saved(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert loaded.image.getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=2)
    assert "only the first of several frames is kept" in loaded.notes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image: the file is empty"),
        (b"plain text", r"not an image that can be read \(PNG, JPEG,"),
        (b"\xdf\x1c\x01", r"already a \.dlf file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image that can be read"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        _load(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_a_picture_that_is_cut_short_is_refused(form: str) -> None:
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = _saved(noise, form)
    with pytest.raises(ImageError):
        _load(data[: len(data) // 2])


def test_the_limit_is_checked_before_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = _png(60_000, 60_000, 8, 2, b"")
    with pytest.raises(LimitError, match="too many pixels"):  # Pillow has a limit of its own
        _load(huge)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(LimitError, match="picture of 60000x60000 pixels is over the limit of 1000000 pixels"):
        _load(huge)
    assert load_image(_saved(picture(), "PNG"), max_pixels=24 * 16).image.size == (24, 16)
    with pytest.raises(LimitError):
        load_image(_saved(picture(), "PNG"), max_pixels=24 * 16 - 1)


# Pillow warns of much that it meets in damaged files; the command line does not pass that on.
_SEEDS = [_saved(picture(), form) for form in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "PPM")]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_SEEDS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_picture_gives_pixels_or_a_typed_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    with contextlib.suppress(ImageError, LimitError):
        assert _load(bytes(damaged)).image.mode == "RGB"


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_a_lossless_form_keeps_every_pixel(form: str) -> None:
    data = save_image(picture(), form)
    with Image.open(BytesIO(data)) as image:
        assert image.format == form
        assert image.convert("RGB").tobytes() == picture().tobytes()


def test_jpeg_keeps_the_picture_nearly() -> None:
    with Image.open(BytesIO(save_image(picture(), "JPEG"))) as image:
        assert _largest_difference(image, picture()) < 30


def test_suffixes_choose_forms_whatever_their_case() -> None:
    assert {output_format(f"dir.x/A{suffix.upper()}") for suffix in OUTPUT_FORMATS} == set(OUTPUT_FORMATS.values())
    with pytest.raises(ImageError, match=r"suffix \.bmp is not known"):
        output_format("a.bmp")
    with pytest.raises(ImageError, match="has no suffix"):
        output_format("dir.png/a")


@pytest.mark.parametrize(("form", "limit"), [("JPEG", 65500), ("WEBP", 16383)])
def test_a_picture_too_wide_for_a_form_is_refused(form: str, limit: int) -> None:
    check_side(limit, 1, form)
    with pytest.raises(ImageError, match=f"do not fit into {form}"):
        save_image(Image.new("RGB", (limit + 1, 1)), form)


def test_every_writer_can_write_the_largest_side_it_claims() -> None:
    writers: list[Callable[[], bytes]] = [
        lambda: save_image(Image.new("RGB", (65500, 1)), "JPEG"),
        lambda: save_image(Image.new("RGB", (1, 16383)), "WEBP"),
    ]
    assert all(writer() for writer in writers)
