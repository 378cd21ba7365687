"""What VVC reaches on photos, as points for `dlfc eval --points`: whole files by vvenc through ffmpeg, medium preset.

    python -m tests.bench.vvc_points FOLDER --metrics WEIGHTS [--ffmpeg FFMPEG] [-j N] > vvc.json

Each photo in FOLDER is coded as one intra frame, at full and at half size (Lanczos both ways), at every third QP whose
file has 0.008 bpp or more, up to the first above 0.13. Sizes are those of the raw stream, without a container and with
the shortest headers that vvenc can write. FFMPEG must have libvvenc and a decoder of VVC; the one of the package
imageio-ffmpeg has both from version 0.8 on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from dlfc.evaluate.measures import Judge
from dlfc.evaluate.ordinary import enlarged, reduced
from dlfc.evaluate.photos import Photo, find_photos

FACTORS = (1, 2)
QPS = range(63, 20, -3)
LOWEST_BPP, HIGHEST_BPP = 0.008, 0.13
MEASURES = ("lpips-alex", "lpips-squeeze", "ms-ssim", "psnr")
NO_EXTRAS = "AccessUnitDelimiter=0:HrdParametersPresent=0:VuiParametersPresent=0"
ENCODER = ["-c:v", "libvvenc", "-preset", "medium", "-qpa", "0", "-g", "1", "-vvenc-params", NO_EXTRAS, "-f", "vvc"]
COLOURS = "full_chroma_int+full_chroma_inp+accurate_rnd"  # of the scaler: RGB to YCbCr and back with little loss
Points = list[dict[str, object]]


def points_of(photo: Photo, ffmpeg: str, judge: Judge) -> Points:
    """The points of one photo, a size after the other, each from its coarsest file on."""
    picture = photo.load()
    seen = judge.look(picture)
    points: Points = []
    with TemporaryDirectory() as folder:
        for factor in FACTORS:
            for bpp, decoded in _files(picture, factor, ffmpeg, Path(folder)):
                values = judge.compare(judge.look(decoded), seen)
                kept = {measure.name: round(values[measure.name], 5) for measure in judge.of_pictures}
                points.append({"photo": photo.name, "bpp": round(bpp, 5)} | kept)
    return points


def _files(picture: Image.Image, factor: int, ffmpeg: str, folder: Path) -> Iterator[tuple[float, Image.Image]]:
    """Rates and pictures of the files of `picture`, which is made smaller by `factor` before."""
    source, coded, back = (folder / name for name in ("source.png", "coded.266", "back.png"))
    reduced(picture, factor).save(source)
    common = [ffmpeg, "-y", "-hide_banner", "-loglevel", "error", "-nostdin", "-threads", "1"]
    scaler = ["-sws_flags", COLOURS, "-pix_fmt"]
    for qp in QPS:
        _run([*common, "-i", source, "-frames:v", "1", *scaler, "yuv420p10le", *ENCODER, "-qp", str(qp), coded])
        size_bytes = coded.stat().st_size
        bpp = size_bytes * 8 / (picture.width * picture.height)
        if bpp >= LOWEST_BPP:
            _run([*common, "-f", "vvc", "-i", coded, *scaler, "rgb24", back])
            with Image.open(back) as file:
                yield bpp, enlarged(file, picture.size)
        if bpp > HIGHEST_BPP:
            return


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip() or f'status {done.returncode}'}")


def main() -> None:
    """Print the points of all photos as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metrics", type=Path, required=True, help="folder with the weights of LPIPS")
    parser.add_argument("--ffmpeg", default="ffmpeg")
    parser.add_argument("-j", "--jobs", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(options.metrics, MEASURES)
    points: Points = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for own in pool.map(lambda photo: points_of(photo, options.ffmpeg, judge), find_photos(options.folder)):
            points += own
            print(own[0]["photo"], f"{len(own)} files", file=sys.stderr)
    json.dump({"VVC": points}, sys.stdout)


if __name__ == "__main__":
    main()
