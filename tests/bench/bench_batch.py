"""Small pictures one at a time and in batches, in one process: files a second, side by side.

    python -m tests.bench.bench_batch [--files N] [--rounds N] [--jobs N,N]

A folder of 256x256 PNG files, cut from the photograph in tests/data, becomes .dlf files and these become PNG files
again. One at a time means: read, code and save a file, then the next, with all threads that torch takes. In batches
means what `dlfc encode` and `dlfc decode` do with many inputs. Rounds alternate, so that a slow moment of the machine
falls on both; what is printed is the median, of the time by the clock and of the time of all processors (the one to
look at where other programs run too). Also counted: files that both ways make with the same bytes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dlfc.cli import batch
from dlfc.cli.codecs import Codecs
from dlfc.cli.decode import _Decoding
from dlfc.cli.encode import _Encoding
from dlfc.cli.inputs import Job
from dlfc.cli.messages import Reporter
from dlfc.cli.steps import Task
from dlfc.files import save
from dlfc.formats import DEFAULT_MAX_PIXELS
from dlfc.keep import PIXELS_ONLY
from tests.bench.pictures import parts

SIDE_PX = 256
QUALITY = 50.0


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Parts of the photograph as files."""
    paths = []
    for number, part in enumerate(parts(count, SIDE_PX, SIDE_PX)):
        paths.append(folder / f"{number:04}.png")
        part.save(paths[-1])
    return paths


def one_at_a_time(task: Task, jobs: list[Job]) -> None:
    """What a loop over the files does, with the model loaded."""
    for job in jobs:
        (result,) = task.work([task.read(job)])
        save(job.target, result.data(), overwrite=True)


def in_batches(task: Task, jobs: list[Job], workers: int) -> None:
    """What the program does with many files."""
    with Reporter("", len(jobs), quiet=True, verbose=False, as_json=False) as reporter:
        if not batch.run(jobs, task, reporter, prepare=int, overwrite=True, workers=workers):
            raise SystemExit("a file failed")


def jobs_to(sources: list[Path], folder: Path, suffix: str) -> list[Job]:
    folder.mkdir(exist_ok=True)
    return [Job(str(path), str(folder / f"{path.stem}{suffix}")) for path in sources]


def seconds(call: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of all processors."""
    start = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def compare(name: str, task: Task, alone: list[Job], together: list[Job], workers: list[int], rounds: int) -> None:
    """Measure and print one direction."""
    ways: dict[str, Callable[[], None]] = {"one at a time": lambda: one_at_a_time(task, alone)}
    for count in workers:
        ways[f"in batches, -j {count}"] = lambda count=count: in_batches(task, together, count)  # type: ignore[misc]
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):  # the first warms up
        for way, run in ways.items():
            spent = seconds(run)
            if number:
                times[way].append(spent)
    base, base_work = map(statistics.median, zip(*times["one at a time"], strict=True))
    for way, measured in times.items():
        middle, work = map(statistics.median, zip(*measured, strict=True))
        print(
            f"{name}  {way:18} {len(alone) / middle:7.1f} files/s  x{base / middle:.2f}"
            f"   {1000 * work / len(alone):6.1f} ms of processors a file  x{base_work / work:.2f}",
            flush=True,
        )
    same = sum(Path(a.target).read_bytes() == Path(b.target).read_bytes() for a, b in zip(alone, together, strict=True))
    print(f"{name}  {same} of {len(alone)} files have the same bytes both ways")


def main() -> None:
    """Measure both directions."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", default="1,2")
    options = parser.parse_args()
    workers = [int(count) for count in options.jobs.split(",")]
    print(f"{options.files} pictures of {SIDE_PX}x{SIDE_PX}, {torch.get_num_threads()} threads of torch")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = make_pictures(folder, options.files)
        encoding = _Encoding(Codecs(None, "auto", "encode"), QUALITY, None, None, DEFAULT_MAX_PIXELS, PIXELS_ONLY)
        files = jobs_to(pictures, folder / "files-alone", ".dlf")
        compare("encode", encoding, files, jobs_to(pictures, folder / "files", ".dlf"), workers, options.rounds)
        decoding = _Decoding(Codecs(None, "auto", "decode"), "PNG", False, DEFAULT_MAX_PIXELS)
        made = [Path(job.target) for job in files]
        alone, together = (jobs_to(made, folder / f"pictures{end}", ".png") for end in ("-alone", ""))
        compare("decode", decoding, alone, together, workers, options.rounds)


if __name__ == "__main__":
    main()
