"""The whole way with the shipped model: a real photograph, the installed program, one process for each step."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import real_command, run_process
from PIL import Image

from dlfc.formats import pack, unpack

PHOTO = Path(__file__).parent / "data" / "photo.png"


def _run(*arguments: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    run = run_process(real_command(*arguments), input=data)
    assert run.returncode == 0, run.stderr.decode()
    return run


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLFC_MODELS_DIR", str(tmp_path / "no models"))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photograph as a .dlf file."""
    path = tmp_path_factory.mktemp("encoded") / "photo.dlf"
    _run("encode", PHOTO, "-o", path)
    return path


def _small_photo(width_px: int, height_px: int, name: str) -> None:
    with Image.open(PHOTO) as photo:
        photo.convert("RGB").resize((width_px, height_px)).save(name)


def test_another_process_turns_the_file_back_into_the_photograph(encoded: Path) -> None:
    run = _run("decode", encoded, "-o", "seen.png")
    assert run.stdout == b""
    with Image.open(PHOTO) as photo, Image.open("seen.png") as seen:
        assert (seen.format, seen.mode, seen.size) == ("PNG", "RGB", photo.size)
        thumbnails = [np.asarray(image.convert("RGB").resize((16, 16))).astype(float) for image in (photo, seen)]
    likeness = np.corrcoef(thumbnails[0].ravel(), thumbnails[1].ravel())[0, 1]
    assert likeness > 0.8  # the same picture from afar; the detail is the network's


def test_the_file_is_as_small_as_it_says(encoded: Path) -> None:
    facts = json.loads(_run("info", "--json", encoded).stdout)
    size = encoded.stat().st_size
    with Image.open(PHOTO) as photo:
        pixels = photo.width * photo.height
    assert facts["file_bytes"] == size
    assert facts["bpp"] == 8 * size / pixels
    assert facts["bpp"] < 0.1
    assert facts["overhead_bytes"] <= 20 + 2 * (len(facts["sections"]) - 2)
    assert facts["overhead_bytes"] + sum(section["bytes"] for section in facts["sections"]) == size
    assert facts["model"] == "small"
    assert facts["quality"] == 50.0


def test_a_higher_quality_takes_more_bytes() -> None:
    sizes = []
    for quality in ("0", "50", "100"):
        run = _run("encode", PHOTO, "-o", f"{quality}.dlf", "-q", quality, "--json")
        sizes.append(json.loads(run.stdout)["file_bytes"])
    assert sizes == sorted(set(sizes))


def test_a_pipe_gives_the_same_bytes_as_files(encoded: Path) -> None:
    piped = _run("encode", "-", data=PHOTO.read_bytes()).stdout
    assert piped == encoded.read_bytes()
    picture = _run("decode", "-", data=piped).stdout
    _run("decode", encoded, "-o", "seen.png")
    with Image.open(BytesIO(picture)) as from_pipe, Image.open("seen.png") as from_file:
        assert from_pipe.tobytes() == from_file.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (257, 2), (255, 129)])
def test_a_picture_of_any_size_keeps_it(size: tuple[int, int]) -> None:
    _small_photo(*size, "any.png")
    _run("encode", "any.png")
    _run("decode", "any.dlf", "-o", "seen.webp")
    with Image.open("seen.webp") as seen:
        assert (seen.format, seen.size) == ("WEBP", size)


def test_a_folder_is_encoded_and_decoded_with_several_jobs() -> None:
    for number in range(3):
        _small_photo(64 + 32 * number, 80, f"{number}.png")
    names = [f"{number}.png" for number in range(3)]
    _run("encode", *names, "--output-dir", "files", "-j", "2")
    _run("encode", *names, "--output-dir", "again", "-j", "1")
    files = sorted(os.listdir("files"))
    assert files == ["0.dlf", "1.dlf", "2.dlf"]
    assert [Path("files", name).read_bytes() for name in files] == [Path("again", name).read_bytes() for name in files]
    _run("decode", *(f"files/{name}" for name in files), "--output-dir", "seen", "-j", "2")
    for number in range(3):
        with Image.open(f"seen/{number}.png") as seen:
            assert seen.size == (64 + 32 * number, 80)


def test_damaged_files_are_one_line_each_and_the_others_are_decoded(encoded: Path) -> None:
    data = encoded.read_bytes()
    middle = len(data) // 2
    Path("good.dlf").write_bytes(data)
    Path("flipped.dlf").write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    Path("short.dlf").write_bytes(data[:-1])
    Path("newer.dlf").write_bytes(data[:2] + b"\x63" + data[3:])
    broken = ["flipped.dlf", "short.dlf", "newer.dlf"]
    run = run_process(real_command("decode", *broken, "good.dlf", "--quiet"))
    assert (run.returncode, run.stdout) == (1, b"")
    assert [line.split(": ")[1] for line in run.stderr.decode().splitlines()] == broken
    assert sorted(os.listdir(".")) == sorted([*broken, "good.dlf", "good.png"])


def test_a_file_of_a_model_that_is_not_here_is_one_line(encoded: Path) -> None:
    container = replace(unpack(encoded.read_bytes()), model_id=b"\0\1\2\3")
    Path("stranger.dlf").write_bytes(pack(container))
    run = run_process(real_command("decode", "stranger.dlf"))
    assert run.returncode == 1
    assert run.stderr.startswith(b"dlfc: stranger.dlf: ")
    assert run.stderr.count(b"\n") == 1
    assert b"00010203" in run.stderr
    assert os.listdir(".") == ["stranger.dlf"]


def test_a_file_that_is_cut_still_gives_a_picture_if_that_is_allowed(encoded: Path) -> None:
    data = encoded.read_bytes()
    facts = json.loads(_run("info", "--json", encoded).stdout)
    detail_bytes = facts["sections"][1]["bytes"]
    for kept in (detail_bytes // 2, 0):
        Path("cut.dlf").write_bytes(data[: len(data) - detail_bytes + kept])
        run = _run("decode", "--allow-partial", "-f", "cut.dlf")
        assert run.stderr.startswith(b"dlfc: cut.dlf: note: the file is cut short")
        with Image.open(PHOTO) as photo, Image.open("cut.png") as seen:
            assert seen.size == photo.size
    assert run_process(real_command("decode", "-f", "cut.dlf")).returncode == 1
