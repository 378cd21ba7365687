"""`dlfc info` and the program as such: version, help, unknown commands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Finished, real_command, run_process

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


@pytest.mark.parametrize(("columns", "cells"), [(200, 48), (40, 24), (20, 4)])
def test_a_bar_divides_the_width_as_the_bytes_are_divided(
    dlfc: Run, file: Path, monkeypatch: pytest.MonkeyPatch, columns: int, cells: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run = dlfc("info", "a.dlf", "--bar")
    assert (run.status, run.err) == (0, "")
    bar = next(line.strip() for line in run.out.splitlines() if set(line.strip()) <= set("░█▓▒") and line.strip())
    assert len(bar) == cells
    if cells > 20:  # 20, 100, 300 bytes and 1
        parts = [bar.count(sign) for sign in "░█▓▒"]
        assert bar == "".join(sign * count for sign, count in zip("░█▓▒", parts, strict=True))
        assert parts[3] == 1
        assert parts[2] == pytest.approx(3 * parts[1], abs=4)
        assert {"█ semantic", "▓ detail", "▒ exif", "░ overhead"} <= {
            line[2:].split("  ")[0] for line in run.out.splitlines()
        }


@pytest.mark.parametrize("columns", [0, 10, 40])
def test_lines_are_whole_in_terminals_of_any_width(
    dlfc: Run, file: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    usual = dlfc("info", "a.dlf")
    monkeypatch.setenv("COLUMNS", str(columns))
    assert "bits per pixel\n" in usual.out
    assert dlfc("info", "a.dlf") == usual


def test_a_terminal_gets_the_bar_in_colour_unless_there_shall_be_none(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = _on_a_terminal("info", str(file))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = _on_a_terminal("info", str(file))
    assert "▓" in coloured
    assert "▓" in plain
    assert "\x1b[32m" in coloured
    assert "\x1b[32m" not in plain


def test_the_bar_is_ascii_where_nothing_else_can_be_written(file: Path) -> None:
    run = run_process(real_command("info", "--bar", file), env=os.environ | {"PYTHONIOENCODING": "ascii"})
    lines = run.stdout.decode("ascii").splitlines()
    assert re.fullmatch(r" +\.+#+=+\++", lines[3])
    assert lines[4].startswith("  # semantic")


def test_a_bar_is_not_json(dlfc: Run, file: Path) -> None:
    assert dlfc("info", "a.dlf", "--bar", "--json").status == 2


def _on_a_terminal(*arguments: str) -> str:
    """What a process writes to a terminal as standard output."""
    main_end, process_end = os.openpty()
    run_process(real_command(*arguments), stdout=process_end, env=os.environ | {"TERM": "xterm", "COLUMNS": "80"})
    os.close(process_end)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(main_end, 4096):
            shown += chunk
    os.close(main_end)
    return shown.decode()


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


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_is_one_line(dlfc: Run, option: str) -> None:
    run = dlfc(option)
    assert (run.status, run.out, run.err) == (0, f"dlfc {__version__}\n", "")


def test_an_unknown_command_is_one_line(dlfc: Run) -> None:
    run = dlfc("squeeze", "a.png")
    assert (run.status, run.out) == (2, "")
    assert run.err == "dlfc: no such command 'squeeze'; try 'dlfc --help'\n"


def test_a_command_that_is_nearly_right_is_one_line_with_a_hint(dlfc: Run) -> None:
    run = dlfc("encde", "a.png")
    assert (run.status, run.out) == (2, "")
    hint = r"; did you mean 'encode'\? |; "  # older versions of click have none
    assert re.fullmatch(rf"dlfc: no such command 'encde'({hint})try 'dlfc --help'\n", run.err)


def test_an_option_that_is_nearly_right_is_one_line_with_a_hint(dlfc: Run) -> None:
    run = dlfc("encode", "a.png", "--recursiv")
    assert (run.status, run.out) == (2, "")
    hint = "(; did you mean [-a-z, ]*--recursive[-a-z, ]*\\?|[^(]*;)"  # as the versions of click see it
    assert re.fullmatch(rf"dlfc encode: no such option:? '?--recursiv'?{hint} try 'dlfc encode --help'\n", run.err)


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
