"""A file decodes to the same symbols whatever computes them and in what order, in real processes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from networks import install, photo
from PIL import Image
from symbols import Answer, File, Task, ask

from dlfc.model.linear import can_pack

PHOTO = Path(__file__).parent / "data" / "photo.png"


@dataclass(frozen=True)
class Setting:
    """How a process differs from the others."""

    variables: dict[str, str] = field(default_factory=dict)
    how: dict[str, bool] = field(default_factory=dict)


SETTINGS = {
    "one thread": Setting({"OMP_NUM_THREADS": "1"}),
    "two threads": Setting({"OMP_NUM_THREADS": "2"}),
    "no vector kernels in ATen": Setting({"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}),
    "SSE 4.1 in oneDNN": Setting({"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "SSE 4.2 in MKL": Setting({"OMP_NUM_THREADS": "2", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    "channels last": Setting({"OMP_NUM_THREADS": "1"}, {"channels_last": True}),
    "in batches, the last first": Setting({"OMP_NUM_THREADS": "1"}, {"together": True, "backwards": True}),
    "bfloat16": Setting({"OMP_NUM_THREADS": "1"}, {"packed": True, "together": True}),
}
CHOSEN_BY_SETTINGS = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"}
Run = tuple[list[File], Answer]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """All settings at work: each process encodes, then each decodes what any of them wrote."""
    folder = tmp_path_factory.mktemp("exactness")
    install(folder, "tiny")
    photo(260, 200).save(folder / "drawn.png")
    with Image.open(PHOTO) as image:
        image.convert("RGB").crop((200, 100, 440, 330)).save(folder / "photo.png")
    models = [("tiny", str(folder)), ("small", str(folder))]
    pictures = [("tiny", str(folder / "drawn.png"), quality) for quality in (0, 37.5)]
    pictures += [("small", str(folder / "photo.png"), quality) for quality in (62.5, 100)]
    kept = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY_SETTINGS}

    def process(setting: Setting) -> Any:
        return [sys.executable], kept | setting.variables, Task(models, pictures, **setting.how)

    return ask({name: process(setting) for name, setting in SETTINGS.items()})


def test_the_processes_ran_as_their_settings_say(runs: dict[str, Run]) -> None:
    for name, setting in SETTINGS.items():
        answer = runs[name][1]
        assert str(answer.threads) == setting.variables["OMP_NUM_THREADS"], name
        assert answer.packed == (setting.how.get("packed", False) and can_pack()), name


def test_every_process_reads_the_same_symbols_from_the_files_of_every_process(runs: dict[str, Run]) -> None:
    first = runs["one thread"][1].digests
    assert len(first) == sum(len(files) for files, _ in runs.values())
    for name, (_, answer) in runs.items():
        assert answer.digests == first, name


def test_different_files_hold_different_symbols(runs: dict[str, Run]) -> None:
    files, answer = runs["one thread"]
    assert len(set(answer.digests[: len(files)])) == len(set(files)) == len(files)
