"""`dlfc encode`: where results go, what is said about them, what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FakeCodec, Finished, picture

from dlfc.formats import unpack

Run = Callable[..., Finished]


def test_the_result_lies_beside_the_input_by_default(dlfc: Run, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    picture().save(tmp_path / "album" / "a.b.png")
    assert dlfc("encode", "album/a.b.png").status == 0
    assert unpack((tmp_path / "album" / "a.b.dlf").read_bytes()).width_px == 24
    assert sorted(os.listdir(tmp_path)) == ["album"]


def test_one_line_on_standard_error_says_size_and_rate(dlfc: Run, photo: Path) -> None:
    run = dlfc("encode", "photo.png")
    size = Path("photo.dlf").stat().st_size
    assert run.err == f"photo.png -> photo.dlf  {size} bytes  {8 * size / (24 * 16):.4f} bpp\n"
    assert run.out == ""


def test_quiet_says_nothing_and_verbose_names_model_and_time(dlfc: Run, photo: Path) -> None:
    assert dlfc("encode", "photo.png", "--quiet").err == ""
    assert "  fake (46414b45)  0." in dlfc("encode", "photo.png", "-f", "-v").err


def test_json_has_one_object_per_file_and_is_alone_on_standard_output(dlfc: Run, photo: Path) -> None:
    run = dlfc("encode", "photo.png", "missing.png", "--json", "-q", "20")
    first, second = map(json.loads, run.out.splitlines())
    size = Path("photo.dlf").stat().st_size
    assert first.pop("seconds") >= 0
    assert first == {
        "input": "photo.png",
        "output": "photo.dlf",
        "width": 24,
        "height": 16,
        "quality": 20.0,
        "file_bytes": size,
        "bpp": 8 * size / (24 * 16),
        "model": "fake",
        "model_id": "46414b45",
    }
    assert second == {"input": "missing.png", "error": "No such file or directory"}
    assert run.err == "dlfc: missing.png: No such file or directory\n"
    assert run.status == 1


def test_output_names_the_file(dlfc: Run, photo: Path) -> None:
    assert dlfc("encode", "photo.png", "-o", "other.name").status == 0
    assert unpack(Path("other.name").read_bytes()).height_px == 16


def test_an_output_directory_is_made_and_takes_all_results(dlfc: Run, photo: Path) -> None:
    picture(9, 9).save("b.jpg")
    assert dlfc("encode", "photo.png", "b.jpg", "--output-dir", "new/deep").status == 0
    assert sorted(os.listdir("new/deep")) == ["b.dlf", "photo.dlf"]


def test_many_inputs_load_the_model_once(dlfc: Run, photo: Path, fake_codec: type[FakeCodec]) -> None:
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        picture().save(name)
    assert dlfc("encode", *names, "-j", "3").status == 0
    assert fake_codec.loads == 1


def test_results_are_reported_in_the_order_of_the_inputs_whatever_jobs_is(dlfc: Run, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(8)]
    for number, name in enumerate(names):
        picture(10 + number, 20).save(name)
    Path("3.png").write_bytes(b"no picture")
    lines = dlfc("encode", *names, "-j", "4", "--json").out.splitlines()
    assert [json.loads(line)["input"] for line in lines] == names


@pytest.mark.parametrize(("asked", "stored"), [("0", 0.0), ("100", 100.0), ("33.5", 33.5), ("33.3", 33.5), (".2", 0.0)])
def test_a_quality_is_stored_in_half_steps(dlfc: Run, photo: Path, asked: str, stored: float) -> None:
    assert dlfc("encode", "photo.png", "-q", asked).status == 0
    assert unpack(Path("photo.dlf").read_bytes()).quality == stored


@pytest.mark.parametrize("quality", ["-1", "100.5", "nan", "inf", "high", "", "5 0", "1_0", "٣", "1e400"])
def test_a_quality_that_is_no_number_from_0_to_100_is_a_usage_error(dlfc: Run, photo: Path, quality: str) -> None:
    run = dlfc("encode", "photo.png", "-q", quality)
    assert run.status == 2
    assert run.err.count("\n") == 1
    assert run.err.startswith("dlfc encode: ")
    assert "is not a number from 0 to 100" in run.err


def test_an_existing_file_is_kept_unless_forced(dlfc: Run, photo: Path) -> None:
    Path("photo.dlf").write_text("precious")
    run = dlfc("encode", "photo.png")
    assert (run.status, run.err) == (1, "dlfc: photo.dlf: already exists; use -f to overwrite it\n")
    assert Path("photo.dlf").read_text() == "precious"
    assert dlfc("encode", "photo.png", "-f").status == 0
    assert unpack(Path("photo.dlf").read_bytes()).width_px == 24


def test_an_existing_file_is_noticed_before_any_model_is_loaded(
    dlfc: Run, photo: Path, fake_codec: type[FakeCodec]
) -> None:
    Path("photo.dlf").write_text("precious")
    dlfc("encode", "photo.png", "--json")
    assert fake_codec.loads == 0


def test_a_failed_file_does_not_stop_the_others(dlfc: Run, tmp_path: Path) -> None:
    picture().save("a.png")
    Path("b.png").write_text("not a picture")
    Path("c.png").mkdir()
    picture().save("d.png")
    run = dlfc("encode", "a.png", "b.png", "c.png", "d.png")
    assert run.status == 1
    assert Path("a.dlf").exists()
    assert Path("d.dlf").exists()
    failures = [line for line in run.err.splitlines() if line.startswith("dlfc: ")]
    assert len(failures) == 2
    assert failures[0].startswith("dlfc: b.png: not an image that can be read")
    assert failures[1] == "dlfc: c.png: is a folder; use --recursive to take the files in it"


@pytest.mark.parametrize("options", [("-j", "1"), ("-j", "2")])
def test_the_last_picture_of_a_batch_may_be_the_broken_one(dlfc: Run, photo: Path, options: tuple[str, ...]) -> None:
    Path("z.png").write_bytes(photo.read_bytes()[:80])
    run = dlfc("encode", "photo.png", "z.png", "--quiet", *options)
    assert run.status == 1
    assert run.err.startswith("dlfc: z.png: the image is damaged or cut short")
    assert sorted(os.listdir(".")) == ["photo.dlf", "photo.png", "z.png"]


def test_an_unknown_model_is_said_once(dlfc: Run, photo: Path) -> None:
    picture().save("b.png")
    run = dlfc("encode", "photo.png", "b.png", "-m", "huge", "--json")
    assert (run.status, run.err) == (1, "dlfc: model huge is not known; see dlfc models list\n")
    assert [json.loads(line)["input"] for line in run.out.splitlines()] == ["photo.png", "b.png"]


def test_a_note_says_what_was_converted(dlfc: Run, tmp_path: Path) -> None:
    picture().convert("P").save("few.png")
    lines = dlfc("encode", "few.png").err.splitlines()
    assert lines[0] == "dlfc: few.png: note: palette converted to RGB"
    assert len(lines) == 2
    assert dlfc("encode", "few.png", "-f", "--quiet").err == ""


def test_dropped_metadata_are_said_unless_someone_chose_what_to_keep(dlfc: Run, tmp_path: Path) -> None:
    exif = picture().getexif()
    exif[0x010F] = "A camera"
    picture().save("phone.jpg", exif=exif)
    assert "dlfc: phone.jpg: note: EXIF data dropped\n" in dlfc("encode", "phone.jpg").err
    assert "note" not in dlfc("encode", "phone.jpg", "-f", "--keep", "none").err
    assert "dlfc: phone.jpg: note: EXIF data dropped\n" in dlfc("encode", "phone.jpg", "-f", "--keep", "icc", "-v").err


def test_a_picture_over_the_limit_is_refused(dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "dlfc: photo.png: picture of 24x16 pixels is over the limit of 383 pixels\n"
    assert dlfc("encode", "photo.png", "--max-pixels", "383").err == reason
    assert dlfc("encode", "photo.png", "--max-pixels", "384").status == 0
    monkeypatch.setenv("DLFC_MAX_PIXELS", "383")
    assert dlfc("encode", "photo.png", "-f").err == reason


def test_a_file_name_cannot_break_the_line_or_speak_to_the_terminal(dlfc: Run, tmp_path: Path) -> None:
    name = "two\nlines\x1b[31m.png"
    picture().save(name)
    run = dlfc("encode", name)
    assert run.status == 0
    assert run.err.startswith("two\\nlines\\x1b[31m.png -> two\\nlines\\x1b[31m.dlf  ")
    assert run.err.count("\n") == 1


def test_a_file_name_that_is_not_text_is_a_file_name(dlfc: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    picture().save(os.fsencode(name).decode("utf-8", "surrogateescape"))
    run = dlfc("encode", name, "--json")
    assert run.status == 0
    assert json.loads(run.out)["input"] == name
    assert os.path.exists(b"\xff\xfe.dlf")


def test_a_file_may_be_called_minus_if_its_directory_is_named(dlfc: Run, tmp_path: Path) -> None:
    picture().save("-", format="PNG")
    assert dlfc("encode", "./-").status == 0
    assert Path("-.dlf").exists()


def test_a_name_that_begins_with_a_dash_is_named_as_it_was_given(dlfc: Run, tmp_path: Path) -> None:
    picture().save("-a.png")
    run = dlfc("encode", "./-a.png", "--json")
    assert json.loads(run.out)["output"] == "./-a.dlf"
    assert dlfc("info", json.loads(run.out)["output"]).status == 0


USAGE_ERRORS = {
    "no input": ([], "missing argument 'INPUT...'"),
    "two places for the output": (["photo.png", "-o", "a", "--output-dir", "b"], "-o and --output-dir exclude"),
    "one output for two inputs": (["photo.png", "b.png", "-o", "c"], "there are 2 inputs; use --output-dir"),
    "two inputs with one output": (["photo.png", "photo.jpg"], "photo.png and photo.jpg would both become photo.dlf"),
    "the same input twice": (["photo.png", "./photo.png"], "would both become photo.dlf"),
    "one output by a detour": (["photo.png", "x/photo.jpg", "--output-dir", "o"], "would both become o/photo.dlf"),
    "output over its input": (["photo.png", "-o", "photo.png", "-f"], "photo.png is an input and would be overwritten"),
    "output over another input": (["a.png", "a.dlf", "-f"], "a.dlf is an input and would be overwritten"),
    "standard input among others": (["photo.png", "-"], "standard input (-) cannot stand among other inputs"),
    "standard input into a directory": (["-", "--output-dir", "o"], "standard input (-) has no name"),
    "JSON and data in one stream": (["photo.png", "-o", "-", "--json"], "cannot both go to standard output"),
    "quiet and verbose": (["photo.png", "--quiet", "-v"], "--quiet and -v exclude each other"),
    "no jobs": (["photo.png", "-j", "0"], "'0' is not a whole number from 1 up"),
    "an unknown device": (["photo.png", "--device", "tpu"], "'tpu' is none of auto, cpu, cuda"),
    "an unknown option": (["photo.png", "--fast"], "no such option: --fast"),
    "an empty name": (["photo.png", "-o", ""], "a file name is empty"),
    "a name with a capital letter": (["A.png", "a/A.png", "--output-dir", "o"], "encode: A.png and a/A.png would both"),
    "no pixels": (["photo.png", "--max-pixels", "0"], "'0' is not a whole number from 1 up"),
}


@pytest.mark.parametrize(("arguments", "reason"), USAGE_ERRORS.values(), ids=USAGE_ERRORS.keys())
def test_a_usage_error_is_one_line_and_changes_nothing(
    dlfc: Run, photo: Path, arguments: list[str], reason: str
) -> None:
    before = photo.read_bytes()
    run = dlfc("encode", *arguments)
    assert run.status == 2
    assert run.out == ""
    assert run.err.startswith("dlfc encode: ")
    assert re.search(r"[;?] try 'dlfc encode --help'\n$", run.err)
    assert run.err.count("\n") == 1
    assert reason in run.err
    assert os.listdir(".") == ["photo.png"]
    assert photo.read_bytes() == before


def test_a_bad_limit_in_the_environment_is_a_usage_error(
    dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLFC_MAX_PIXELS", "many")
    run = dlfc("encode", "photo.png")
    assert run.status == 2
    assert "'many' is not a whole number" in run.err


def test_a_bug_shows_its_traceback(dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> bytes:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(FakeCodec, "encode", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        dlfc("encode", "photo.png")
    assert os.listdir(".") == ["photo.png"]
