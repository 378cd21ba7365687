"""Photos through the program itself: `dlfc encode` and `dlfc decode` as two processes that share only files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlfc.errors import DlfcError
from dlfc.evaluate.photos import Photo

DLFC = (sys.executable, "-m", "dlfc.cli")  # the program as a process


@dataclass(frozen=True)
class Coded:
    """What became of one photo: its .dlf file, the decoded picture, and how long both took."""

    photo: Photo
    file: Path
    picture: Path
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Program:
    """The program and the options that all of its runs share."""

    device: str = "auto"
    jobs: int = 1
    effort: int = 1

    def code(self, photos: Sequence[Photo], quality: str, model: str | None, folder: Path) -> tuple[str, list[Coded]]:
        """Encode and decode photos into `folder`; returns the name of the model and what became of each photo.

        Raises DlfcError with the program's own message if it fails.
        """
        folder.mkdir(parents=True, exist_ok=True)
        choice = ["--model", model] if model is not None else []
        common = [*choice, "--output-dir", str(folder)]
        pixels = ["--keep", "none", "--no-alpha"]  # the same that Photo.load gives
        effort = ["--effort", str(self.effort)]
        encoded = self._run("encode", ["-q", quality, *effort, *pixels, *common], [photo.path for photo in photos])
        files = [folder / f"{photo.name}.dlf" for photo in photos]
        decoded = self._run("decode", common, files)
        coded = []
        for photo, file, there, back in zip(photos, files, encoded, decoded, strict=True):
            coded.append(Coded(photo, file, file.with_suffix(".png"), there["seconds"], back["seconds"]))
        return encoded[0]["model"], coded

    def _run(self, name: str, options: list[str], files: Sequence[Path]) -> list[dict[str, Any]]:
        common = ["--json", "--quiet", "--force", "--device", self.device, "--jobs", str(self.jobs)]
        names = [str(file.absolute()) for file in files]  # a name that begins with - is no option then
        run = subprocess.run([*DLFC, name, *common, *options, *names], capture_output=True, check=False)
        if run.returncode != 0:
            lines = run.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {run.returncode}"]
            raise DlfcError(f"dlfc {name} failed: {lines[-1].removeprefix('dlfc: ')}")
        return [json.loads(line) for line in run.stdout.splitlines()]
