"""What a photo costs on a Ray cluster, in seconds of one core: a worker's start, encoding, decoding, and the driver.

    python -m tests.bench.bench_cluster PHOTO... [--files N]

One worker with one thread starts on a cluster of this machine alone, encodes the photos and decodes the results, from
files to files. The driver is measured with N empty files, and a worker that does nothing. Times are those that the
processors spent, so they also hold where other programs run; the first photo of each kind is left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dlfc import __version__
from dlfc.cli import batch
from dlfc.cli.codecs import Codecs
from dlfc.cli.decode import _Decoding
from dlfc.cli.encode import _Encoding
from dlfc.cli.inputs import Job
from dlfc.cli.messages import Reporter
from dlfc.cli.steps import Outcome, Result
from dlfc.cli.summary import Summary
from dlfc.cluster import connection, driver, places
from dlfc.cluster.inputs import Plan
from dlfc.cluster.manifest import Manifest
from dlfc.cluster.worker import Look, ModelName, Worker
from dlfc.formats import DEFAULT_MAX_PIXELS
from dlfc.keep import USUAL


class Measured(Worker):
    """A worker that knows what it has cost."""

    def cpu_s(self) -> float:
        return time.process_time()


class Idle(Worker):
    """A worker that says it has done everything."""

    def prepare(self, version: str) -> str:
        return ""

    def look(self, jobs: Sequence[Job], begun: Sequence[bool]) -> list[Look]:
        return [Look("free") for _ in jobs]

    def code(self, jobs: Sequence[Job], begun: Any) -> list[Outcome[Any]]:
        facts = {"width": 768, "height": 512, "quality": 50.0, "file_bytes": 1000, "bpp": 0.02}
        result = Result(bytes, 500_000, "1000 bytes  0.0200 bpp", facts, ModelName("small", bytes(4)))
        return [Outcome(job, {"network": 0.2}, result=result, target_bytes=1000) for job in jobs]


def measure_worker(task: Any, jobs: Sequence[Job]) -> tuple[float, float]:
    """Seconds of the start of a worker, and of each job but the first."""
    with connection.cluster(1, gpu=False) as pool:
        get: Callable[[Any], Any] = pool.ray.get
        actor = pool.ray.remote(Measured).remote(task, None, False)
        assert get(actor.prepare.remote(__version__)) == ""
        start_s = get(actor.cpu_s.remote())
        assert all(outcome.result for outcome in get(actor.code.remote(jobs[:1], ())))
        before_s = get(actor.cpu_s.remote())
        assert all(outcome.result for outcome in get(actor.code.remote(jobs[1:], ())))
        return start_s, (get(actor.cpu_s.remote()) - before_s) / (len(jobs) - 1)


def measure_driver(folder: Path, count: int) -> float:
    """Seconds of the driver for each file."""
    (folder / "many").mkdir()
    for number in range(count):
        (folder / "many" / f"{number:06}.jpg").touch()
    plan = Plan([str(folder / "many")], str(folder / "none"), ".dlf", True, (".jpg",))
    connection.Worker = Idle  # type: ignore[misc]
    voice = Reporter("encoding", None, quiet=True, verbose=False, as_json=False, summary=Summary())
    with Manifest(str(folder / "notes"), {}) as notes, connection.cluster(2, gpu=False) as pool, voice:
        start_s = time.process_time()
        do = driver.Driver(pool, None, notes, folder=None, overwrite=False, skip_existing=False)  # type: ignore[arg-type]
        for event in do.run(plan.jobs()):
            assert isinstance(event, Outcome)
            batch.report(event, voice)
        return (time.process_time() - start_s) / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--files", type=int, default=5000)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_ADDRESS", "local")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coded = [folder / f"{photo.stem}.dlf" for photo in arguments.photos]
        encoding = _Encoding(
            Codecs(None, "cpu", "encode"), 50.0, None, None, DEFAULT_MAX_PIXELS, USUAL, load=places.load
        )
        decoding = _Decoding(Codecs("small", "cpu", "decode"), "PNG", False, DEFAULT_MAX_PIXELS, load=places.load)
        there = [Job(str(photo.resolve()), str(path)) for photo, path in zip(arguments.photos, coded, strict=True)]
        back = [Job(str(path), str(path.with_suffix(".png"))) for path in coded]
        for what, task, jobs in (("encode", encoding, there), ("decode", decoding, back)):
            start_s, each_s = measure_worker(task, jobs)
            print(f"{what}: {start_s:.1f} s to start a worker, {each_s:.3f} s a photo", flush=True)
        size_bytes = sum(path.stat().st_size for path in coded) / len(coded)
        print(f"{size_bytes:.0f} bytes a photo")
        print(f"driver: {1000 * measure_driver(folder, arguments.files):.3f} ms a file")


if __name__ == "__main__":
    main()
