"""Rate and quality of a model over a folder of photos, from real files made by real processes.

`python -m dlfc.evaluate.table PHOTOS METRICS [--qualities 0,25,50,75,100] [--keep DIR]` runs `dlfc encode` and
`dlfc decode` as two processes for each quality, then measures the decoded pictures and prints a Markdown table.
METRICS is a folder with the weights lpips_alex.safetensors and lpips_squeeze.safetensors.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dlfc.evaluate.lpips import Lpips

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik, 2003
_COLUMNS = ("bpp", "LPIPS-alex", "LPIPS-squeeze", "MS-SSIM", "PSNR dB")


def read(path: Path) -> Tensor:
    """A picture as float32 1 3 H W in [0, 1]."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio over RGB, in dB; infinite for equal pictures."""
    error = float(F.mse_loss(x, y))
    return -10 * math.log10(error) if error else math.inf


def ms_ssim(x: Tensor, y: Tensor) -> float:
    """Multi-scale SSIM over five scales, 11-tap Gaussian of sigma 1.5, mean of RGB; sides of at least 176 pixels."""
    taps = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2)).to(x)
    taps = taps / taps.sum()

    def blur(z: Tensor) -> Tensor:
        z = F.conv2d(z.transpose(0, 1), taps.view(1, 1, 11, 1))
        return F.conv2d(z, taps.view(1, 1, 1, 11)).transpose(0, 1)

    result = torch.ones(3, dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        contrast = (2 * (blur(x * y) - mean_x * mean_y) + 0.03**2) / (var_x + var_y + 0.03**2)
        if scale == len(_SCALE_WEIGHTS) - 1:
            contrast = contrast * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        result = result * contrast.mean((0, 2, 3)).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return float(result.mean())


def dlfc(*arguments: str) -> None:
    """Run the command line in a process of its own; raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "dlfc.cli", *arguments], check=True)


def measure(photos: list[Path], quality: str, folder: Path, model: str | None, metrics: list[Lpips]) -> list[float]:
    """Means over `photos` at one quality: bpp, LPIPS of each of `metrics`, MS-SSIM, PSNR."""
    choice = ["--model", model] if model else []
    names = [str(photo) for photo in photos]
    dlfc("encode", "--quiet", "--force", "-q", quality, *choice, "--output-dir", str(folder), *names)
    files = [folder / f"{photo.stem}.dlf" for photo in photos]
    dlfc("decode", "--quiet", "--force", *choice, "--output-dir", str(folder), *map(str, files))
    rows = []
    with torch.inference_mode():
        for photo, file in zip(photos, files, strict=True):
            x, y = read(photo), read(file.with_suffix(".png"))
            bpp = 8 * file.stat().st_size / (x.shape[2] * x.shape[3])
            rows.append([bpp, *(float(m(y, x)) for m in metrics), ms_ssim(y.double(), x.double()), psnr(y, x)])
    return np.mean(rows, 0).tolist()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m dlfc.evaluate.table", description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="a folder of PNG, JPEG or WebP photos, sides of at least 176 pixels")
    parser.add_argument("metrics", type=Path, help="a folder with the LPIPS weights")
    parser.add_argument("--qualities", default="0,25,50,75,100")
    parser.add_argument("--model", help="name or weights file; default: the default model")
    parser.add_argument("--keep", type=Path, help="keep files and pictures in this folder")
    options = parser.parse_args()
    photos = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    metrics = [Lpips(options.metrics, net) for net in ("alex", "squeeze")]
    print("| -q |", " | ".join(_COLUMNS), "|")
    print("|" + " --- |" * (len(_COLUMNS) + 1))
    with tempfile.TemporaryDirectory() as scratch:
        for quality in options.qualities.split(","):
            folder = (options.keep or Path(scratch)) / f"q{quality}"
            folder.mkdir(parents=True, exist_ok=True)
            bpp, alex, squeeze, ssim, db = measure(photos, quality, folder, options.model, metrics)
            print(f"| {quality} | {bpp:.4f} | {alex:.3f} | {squeeze:.3f} | {ssim:.3f} | {db:.2f} |", flush=True)


if __name__ == "__main__":
    main()
