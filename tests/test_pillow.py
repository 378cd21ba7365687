"""`import dlfc.pillow`: Pillow opens .dlf files without a model, decodes them when needed, and writes them."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import picture, run_process
from make_companion_vectors import mask
from PIL import Image, ImageFile, UnidentifiedImageError
from test_vectors import VECTORS

import dlfc
import dlfc.api
import dlfc.pillow
from dlfc.codec import Codec
from dlfc.colour import profile_of
from dlfc.exif import ORIENTATION_TAG
from dlfc.formats import ColourSpace, Kind, unpack

XMP = b"<x:xmpmeta/>"
PLAIN = VECTORS / "good" / "31x33-q62.5.dlf"
EVERYTHING = VECTORS / "companions" / "good" / "all-of-them.dlf"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(str(VECTORS / "model" / "vectors-1.safetensors"), device="cpu")


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch, codec: Codec) -> None:
    """Let the model of the vectors be the one that everything is made with."""

    def find(model: str | bytes | None, device: str, purpose: str, precision: str | None = None) -> Codec:
        if model not in (None, codec.model_id):
            raise dlfc.ModelError("that model is not here")
        return codec

    monkeypatch.setattr(dlfc.api, "_codec", find)


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "DLF", **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def cut_out() -> Image.Image:
    image = picture()
    image.putalpha(mask(*image.size))
    return image


def test_opening_reads_what_the_file_says_and_loads_no_network() -> None:
    program = (
        "import sys, dlfc.pillow; from PIL import Image; image = Image.open(sys.argv[1]); print("
        "image.format, image.mode, image.size, sorted(image.info), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    run = run_process([sys.executable, "-c", program, str(EVERYTHING)])
    assert run.stdout.decode() == "DLF RGBA (31, 33) ['exif', 'icc_profile', 'xmp'] False False\n", run.stderr


@pytest.mark.parametrize("path", [PLAIN, EVERYTHING], ids=lambda path: path.stem)
def test_an_opened_picture_is_the_decoded_one(path: Path) -> None:
    with Image.open(path) as image:
        expected = dlfc.decode(path.read_bytes())
        assert (image.mode, image.size, image.info) == (expected.mode, expected.size, expected.info)
        assert image.tobytes() == expected.tobytes()
        assert image.load() is not None


@pytest.mark.parametrize(
    "use",
    [Image.Image.copy, lambda image: image.convert("L"), lambda image: image.crop((3, 3, 9, 9)), pickle.dumps],
    ids=["copy", "convert", "crop", "pickle"],
)
def test_whatever_needs_pixels_decodes_them_once(monkeypatch: pytest.MonkeyPatch, use: Callable[..., Any]) -> None:
    calls: list[int] = []
    original = dlfc.api.decode

    def decode(data: bytes, **options: Any) -> Image.Image:
        calls.append(len(data))
        return original(data, **options)

    monkeypatch.setattr(dlfc.api, "decode", decode)
    with Image.open(PLAIN) as image:
        assert image.width == 31
        assert calls == []
        use(image)
        use(image)
    assert calls == [PLAIN.stat().st_size]


def test_a_thumbnail_can_be_made() -> None:
    with Image.open(PLAIN) as image:
        image.thumbnail((8, 8))
        assert max(image.size) == 8


def test_saving_by_name_takes_the_suffix_and_a_quality(tmp_path: Path) -> None:
    picture().save(tmp_path / "x.dlf", quality=40)
    assert unpack((tmp_path / "x.dlf").read_bytes()).quality == 40
    with Image.open(tmp_path / "x.dlf") as image:
        assert (image.size, image.get_format_mimetype()) == (picture().size, "image/x-dlf")
    assert len(saved(picture(200, 200), target_bpp=0.3)) <= 0.3 * 200 * 200 / 8
    assert len(saved(picture(200, 200), target_size=1200)) <= 1200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "F", "HSV", "YCbCr", "RGBa"])
def test_pictures_of_any_mode_can_be_saved(mode: str) -> None:
    image = Image.new("I;16", (8, 8), 40000) if mode == "I;16" else cut_out().convert(mode)
    has_alpha, gray = mode in ("LA", "RGBA", "RGBa"), mode in ("1", "L", "LA", "I;16", "F")
    assert opened(saved(image)).mode == ("L" if gray else "RGB") + ("A" if has_alpha else "")


def test_metadata_that_are_given_are_kept() -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    profile = profile_of(ColourSpace.ADOBE_RGB)
    found = opened(saved(picture(), exif=exif, xmp=XMP, icc_profile=profile))
    assert (found.getexif()[0x010F], found.info["xmp"], found.info["icc_profile"]) == ("A camera", XMP, profile)
    assert opened(saved(picture(), exif=exif, keep="none")).info.keys() == {"exif"}
    image = picture()
    image.info.update(xmp=XMP, icc_profile=profile)
    assert opened(saved(image, exif=exif.tobytes(), keep="xmp")).info.keys() == {"exif", "xmp", "icc_profile"}
    assert image.info.keys() == {"xmp", "icc_profile"}


def test_metadata_of_the_picture_are_kept_as_keep_says() -> None:
    image = picture()
    image.info.update(xmp=XMP, icc_profile=profile_of(ColourSpace.DISPLAY_P3))
    assert [extra.kind for extra in unpack(saved(image)).extras] == [Kind.COLOUR]
    assert [extra.kind for extra in unpack(saved(image, keep="all")).extras] == [Kind.ICC, Kind.XMP]
    assert [extra.kind for extra in unpack(saved(image, keep="all", xmp=b"<y/>")).extras] == [Kind.ICC, Kind.XMP]
    assert unpack(saved(image, icc_profile=None)).extras == ()
    with pytest.raises(ValueError, match="neither all nor none"):
        saved(image, keep="gps")


def test_a_picture_that_lies_on_its_side_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    image = picture(24, 16)
    image.info["exif"] = exif.tobytes()
    assert opened(saved(image)).size == (16, 24)
    assert opened(saved(image, keep="exif")).getexif()[ORIENTATION_TAG] == 1


def test_transparency_comes_back() -> None:
    found = opened(saved(cut_out()))
    assert found.getchannel("A").tobytes() == cut_out().getchannel("A").tobytes()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-3], "is cut short"),
        (lambda data: data[:-3] + b"abc", "file check fails"),
        (lambda data: data + b"a", "1 byte after the end"),
        (lambda data: data[:2] + b"\7" + data[3:], "format version 7 is not known"),
    ],
)
def test_a_damaged_file_is_not_opened_and_the_reason_is_said(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    path = tmp_path / "bad.dlf"
    path.write_bytes(damage(PLAIN.read_bytes()))
    with pytest.raises(UnidentifiedImageError, match=rf"bad\.dlf: .*{reason}"):
        Image.open(path)
    with pytest.raises(UnidentifiedImageError, match=f"the file: .*{reason}"):
        opened(path.read_bytes())


def test_damage_that_only_decoding_finds_is_an_oserror() -> None:
    for name in ("symbol-check", "a-picture-from-nothing"):
        with Image.open(VECTORS / "bad" / f"{name}.dlf") as image, pytest.raises(OSError, match=r"decoded|too short"):
            image.load()


def test_a_file_of_a_model_that_is_not_here_opens_but_does_not_load() -> None:
    with Image.open(VECTORS / "bad" / "another-model.dlf") as image:
        assert image.size == (150, 70)
        with pytest.raises(OSError, match="not here"):
            image.load()


def test_a_file_that_was_cut_loads_if_pillow_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    data = PLAIN.read_bytes()[:-3]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert opened(data).convert("RGB").size == (31, 33)


def test_too_many_pixels_are_a_bomb_to_pillow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = VECTORS / "bad" / "too-many-pixels.dlf"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError, match="over the limit of 134217728 pixels"):
        Image.open(bomb)


def test_saving_more_than_fits_is_an_oserror() -> None:
    with pytest.raises(OSError, match="smallest possible"):
        saved(picture(), target_size=20)


def test_other_files_open_as_before() -> None:
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    assert opened(buffer.getvalue()).format == "PNG"
    with pytest.raises(UnidentifiedImageError):
        opened(b"no picture")
