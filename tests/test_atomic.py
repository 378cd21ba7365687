"""Runs that end in the middle: killed, interrupted, out of space. What is there is whole, and nothing else is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import fake_command, picture, real_command, run_process
from PIL import Image

from dlfc.formats import unpack
from dlfc.info import read_info

FILES = 45  # of a batch
PATIENCE_S = 180  # a busy machine takes its time to begin
PHOTO = Path(__file__).parent / "data" / "photo.png"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of Unix")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def digests(folder: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


def wait_for_files(folder: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the run has written so many files, or has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if sum(not path.name.startswith(".") for path in Path(folder).glob("*")) >= count:
            return
        time.sleep(0.001)


@pytest.mark.parametrize(("command", "jobs"), [("encode", "1"), ("decode", "4")])
def test_a_killed_batch_leaves_only_whole_files_and_can_be_taken_up_again(command: str, jobs: str) -> None:
    Path("in").mkdir()
    for number in range(FILES):
        picture(200 + number, 100).save(f"in/{number}.png")
    names = [f"in/{number}.png" for number in range(FILES)]
    if command == "decode":
        assert run_process(fake_command("encode", *names, "--output-dir", "files", "--quiet")).returncode == 0
        shutil.rmtree("in")
        Path("files").rename("in")
        names = [f"in/{number}.dlf" for number in range(FILES)]
    originals = digests("in")
    written = 0
    for wanted in (1, 20):
        line = fake_command(command, *names, "--output-dir", "out", "-f", "-j", jobs, "--quiet")
        process = subprocess.Popen(line)
        wait_for_files("out", wanted, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        for path in Path("out").glob(".dlfc-*.tmp"):  # nobody could remove them, and nobody takes them for results
            path.unlink()
        for path in Path("out").iterdir():
            if path.suffix == ".dlf":
                assert unpack(path.read_bytes()).complete
            else:
                with Image.open(path) as image:
                    image.load()
        written = len(os.listdir("out"))
        assert written < FILES
    assert written > 0
    assert digests("in") == originals
    kept = digests("out")
    run = run_process(fake_command(command, *names, "--output-dir", "out", "--quiet"))
    assert run.returncode == 1
    assert run.stderr.count(b"already exists") == len(kept)
    assert len(os.listdir("out")) == FILES
    assert kept.items() <= digests("out").items()


def test_ctrl_c_while_the_network_works_ends_with_130_and_leaves_whole_files() -> None:
    for number in range(20):
        shutil.copy(PHOTO, f"{number}.png")
    originals = digests(".")
    process = subprocess.Popen(
        real_command("encode", *sorted(originals), "--output-dir", "out"),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for_files("out", 1, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert 1 <= len(os.listdir("out")) < 20
    for path in Path("out").iterdir():
        assert path.suffix == ".dlf"
        assert read_info(path.read_bytes()).width > 0
    shutil.rmtree("out")
    assert digests(".") == originals


def test_a_file_that_outgrows_the_limit_of_the_system_is_one_line_and_no_file() -> None:
    picture(600, 400).save("photo.png")
    assert run_process(fake_command("encode", "photo.png", "--quiet")).returncode == 0
    before = digests(".")
    limited = ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", *fake_command("decode", "photo.dlf", "-o", "seen.png")]
    run = run_process(limited)
    assert (run.returncode, run.stderr) == (1, b"dlfc: seen.png: File too large\n")
    assert digests(".") == before


def test_a_full_file_system_keeps_what_was_there_and_takes_nothing_half(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small file system")
    try:
        picture(1500, 1000).save("1.png")
        assert run_process(fake_command("encode", "1.png", "--quiet")).returncode == 0
        (disk / "1.png").write_bytes(b"what was there before" * 1000)
        before = digests("disk")
        run = run_process(fake_command("decode", "1.dlf", "--output-dir", "disk", "-f"), cwd=tmp_path)
        assert (run.returncode, run.stderr) == (1, b"dlfc: disk/1.png: No space left on device\n")
        assert digests("disk") == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_pipe_that_closes_half_way_is_noticed_without_a_buffer_too() -> None:
    code = "from dlfc.files import save_to_stdout; save_to_stdout(bytes(1 << 20))"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.read(10) == bytes(10)
    process.stdout.close()
    assert process.stderr is not None
    assert b"BrokenPipeError" in process.stderr.read()
    assert process.wait(PATIENCE_S) == 1
