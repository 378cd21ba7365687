"""The default model beside WebP and AVIF: seconds per megapixel to encode and to decode, side by side in one run.

    python -m tests.bench.bench_codecs [--photos FOLDER] [--limit N] [--rounds N] [--threads N] [-q Q] [--lowest]

dlfc runs as a whole process, from PNG to .dlf and back, most of which is importing torch where the pictures are small,
and with the model loaded, from picture to bytes and back.
cwebp and avifenc run as whole processes, from PNG and to PNG, at their slowest and their default effort and at their
default quality, or with --lowest at the lowest that they have, which comes nearer to the sizes of dlfc. Pillow's WebP
and AVIF, within this process, stand in for programs that are not installed.

Rounds go over all of them in turn, so that a slow moment of the machine falls on everyone, and what is printed are
medians: by the clock, and in brackets what the processors spent, which is the one to look at where other programs
run too. A ratio of 3 says that dlfc takes three times as long. At the end, what the project wants of a photo of
768x512: half a second to encode and a second to decode with the model loaded, and whole processes of at most 1.5
seconds more than importing torch.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import PIL
import torch
from PIL import Image, features

from dlfc.codec import Codec
from dlfc.evaluate.photos import find_photos
from dlfc.evaluate.programs import DLFC
from tests.bench.pictures import photograph

SIZE_PX = (768, 512)
DIRECTIONS = ("encode", "decode")
GOAL_ENCODE_S, GOAL_DECODE_S, GOAL_PROCESS_S = 0.5, 1.0, 1.5

Times = list[tuple[float, float]]  # by the clock and of processors, of each round


@dataclass(frozen=True)
class Picture:
    """A picture as pixels and as a PNG file."""

    image: Image.Image
    file: Path

    @property
    def pixels(self) -> int:
        return self.image.width * self.image.height


class Way(Protocol):
    """One codec at one effort; `decode` takes what `encode` has left."""

    @property
    def name(self) -> str: ...

    def encode(self, picture: Picture) -> None: ...

    def decode(self, picture: Picture) -> None: ...

    def size_bytes(self, picture: Picture) -> int: ...


@dataclass(frozen=True)
class Processes:
    """Programs from file to file; the commands are made of the names of source and target."""

    name: str
    suffix: str
    encoder: Callable[[str, str], list[str]]
    decoder: Callable[[str, str], list[str]]

    def encode(self, picture: Picture) -> None:
        run(self.encoder(str(picture.file), str(self._file(picture))))

    def decode(self, picture: Picture) -> None:
        file = self._file(picture)
        run(self.decoder(str(file), f"{file}.png"))

    def size_bytes(self, picture: Picture) -> int:
        return self._file(picture).stat().st_size

    def _file(self, picture: Picture) -> Path:
        return picture.file.with_name(f"{picture.file.stem}-{self.name.replace(' ', '')}{self.suffix}")


@dataclass(frozen=True)
class Loaded:
    """dlfc in this process, with its model loaded."""

    codec: Codec
    quality: float
    name: str = "dlfc, model loaded"
    files: dict[Path, bytes] = field(default_factory=dict)

    def encode(self, picture: Picture) -> None:
        self.files[picture.file] = self.codec.encode(picture.image, quality=self.quality)

    def decode(self, picture: Picture) -> None:
        self.codec.decode(self.files[picture.file])

    def size_bytes(self, picture: Picture) -> int:
        return len(self.files[picture.file])


@dataclass(frozen=True)
class InPillow:
    """A codec of Pillow in this process."""

    name: str
    kind: str
    options: dict[str, Any]
    files: dict[Path, bytes] = field(default_factory=dict)

    def encode(self, picture: Picture) -> None:
        buffer = BytesIO()
        picture.image.save(buffer, self.kind, **self.options)
        self.files[picture.file] = buffer.getvalue()

    def decode(self, picture: Picture) -> None:
        with Image.open(BytesIO(self.files[picture.file])) as image:
            image.load()

    def size_bytes(self, picture: Picture) -> int:
        return len(self.files[picture.file])


def run(command: Sequence[str]) -> None:
    """Run a program to its end. Raises SystemExit with its last words if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise SystemExit(f"{command[0]} failed: {said[-1] if said else done.returncode}")


def dlfc_processes(quality: float) -> Processes:
    options = ["--quiet", "--force"]
    return Processes(
        "dlfc, whole process",
        ".dlf",
        lambda source, target: [*DLFC, "encode", source, "-o", target, "-q", f"{quality:g}", *options],
        lambda source, target: [*DLFC, "decode", source, "-o", target, *options],
    )


def webp_ways(lowest: bool, threads: int) -> list[Way]:
    """cwebp and dwebp, or Pillow."""
    efforts = (6, "slowest"), (4, "default")
    if not there("WebP", "cwebp", "dwebp"):
        least = {"quality": 0} if lowest else {}
        return pillow_ways("WEBP", "webp", [({**least, "method": effort}, word) for effort, word in efforts])
    common = ["-quiet", *(["-mt"] if threads > 1 else [])]
    options = [*common, *(["-q", "0"] if lowest else [])]
    return [
        Processes(
            f"cwebp -m {effort} ({word})",
            ".webp",
            lambda source, target, effort=effort: ["cwebp", *options, "-m", str(effort), source, "-o", target],  # type: ignore[misc]
            lambda source, target: ["dwebp", *common, source, "-o", target],
        )
        for effort, word in efforts
    ]


def avif_ways(lowest: bool, threads: int) -> list[Way]:
    """avifenc and avifdec, or Pillow."""
    efforts = (0, "slowest"), (6, "default")
    if not there("AVIF", "avifenc", "avifdec"):
        least = {"max_threads": threads, **({"quality": 0} if lowest else {})}
        return pillow_ways("AVIF", "avif", [({**least, "speed": effort}, word) for effort, word in efforts])
    common = ["-j", str(threads)]
    options = [*common, *(["--min", "63", "--max", "63"] if lowest else [])]
    return [
        Processes(
            f"avifenc -s {effort} ({word})",
            ".avif",
            lambda source, target, effort=effort: ["avifenc", *options, "-s", str(effort), source, target],  # type: ignore[misc]
            lambda source, target: ["avifdec", *common, source, target],
        )
        for effort, word in efforts
    ]


def pillow_ways(kind: str, feature: str, efforts: Sequence[tuple[dict[str, Any], str]]) -> list[Way]:
    if not features.check(feature):
        print(f"{kind} is not in Pillow {PIL.__version__} either and is left out")
        return []
    return [InPillow(f"Pillow {kind} ({word})", kind, options) for options, word in efforts]


def there(kind: str, *programs: str) -> bool:
    """Whether all of the programs are installed; says what is used."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        print(f"{kind}: {' and '.join(missing)} not found, so Pillow {PIL.__version__} in this process")
        return False
    flag = "-version" if kind == "WebP" else "--version"
    said = subprocess.run([programs[0], flag], capture_output=True, text=True, check=False)
    version = (said.stdout or said.stderr).strip().splitlines() or ["of unknown version"]
    print(f"{kind}: the programs {' and '.join(programs)}, {version[0].removeprefix('Version: ')}")
    return True


def made_picture(folder: Path) -> Picture:
    """The photograph in tests/data, mirrored at its right edge to make 768x512."""
    photo = photograph()
    image = Image.new("RGB", SIZE_PX)
    image.paste(photo, (0, 0))
    image.paste(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (photo.width, 0))
    return save_png(image, folder, "made")


def save_png(image: Image.Image, folder: Path, stem: str) -> Picture:
    file = folder / f"{stem}.png"
    image.save(file)
    return Picture(image, file)


def seconds(call: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of all processors, here and in programs that ran meanwhile."""
    start = time.perf_counter(), processors_s()
    call()
    return time.perf_counter() - start[0], processors_s() - start[1]


def processors_s() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def in_turn(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of both times of each call; a first round warms up."""
    times: dict[str, Times] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            spent = seconds(call)
            if number:
                times[name].append(spent)
    return {
        name: (statistics.median(clock for clock, _ in each), statistics.median(work for _, work in each))
        for name, each in times.items()
    }


def over_all(work: Callable[[Picture], None], pictures: Sequence[Picture]) -> Callable[[], None]:
    def call() -> None:
        for picture in pictures:
            work(picture)

    return call


def compare(ways: Sequence[Way], pictures: Sequence[Picture], rounds: int) -> None:
    """Measure and print both directions; the first two ways are those of dlfc."""
    megapixels = sum(picture.pixels for picture in pictures) / 1e6
    for direction in DIRECTIONS:
        found = in_turn({way.name: over_all(getattr(way, direction), pictures) for way in ways}, rounds)
        print(f"\n{direction:26}{'s/MP (processors)':>20}{'bpp':>9}{'process/this':>18}{'loaded/this':>18}")
        process, loaded = (found[way.name] for way in ways[:2])
        for way in ways:
            mine = found[way.name]
            bpp = sum(way.size_bytes(picture) for picture in pictures) * 8 / megapixels / 1e6
            ratios = [pair([a / b for a, b in zip(ours, mine, strict=True)], 2) for ours in (process, loaded)]
            rate = pair([value / megapixels for value in mine], 3)
            print(f"{way.name:26}{rate:>20}{bpp:9.4f}{ratios[0]:>18}{ratios[1]:>18}", flush=True)


def report_goals(process: Way, loaded: Way, picture: Picture, rounds: int) -> None:
    """What the project wants of one photo, and whether it is so."""
    found = in_turn(
        {
            "import torch": lambda: run([sys.executable, "-c", "import torch"]),
            **{f"{direction} loaded": over_all(getattr(loaded, direction), [picture]) for direction in DIRECTIONS},
            **{f"{direction} process": over_all(getattr(process, direction), [picture]) for direction in DIRECTIONS},
        },
        rounds,
    )
    base = found["import torch"]
    print(f"\n{picture.image.width}x{picture.image.height}, seconds (of processors); import torch {pair(base, 2)}")
    for direction, goal_s in zip(DIRECTIONS, (GOAL_ENCODE_S, GOAL_DECODE_S), strict=True):
        _say_goal(f"{direction}, model loaded", found[f"{direction} loaded"], goal_s)
    for direction in DIRECTIONS:
        above = [a - b for a, b in zip(found[f"{direction} process"], base, strict=True)]
        _say_goal(f"{direction}, process less import torch", above, GOAL_PROCESS_S)


def _say_goal(what: str, times: Sequence[float], goal_s: float) -> None:
    met = ["met" if value <= goal_s else "missed" for value in times]
    word = met[0] if met[0] == met[1] else f"{met[0]} by the clock, {met[1]} in processor time"
    print(f"{what:38}{pair(times, 3):>16}   at most {goal_s} s wanted: {word}", flush=True)


def pair(times: Sequence[float], digits: int) -> str:
    return f"{times[0]:.{digits}f} ({times[1]:.{digits}f})"


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos; without, the photograph in tests/data")
    parser.add_argument("--limit", type=positive, help="only so many photos")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=usable_cores(), help="the default is all")
    parser.add_argument("-q", "--quality", type=float, default=50.0, help="of dlfc")
    parser.add_argument("--lowest", action="store_true", help="WebP and AVIF at their lowest quality")
    options = parser.parse_args()
    if options.photos and not options.photos.is_dir():
        parser.error(f"{options.photos} is no folder")
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = made_picture(folder)
        photos = find_photos(options.photos)[: options.limit] if options.photos else []
        pictures = [save_png(photo.load(), folder, photo.name) for photo in photos] or [made]
        loaded = Loaded(Codec.load(device="cpu"), options.quality)
        process = dlfc_processes(options.quality)
        ways: list[Way] = [
            process,
            loaded,
            *webp_ways(options.lowest, options.threads),
            *avif_ways(options.lowest, options.threads),
        ]
        megapixels = sum(picture.pixels for picture in pictures) / 1e6
        print(f"{options.threads} threads, {len(pictures)} pictures of {megapixels:.1f} megapixels in all, ", end="")
        print(f"median of {options.rounds} rounds, load of the machine {os.getloadavg()[0]:.1f}")
        compare(ways, pictures, options.rounds)
        report_goals(process, loaded, made, options.rounds)


if __name__ == "__main__":
    main()
