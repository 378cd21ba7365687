"""Targets that cannot be written, and writing that happens completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FakeCodec, Finished, picture

from dlfc import files
from dlfc.errors import LimitError

Run = Callable[..., Finished]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing/a.dlf", "missing/a.dlf: the directory missing does not exist"),
        ("plain/a.dlf", "plain/a.dlf: plain is not a directory"),
        ("plain/deeper/a.dlf", "plain/deeper/a.dlf: the directory plain/deeper does not exist"),
        ("folder", "folder: is a directory; name a file, or use --output-dir"),
    ],
)
def test_a_target_that_cannot_be_written_is_one_line_before_any_work(
    dlfc: Run, photo: Path, fake_codec: type[FakeCodec], target: str, reason: str
) -> None:
    Path("plain").write_text("a file")
    Path("folder").mkdir()
    run = dlfc("encode", "photo.png", "-o", target)
    assert (run.status, run.err) == (1, f"dlfc: {reason}\n")
    assert fake_codec.loads == 0


@pytest.mark.parametrize("directory", ["plain", "plain/deeper"])
def test_an_output_directory_that_cannot_be_made_is_one_line(dlfc: Run, photo: Path, directory: str) -> None:
    Path("plain").write_text("a file")
    run = dlfc("encode", "photo.png", "--output-dir", directory)
    assert run.status == 1
    assert run.err.startswith(f"dlfc: {directory}: ")
    assert run.err.count("\n") == 1
    assert Path("plain").read_text() == "a file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_directory_without_permission_is_one_line(dlfc: Run, photo: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    run = dlfc("encode", "photo.png", "-o", "locked/a.dlf")
    assert (run.status, run.err) == (1, "dlfc: locked/a.dlf: no permission to write into its directory\n")


def test_a_target_that_appears_while_the_work_is_done_is_kept(
    dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = FakeCodec.encode

    def encode_slowly(self: FakeCodec, *args: object, **options: object) -> bytes:
        Path("photo.dlf").write_text("somebody was faster")
        return encode(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeCodec, "encode", encode_slowly)
    run = dlfc("encode", "photo.png")
    assert (run.status, run.err) == (1, "dlfc: photo.dlf: already exists; use -f to overwrite it\n")
    assert Path("photo.dlf").read_text() == "somebody was faster"
    assert sorted(os.listdir(".")) == ["photo.dlf", "photo.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fills_up_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    target = tmp_path / "a.dlf"
    if overwrite:
        target.write_text("before")

    def fill_up(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(OSError, match="No space left") as caught:
        files.save(str(target), b"data", overwrite=overwrite)
    assert caught.value.filename == str(target)
    assert os.listdir(tmp_path) == (["a.dlf"] if overwrite else [])
    assert not overwrite or target.read_text() == "before"


def test_a_file_system_without_hard_links_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a.dlf"
    files.save(str(target), b"data", overwrite=False)
    assert target.read_bytes() == b"data"
    with pytest.raises(FileExistsError, match="already exists"):
        files.save(str(target), b"other", overwrite=False)
    assert target.read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["a.dlf"]


def test_a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.touch()
    files.save(str(ours), b"data", overwrite=False)
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    ours.chmod(0o640)
    files.save(str(ours), b"more", overwrite=True)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o640
    assert ours.read_bytes() == b"more"


def test_a_symbolic_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    files.save(str(tmp_path / "link"), b"one", overwrite=False)
    files.save(str(tmp_path / "link"), b"two", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"two"


def test_an_input_behind_a_symbolic_link_is_not_overwritten(dlfc: Run, photo: Path) -> None:
    Path("photo.dlf").symlink_to("photo.png")
    before = photo.read_bytes()
    run = dlfc("encode", "photo.png", "-f")
    assert run.status == 2
    assert "photo.dlf is an input and would be overwritten" in run.err
    assert photo.read_bytes() == before


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    name = "n" * 251 + ".dlf"
    files.save(str(tmp_path / name), b"data", overwrite=False)
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_one_line(dlfc: Run, tmp_path: Path) -> None:
    picture().save("a.png")
    run = dlfc("encode", "a.png", "-o", "n" * 300)
    assert run.status == 1
    assert run.err == f"dlfc: {'n' * 300}: File name too long\n"


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"12345")
    assert files.load(str(path), max_bytes=5) == b"12345"
    with pytest.raises(LimitError, match="more than 4 bytes"):
        files.load(str(path), max_bytes=4)


def test_names_are_shown_on_one_line_without_what_terminals_act_on() -> None:
    assert files.display_name("a\nb\x1b[31m.png") == r"a\nb\x1b[31m.png"
    assert files.display_name(os.fsdecode(b"caf\xe9 \xc3\xa9.png")) == r"caf\xe9 é.png"
