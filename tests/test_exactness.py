"""A file decodes to the same symbols under every thread count, instruction set and memory format, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from networks import install, photo
from PIL import Image

PHOTO = Path(__file__).parent / "data" / "photo.png"

# One process: codes pictures as its environment makes it, then reads the symbols of everyone's files.
PROCESS = """
import hashlib, json, sys
import torch
from pathlib import Path
from PIL import Image
from dlfc.codec import Codec
from dlfc.formats import unpack

models, pictures, channels_last = json.loads(sys.stdin.readline())
codecs = {name: Codec.load(name, device="cpu", models_dir=Path(folder)) for name, folder in models}
if channels_last:
    for codec in codecs.values():
        codec.model.network.to(memory_format=torch.channels_last)
files = []
for name, path, quality in pictures:
    with Image.open(path) as image:
        files.append([name, codecs[name].encode(image, quality=quality).hex()])
print(json.dumps(files), flush=True)
digests = []
for name, data in json.loads(sys.stdin.readline()):
    tokens, latent = codecs[name]._read_symbols(unpack(bytes.fromhex(data)))
    digests.append(hashlib.sha256(tokens.numpy().tobytes() + latent.numpy().tobytes()).hexdigest())
print(json.dumps([torch.get_num_threads(), digests]))
"""


@dataclass(frozen=True)
class Setting:
    """How a process differs from the others."""

    variables: dict[str, str] = field(default_factory=dict)
    channels_last: bool = False


SETTINGS = {
    "one thread": Setting({"OMP_NUM_THREADS": "1"}),
    "two threads": Setting({"OMP_NUM_THREADS": "2"}),
    "no vector kernels in ATen": Setting({"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}),
    "SSE 4.1 in oneDNN": Setting({"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "SSE 4.2 in MKL": Setting({"OMP_NUM_THREADS": "2", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    "channels last": Setting({"OMP_NUM_THREADS": "1"}, channels_last=True),
}
CHOSEN_BY_SETTINGS = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"}


@dataclass(frozen=True)
class Run:
    """What one process wrote, and what it read from the files of all."""

    files: list[tuple[str, str]]  # model, bytes in hexadecimal
    threads: int
    digests: list[str]


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
    processes = {}
    for name, setting in SETTINGS.items():
        kept = {k: v for k, v in os.environ.items() if k not in CHOSEN_BY_SETTINGS}
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**kept, **setting.variables},
        )  # fmt: skip
        processes[name] = process
        assert process.stdin is not None
        process.stdin.write(json.dumps([models, pictures, setting.channels_last]) + "\n")
        process.stdin.flush()
    written = {}
    for name, process in processes.items():
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the process with {name} ended early"
        written[name] = [(model, data) for model, data in json.loads(line)]
    everything = json.dumps([file for files in written.values() for file in files]) + "\n"
    results = {name: process.communicate(everything, timeout=120)[0] for name, process in processes.items()}
    assert all(process.returncode == 0 for process in processes.values())
    return {name: Run(written[name], *json.loads(line)) for name, line in results.items()}


def test_the_processes_ran_as_their_settings_say(runs: dict[str, Run]) -> None:
    for name, setting in SETTINGS.items():
        assert str(runs[name].threads) == setting.variables["OMP_NUM_THREADS"], name


def test_every_process_reads_the_same_symbols_from_the_files_of_every_process(runs: dict[str, Run]) -> None:
    first = runs["one thread"].digests
    assert len(first) == sum(len(run.files) for run in runs.values())
    for name, run in runs.items():
        assert run.digests == first, name


def test_different_files_hold_different_symbols(runs: dict[str, Run]) -> None:
    one = runs["one thread"]
    assert len(set(one.digests[: len(one.files)])) == len({data for _, data in one.files}) == len(one.files)
