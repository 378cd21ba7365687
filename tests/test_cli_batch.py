"""Many files in one run: folders, going on after a stop, sharing the network, what is said at the end."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FakeCodec, Finished, fake_command, picture, run_process

from dlfc.cli.inputs import Job
from dlfc.cli.pipeline import outcomes
from dlfc.cli.steps import Extent, Result
from dlfc.formats import pack, unpack

Run = Callable[..., Finished]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with pictures at several depths, and other things."""
    for name in ("one.png", "deep/two.JPG", "deep/er/three.webp", "deep/er/four.png"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture().save(path)
    (tmp_path / "album" / "notes.txt").write_text("not a picture")
    (tmp_path / "album" / "old.dlf").write_bytes(FakeCodec().encode(picture()))
    (tmp_path / "album" / "empty.png").mkdir()
    return tmp_path / "album"


def files_below(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# --- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_keeps_its_tree_in_the_output_directory(dlfc: Run, album: Path) -> None:
    run = dlfc("encode", "album", "--recursive", "--output-dir", "out")
    assert run.status == 0
    assert files_below("out") == ["deep/er/four.dlf", "deep/er/three.dlf", "deep/two.dlf", "one.dlf"]
    lines = [line.split(" -> ")[0] for line in run.err.splitlines()]
    assert lines == ["album/one.png", "album/deep/two.JPG", "album/deep/er/four.png", "album/deep/er/three.webp"]


def test_without_an_output_directory_results_lie_beside_the_files(dlfc: Run, album: Path) -> None:
    assert dlfc("encode", "album/deep", "--recursive").status == 0
    assert {"two.dlf", "er/four.dlf", "er/three.dlf"} < set(files_below("album/deep"))


def test_files_and_folders_can_be_mixed_and_decoding_takes_dlf_files_only(dlfc: Run, album: Path, photo: Path) -> None:
    assert dlfc("encode", "photo.png", "album", "--recursive", "--output-dir", "out").status == 0
    assert "photo.dlf" in files_below("out")
    run = dlfc("decode", "out", "album", "--recursive", "--output-dir", "pictures", "--quiet")
    assert (run.status, run.err) == (0, "")
    assert files_below("pictures") == sorted(
        ["photo.png", "one.png", "old.png", "deep/two.png", "deep/er/three.png", "deep/er/four.png"]
    )


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_folder_without_the_option_is_an_error_that_names_it(dlfc: Run, album: Path, command: str) -> None:
    run = dlfc(command, "album", "--output-dir", "out")
    assert (run.status, run.err) == (1, "dlfc: album: is a folder; use --recursive to take the files in it\n")


def test_a_folder_with_nothing_to_take_is_an_error(dlfc: Run, tmp_path: Path) -> None:
    Path("empty").mkdir()
    run = dlfc("encode", "empty", "--recursive")
    assert (run.status, run.err) == (1, "dlfc: empty: has no files in it to take\n")


def test_a_loop_of_links_ends_and_a_dead_link_is_reported(dlfc: Run, album: Path) -> None:
    (album / "deep" / "loop").symlink_to(album)
    (album / "dead.png").symlink_to("nowhere")
    run = dlfc("encode", "album", "--recursive", "--output-dir", "out", "--quiet")
    assert (run.status, run.err) == (1, "dlfc: album/dead.png: No such file or directory\n")
    assert len(files_below("out")) == 4


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read anything")
def test_a_folder_that_cannot_be_read_is_one_line_and_the_others_are_done(dlfc: Run, album: Path) -> None:
    (album / "deep" / "er").chmod(0)
    run = dlfc("encode", "album", "--recursive", "--output-dir", "out", "--quiet")
    (album / "deep" / "er").chmod(0o700)
    assert (run.status, run.err) == (1, "dlfc: album/deep/er: Permission denied\n")
    assert files_below("out") == ["deep/two.dlf", "one.dlf"]


def test_of_two_files_of_a_tree_with_one_result_the_second_fails_and_all_others_are_done(
    dlfc: Run, album: Path
) -> None:
    picture().save("album/one.jpg")
    run = dlfc("encode", "album", "--recursive", "--output-dir", "out", "--quiet")
    assert (run.status, run.err) == (
        1,
        "dlfc: album/one.png: would become out/one.dlf, as album/one.jpg does\n",
    )
    assert files_below("out") == ["deep/er/four.dlf", "deep/er/three.dlf", "deep/two.dlf", "one.dlf"]


def test_hidden_files_and_folders_of_a_tree_are_left_out_and_named_ones_are_not(dlfc: Run, album: Path) -> None:
    (album / ".cache").mkdir()
    for name in ("._one.png", ".cache/five.png"):
        picture().save(album / name)
    assert dlfc("encode", "album", "--recursive", "--output-dir", "out", "--quiet").status == 0
    assert files_below("out") == ["deep/er/four.dlf", "deep/er/three.dlf", "deep/two.dlf", "one.dlf"]
    run = dlfc("encode", "album/._one.png", "album/.cache", "--recursive", "--output-dir", "named", "--quiet")
    assert (run.status, run.err) == (0, "")
    assert files_below("named") == ["._one.dlf", "five.dlf"]


def test_one_output_for_a_folder_is_a_usage_error(dlfc: Run, album: Path) -> None:
    run = dlfc("encode", "album", "--recursive", "-o", "x.dlf")
    assert run.status == 2
    assert "-o names one file, but album is a folder; use --output-dir" in run.err


# --- going on -----------------------------------------------------------------------------------------------------


def test_existing_results_are_skipped_and_kept(dlfc: Run, album: Path, fake_codec: type[FakeCodec]) -> None:
    Path("out/deep").mkdir(parents=True)
    Path("out/deep/two.dlf").write_text("kept")
    command = ("encode", "album", "--recursive", "--output-dir", "out", "--skip-existing")
    run = dlfc(*command)
    assert run.status == 0
    assert run.err.splitlines()[-1] == "dlfc: 1 skipped, for their results exist"
    assert Path("out/deep/two.dlf").read_text() == "kept"
    assert len(files_below("out")) == 4
    again = dlfc(*command, "--json")
    skipped = [json.loads(line) for line in again.out.splitlines()]
    assert skipped[0] == {"input": "album/one.png", "output": "out/one.dlf", "skipped": True}
    assert len(skipped) == 4
    assert fake_codec.loads == 1
    assert dlfc(*command, "--quiet").err == ""
    assert "album/one.png -> out/one.dlf  exists, skipped\n" in dlfc(*command, "-v").err


def test_a_file_named_like_standard_output_does_not_stop_it(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "-").write_text("a file of that name")
    run = run_process(fake_command("encode", "photo.png", "-o", "-", "--skip-existing", "--quiet"), cwd=tmp_path)
    assert run.returncode == 0
    assert unpack(run.stdout).width_px == 24


def test_skipping_and_replacing_exclude_each_other(dlfc: Run, photo: Path) -> None:
    for command in (("encode", "photo.png"), ("decode", "photo.dlf")):
        run = dlfc(*command, "--skip-existing", "-f")
        assert run.status == 2
        assert "--skip-existing and -f exclude each other" in run.err


# --- sharing the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_small_pictures_share_the_network_in_the_order_of_the_inputs(
    dlfc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setattr(FakeCodec, "at_a_time", 3)
    widths = [10, 11, 41, 12, 42, 13, 14, 15, 43, 90]
    names = [f"{at}.png" for at in range(len(widths))]
    for name, width in zip(names, widths, strict=True):
        picture(width, 20).save(name)
    assert dlfc("encode", *names, "-j", jobs, "--quiet").status == 0
    groups = sorted([width for width, _ in group] for group in FakeCodec.groups)
    assert groups == [[10, 11, 12], [13, 14, 15], [41, 42, 43], [90]]
    assert [unpack(Path(name).with_suffix(".dlf").read_bytes()).width_px for name in names] == widths


def test_a_damaged_file_spoils_no_other_of_its_group(dlfc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCodec, "at_a_time", 8)
    for at in range(6):
        Path(f"{at}.dlf").write_bytes(FakeCodec().encode(picture()))
    container = unpack(Path("3.dlf").read_bytes())
    broken = FakeCodec.decode

    def decode(self: FakeCodec, data: bytes, **options: object) -> object:
        if data.endswith(b"!"):
            raise OSError("damaged within")
        return broken(self, data)

    monkeypatch.setattr(FakeCodec, "decode", decode)
    Path("3.dlf").write_bytes(pack(replace(container, detail=b"detail!")))
    run = dlfc("decode", *[f"{at}.dlf" for at in range(6)])
    assert run.status == 1
    assert [line for line in run.err.splitlines() if "dlfc: " in line] == ["dlfc: 3.dlf: damaged within"]
    assert sorted(path.name for path in Path().glob("*.png")) == [f"{at}.png" for at in (0, 1, 2, 4, 5)]


class Counting:
    """A task that does nothing and counts how many items are between reading and the end of writing."""

    def __init__(self, pixels: int, together: int) -> None:
        self.pixels, self.together = pixels, together
        self.held = self.most = 0
        self.lock = threading.Lock()

    def read(self, job: Job) -> str:
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return job.source

    def extent(self, item: str) -> Extent:
        return Extent(self.pixels, "one kind", self.together)

    def work(self, items: Sequence[str]) -> list[Result]:
        time.sleep(0.001)
        return [Result(self.written, 1, item, {}, FakeCodec()) for item in items]  # type: ignore[arg-type]

    def written(self) -> bytes:
        with self.lock:
            self.held -= 1
        return b"x"


@pytest.mark.parametrize(("pixels", "together", "most"), [(2**24, 1, 12), (2**16, 16, 400)])
@pytest.mark.parametrize("workers", [1, 3])
def test_thousands_of_files_are_done_with_few_of_them_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, together: int, most: int, workers: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("dlfc.cli.pipeline._share_of_torch_threads", lambda workers: lambda: None)
    jobs = [Job(f"{at}", str(tmp_path / f"{at}")) for at in range(1000)]
    task = Counting(pixels, together)
    done = list(outcomes(jobs, task, overwrite=True, workers=workers))
    assert [outcome.job for outcome in done] == jobs
    assert all(outcome.result for outcome in done)
    assert task.most <= most
    assert len(os.listdir(tmp_path)) == 1000


def test_a_bug_ends_the_run_and_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlfc.cli.pipeline._share_of_torch_threads", lambda workers: lambda: None)
    task = Counting(2**16, 4)
    done: list[int] = []

    def work(items: Sequence[str]) -> list[Result]:
        done.append(len(items))
        return [] if len(done) > 5 else Counting.work(task, items)  # not one result for each item

    monkeypatch.setattr(task, "work", work)
    jobs = [Job(f"{at}", str(tmp_path / f"{at}")) for at in range(200)]
    with pytest.raises(ValueError, match="zip"):
        list(outcomes(jobs, task, overwrite=True, workers=2))
    deadline = time.monotonic() + 20
    while (busy := _workers()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not busy
    assert len(os.listdir(tmp_path)) < 200


def _workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


def test_every_worker_gets_something_to_do(dlfc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCodec, "at_a_time", 16)
    names = [f"{at}.png" for at in range(10)]
    for name in names:
        picture().save(name)
    assert dlfc("encode", *names, "-j", "3", "--quiet").status == 0
    assert sorted(map(len, FakeCodec.groups)) == [2, 4, 4]


# --- what is said -------------------------------------------------------------------------------------------------


def test_verbose_ends_with_a_summary_and_where_the_time_went(dlfc: Run, photo: Path) -> None:
    picture().save("b.png")
    Path("c.png").write_text("not a picture")
    run = dlfc("encode", "photo.png", "b.png", "c.png", "-v")
    sizes = [Path(name).stat().st_size for name in ("photo.png", "b.png", "photo.dlf", "b.dlf")]
    files, size, rate, speed, spent = run.err.splitlines()[-5:]
    assert files == "files      2 done, 1 failed"
    assert size == f"bytes      {sizes[0] + sizes[1]:,} in, {sizes[2] + sizes[3]:,} out"
    assert rate == f"mean rate  {8 * (sizes[2] + sizes[3]) / (2 * 24 * 16):.4f} bpp"
    assert re.fullmatch(r"time {7}\d+\.\d s, \d+\.\d files/s", speed)
    assert re.fullmatch(r"time: import .+ s, load .+ s, read .+ s, write .+ s; .+ s in all", spent)
    assert dlfc("encode", "photo.png", "b.png", "-f").err.count("\n") == 2


def test_one_file_has_no_summary_but_its_time(dlfc: Run, photo: Path) -> None:
    line, spent = dlfc("encode", "photo.png", "-v").err.splitlines()
    assert line.startswith("photo.png -> photo.dlf")
    assert spent.startswith("time: import")
    line, spent = dlfc("decode", "photo.dlf", "-v", "-o", "seen.png").err.splitlines()
    assert spent.startswith("time: import")


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [("800", 800), ("800B", 800), ("2KB", 2000), ("2 kb", 2000), ("2K", 2000), ("2KiB", 2048), (".5MB", 5e5)],
)
def test_a_target_is_a_number_of_bytes_with_or_without_a_unit(
    dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, size: str, size_bytes: int
) -> None:
    asked: list[object] = []
    encode = FakeCodec.encode

    def watched(self: FakeCodec, image: object, **options: object) -> bytes:
        asked.append(options["target_size"])
        return encode(self, image, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeCodec, "encode", watched)
    run = dlfc("encode", "photo.png", "--target-size", size, "--json")
    assert asked == [size_bytes]
    assert json.loads(run.out)["quality"] == 12.5


def test_the_quality_that_reaches_a_target_is_stated(dlfc: Run, photo: Path) -> None:
    run = dlfc("encode", "photo.png", "--target-bpp", "3")
    assert run.err.endswith("  quality 12.5\n")
    run = dlfc("encode", "photo.png", "--target-size", "49", "-f")
    assert (run.status, run.err) == (1, "dlfc: photo.png: no file of this picture has at most 49 bytes\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--target-size", "2KB", "-q", "50"], "-q and --target-size exclude each other"),
        (["--target-size", "2KB", "--target-bpp", "1"], "--target-size and --target-bpp exclude each other"),
        (["--target-size", "2TB"], "is not a size"),
        (["--target-size", "-5"], "is not a size"),
        (["--target-size", ""], "is not a size"),
        (["--target-size", "0"], "less than one byte"),
        (["--target-size", "9" * 5000], "is not a size"),
        (["--target-bpp", "0"], "is not a rate"),
        (["--target-bpp", "nan"], "is not a rate"),
        (["--target-bpp", "1e3"], "is not a rate"),
    ],
)
def test_targets_that_mean_nothing_are_usage_errors(dlfc: Run, photo: Path, arguments: list[str], reason: str) -> None:
    run = dlfc("encode", "photo.png", *arguments)
    assert (run.status, run.err.count("\n")) == (2, 1)
    assert reason in run.err
    assert os.listdir(".") == ["photo.png"]
