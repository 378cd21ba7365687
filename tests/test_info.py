"""What `dlfc info` says of a file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dlfc.errors import FormatError, LimitError
from dlfc.formats import Container, Extra, Kind, pack
from dlfc.info import FileInfo, SectionInfo, read_info
from dlfc.zoo import registry

PHOTO = Container(
    model_id=bytes.fromhex("5eed1234"),
    width_px=768,
    height_px=512,
    quality=37.5,
    symbol_check=0xC0DE,
    semantic=bytes(107),
    detail=bytes(364),
    extras=(Extra(Kind.EXIF, bytes(9)), Extra(0x2A, b"")),
)


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "name_of", {PHOTO.model_id: "small"}.get)


def test_info_has_the_facts_of_the_file() -> None:
    data = pack(PHOTO)
    assert read_info(data) == FileInfo(
        format_version=1,
        model="small",
        model_id="5eed1234",
        width=768,
        height=512,
        quality=37.5,
        bpp=len(data) * 8 / (768 * 512),
        file_bytes=len(data),
        overhead_bytes=len(data) - 107 - 364 - 9,
        sections=(
            SectionInfo("semantic", 107),
            SectionInfo("detail", 364),
            SectionInfo("exif", 9),
            SectionInfo("0x2a", 0),
        ),
    )


def test_the_json_fields_stand_in_the_documented_order() -> None:
    fields = json.loads(json.dumps(read_info(pack(PHOTO)).to_dict()))
    assert list(fields) == [
        "format_version",
        "model",
        "model_id",
        "width",
        "height",
        "quality",
        "bpp",
        "file_bytes",
        "overhead_bytes",
        "sections",
    ]
    assert fields["sections"][0] == {"name": "semantic", "bytes": 107}


def test_sections_and_overhead_add_up_to_the_file() -> None:
    fields = read_info(pack(PHOTO)).to_dict()
    assert fields["overhead_bytes"] + sum(section["bytes"] for section in fields["sections"]) == fields["file_bytes"]


def test_an_unknown_model_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "name_of", lambda model_id: None)
    info = read_info(pack(PHOTO))
    assert info.model is None
    assert info.model_id == "5eed1234"


def test_a_file_that_is_cut_short_is_noticed() -> None:
    with pytest.raises(FormatError, match="cut short"):
        read_info(pack(PHOTO)[:-1])


def test_a_file_that_is_too_long_is_noticed() -> None:
    with pytest.raises(FormatError, match="3 bytes after the end"):
        read_info(pack(PHOTO) + b"abc")


def test_a_damaged_file_is_noticed() -> None:
    data = bytearray(pack(PHOTO))
    data[100] ^= 1
    with pytest.raises(FormatError, match="damaged"):
        read_info(bytes(data))


def test_the_pixel_limit_holds_for_info_too() -> None:
    with pytest.raises(LimitError):
        read_info(pack(PHOTO), max_pixels=1000)


def test_info_does_not_import_torch() -> None:
    program = "import sys, dlfc; dlfc.read_info(bytes.fromhex(sys.argv[1])); print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, pack(PHOTO).hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
