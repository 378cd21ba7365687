"""Large pictures that lie uncompressed in a file: the same results as of other pictures, and never made whole."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import install, photo
from PIL import Image, ImageCms, ImageFile

from dlfc import image, raw
from dlfc.cli import encode as encoding
from dlfc.cli import main
from dlfc.companions import Prepared
from dlfc.errors import ImageError, LimitError
from dlfc.evaluate.photos import Photo
from dlfc.image import load_image
from dlfc.keep import USUAL, parse_keep
from dlfc.raw import RawPicture, find_raw
from dlfc.tensors import padded
from dlfc.zoo.registry import MODELS_DIR_VARIABLE

WIDTH_PX, HEIGHT_PX = 90, 150  # rows of BMP files are padded then
LIMIT = 10**6
GRAY, COLOUR = photo(WIDTH_PX, HEIGHT_PX).convert("L"), photo(WIDTH_PX, HEIGHT_PX)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKER, ORIENTATION = 0x010F, 0x0112
Tag = tuple[int, int, int, bytes]  # number, type, count, value


def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def ppm(picture: Image.Image, header: bytes) -> bytes:
    return header + picture.tobytes()


def top_down(bmp: bytes) -> bytes:
    """A BMP file, as Pillow writes it, with its rows from the top."""
    start, height, size = (struct.unpack_from("<i", bmp, at)[0] for at in (10, 22, 34))
    row = size // height
    rows = [bmp[at : at + row] for at in range(start, start + size, row)]
    return bmp[:22] + struct.pack("<i", -height) + bmp[26:start] + b"".join(reversed(rows))


def tiff(picture: Image.Image, rows: int, *more: Tag, gap: int = 0, last: bool = False) -> bytes:
    """A TIFF file of strips of so many rows, with a gap before each, maybe the last one first; `more` are tags."""
    bands, height = len(picture.getbands()), picture.height
    row_bytes, pixels, tops = picture.width * bands, picture.tobytes(), range(0, height, rows)
    strips = [bytes(gap) + pixels[top * row_bytes : (top + rows) * row_bytes] for top in tops]

    def head(places: Sequence[int]) -> bytes:
        """All that stands before the strips, whose pixels begin at `places`."""
        tags = [
            *((256, 4, 1, struct.pack("<I", picture.width)), (257, 4, 1, struct.pack("<I", height))),
            *((258, 3, bands, struct.pack("<H", 8) * bands), (259, 3, 1, b"\1\0")),
            *((262, 3, 1, struct.pack("<H", 2 if bands == 3 else 1)), (277, 3, 1, struct.pack("<H", bands))),
            *((273, 4, len(tops), struct.pack(f"<{len(tops)}I", *places)), (278, 4, 1, struct.pack("<I", rows))),
            (279, 4, len(tops), struct.pack(f"<{len(tops)}I", *(len(strip) - gap for strip in strips))),
            *more,
        ]
        directory, values, start = struct.pack("<H", len(tags)), b"", 8 + 2 + 12 * len(tags) + 4
        for tag, kind, count, value in sorted(tags):
            if len(value) > 4:
                directory += struct.pack("<HHII", tag, kind, count, start + len(values))
                values += value
            else:
                directory += struct.pack("<HHI4s", tag, kind, count, value)
        return struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(4) + values

    places = [0] * len(tops)
    start = len(head(places))
    data = b""
    for at in sorted(range(len(tops)), reverse=last):
        places[at] = start + len(data) + gap
        data += strips[at]
    return head(places) + data


RAW = {
    "ppm": saved(COLOUR, "PPM"),
    "pgm": saved(GRAY, "PPM"),
    "ppm of gray": saved(GRAY.convert("RGB"), "PPM"),
    "ppm with comments": ppm(COLOUR, b"P6 # made by hand\n# 90 150\n90\t150 # 16\n255\n"),
    "ppm with more behind": saved(COLOUR, "PPM") + b"P6 1 1 255 and so on",
    "bmp": saved(COLOUR, "BMP"),
    "bmp of gray": saved(GRAY.convert("RGB"), "BMP"),
    "bmp with a gray palette": saved(GRAY, "BMP"),
    "bmp from the top": top_down(saved(COLOUR, "BMP")),
    "bmp from the top, gray palette": top_down(saved(GRAY, "BMP")),
    "tiff": saved(COLOUR, "TIFF"),
    "tiff, gray": saved(GRAY, "TIFF"),
    "tiff in strips": tiff(COLOUR, 16),
    "tiff, gray, in strips": tiff(GRAY, 7),
    "tiff in rows": tiff(COLOUR, 1),
    "tiff in strips anywhere": tiff(COLOUR, 16, gap=5, last=True),
    "tiff that lies as it says": tiff(COLOUR, 16, (ORIENTATION, 3, 1, b"\1\0")),
    "tiff with a maker": tiff(COLOUR, 40, (MAKER, 2, 7, b"Nobody\0")),
}
OTHER = {
    "png": saved(COLOUR, "PNG"),
    "webp": saved(COLOUR, "WEBP", lossless=True),
    "16-bit ppm": ppm(photo(2 * WIDTH_PX, HEIGHT_PX), b"P6 90 150 65535 "),
    "16-bit pgm": ppm(photo(2 * WIDTH_PX, HEIGHT_PX).convert("L"), b"P5 90 150 65535 "),
    "ppm of 100 levels": ppm(COLOUR.point(lambda value: value * 100 // 255), b"P6 90 150 100 "),
    "ppm in words": b"P3 1 2 255 10 20 30 40 50 60 ",
    "32-bit bmp": saved(COLOUR.convert("RGBA"), "BMP"),
    "bmp without what ends the last row": saved(COLOUR, "BMP")[:-2],
    "bmp with a palette": saved(COLOUR.quantize(16), "BMP"),
    "packed tiff": saved(COLOUR, "TIFF", compression="tiff_adobe_deflate"),
    "tiff with transparency": saved(COLOUR.convert("RGBA"), "TIFF"),
    "tiff, inverted": tiff(GRAY, 16).replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0)),
    "tiff of planes": tiff(COLOUR, 50, (284, 3, 1, b"\2\0")),
    "tiff with a profile": tiff(COLOUR, 16, (34675, 7, len(PROFILE), PROFILE)),
    **{f"tiff turned {way}": tiff(COLOUR, 16, (ORIENTATION, 3, 1, bytes([way, 0]))) for way in range(2, 9)},
}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is taken for large, and handled a few rows at a time."""
    monkeypatch.setattr(image, "LARGE_PX", 0)
    monkeypatch.setattr(encoding, "LARGE_PX", 0)
    monkeypatch.setattr(raw, "STRIP_PX", 11 * WIDTH_PX)


def usual(data: bytes, keep: str | None = None) -> Prepared:
    """The picture as it would be if it were small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "LARGE_PX", 10**9)
        return load_image(data, max_pixels=LIMIT, keep=USUAL if keep is None else parse_keep(keep))


def everything(prepared: Prepared) -> Sequence[object]:
    whole = prepared.whole()
    return whole.mode, whole.size, whole.info, whole.tobytes(), prepared.extras, prepared.notes, prepared.details


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("keep", [None, "all", "none"])
@pytest.mark.parametrize("name", RAW)
def test_a_picture_that_is_not_made_is_the_same(name: str, keep: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = usual(RAW[name], keep)
    with monkeypatch.context() as patch:
        patch.delattr(ImageFile.ImageFile, "load")
        prepared = load_image(RAW[name], max_pixels=LIMIT, keep=USUAL if keep is None else parse_keep(keep))
        network = padded(prepared.image, 64)
    assert isinstance(prepared.image, RawPicture)
    assert everything(prepared) == everything(expected)
    assert np.array_equal(network.pixels, padded(expected.image, 64).pixels)


@pytest.mark.parametrize("name", RAW)
def test_any_rows_are_those_of_the_picture(name: str) -> None:
    with Image.open(BytesIO(RAW[name])) as source:
        found = find_raw(source, RAW[name])
        assert found is not None
        for top, bottom in ((0, 1), (0, 16), (3, 30), (15, 17), (16, 48), (149, 150), (0, 150)):
            rows = found.rows(top, bottom)
            assert (rows.mode, rows.size) == (source.mode, (WIDTH_PX, bottom - top))
            assert rows.tobytes() == source.crop((0, top, WIDTH_PX, bottom)).tobytes()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", OTHER)
def test_other_pictures_are_made_as_ever(name: str) -> None:
    prepared = load_image(OTHER[name], max_pixels=LIMIT, keep=USUAL)
    assert isinstance(prepared.image, Image.Image)
    assert everything(prepared) == everything(usual(OTHER[name]))


@pytest.mark.usefixtures("large")
def test_of_several_pictures_in_a_file_the_first_is_taken() -> None:
    data = saved(COLOUR, "TIFF", save_all=True, append_images=[GRAY])
    prepared = load_image(data, max_pixels=LIMIT, keep=USUAL)
    assert isinstance(prepared.image, RawPicture)
    assert prepared.notes == ("only the first of several frames is kept",)
    assert everything(prepared) == everything(usual(data))


def test_small_pictures_are_made_as_ever() -> None:
    assert isinstance(load_image(RAW["ppm"], max_pixels=LIMIT).image, Image.Image)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", RAW)
def test_a_file_cut_short_is_refused_as_ever(name: str) -> None:
    behind = len(b"P6 1 1 255 and so on") if name == "ppm with more behind" else 0
    for left in (len(RAW[name]) - behind - 3, len(RAW[name]) // 2):
        data = RAW[name][:left]
        with pytest.raises(ImageError) as expected:
            usual(data)
        with pytest.raises(ImageError) as found:
            load_image(data, max_pixels=LIMIT)
        assert str(found.value) == str(expected.value)


@pytest.mark.usefixtures("large")
def test_the_limit_of_pixels_holds() -> None:
    with pytest.raises(LimitError, match="picture of 90x150 pixels is over the limit of 1000 pixels"):
        load_image(RAW["ppm"], max_pixels=1000)


def outcome(load: Callable[[], Prepared]) -> Sequence[object]:
    try:
        return everything(load())
    except (ImageError, LimitError) as error:
        return [str(error)]


_SEEDS = [
    *(saved(COLOUR.crop((0, 0, 9, 7)).convert(mode), form) for mode in ("L", "RGB") for form in ("PPM", "BMP", "TIFF")),
    *(tiff(picture.crop((0, 0, 9, 7)), 3, (ORIENTATION, 3, 1, b"\1\0")) for picture in (GRAY, COLOUR)),
]


@pytest.mark.usefixtures("large")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_SEEDS), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
def test_a_damaged_file_is_what_it_ever_was(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    changed = bytes(damaged)
    assert outcome(lambda: load_image(changed, max_pixels=LIMIT, keep=USUAL)) == outcome(lambda: usual(changed))


@pytest.mark.usefixtures("large")
def test_an_evaluation_has_a_picture_of_pillow(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(RAW["ppm"])
    loaded = Photo(tmp_path / "a.ppm").load()
    assert isinstance(loaded, Image.Image)
    assert loaded.tobytes() == COLOUR.tobytes()


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny", seed=0)
    return folder


@pytest.fixture
def run(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(models_dir))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        return main(list(arguments)), *capfd.readouterr()

    return run


def test_the_file_is_that_of_the_same_picture_in_png(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name, picture in (("colour", COLOUR), ("gray", GRAY)):
        Path(f"{name}.png").write_bytes(saved(picture, "PNG"))
        assert run("encode", f"{name}.png", "-m", "tiny")[0] == 0
    request.getfixturevalue("large")
    for name, data in RAW.items():
        Path("raw").write_bytes(data)
        assert run("encode", "raw", "-m", "tiny", "-f", "-o", "raw.dlf")[0] == 0
        expected = "gray.dlf" if "gray" in name or name == "pgm" else "colour.dlf"
        assert Path("raw.dlf").read_bytes() == Path(expected).read_bytes(), name


@pytest.mark.usefixtures("large")
def test_a_cut_file_is_one_line_among_others(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("a.ppm").write_bytes(RAW["ppm"])
    Path("b.ppm").write_bytes(RAW["ppm"][:-1])
    status, _, err = run("encode", "a.ppm", "b.ppm", "-m", "tiny", "--quiet")
    assert status == 1
    assert err == "dlfc: b.ppm: the image is damaged or cut short (image file is truncated (269 bytes not processed))\n"
    assert Path("a.dlf").exists()
    assert not Path("b.dlf").exists()
