"""`dlfc eval` from the command line: real processes with a codec that needs no network."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, fake_command, real_command, run_process
from networks import photo, write_lpips
from PIL import Image

from dlfc.errors import DlfcError
from dlfc.evaluate import programs
from dlfc.evaluate.evaluation import measure_models
from dlfc.evaluate.measures import Judge, psnr
from dlfc.evaluate.photos import Photo, find_photos

Run = Callable[..., Finished]


@pytest.fixture
def photos(dlfc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos, and processes that run the program with FakeCodec."""
    monkeypatch.setattr(programs, "DLFC", tuple(fake_command()))
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(192, 176).save(folder / "b.png")
    photo(176, 208, seed=1).save(folder / "a.webp", lossless=True)
    (folder / "notes.txt").write_text("no photo")
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(path.read_text())))


def _tables(text: str) -> list[list[list[str]]]:
    """The cells of each Markdown table, without the rule below the head."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            if not inside:
                tables.append([])
            tables[-1].append([cell.strip() for cell in line.split("|")[1:-1]])
        inside = line.startswith("|")
    return [[table[0], *table[2:]] for table in tables]


# --- what comes out -----------------------------------------------------------------------------------------------


def test_the_table_has_the_mean_size_of_the_files_and_the_mean_quality_of_the_pictures(dlfc: Run, photos: Path) -> None:
    run = dlfc("eval", photos, "-q", "0,50", "--against", "none", "--out", "out", "--keep")
    assert run.status == 0
    sizes, values = [], []
    for name in ("a.webp", "b.png"):
        file = Path("out/model-1/q50", name).with_suffix(".dlf")
        with Image.open(photos / name) as image, Image.open(file.with_suffix(".png")) as decoded:
            sizes.append(8 * file.stat().st_size / (image.width * image.height))
            values.append(psnr(*(Judge(None).look(picture.convert("RGB")).pixels for picture in (decoded, image))))
    assert run.out.startswith("### fake, means of 2 photos\n")
    (table,) = _tables(run.out)
    assert table[0] == ["-q", "bpp", "MS-SSIM", "PSNR dB"]
    assert [row[0] for row in table[1:]] == ["0", "50"]
    assert table[2][1] == f"{sum(sizes) / 2:.4f}"
    assert table[2][3] == f"{sum(values) / 2:.2f}"


def test_everything_is_reported_written_and_kept(dlfc: Run, photos: Path, tmp_path: Path) -> None:
    write_lpips(tmp_path)
    options = ["--metrics", tmp_path, "-q", "0,100", "--against", "jpeg,webp", "--rates", "1,2", "--checks"]
    run = dlfc("eval", photos, *options, "--out", "out")
    assert run.status == 0
    headings = [line for line in run.out.splitlines() if line.startswith("#")]
    assert headings == [
        "### fake, means of 2 photos",
        "### Ordinary files of the same size",
        "### Rate",
        "### Checks of fake",
    ]
    report = Path("out/report.md").read_text()
    assert run.out == report + "\n"
    assert sorted(os.listdir("out")) == ["files.csv", "means.csv", "ordinary", "rates.png", "rates.svg", "report.md"]
    files = _rows(Path("out/files.csv"))
    assert {row["codec"] for row in files} == {"fake", "jpeg", "webp"}
    assert sum(row["codec"] == "fake" for row in files) == 4
    assert "size rises with -q, but not on a -q 0 to 100" in run.out  # FakeCodec knows one size only
    again = dlfc("eval", photos, *options, "--out", "out")
    assert (again.status, Path("out/report.md").read_text()) == (0, report)


def test_published_points_stand_beside_the_models(dlfc: Run, photos: Path) -> None:
    Path("points.json").write_text(
        '{"far": [{"bpp": 1, "PSNR": 30}], "near": [{"photo": "a", "bpp": 0.001, "PSNR": 12.5}]}'
    )
    run = dlfc("eval", photos, "-q", "0", "--against", "none", "--rates", "none", "--points", "points.json")
    assert run.status == 0
    near = _tables(run.out)[1][2]
    assert near == ["near", "1", "0.0011", "-", "12.50"]


def test_several_photos_at_a_time_give_the_same_numbers(dlfc: Run, photos: Path) -> None:
    options = ["eval", photos, "-q", "0", "--against", "webp", "--rates", "none"]
    assert dlfc(*options, "-j", "2").out == dlfc(*options).out


def test_progress_goes_to_standard_error_and_can_be_left_out(dlfc: Run, photos: Path) -> None:
    options = ["eval", photos, "-q", "0", "--against", "none"]
    loud, quiet = dlfc(*options), dlfc(*options, "--quiet")
    assert loud.out == quiet.out
    assert quiet.err == ""
    lines = loud.err.splitlines()
    assert lines[0].startswith("dlfc: left out LPIPS-alex, LPIPS-squeeze, IPS, DISTS-I, FID-768, KID-768: no ")
    assert lines[1].startswith("fake -q 0: ")
    assert lines[2:] == ["a: measured 1 picture", "b: measured 1 picture"]


def test_nothing_stays_behind_without_a_folder_for_it(
    dlfc: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert dlfc("eval", photos, "-q", "0", "--against", "none").status == 0
    assert os.listdir(scratch) == []
    assert sorted(os.listdir(tmp_path)) == ["photos", "scratch"]


def test_a_model_that_is_not_there_is_the_message_of_encode(dlfc: Run, photos: Path) -> None:
    run = dlfc("eval", photos, "-q", "0", "--quiet", "-m", "fake", "-m", "other")
    assert (run.status, run.out) == (1, "")
    assert run.err == "dlfc: dlfc encode failed: model other is not known; see dlfc models list\n"


def test_two_models_of_one_name_are_told_apart(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, coded = programs.Program(), []
    for number in (1, 2):
        coded.append(program.code(find_photos(photos), "0", None, tmp_path / f"files-{number}"))
    monkeypatch.setattr(programs.Program, "code", lambda *arguments: coded.pop(0))
    levels = measure_models(
        find_photos(photos), ["one.safetensors", "two.safetensors"], ["0"], Judge(None), program, tmp_path, print
    )
    assert [level.model for level in levels] == ["fake", "fake (two.safetensors)"]


def test_the_effort_is_that_of_encoding(
    dlfc: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, run = [], programs.Program._run

    def watched(self: programs.Program, name: str, options: list[str], files: list[Path]) -> list[dict[str, Any]]:
        given.append((name, "--effort" in options and options[options.index("--effort") + 1]))
        return run(self, name, options, files)

    monkeypatch.setattr(programs.Program, "_run", watched)
    assert dlfc("eval", photos, "-q", "0", "--effort", "3", "--against", "none").status == 0
    assert given == [("encode", "3"), ("decode", False)]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-q", "0,101"], "'101' is not a number from 0 to 100"),
        (["-q", ""], "'' is not a number from 0 to 100"),
        (["-q", "5,5.0"], "'5,5.0' names a quality twice"),
        (["--rates", "0.1,much"], "'much' is not a rate in bits per pixel"),
        (["--rates", "0"], "'0' is not a rate in bits per pixel"),
        (["--against", "jpeg,gif"], "--against has 'gif', which is none of jpeg, webp, avif; or say none"),
        (["--keep"], "--keep needs a folder; name it with --out"),
    ],
)
def test_a_wrong_command_line_is_one_line(dlfc: Run, photos: Path, options: list[str], reason: str) -> None:
    run = dlfc("eval", photos, *options)
    assert (run.status, run.out) == (2, "")
    assert run.err.endswith(f"{reason}; try 'dlfc eval --help'\n")
    assert run.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere: No such file or directory"),
        (["empty"], "empty: no photos there"),
        (["photos", "--metrics", "nowhere"], "nowhere: no such folder"),
        (["photos", "--points", "nowhere.json"], "nowhere.json: No such file or directory"),
        (
            ["photos", "--measures", "vmaf"],
            "no measure 'vmaf'; there are: LPIPS-alex, ",
        ),
        (["photos", "--measures", "ips"], "IPS needs inception_v3_trunk.safetensors"),
    ],
)
def test_what_is_missing_is_one_line(dlfc: Run, photos: Path, arguments: list[str], reason: str) -> None:
    Path("empty").mkdir()
    run = dlfc("eval", *arguments, "--quiet")
    assert (run.status, run.out) == (1, "")
    assert run.err.startswith(f"dlfc: {reason}")
    assert run.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["nowhere"], ["photos", "--points", "nowhere.json"]])
def test_what_is_missing_is_said_before_anything_else(dlfc: Run, photos: Path, arguments: list[str]) -> None:
    run = dlfc("eval", *arguments)
    assert run.status == 1
    assert run.err == f"dlfc: {arguments[-1]}: No such file or directory\n"


def test_two_photos_of_one_name_are_refused(photos: Path) -> None:
    photo(64, 64).save(photos / "b.jpg")
    with pytest.raises(DlfcError, match=r"photos: b\.jpg and b\.png have the same name"):
        find_photos(photos)


def test_a_photo_that_is_too_small_to_measure_is_named(tmp_path: Path) -> None:
    photo(64, 64).save(tmp_path / "large.png")
    photo(64, 63).save(tmp_path / "small.png")
    assert Photo(tmp_path / "large.png").load().size == (64, 64)
    with pytest.raises(DlfcError, match=r"small\.png: measuring needs at least 64 pixels on each side"):
        Photo(tmp_path / "small.png").load()


def test_a_file_that_is_no_picture_stops_the_evaluation_with_the_message_of_encode(dlfc: Run, photos: Path) -> None:
    (photos / "c.png").write_text("no picture")
    run = dlfc("eval", photos, "--quiet", "-q", "0")
    assert (run.status, run.out) == (1, "")
    assert run.err.startswith("dlfc: dlfc encode failed: ")
    assert "c.png: " in run.err
    assert run.err.count("\n") == 1


# --- the program --------------------------------------------------------------------------------------------------


def test_help_loads_neither_torch_nor_numpy() -> None:
    report = "import sys\nfrom dlfc.cli import main\nmain()\nprint(*sys.modules)"
    modules = run_process([sys.executable, "-c", report, "eval", "--help"]).stdout.decode().split()
    assert "dlfc.cli" in modules
    assert not {"torch", "numpy", "PIL", "matplotlib"} & set(modules)


def test_the_installed_program_knows_the_command() -> None:
    run = run_process(real_command("eval", "--help"))
    assert run.stdout.startswith(b"Usage: dlfc eval [OPTIONS] DIR\n")
