"""Time and memory of coding at the published size: `python -m tests.bench.bench_paper FOLDER [--parts] [--repeat N]`.

Makes, if it is not in FOLDER yet, a model of the published size whose weights a rule fills (needs 10 GB of disk,
then keeps 5), and codes a 768x512 picture with it in processes of their own, one thread each, with weights of 32 bits
and, where the processor has instructions for it, of 16. Prints the smallest of several runs, and how far the
decoded pictures differ; with --parts also what each part of the network takes. The picture means nothing; time and
memory do not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from networks import photo
from published_checkpoint import write_checkpoint

from dlfc.model.config import PAPER
from dlfc.model.linear import can_pack
from dlfc.zoo import registry
from tests.bench.parts import PARTS, REST

NAME = "paper-size"
_RUN = """
import json, os, sys, time
from pathlib import Path
os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the program does
import torch
from PIL import Image
from dlfc.codec import Codec
torch.set_num_threads(1)
task, folder, precision, source, target, parts = sys.argv[1:]
clock = [(time.perf_counter(), time.process_time())]
codec = Codec.load("paper-size", device="cpu", models_dir=Path(folder), purpose=task, precision=precision)
seconds = {}
if parts == "parts":
    from tests.bench.parts import Watch
    seconds = Watch(codec.model.network).seconds
clock.append((time.perf_counter(), time.process_time()))
if task == "encode":
    open(target, "wb").write(codec.encode(Image.open(source)))
else:
    codec.decode(open(source, "rb").read()).save(target)
clock.append((time.perf_counter(), time.process_time()))
times = [b - a for first, second in zip(clock, clock[1:]) for a, b in zip(first, second)]
print(json.dumps([times, seconds]))
"""


@dataclass(frozen=True)
class Run:
    """Seconds by the clock and of the processor, the latter also by part, and the peak of resident memory."""

    load_s: float
    load_cpu_s: float
    code_s: float
    code_cpu_s: float
    peak_gb: float
    parts: dict[str, float]


def measure(task: str, folder: Path, precision: str, files: tuple[str, str], parts: bool) -> Run:
    """Code one picture in a process of its own, from the first file to the second one."""
    names = [str(folder / file) for file in files]
    command = [sys.executable, "-c", _RUN, task, str(folder), precision, *names, "parts" if parts else ""]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    (load_s, load_cpu_s, code_s, code_cpu_s), seconds = json.loads(out)
    return Run(load_s, load_cpu_s, code_s, code_cpu_s, usage.ru_maxrss / 1e6, seconds)


def report_parts(run: Run) -> None:
    """Print the processor seconds of each part that has any."""
    seconds = run.parts | {REST: run.code_cpu_s - sum(run.parts.values())}
    for part in PARTS:
        if part in seconds:
            print(f"    {part:20}{seconds[part]:8.2f} s{seconds[part] / run.code_cpu_s:8.1%}", flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help="also the processor time of each part of the network")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if NAME not in [entry.name for entry in registry.entries(folder)]:
        checkpoint = folder / "paper.ckpt"
        write_checkpoint(checkpoint, PAPER)
        command = [sys.executable, "-m", "dlfc.cli", "models", "import", str(checkpoint), "--name", NAME]
        subprocess.run([*command, "--models-dir", str(folder)], check=True)
        checkpoint.unlink()
    photo(768, 512).save(folder / "picture.png")
    print("task    precision  load s (CPU)   coding s (CPU)   peak GB")
    for precision in ("float32", "bfloat16") if can_pack() else ("float32",):
        for task, source, target in (
            ("encode", "picture.png", f"{precision}.dlf"),
            ("decode", "float32.dlf", f"{precision}.png"),
        ):
            runs = [measure(task, folder, precision, (source, target), options.parts) for _ in range(options.repeat)]
            best = min(runs, key=lambda run: run.code_cpu_s)
            load_s, load_cpu_s, code_s = (
                min(values) for values in zip(*((run.load_s, run.load_cpu_s, run.code_s) for run in runs), strict=True)
            )
            print(f"{task}  {precision:9}  {load_s:5.1f} ({load_cpu_s:4.1f})   {code_s:6.1f} ", end="")
            print(f"({best.code_cpu_s:5.1f})   {max(run.peak_gb for run in runs):8.2f}", flush=True)
            if options.parts:
                report_parts(best)
    if can_pack():
        exact, packed = (np.asarray(Image.open(folder / f"{p}.png"), np.float64) for p in ("float32", "bfloat16"))
        psnr = 10 * np.log10(255**2 / max(float(np.mean((exact - packed) ** 2)), 1e-9))
        print(f"the pictures that both precisions decode from one file: {psnr:.1f} dB apart")


if __name__ == "__main__":
    main()
