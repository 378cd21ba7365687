"""Whether several installations of dlfc read the same symbols: `python tests/exactness_across.py PYTHON...`

Each PYTHON is an interpreter that has dlfc, for instance with the oldest torch that pyproject.toml allows and with the
newest one. Under each of them one process runs with pictures one by one, one in batches with the last picture first,
and one with weights in bfloat16, where processor and torch multiply those faster. Each encodes the pictures, and each
reads the files of all, and the frozen ones. Prints a line for each process; exit status 1 if any symbol differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from symbols import Task, ask

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "formats" / "vectors"
WAYS: dict[str, dict[str, bool]] = {
    "one by one": {},
    "in batches, backwards": {"together": True, "backwards": True},
    "bfloat16": {"packed": True},
}


def main() -> int:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pythons", metavar="PYTHON", nargs="+")
    parser.add_argument("--photos", type=Path, default=ROOT / "tests" / "data", help="folder of PNG files")
    parser.add_argument("--count", type=int, default=6, help="how many of them")
    parser.add_argument("--quality", type=float, nargs="+", default=[10.0, 100.0])
    options = parser.parse_args()
    folders = {
        "vectors-1": VECTORS / "good",
        "vectors-2": VECTORS / "neighbours" / "good",
        "vectors-3": VECTORS / "context" / "good",
    }
    frozen = [(model, path.read_bytes().hex()) for model in folders for path in sorted(folders[model].glob("*.dlf"))]
    with tempfile.TemporaryDirectory() as folder:
        for path in (VECTORS / "model").iterdir():
            shutil.copy(path, folder)
        photos = sorted(options.photos.glob("*.png"))[: options.count]
        pictures = [("small", str(path), quality) for path in photos for quality in options.quality]
        pictures += [(model, str(VECTORS / "200x150-q62.5.png"), 62.5) for model in folders]
        models = [(model, folder) for model in ("small", *folders)]
        processes: dict[str, Any] = {}
        for number, python in enumerate(options.pythons):
            for way, how in WAYS.items():
                processes[f"{number + 1}, {way}"] = [python], os.environ, Task(models, pictures, **how)
        runs = ask(processes, frozen)
    answers = {name: answer for name, (_, answer) in runs.items()}
    usual = Counter(tuple(answer.digests) for answer in answers.values()).most_common(1)[0][0]
    print(f"{len(usual)} files, of which {len(frozen)} are frozen ones")
    for name, answer in answers.items():
        different = sum(mine != theirs for mine, theirs in zip(answer.digests, usual, strict=True))
        kind = "bfloat16" if answer.packed else "float32"
        verdict = f"{different} FILES READ OTHERWISE" if different else "the same symbols"
        print(f"{name}: torch {answer.torch}, {kind}, {answer.threads} threads: {verdict}")
    distinct = len({tuple(files) for files, _ in runs.values()})
    print(f"the processes wrote {distinct} different sets of files")
    return 0 if len({tuple(answer.digests) for answer in answers.values()}) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
