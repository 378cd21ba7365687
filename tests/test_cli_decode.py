"""`dlfc decode`: forms of the picture, files that are damaged, cut, too new or of another model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FakeCodec, Finished, picture
from PIL import Image

from dlfc.formats import Container, pack

Run = Callable[..., Finished]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A .dlf file named photo.dlf in the directory where the test runs."""
    path = tmp_path / "photo.dlf"
    path.write_bytes(FakeCodec().encode(picture(), quality=30.0))
    return path


def test_the_picture_lies_beside_the_input_as_png_by_default(dlfc: Run, file: Path) -> None:
    run = dlfc("decode", "photo.dlf")
    assert (run.status, run.out) == (0, "")
    assert run.err == "photo.dlf -> photo.png  24x16 pixels\n"
    with Image.open("photo.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (24, 16))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.png", "PNG"),
        ("a.JPG", "JPEG"),
        ("a.jpeg", "JPEG"),
        ("a.webp", "WEBP"),
        ("a.tif", "TIFF"),
        ("a.tiff", "TIFF"),
    ],
)
def test_the_suffix_chooses_the_form(dlfc: Run, file: Path, name: str, form: str) -> None:
    assert dlfc("decode", "photo.dlf", "-o", name).status == 0
    with Image.open(name) as image:
        assert (image.format, image.size) == (form, (24, 16))


@pytest.mark.parametrize("name", ["a.psd", "a", "a.dlf"])
def test_an_unknown_suffix_is_a_usage_error_before_any_work(
    dlfc: Run, file: Path, name: str, fake_codec: type[FakeCodec]
) -> None:
    run = dlfc("decode", "photo.dlf", "-o", name)
    assert run.status == 2
    assert run.err.startswith(f"dlfc decode: {name}: ")
    assert ".png, .jpg" in run.err
    assert fake_codec.loads == 0


def test_json_has_the_facts_of_the_file(dlfc: Run, file: Path) -> None:
    facts = json.loads(dlfc("decode", "photo.dlf", "--json").out)
    assert facts.pop("seconds") >= 0
    assert facts == {
        "input": "photo.dlf",
        "output": "photo.png",
        "width": 24,
        "height": 16,
        "quality": 30.0,
        "file_bytes": file.stat().st_size,
        "bpp": 8 * file.stat().st_size / (24 * 16),
        "complete": True,
        "model": "fake",
        "model_id": "46414b45",
    }


def test_a_directory_full_of_files_loads_the_model_once(dlfc: Run, file: Path, fake_codec: type[FakeCodec]) -> None:
    names = [f"{number}.dlf" for number in range(4)]
    for name in names:
        Path(name).write_bytes(file.read_bytes())
    assert dlfc("decode", *names, "--output-dir", "out", "-j", "2").status == 0
    assert sorted(os.listdir("out")) == ["0.png", "1.png", "2.png", "3.png"]
    assert fake_codec.loads == 1


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


BROKEN = {
    "empty": (lambda data: b"", "it is empty"),
    "not a .dlf file": (lambda data: b"\x89PNG\r\n\x1a\n" + data, "not a .dlf file"),
    "cut short": (lambda data: data[:-3], "bytes; --allow-partial makes a picture of what is there"),
    "cut in the header": (lambda data: data[:9], "cut short"),
    "too long": (lambda data: data + b"more", "4 bytes after the end of the last section"),
    "one bit flipped": (lambda data: _flipped(data, len(data) - 2), "damaged"),
    "of a newer version": (lambda data: _flipped(data, 2), "format version 17 is not known"),
    "of another model": (
        lambda data: pack(Container(b"\x01\x02\x03\x04", 8, 8, 50.0, 0, b"", b"")),
        "model 01020304 is not known",
    ),
}


@pytest.mark.parametrize(("breaking", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_line_and_the_others_are_done(
    dlfc: Run, file: Path, breaking: Callable[[bytes], bytes], reason: str
) -> None:
    Path("broken.dlf").write_bytes(breaking(file.read_bytes()))
    run = dlfc("decode", "broken.dlf", "photo.dlf", "--quiet")
    assert run.status == 1
    assert run.err.startswith("dlfc: broken.dlf: ")
    assert run.err.count("\n") == 1
    assert reason in run.err
    assert sorted(os.listdir(".")) == ["broken.dlf", "photo.dlf", "photo.png"]


def test_every_way_to_cut_a_file_ends_in_one_line(dlfc: Run, file: Path) -> None:
    data = file.read_bytes()
    for size in range(len(data)):
        Path("cut.dlf").write_bytes(data[:size])
        run = dlfc("decode", "cut.dlf")
        assert (run.status, run.err.count("\n")) == (1, 1)
        assert not Path("cut.png").exists()


def test_a_file_that_is_cut_gives_a_picture_if_that_is_allowed(dlfc: Run, file: Path) -> None:
    Path("cut.dlf").write_bytes(file.read_bytes()[:-3])
    run = dlfc("decode", "cut.dlf", "--allow-partial", "--json")
    assert run.status == 0
    assert run.err == "dlfc: cut.dlf: note: the file is cut short, so detail is missing\n"
    assert json.loads(run.out)["complete"] is False
    assert Path("cut.png").exists()


def test_a_picture_over_the_limit_is_refused_by_its_header(dlfc: Run, tmp_path: Path) -> None:
    Path("big.dlf").write_bytes(pack(Container(b"FAKE", 100_000, 100_000, 50.0, 0, b"", b"")))
    run = dlfc("decode", "big.dlf")
    assert run.status == 1
    assert run.err == "dlfc: big.dlf: picture of 100000x100000 pixels is over the limit of 134217728 pixels\n"


def test_a_picture_too_wide_for_the_form_is_refused_before_it_is_decoded(
    dlfc: Run, tmp_path: Path, fake_codec: type[FakeCodec]
) -> None:
    Path("wide.dlf").write_bytes(FakeCodec().encode(Image.new("RGB", (16384, 1))))
    run = dlfc("decode", "wide.dlf", "-o", "wide.webp")
    assert (run.status, fake_codec.loads) == (1, 0)
    assert run.err.startswith("dlfc: wide.dlf: 16384x1 pixels do not fit into WEBP")


def test_a_named_model_replaces_the_search_for_one(dlfc: Run, file: Path) -> None:
    assert dlfc("decode", "photo.dlf", "-m", "fake").status == 0
    run = dlfc("decode", "photo.dlf", "-m", "huge", "-f")
    assert (run.status, run.err) == (1, "dlfc: model huge is not known; see dlfc models list\n")


def test_help_says_that_detail_is_generated(dlfc: Run) -> None:
    text = " ".join(dlfc("decode", "--help").out.split())
    assert "generated by a neural network" in text
    assert "Do not use decoded pictures as documents, evidence or medical images" in text
