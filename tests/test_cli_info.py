"""`dlfc info` and the program as such: version, help, unknown commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished

from dlfc import __version__
from dlfc.formats import Container, Extra, pack

Run = Callable[..., Finished]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.dlf"
    path.write_bytes(pack(Container(b"\x01\x02\x03\x04", 768, 512, 12.5, 0, b"s" * 100, b"d" * 300, (Extra(2, b"x"),))))
    return path


def test_people_read_lines(dlfc: Run, file: Path) -> None:
    run = dlfc("info", "a.dlf")
    assert (run.status, run.err) == (0, "")
    lines = [line.strip() for line in run.out.splitlines()]
    assert lines[0] == "a.dlf"
    facts = dict(line.split(maxsplit=1) for line in lines[1:])
    size = file.stat().st_size
    assert facts == {
        "picture": "768x512 pixels, quality 12.5",
        "size": f"{size} bytes, {8 * size / (768 * 512):.4f} bits per pixel",
        "semantic": "100 bytes",
        "detail": "300 bytes",
        "exif": "1 byte",
        "overhead": f"{size - 401} bytes",
        "model": "not known here (01020304)",
        "format": "version 1",
    }


def test_scripts_read_json(dlfc: Run, file: Path) -> None:
    run = dlfc("info", "a.dlf", "--json")
    size = file.stat().st_size
    assert list(json.loads(run.out).items()) == [
        ("file", "a.dlf"),
        ("format_version", 1),
        ("model", None),
        ("model_id", "01020304"),
        ("width", 768),
        ("height", 512),
        ("quality", 12.5),
        ("bpp", 8 * size / (768 * 512)),
        ("file_bytes", size),
        ("overhead_bytes", size - 401),
        (
            "sections",
            [{"name": "semantic", "bytes": 100}, {"name": "detail", "bytes": 300}, {"name": "exif", "bytes": 1}],
        ),
    ]


def test_broken_files_are_one_line_each_and_the_others_are_shown(dlfc: Run, file: Path) -> None:
    data = file.read_bytes()
    Path("short.dlf").write_bytes(data[:-1])
    Path("long.dlf").write_bytes(data + b"!")
    run = dlfc("info", "short.dlf", "missing.dlf", "a.dlf", "long.dlf", ".", "--json")
    assert run.status == 1
    reasons = run.err.splitlines()
    assert reasons[0].startswith("dlfc: short.dlf: file is cut short")
    assert reasons[1] == "dlfc: missing.dlf: No such file or directory"
    assert reasons[2] == "dlfc: long.dlf: 1 byte after the end of the last section"
    assert reasons[3] == "dlfc: .: Is a directory"
    objects = [json.loads(line) for line in run.out.splitlines()]
    assert [each["file"] for each in objects] == ["short.dlf", "missing.dlf", "a.dlf", "long.dlf", "."]
    assert ["error" in each for each in objects] == [True, True, False, True, True]
    assert objects[1]["error"] == "No such file or directory"


def test_standard_input_can_be_read_only_once(dlfc: Run, tmp_path: Path) -> None:
    run = dlfc("info", "-", "-")
    assert run.status == 2
    assert run.err == "dlfc info: standard input (-) can be read only once; try 'dlfc info --help'\n"


def test_version_is_one_line(dlfc: Run) -> None:
    run = dlfc("--version")
    assert (run.status, run.out, run.err) == (0, f"dlfc {__version__}\n", "")


def test_an_unknown_command_is_one_line(dlfc: Run) -> None:
    run = dlfc("compress", "a.png")
    assert (run.status, run.out) == (2, "")
    assert run.err == "dlfc: no such command 'compress'; try 'dlfc --help'\n"


def test_no_command_is_one_line(dlfc: Run) -> None:
    run = dlfc()
    assert (run.status, run.out) == (2, "")
    assert run.err == "dlfc: missing command; try 'dlfc --help'\n"


@pytest.mark.parametrize("command", [[], ["encode"], ["decode"], ["info"]])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_examples_and_exit_statuses_within_80_columns(dlfc: Run, command: list[str], option: str) -> None:
    run = dlfc(*command, option)
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith(f"Usage: {' '.join(['dlfc', *command])} [OPTIONS] ")
    assert "Examples:\n" in run.out
    assert "Exit status:\n" in run.out
    assert max(map(len, run.out.splitlines())) <= 80
