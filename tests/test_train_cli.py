"""`dlfc train` as a command, on a tiny network."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import real_command, run_process
from networks import TINY, photo, write_lpips

RECIPE = """
name = "tiny"
target_bpp = [0.013, 0.018, 0.03]
warmstart_crops = 40
steps = 2
batch = 2
crop_px = 64
warmup_steps = 1
[model]
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command line of a run of two steps."""
    (tmp_path / "photos").mkdir()
    for i in range(2):
        photo(150 + 10 * i, 130, seed=i).save(tmp_path / "photos" / f"{i}.png")
    fields = [f"{name} = {_toml(value)}" for name, value in TINY.to_dict().items()]
    (tmp_path / "tiny.toml").write_text(RECIPE + "\n".join(fields))
    write_lpips(tmp_path)
    folders = ["--data", tmp_path / "photos", "--metrics", tmp_path, "--out", tmp_path / "run"]
    return real_command("train", tmp_path / "tiny.toml", *folders)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)


def run(command: list[str], *more: str | Path) -> subprocess.CompletedProcess[bytes]:
    return run_process([*command, *map(str, more)])


def test_slots_of_time_lead_to_a_model(command: list[str], tmp_path: Path) -> None:
    first = run(command, "--minutes", "0.000001")
    assert (first.returncode, first.stderr) == (0, b"")
    assert (tmp_path / "run" / "state.pt").exists()
    second = run(command, "--export", tmp_path / "mine.safetensors")
    assert second.returncode == 0, second.stderr
    assert b"model mine" in second.stderr
    assert {path.name for path in tmp_path.glob("mine.*")} == {"mine.safetensors", "mine.json"}


def test_levels_are_as_many_as_the_recipe_has_and_go_with_an_export(command: list[str], tmp_path: Path) -> None:
    alone = run(command, "--levels", "0,50,100")
    assert (alone.returncode, alone.stderr.count(b"\n")) == (2, 1)
    few = run(command, "--export", tmp_path / "mine.safetensors", "--levels", "0,100")
    assert few.returncode == 2
    assert b"has 3 levels" in few.stderr
    high = run(command, "--export", tmp_path / "mine.safetensors", "--levels", "0,50,121")
    assert (high.returncode, b"not a number from 0 to 120" in high.stderr) == (2, True)
    assert not (tmp_path / "run").exists()
    placed = run(command, "--export", tmp_path / "mine.safetensors", "--levels", "110,0,60")
    assert placed.returncode == 0, placed.stderr


def test_a_profile_is_a_table_on_standard_output(command: list[str], tmp_path: Path) -> None:
    finished = run(command, "--profile")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(b"part")
    assert b"backward" in finished.stdout
    assert list((tmp_path / "run").iterdir()) == []


def test_a_stage_that_is_not_there_is_one_line(command: list[str]) -> None:
    finished = run(command, "--stage", "2")
    assert finished.returncode == 1
    assert finished.stderr == b"dlfc: recipe tiny has 1 stages, none of number 2\n"
