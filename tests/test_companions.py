"""What comes with a picture, from its file to the picture that is decoded: gray, transparency, colours, metadata."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, features

from dlfc import alpha as planes
from dlfc import colour
from dlfc.companions import Finish, Prepared, prepare
from dlfc.errors import DlfcError, FormatError, ModelError
from dlfc.exif import ORIENTATION_TAG, PREFIX, upright_exif, upright_xmp
from dlfc.formats import (
    METADATA_MAX_BYTES,
    Coding,
    ColourSpace,
    Companions,
    Container,
    Extra,
    Kind,
    deflate,
    pack,
    pack_companions,
    unpack,
    unpack_companions,
)
from dlfc.image import load_image, losses, save_image
from dlfc.keep import PIXELS_ONLY, USUAL, parse_keep

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="A view"/></x:xmpmeta>'
PLAIN = Container(b"none", 24, 16, 50.0, 0, b"", b"")


def mask(width_px: int = 24, height_px: int = 16) -> Image.Image:
    """Round, with soft edges."""
    if min(width_px, height_px) < 4:
        return Image.linear_gradient("L").resize((width_px, height_px))
    large = Image.new("L", (width_px * 4, height_px * 4))
    ImageDraw.Draw(large).ellipse((4, 4, large.width - 8, large.height - 8), fill=255)
    return large.reduce(4)


def cut_out(mode: str = "RGBA") -> Image.Image:
    image = picture().convert(mode[:-1])
    image.putalpha(mask())
    return image


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def loaded(data: bytes, keep: str | None = None) -> Prepared:
    return load_image(data, max_pixels=10**6, keep=USUAL if keep is None else parse_keep(keep))


def again(prepared: Prepared) -> Image.Image:
    """The picture that a file of `prepared` becomes, if the network were perfect."""
    width_px, height_px = prepared.image.size
    container = replace(PLAIN, width_px=width_px, height_px=height_px, extras=prepared.extras)
    return Finish.of(unpack(pack(container))).apply(prepared.image.copy())


def kinds(prepared: Prepared) -> list[int]:
    return [extra.kind for extra in prepared.extras]


# --- gray ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "1", "I;16"])
def test_gray_stays_gray_for_two_bytes(mode: str) -> None:
    values = np.linspace(0, 65535, 24 * 16).reshape(16, 24).astype(np.uint16)
    source = Image.fromarray(values) if mode == "I;16" else picture().convert(mode)
    prepared = loaded(saved(source))
    assert prepared.extras == (Extra(Kind.GRAY, b""),)
    assert len(pack(replace(PLAIN, extras=prepared.extras))) == len(pack(PLAIN)) + 2
    assert again(prepared).mode == "L"
    if mode != "I;16":
        assert again(prepared).tobytes() == source.convert("L").tobytes()


def test_a_colour_file_without_any_colour_is_gray_but_one_dot_of_colour_is_enough() -> None:
    gray = picture().convert("L").convert("RGB")
    assert again(loaded(saved(gray))).mode == "L"
    gray.putpixel((3, 3), (9, 9, 10))
    assert again(loaded(saved(gray))).mode == "RGB"


def test_a_program_gets_the_mode_back_that_it_gave() -> None:
    black = Image.new("RGB", (4, 4))
    assert again(prepare(black, USUAL)).mode == "RGB"


def test_colours_that_the_network_adds_to_gray_are_taken_away() -> None:
    finish = Finish(Companions(gray=True), None)
    assert finish.apply(Image.new("RGB", (1, 1), (100, 110, 90))).getpixel((0, 0)) == 105


# --- transparency -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_comes_back_exactly(mode: str) -> None:
    source = cut_out(mode)
    found = again(loaded(saved(source)))
    assert found.mode == mode
    assert found.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_an_opaque_alpha_channel_costs_nothing() -> None:
    assert loaded(saved(picture().convert("RGBA"))).extras == ()


def test_transparency_turns_with_the_picture() -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    source = picture(24, 16).convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize((24, 16)))
    found = again(loaded(saved(source, "PNG", exif=exif)))
    assert found.size == (16, 24)
    expected = source.getchannel("A").transpose(Image.Transpose.ROTATE_270)
    assert found.getchannel("A").tobytes() == expected.tobytes()


def test_colours_that_cannot_be_seen_are_those_around_them() -> None:
    source = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    source.paste((200, 100, 50, 255), (10, 10, 30, 30))
    prepared = loaded(saved(source))
    assert np.abs(np.asarray(prepared.image).astype(int) - (200, 100, 50)).max() <= 2
    assert again(prepared).getpixel((0, 0))[3] == 0


def test_a_picture_of_which_nothing_can_be_seen_is_kept_too() -> None:
    found = again(loaded(saved(Image.new("RGBA", (5, 5), (9, 9, 9, 0)))))
    assert found.getchannel("A").getextrema() == (0, 0)


def test_pixels_only_lays_transparency_over_white() -> None:
    prepared = load_image(saved(cut_out()), max_pixels=10**6, keep=PIXELS_ONLY)
    assert prepared.image.getpixel((0, 0)) == (255, 255, 255)
    assert (kinds(prepared), prepared.notes) == ([], ("transparency laid over white",))


@pytest.mark.parametrize("size", [(1, 1), (1, 77), (64, 64), (150, 101)])
def test_every_coding_of_a_plane_gives_it_back(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    for plane in (mask(*size), Image.fromarray(noise), Image.new("L", size, 7)):
        payload = planes.pack_plane(plane)
        for coded in (
            payload,
            bytes([Coding.STORED]) + plane.tobytes(),
            bytes([Coding.DEFLATE]) + deflate(plane.tobytes()),
        ):
            assert planes.unpack_plane(coded, size).tobytes() == plane.tobytes()
    assert planes.pack_plane(Image.new("L", size, 7)) == bytes([Coding.CONSTANT, 7])


def test_a_soft_edge_of_a_large_picture_takes_few_bytes() -> None:
    assert len(planes.pack_plane(mask(768, 512))) < 3000


def test_a_strip_longer_than_webp_allows_is_coded_otherwise() -> None:
    plane = Image.linear_gradient("L").resize((1, 20000))
    payload = planes.pack_plane(plane)
    assert payload[0] == Coding.DEFLATE
    assert planes.unpack_plane(payload, plane.size).tobytes() == plane.tobytes()
    with pytest.raises(FormatError, match="section alpha"):
        planes.unpack_plane(bytes([Coding.VP8L]) + bytes(100), plane.size)


def test_without_webp_planes_are_written_otherwise_and_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = planes.pack_plane(mask(150, 101))
    assert payload[0] == Coding.VP8L
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert planes.pack_plane(mask(150, 101))[0] == Coding.DEFLATE
    with pytest.raises(ModelError, match="Pillow with WebP"):
        planes.unpack_plane(payload, (150, 101))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 9), st.integers(0, 255))
def test_any_payload_is_a_plane_or_a_format_error(noise: bytes, at: int, value: int) -> None:
    damaged = bytearray(planes.pack_plane(mask(40, 30)))
    damaged[1 + at * 7 % (len(damaged) - 1)] ^= value
    for payload in (bytes(damaged), *(bytes([coding]) + noise for coding in Coding)):
        with contextlib.suppress(FormatError):
            assert planes.unpack_plane(payload, (40, 30)).size == (40, 30)


# --- colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ColourSpace)
def test_a_well_known_profile_is_kept_as_one_byte_and_comes_back_as_a_profile(space: ColourSpace) -> None:
    source = saved(picture(), icc_profile=colour.profile_of(space))
    prepared = loaded(source)
    assert prepared.extras == (Extra(Kind.COLOUR, bytes([space])),)
    assert prepared.image.tobytes() == picture().tobytes()
    assert prepared.notes == ()
    assert again(prepared).info == {"icc_profile": colour.profile_of(space)}


def test_the_colours_of_our_profiles_are_where_they_should_be() -> None:
    seen = {
        space: colour.to_srgb(Image.new("RGB", (1, 1), (200, 100, 50)), colour.profile_of(space))
        for space in ColourSpace
    }
    assert seen[ColourSpace.DISPLAY_P3].getpixel((0, 0)) == pytest.approx((215, 93, 31), abs=2)
    assert seen[ColourSpace.ADOBE_RGB].getpixel((0, 0)) == pytest.approx((227, 100, 42), abs=2)
    for space in ColourSpace:
        assert colour.recognise(colour.profile_of(space)) == space
        assert colour.describe(colour.profile_of(space)) == colour.NAMES[space]
        assert not colour.is_srgb(colour.profile_of(space))


def test_a_profile_is_known_by_its_colours_whatever_its_name_and_roundings() -> None:
    data = colour.profile_of(ColourSpace.ADOBE_RGB)
    rounded = data.replace(round(0.60974 * 65536).to_bytes(4, "big"), round(0.60963 * 65536).to_bytes(4, "big"))
    renamed = rounded.replace("Adobe RGB".encode("utf-16-be"), "Camera 42".encode("utf-16-be"))
    assert colour.describe(renamed) == "Camera 42"
    assert renamed != rounded != data
    assert colour.recognise(renamed) == ColourSpace.ADOBE_RGB
    shifted = data.replace(round(0.60974 * 65536).to_bytes(4, "big"), round(0.56 * 65536).to_bytes(4, "big"))
    assert colour.recognise(shifted) is None


def test_srgb_is_not_worth_a_byte() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert loaded(saved(picture(), icc_profile=profile)).extras == ()


def test_keeping_nothing_turns_well_known_colours_into_srgb_too() -> None:
    prepared = loaded(saved(picture(), icc_profile=colour.profile_of(ColourSpace.DISPLAY_P3)), keep="none")
    assert kinds(prepared) == []
    assert prepared.image.tobytes() != picture().tobytes()
    assert prepared.notes == ("colours converted from profile Display P3 to sRGB",)


def test_a_profile_that_is_kept_belongs_to_the_pixels_as_they_were() -> None:
    profile = colour.profile_of(ColourSpace.ADOBE_RGB)
    prepared = loaded(saved(picture(), icc_profile=profile), keep="icc")
    assert prepared.image.tobytes() == picture().tobytes()
    assert again(prepared).info == {"icc_profile": profile}
    assert len(prepared.extras[0].payload) < len(profile)


def test_a_profile_of_other_pixels_than_those_of_the_file_is_not_kept() -> None:
    profile = colour.profile_of(ColourSpace.DISPLAY_P3)
    cmyk = loaded(saved(picture().convert("CMYK"), "TIFF", icc_profile=profile), keep="icc")
    assert kinds(cmyk) == []
    assert "unusable colour profile ignored" in cmyk.notes
    gray = replace(PLAIN, extras=pack_companions(Companions(icc=profile, gray=True)))
    assert Finish.of(gray).apply(picture()).info == {}


# --- EXIF and XMP -------------------------------------------------------------------------------------------------


def exif_data(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif[ORIENTATION_TAG] = orientation
    exif[0x8769] = {0x829A: 0.01, 0x9003: "2026:11:20 12:00:00"}
    exif[0x8825] = {1: "N"}
    return exif.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_metadata_come_back_upright_in_every_form(form: str) -> None:
    source = saved(picture(), form, exif=exif_data(), **({} if form in ("PNG", "TIFF") else {"xmp": XMP}))
    found = again(loaded(source, keep="exif,xmp"))
    assert found.size == (16, 24)
    for target in ("JPEG", "PNG", "WEBP", "TIFF"):
        with Image.open(BytesIO(save_image(found, target))) as image:
            exif = image.getexif()
            assert (exif[0x010F], exif.get(ORIENTATION_TAG, 1)) == ("A camera", 1)
            assert exif.get_ifd(0x8769)[0x9003] == "2026:11:20 12:00:00"
            assert exif.get_ifd(0x8825)[1] == "N"
            if form not in ("PNG", "TIFF"):
                assert image.info["xmp"] == XMP.replace(b'"6"', b'"1"')


def test_metadata_are_dropped_and_that_is_said_in_one_note() -> None:
    prepared = loaded(saved(picture(), "WEBP", exif=exif_data(1), xmp=XMP))
    assert (kinds(prepared), prepared.notes) == ([], ("EXIF and XMP data dropped",))
    asked = loaded(saved(picture(), "WEBP", exif=exif_data(1), xmp=XMP), keep="xmp")
    assert (kinds(asked), asked.notes, asked.details) == ([Kind.XMP], (), ("EXIF data dropped",))


def test_the_small_picture_in_exif_data_is_blanked_and_the_rest_stays_at_its_place() -> None:
    thumbnail = zlib.compress(bytes(range(256)) * 9) + b"SECRET" * 50
    first = b"II*\0\x08\0\0\0" + b"\1\0" + b"\x12\1\3\0\1\0\0\0\6\0\0\0" + b"\x1a\0\0\0"
    second = (
        b"\2\0" + b"\1\2\4\0\1\0\0\0\x38\0\0\0" + b"\2\2\4\0\1\0\0\0" + len(thumbnail).to_bytes(4, "little") + bytes(4)
    )
    assert (len(first), len(first + second)) == (26, 56)
    data = first + second + thumbnail
    found = upright_exif(data)
    assert len(found) == len(data)
    assert b"SECRET" not in found
    exif = Image.Exif()
    exif.load(found)
    assert dict(exif) == {ORIENTATION_TAG: 1}
    assert len(deflate(found)) < 60


@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_exif_data_keep_their_length_or_are_refused(noise: bytes, start: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(upright_exif(start + noise)) == len(start + noise)


def test_damaged_exif_data_are_dropped_in_words() -> None:
    prepared = prepare(with_info(picture(), exif=PREFIX + b"no TIFF"), parse_keep("all"))
    assert (kinds(prepared), prepared.notes) == ([], ("damaged EXIF data dropped",))


def test_metadata_over_the_limit_are_dropped_in_words() -> None:
    prepared = prepare(with_info(picture(), xmp=bytes(METADATA_MAX_BYTES + 1)), parse_keep("all"))
    assert (kinds(prepared), prepared.notes) == ([], ("XMP data of 4194305 bytes dropped, which are too many",))
    assert kinds(prepare(with_info(picture(), xmp=bytes(METADATA_MAX_BYTES)), parse_keep("all"))) == [Kind.XMP]
    with pytest.raises(ValueError, match="over the limit"):
        pack_companions(Companions(icc=bytes(METADATA_MAX_BYTES + 1)))


def test_the_orientation_in_xmp_data_is_that_of_the_stored_picture() -> None:
    assert upright_xmp(b"<tiff:Orientation> 8 </tiff:Orientation>") == b"<tiff:Orientation> 1 </tiff:Orientation>"
    assert upright_xmp(b"tiff:Orientation='3' x='3'") == b"tiff:Orientation='1' x='3'"


def with_info(image: Image.Image, **info: bytes) -> Image.Image:
    image.info.update(info)
    return image


def test_what_jpeg_has_no_room_for_is_left_out_and_said() -> None:
    image = with_info(cut_out(), xmp=bytes(70_000), exif=PREFIX + b"MM\0*" + bytes(70_000))
    assert losses(image, "JPEG") == [
        "transparency laid over white",
        "EXIF data dropped, which are too long for JPEG",
        "XMP data dropped, which are too long for JPEG",
    ]
    assert losses(image, "PNG") == []
    with Image.open(BytesIO(save_image(image, "JPEG"))) as found:
        assert (found.mode, "exif" in found.info, "xmp" in found.info) == ("RGB", False, False)
        assert found.getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=9)


# --- the sections -------------------------------------------------------------------------------------------------


@given(
    st.builds(
        Companions,
        icc=st.none() | st.binary(max_size=99),
        exif=st.none() | st.binary(max_size=99),
        xmp=st.none() | st.text(max_size=99).map(str.encode),
        gray=st.booleans(),
        colour_space=st.none() | st.sampled_from(ColourSpace),
        grain=st.integers(0, 255),
        alpha=st.none() | st.binary(min_size=1, max_size=99).map(lambda data: b"\0" + data),
    )
)
def test_what_is_packed_is_unpacked(companions: Companions) -> None:
    container = replace(PLAIN, extras=pack_companions(companions))
    assert unpack_companions(unpack(pack(container)).extras) == companions


@pytest.mark.parametrize(("text", "wanted"), [("icc", {"icc"}), ("xmp,exif", {"exif", "xmp"}), ("none", set())])
def test_keep_takes_names(text: str, wanted: set[str]) -> None:
    keep = parse_keep(text)
    assert {name for name in ("icc", "exif", "xmp") if getattr(keep, name)} == wanted
    assert (keep.alpha, keep.colour) == (True, text != "none")
    assert parse_keep("all") == parse_keep("icc,exif,xmp")


@pytest.mark.parametrize("text", ["", "ICC", "icc,", "gps", "all,icc", "icc exif", "none,xmp"])
def test_keep_refuses_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="is neither all nor none nor a list of icc, exif, xmp"):
        parse_keep(text)


def test_a_cut_in_the_alpha_section_gives_an_opaque_picture_if_partial_ones_are_allowed() -> None:
    data = pack(replace(PLAIN, extras=prepare(cut_out(), USUAL).extras))
    for end in range(len(pack(PLAIN)) + 2, len(data)):
        found = unpack(data[:end], allow_partial=True)
        assert (found.complete, found.extras) == (False, ())


# --- the command line ---------------------------------------------------------------------------------------------

Run = Callable[..., Finished]


def test_the_command_line_keeps_what_it_is_asked_to_keep(dlfc: Run, tmp_path: Path) -> None:
    Path("a.png").write_bytes(saved(cut_out(), exif=exif_data(), icc_profile=colour.profile_of(ColourSpace.ADOBE_RGB)))
    assert dlfc("encode", "a.png", "--keep", "all").status == 0
    assert dlfc("decode", "a.dlf", "-o", "b.png").status == 0
    with Image.open("b.png") as found:
        assert (found.mode, found.size, found.getexif()[ORIENTATION_TAG]) == ("RGBA", (16, 24), 1)
        assert found.info["icc_profile"] == colour.profile_of(ColourSpace.ADOBE_RGB)
    run = dlfc("decode", "a.dlf", "-o", "b.jpg")
    assert "dlfc: a.dlf: note: transparency laid over white\n" in run.err
    names = dlfc("info", "a.dlf").out
    assert all(name in names for name in ("icc", "exif", "alpha"))


def test_no_alpha_lays_transparency_over_white(dlfc: Run, tmp_path: Path) -> None:
    cut_out().save("a.png")
    assert "note: transparency laid over white\n" in dlfc("encode", "a.png", "--no-alpha").err
    assert unpack(Path("a.dlf").read_bytes()).extras == ()


def test_a_wrong_name_after_keep_is_a_usage_error(dlfc: Run, photo: Path) -> None:
    run = dlfc("encode", "photo.png", "--keep", "gps")
    assert (run.status, run.err.count("\n")) == (2, 1)
    assert "'gps' is neither all nor none" in run.err


def test_a_damaged_section_is_one_line_of_decode_and_info(dlfc: Run, photo: Path) -> None:
    dlfc("encode", "photo.png")
    fields = unpack(Path("photo.dlf").read_bytes())
    Path("bad.dlf").write_bytes(pack(replace(fields, extras=(Extra(Kind.XMP, b"\1\xff"),))))
    for command in ("info", "decode"):
        run = dlfc(command, "bad.dlf")
        assert (run.status, run.err) == (1, "dlfc: bad.dlf: damaged: section xmp does not hold what it should\n")


def test_errors_of_sections_are_errors_of_dlfc() -> None:
    with pytest.raises(DlfcError):
        unpack_companions([Extra(Kind.COLOUR, b"")])
