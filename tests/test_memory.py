"""What whole processes need: memory at the published size, and for large pictures. Slow; run with -m slow."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import real_command
from networks import photo
from PIL import Image
from published_checkpoint import write_checkpoint

from dlfc.model.config import PAPER
from dlfc.zoo import registry

pytestmark = pytest.mark.slow

MIB, GIB = 1 << 20, 1 << 30
# The published mechanisms with the small ViT and a generator of a quarter of the width.
MINI = replace(
    PAPER,
    width=512,
    heads=8,
    encoder_layers=8,
    decoder_layers=8,
    detail_dim=128,
    latent_dim=16,
    encoder_exchange=(1, 3, 5, 7),
    decoder_exchange=(1, 3, 5, 7),
    generator_channels=32,
    mixture_size=64,
    mixture_dim=64,
)


# A process starts with the peak of the one that started it, here the test's own: so one in between, which is small.
_MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def peak_bytes(*arguments: str | Path, folder: Path, precision: str = "auto") -> int:
    """The largest resident memory of a run of dlfc, mapped files included."""
    environment = {**os.environ, registry.MODELS_DIR_VARIABLE: str(folder), "DLFC_PRECISION": precision}
    command = [sys.executable, "-c", _MEASURE, *real_command(*arguments)]
    ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    exit_status, peak_kib = map(int, ran.stdout.split())
    assert exit_status == 0
    return peak_kib * 1024


def test_a_picture_of_4_megapixels_is_coded_within_4_gib(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "mini.ckpt", MINI)
    peak_bytes("models", "import", tmp_path / "mini.ckpt", folder=tmp_path)
    photo(2048, 2048).save(tmp_path / "a.png")
    for precision in ("float32", "auto"):
        options = {"folder": tmp_path, "precision": precision}
        assert peak_bytes("encode", "-f", "-m", "mini", tmp_path / "a.png", **options) < 4 * GIB
        assert peak_bytes("decode", tmp_path / "a.dlf", "-f", "-o", tmp_path / "b.png", **options) < 4 * GIB


def test_a_photo_of_12_megapixels_is_coded_by_the_usual_model_within_800_mib(tmp_path: Path) -> None:
    with Image.open(Path(__file__).parent / "data" / "photo.png") as small:
        small.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    assert peak_bytes("encode", tmp_path / "a.png", folder=tmp_path) < 800 * MIB
    for name in ("b.png", "c.jpg"):
        assert peak_bytes("decode", tmp_path / "a.dlf", "-o", tmp_path / name, folder=tmp_path) < 800 * MIB
    with Image.open(tmp_path / "b.png") as image:
        image.load()


def test_a_checkpoint_of_the_published_size_is_imported_and_codes_a_picture(tmp_path: Path) -> None:
    """Takes 10 GB on the disk and 6 GB of memory, most of it mapped."""
    checkpoint = tmp_path / "paper.ckpt"
    assert write_checkpoint(checkpoint, PAPER) == 1_236_671_391
    peak_bytes("models", "import", checkpoint, folder=tmp_path)
    checkpoint.unlink()
    entry = registry.find("paper", tmp_path)
    assert (entry.parameters, entry.levels) == (1_236_671_391, 1)
    peak_bytes("models", "verify", "paper", folder=tmp_path)
    photo(256, 256).save(tmp_path / "a.png")
    pictures = []
    for precision in ("float32", "auto"):
        options = {"folder": tmp_path, "precision": precision}
        assert peak_bytes("encode", "-f", "-m", "paper", tmp_path / "a.png", **options) < 4 * GIB
        assert peak_bytes("decode", tmp_path / "a.dlf", "-f", "-o", tmp_path / "b.png", **options) < 4 * GIB
        pictures.append(Image.open(tmp_path / "b.png").size)
    assert pictures == [(256, 256), (256, 256)]
    entry.weights.unlink()
