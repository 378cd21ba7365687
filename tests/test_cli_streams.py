"""Pipes, terminals, full disks and signals: the program in processes of its own, with a codec without a network."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
from io import BytesIO
from pathlib import Path

import pytest
from conftest import SLOW_PIXEL, FakeCodec, fake_command, picture, real_command, run_process
from PIL import Image

from dlfc.formats import unpack


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _png() -> bytes:
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


def _run_on_a_terminal(command: list[str], **environment: str) -> tuple[int, str]:
    """Run a command whose standard output and error are a terminal; return its status and what it showed."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=plain | {"TERM": "xterm"} | environment
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(ours)
    return process.wait(60), shown.decode(errors="replace")


def test_standard_input_becomes_standard_output() -> None:
    encoded = run_process(fake_command("encode", "-", "--quiet"), input=_png())
    assert (encoded.returncode, encoded.stderr) == (0, b"")
    assert unpack(encoded.stdout).width_px == 24
    decoded = run_process(fake_command("decode", "-"), input=encoded.stdout)
    assert decoded.returncode == 0
    assert decoded.stderr == b"standard input -> standard output  24x16 pixels\n"
    with Image.open(BytesIO(decoded.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (24, 16))


def test_a_file_goes_to_standard_output_and_standard_input_to_a_file(photo: Path) -> None:
    encoded = run_process(fake_command("encode", "photo.png", "-o", "-"))
    assert unpack(encoded.stdout).height_px == 16
    run = run_process(fake_command("decode", "-", "-o", "seen.jpg", "--json"), input=encoded.stdout)
    assert run.returncode == 0
    assert b'"input": "-", "output": "seen.jpg"' in run.stdout
    assert sorted(os.listdir(".")) == ["photo.png", "seen.jpg"]


def test_a_failure_of_standard_input_is_named_so() -> None:
    run = run_process(fake_command("encode", "-"), input=b"")
    assert (run.returncode, run.stdout) == (1, b"")
    assert run.stderr == b"dlfc: standard input: not an image: the file is empty\n"


def test_info_reads_standard_input() -> None:
    run = run_process(real_command("info", "-"), input=FakeCodec().encode(picture()))
    assert run.returncode == 0
    assert run.stdout.decode().startswith("standard input\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line(photo: Path) -> None:
    run = run_process(fake_command("encode", "photo.png", "-o", "/dev/full", "--quiet"))
    assert (run.returncode, run.stderr) == (1, b"dlfc: /dev/full: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("encode", "photo.png", "-o", "-"), ("encode", "photo.png", "--json")])
def test_a_full_disk_behind_standard_output_is_one_line(photo: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        run = run_process(fake_command(*arguments), stdout=full, stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (1, b"dlfc: standard output: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_the_help_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        run = run_process(real_command("--help"), stdout=full, stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (1, b"dlfc: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_messages_that_cannot_be_written_do_not_stop_the_work(photo: Path) -> None:
    with open("/dev/full", "wb") as full:
        run = run_process(fake_command("encode", "photo.png"), stdout=subprocess.PIPE, stderr=full)
    assert (run.returncode, run.stdout) == (0, b"")
    assert Path("photo.dlf").exists()


@pytest.mark.parametrize(
    "arguments", [("encode", "photo.png", "-o", "-"), ("encode", "photo.png", "--json"), ("--version",), ("--help",)]
)
def test_a_closed_pipe_ends_the_program_quietly(photo: Path, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = run_process(fake_command(*arguments), stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (run.returncode, run.stderr) == (1, b"")


def test_closed_standard_streams_are_one_line_or_no_trouble(photo: Path) -> None:
    no_input = run_process(["sh", "-c", '"$@" <&-', "sh", *fake_command("encode", "-")])
    assert (no_input.returncode, no_input.stderr) == (1, b"dlfc: standard input: is closed\n")
    no_output = run_process(["sh", "-c", '"$@" >&-', "sh", *fake_command("encode", "photo.png", "-o", "-")])
    assert (no_output.returncode, no_output.stderr) == (1, b"dlfc: standard output: is closed\n")
    no_messages = run_process(["sh", "-c", '"$@" 2>&-', "sh", *fake_command("encode", "photo.png", "missing.png")])
    assert (no_messages.returncode, no_messages.stdout) == (1, b"")
    assert Path("photo.dlf").exists()


def test_binary_data_is_not_written_to_a_terminal_unless_forced(photo: Path) -> None:
    status, shown = _run_on_a_terminal(fake_command("encode", "photo.png", "-o", "-"))
    assert status == 1
    assert shown == "dlfc: standard output: is a terminal; name a file with -o, or use -f\r\n"
    status, shown = _run_on_a_terminal(fake_command("encode", "photo.png", "-o", "-", "-f", "--quiet"))
    assert status == 0
    assert "detail" in shown


def test_many_inputs_show_a_progress_bar_on_a_terminal_only() -> None:
    names = [f"{number}.png" for number in range(3)]
    for name in names:
        picture().save(name)
    status, shown = _run_on_a_terminal(fake_command("encode", *names))
    assert status == 0
    assert "encoding" in shown
    assert re.search(r"2\.png -> 2\.dlf {2}\d+ bytes", shown)
    run = run_process(fake_command("encode", *names, "-f"))
    assert b"encoding" not in run.stderr
    assert run.stderr.count(b"\n") == 3
    status, shown = _run_on_a_terminal(fake_command("encode", *names, "-f", "--quiet"))
    assert (status, shown) == (0, "")


def test_no_color_is_obeyed() -> None:
    names = ["a.png", "b.png"]
    for name in names:
        picture().save(name)
    colour = re.compile(r"\x1b\[[0-9;]*m")
    colours = colour.findall(_run_on_a_terminal(fake_command("encode", *names))[1])
    assert any(re.search("3[0-9]", code) for code in colours)
    plain = colour.findall(_run_on_a_terminal(fake_command("encode", *names, "-f"), NO_COLOR="1")[1])
    assert not any(re.search("3[0-9]", code) for code in plain)
    Path("a.dlf").write_bytes(FakeCodec().encode(picture()))
    assert "\x1b[1m" in _run_on_a_terminal(real_command("info", "a.dlf"))[1]
    assert not colour.search(run_process(real_command("info", "a.dlf")).stdout.decode())


@pytest.mark.parametrize(
    ("jobs", "number", "status"), [("1", signal.SIGINT, 130), ("2", signal.SIGINT, 130), ("1", signal.SIGTERM, 143)]
)
def test_an_interrupted_run_leaves_only_whole_files(jobs: str, number: signal.Signals, status: int) -> None:
    picture().save("a.png")
    Image.new("RGB", (8, 8), SLOW_PIXEL).save("slow.png")
    picture().save("z.png")
    command = fake_command("encode", "a.png", "slow.png", "z.png", "-j", jobs)
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not Path("a.dlf").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"Traceback" not in err
    left = set(os.listdir("."))
    assert {"a.png", "a.dlf", "slow.png", "z.png"} <= left <= {"a.png", "a.dlf", "slow.png", "z.png", "z.dlf"}


def test_an_endless_input_is_refused() -> None:
    if not os.path.exists("/dev/zero"):
        pytest.skip("no /dev/zero here")
    run = run_process(real_command("info", "/dev/zero"))
    assert run.returncode == 1
    assert run.stderr == b"dlfc: /dev/zero: more than 67108864 bytes, which is the limit for an input\n"


def test_a_named_pipe_is_read_and_written(photo: Path) -> None:
    os.mkfifo("pipe")
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE)
    run = run_process(fake_command("encode", "photo.png", "-o", "pipe"))
    data, _ = reader.communicate(timeout=60)
    assert run.returncode == 0
    assert unpack(data).width_px == 24
