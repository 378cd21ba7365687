"""Pictures a second on a GPU: `python -m tests.bench.bench_gpu [--model M] [--models-dir DIR] [--batches 1,8,32]`.

For batches of 768x512 pictures, cut from the photograph in tests/data: the network alone, in 32 and in 16 bits
(bfloat16), beside the time that its operations would take at the rate that a large matrix product reaches on the same
device; then whole files, with the entropy coder, by one worker and by two, whose coding and network overlap. Times are
medians. For the published size, make the model as `tests.bench.bench_paper` does. Whether both devices read the same
symbols is told by `tests.across_devices`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from dlfc.codec import Codec
from tests.bench.pictures import parts

WIDTH_PX, HEIGHT_PX = 768, 512
PRODUCT = {"cuda": 8192, "cpu": 1024}  # rows of the matrices whose product tells the device's rate
WARM_UP, ROUNDS = 2, 5


@dataclass(frozen=True)
class Device:
    """Where to measure."""

    name: str

    def median_s(self, call: Callable[[], object]) -> float:
        """Seconds of a call, waiting for the device."""
        times = []
        for _ in range(WARM_UP + ROUNDS):
            start = time.perf_counter()
            call()
            if self.name == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times[WARM_UP:])

    def rate(self, dtype: torch.dtype) -> float:
        """Operations a second in a product of random matrices."""
        n = PRODUCT[self.name]
        a, b = (torch.randn(n, n, device=self.name, dtype=dtype) for _ in range(2))
        return 2 * n**3 / self.median_s(lambda: a @ b)


def pictures(count: int) -> list[Image.Image]:
    """Different parts of the photograph, twice as large."""
    size = WIDTH_PX, HEIGHT_PX
    return [part.resize(size, Image.Resampling.BICUBIC) for part in parts(count, WIDTH_PX // 2, HEIGHT_PX // 2)]


def network_alone(codec: Codec, device: Device, images: list[Image.Image], rates: dict[torch.dtype, float]) -> None:
    """Print the time of both halves of the network, and that of their operations at the measured rate."""
    network = codec.model.network
    pixels = torch.cat([codec._on_device(image) for image in images])
    level = torch.full((len(images),), 2.0, device=device.name)

    def analyse() -> tuple[torch.Tensor, torch.Tensor]:
        inputs, features = network.analyse_tokens(pixels)
        tokens = network.codebook.nearest(inputs)
        return tokens, network.analyse_detail(pixels, features, tokens, level)

    with torch.inference_mode():
        tokens, latent = analyse()
        for task, call in (("encode", analyse), ("decode", lambda: network.reconstruct(tokens, latent.round(), level))):
            with FlopCounterMode(display=False) as counter:
                call()
            for dtype, rate in rates.items():
                with torch.autocast(device.name, torch.bfloat16, enabled=dtype == torch.bfloat16):
                    seconds = device.median_s(call)
                floor = counter.get_total_flops() / rate
                how = f"{task}  network, {str(dtype).removeprefix('torch.'):8}  batch {len(images):2}"
                gap = f"{seconds / floor:6.1f} times its operations' {floor:.4f} s"
                print(f"{how}  {len(images) / seconds:8.1f} pictures/s  {gap}", flush=True)


def whole_files(codec: Codec, device: Device, images: list[Image.Image]) -> None:
    """Print the rates of files, coded by one worker and by two."""
    files = codec.encode_many(images)
    for task, call in (("encode", lambda: codec.encode_many(images)), ("decode", lambda: codec.decode_many(files))):
        for workers in (1, 2):
            with ThreadPoolExecutor(workers) as pool:
                seconds = device.median_s(lambda: [job.result() for job in [pool.submit(call) for _ in range(workers)]])  # noqa: B023
            rate = workers * len(images) / seconds
            print(f"{task}  files, {workers} workers      batch {len(images):2}  {rate:8.1f} pictures/s", flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--device", choices=tuple(PRODUCT), default="cuda", help="cpu only to try the script")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here", file=sys.stderr)
        return 2
    device = Device(options.device)
    codec = Codec.load(options.model, device=device.name, models_dir=options.models_dir, precision="float32")
    name = torch.cuda.get_device_name() if device.name == "cuda" else "CPU"
    rates = {dtype: device.rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(f"{codec.name} on {name}: {', '.join(f'{v / 1e12:.1f} TFLOP/s in {k}' for k, v in rates.items())}")
    for count in (int(text) for text in options.batches.split(",")):
        images = pictures(count)
        network_alone(codec, device, images, rates)
        whole_files(codec, device, images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
