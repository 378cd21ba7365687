"""Whether tiles and bands show in decoded pictures: error along tile borders beside the error elsewhere.

    python -m tests.bench.seams FOLDER [--quality Q,Q] [--near N,N] [--large WxH] [--limit N] [--band-px N]

Every photo in FOLDER is coded twice: as it is, and without its first half tile of rows and columns, so that what lay
on a border of tiles lies in the middle of them the other way, and the other way round. From that come, for pixels
within N of a line, and for the jump of the error from one side of a line to the other:

* borders: mean squared error there over that of the pixels near no line;
* midway: the same for lines half a tile away, where nothing is cut; the difference to 1 is chance and content;
* paired: mean squared error of the pixels where they lie on a border over that of the same pixels where they do not,
  which is free of content. This is the figure to judge by: the goal is at most 1.05.

All with the standard deviation over the photos, and the ratio of the sums. --large takes two pictures of that size
instead, one stitched from the photos and one of them enlarged, and looks at pieces of them. What tiles are made of has
borders too: two lines give error and jump there. A third gives the grain of the error, over that of the photo, near
each side of the picture over that farther in: a network sees less at the edge of a picture. At last bands are forced to
be small, in the encoder and in the decoder: then the files must be the same bytes, and pixels the same up to rounding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dlfc.codec import Codec
from dlfc.evaluate.photos import find_photos
from dlfc.model import dlf

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

RIM_PX, INSIDE_PX = 16, 64  # what is near a side of a picture, and where it is far from all
SIDES = ("left", "top", "right", "bottom")
FRAME_PX = 16  # at the picture's border, where there is error of another kind
PIECE_PX = 1024  # large pictures are measured in pieces of this side; photos of Kodak are one
CELL_PX = (701, 467)  # of the stitched picture, so that photos meet at all distances from tile borders
STEPS_PX = (4, 16, 32, 64)  # of output patches, the grid, cells of the detail latent, regions of the base's tokens
GOAL = 1.05


@dataclass(frozen=True)
class Measure:
    """A map of errors, H W, and which of its pixels belong to lines at multiples of a tile, and midway."""

    name: str
    plain: FloatArray  # where the tiles begin at the second set of lines
    shifted: FloatArray  # where they begin at the first
    first: BoolArray
    second: BoolArray


@dataclass(frozen=True)
class Ratios:
    """Sums of one piece of a picture: numerators and denominators of borders, midway and paired."""

    over: tuple[float, float, float]
    under: tuple[float, float, float]

    def values(self) -> list[float]:
        return [a / b for a, b in zip(self.over, self.under, strict=True)]


def near_lines(length: int, start: int, tile_px: int, before: int, after: int) -> BoolArray:
    """Which of `length` positions are less than `after` behind a line or at most `before` before it."""
    distance = (np.arange(length) - start) % tile_px
    return (distance < after) | (distance >= tile_px - before)


def either(rows: BoolArray, columns: BoolArray) -> BoolArray:
    return rows[:, None] | columns[None]


def measures(plain: FloatArray, shifted: FloatArray, tile_px: int, near: Sequence[int]) -> Iterator[Measure]:
    """Of the errors H W 3 of the same pixels, coded with tiles that begin half a tile in, and at the corner."""
    height, width, _ = plain.shape
    squares = [np.square(error).mean(2) for error in (plain, shifted)]
    for reach in near:
        first, second = (
            either(*(near_lines(side, start, tile_px, reach, reach) for side in (height, width)))
            for start in (0, tile_px // 2)
        )
        yield Measure(f"within {reach} px", squares[0], squares[1], first, second)
    for name, axis in (("jump between columns", 1), ("jump between rows", 0)):
        jumps = [np.square(np.diff(error, axis=axis)).mean(2) for error in (plain, shifted)]
        shape = jumps[0].shape
        masks = []
        for start in (0, tile_px // 2):
            line = near_lines(shape[axis] + 1, start, tile_px, 0, 1)[1:]  # from the pixel before it to that at it
            masks.append(np.broadcast_to(line[None] if axis else line[:, None], shape))
        yield Measure(name, jumps[0], jumps[1], masks[0], masks[1])


def ratios(measure: Measure) -> Iterator[Ratios]:
    """Of each piece."""
    height, width = measure.plain.shape
    for top in range(FRAME_PX, height - FRAME_PX, PIECE_PX):
        for left in range(FRAME_PX, width - FRAME_PX, PIECE_PX):
            piece = np.s_[top : min(top + PIECE_PX, height - FRAME_PX), left : min(left + PIECE_PX, width - FRAME_PX)]
            first, second = measure.first[piece], measure.second[piece]
            where = first & ~second, second & ~first, ~(first | second)
            if all(part.any() for part in where):
                yield _ratios_of(measure.plain[piece], measure.shifted[piece], *where)


def _ratios_of(plain: FloatArray, shifted: FloatArray, first: BoolArray, second: BoolArray, rest: BoolArray) -> Ratios:
    def total(errors: FloatArray, where: BoolArray) -> float:
        return float(errors[where].sum(dtype=np.float64))

    borders = total(shifted, first) + total(plain, second)
    midway = total(plain, first) + total(shifted, second)
    each = (total(plain, rest) + total(shifted, rest)) / rest.sum() / 2 * (first.sum() + second.sum())
    return Ratios((borders, midway, borders), (each, each, midway))


def at_smaller_parts(error: FloatArray) -> npt.NDArray[np.float64]:
    """Of an error H W 3: mean square on both sides of lines, and of the jump across them.

    Returns 2 1+len(STEPS_PX): first for lines at no multiple of a step, then for those of each step and no larger one.
    """
    sums, counts = np.zeros((2, len(STEPS_PX) + 1)), np.zeros(len(STEPS_PX) + 1)
    for axis in (0, 1):
        squares = np.square(error).mean((1 - axis, 2), dtype=np.float64)
        jumps = np.square(np.diff(error, axis=axis)).mean((1 - axis, 2), dtype=np.float64)
        kinds = sum((np.arange(1, len(squares)) % step == 0).astype(int) for step in STEPS_PX)
        for row, values in zip(sums, ((squares[1:] + squares[:-1]) / 2, jumps), strict=True):
            row += np.bincount(kinds, values, len(row))
        counts += np.bincount(kinds, minlength=len(counts))
    return sums / counts


def grain_at_sides(picture: FloatArray) -> npt.NDArray[np.float64]:
    """Of H W 3: mean square difference of pixels from their neighbours at the left, top, right, bottom, and inside."""
    around = picture[:-2, 1:-1] + picture[2:, 1:-1] + picture[1:-1, :-2] + picture[1:-1, 2:]
    power = np.square(picture[1:-1, 1:-1] - around / 4).mean(2)
    middle = power[INSIDE_PX:-INSIDE_PX, INSIDE_PX:-INSIDE_PX]
    sides = [rim[:RIM_PX, INSIDE_PX:-INSIDE_PX] for rim in (power.T, power, power.T[::-1], power[::-1])]
    return np.array([part.mean(dtype=np.float64) for part in (*sides, middle)])


@dataclass(frozen=True)
class Found:
    """What is known of one picture at one quality: ratios by measure, of each piece, and of its smaller parts.

    `sides` holds `grain_at_sides` of the error and of the photo, 2 5.
    """

    ratios: dict[str, list[Ratios]]
    smaller: npt.NDArray[np.float64]
    sides: npt.NDArray[np.float64]


class Codings:
    """Pictures coded as they are and half a tile further, and what came of it."""

    def __init__(self, codec: Codec, near: Sequence[int]) -> None:
        self._codec, self._near = codec, near
        self._half_px = codec.tiling.config.tile_px // 2

    def measure(self, image: Image.Image, qualities: Sequence[float]) -> dict[float, Found]:
        """What is found at each quality."""
        half, (width, height) = self._half_px, image.size
        cut = image.crop((half, half, width, height))
        of_photo = grain_at_sides(np.asarray(image, np.float32))
        found = {}
        for quality, there, here in zip(
            qualities, self._errors(image, qualities), self._errors(cut, qualities), strict=True
        ):
            of_lines = measures(there[half:, half:], here, 2 * half, self._near)
            sides = np.stack([grain_at_sides(there), of_photo])
            found[quality] = Found({one.name: list(ratios(one)) for one in of_lines}, at_smaller_parts(there), sides)
        return found

    def _errors(self, image: Image.Image, qualities: Sequence[float]) -> Iterator[FloatArray]:
        """Decoded picture less the original, H W 3, at each quality."""
        analyses = self._codec.analyse([image])
        original = np.asarray(image, np.float32)
        for quality in qualities:
            (data,) = self._codec.code(analyses, quality)
            yield np.asarray(self._codec.decode(data), np.float32) - original


@contextmanager
def small_bands(codec: Codec, band_px: int) -> Iterator[None]:
    """Make network and generator take bands of about `band_px` pixels, and at least a row of tiles or cells."""
    generator, usual = codec.model.network.generator, dlf.BAND_PX
    generator.in_bands = partial(generator.in_bands, band_px=band_px)  # type: ignore[method-assign]
    dlf.BAND_PX = band_px
    try:
        yield
    finally:
        del generator.in_bands
        dlf.BAND_PX = usual


def report_bands(codec: Codec, title: str, images: Sequence[Image.Image], quality: float, band_px: int) -> None:
    """Code pictures with the usual bands and with small ones, and say what differs."""
    same, moved, count, most = 0, 0, 0, 0
    for image in images:
        data = codec.encode(image, quality=quality)
        whole = np.asarray(codec.decode(data), np.int16)
        with small_bands(codec, band_px):
            same += codec.encode(image, quality=quality) == data
            distance = np.abs(np.asarray(codec.decode(data), np.int16) - whole)
        moved, count, most = moved + int((distance > 0).sum()), count + distance.size, max(most, int(distance.max()))
    print(
        f"{title}, bands of {band_px} pixels, -q {quality:g}: {same} of {len(images)} files have the same bytes; "
        f"{moved} of {count} decoded values differ, by at most {most}/255",
        flush=True,
    )


def report(title: str, found: Sequence[dict[float, Found]]) -> None:
    """Print a table for each quality."""
    for quality, some in found[0].items():
        pieces = sum(len(one[quality].ratios[next(iter(some.ratios))]) for one in found)
        print(f"\n{title}, -q {quality:g}: mean and standard deviation over {pieces}, [ratio of sums]")
        print(f"{'':22}{'borders':>24}{'midway':>24}{'paired':>24}")
        for name in some.ratios:
            every = [ratio for one in found for ratio in one[quality].ratios[name]]
            values = np.array([ratio.values() for ratio in every])
            sums = np.sum([ratio.over for ratio in every], 0) / np.sum([ratio.under for ratio in every], 0)
            cells = zip(values.mean(0), values.std(0), sums, strict=True)
            print(f"{name:22}" + "".join(f"{f'{m:.3f} ± {s:.3f} [{t:.3f}]':>24}" for m, s, t in cells), flush=True)
            if name.startswith("within") and sums[2] > GOAL:
                print(f"{'':22}paired is above the goal of {GOAL}")
        smaller = np.mean([one[quality].smaller for one in found], 0)
        for what, (inside, *at) in zip(("error", "jump"), smaller, strict=True):
            steps = ", ".join(f"{step} px {value / inside:.3f}" for step, value in zip(STEPS_PX, at, strict=True))
            print(f"{what} at lines of smaller parts, over that at other lines: {steps}", flush=True)
        error, photo = np.sum([one[quality].sides for one in found], 0)
        *sides, inside = error / photo
        shares = ", ".join(f"{name} {at / inside:.2f}" for name, at in zip(SIDES, sides, strict=True))
        print(f"grain of the error within {RIM_PX} px of a side, over that inside: {shares}", flush=True)


def enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


def stitched(photos: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Photos side by side, upright ones turned, each row begun with another one."""
    result, (wide, tall) = Image.new("RGB", size), CELL_PX
    lying = [photo if photo.width > photo.height else photo.transpose(Image.Transpose.ROTATE_90) for photo in photos]
    columns = -(-size[0] // wide)
    for row in range(-(-size[1] // tall)):
        for column in range(columns):
            photo = lying[(row * columns + column + row) % len(lying)]
            cell = photo.crop((0, 0, wide, tall)) if min(photo.width - wide, photo.height - tall) >= 0 else None
            result.paste(cell or photo.resize(CELL_PX, Image.Resampling.LANCZOS), (column * wide, row * tall))
    return result


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def side_lengths(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--quality", type=numbers, default=[0.0, 50.0, 100.0])
    parser.add_argument("--near", type=numbers, default=[4.0, 8.0])
    parser.add_argument("--limit", type=int, help="only so many photos")
    parser.add_argument("--large", type=side_lengths, help="pictures of this size instead, such as 6144x4096")
    parser.add_argument("--band-px", type=int, default=1 << 15)
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    codec = Codec.load(options.model, device="cpu")
    photos = [photo.load() for photo in find_photos(options.folder)[: options.limit]]
    codings = Codings(codec, [int(reach) for reach in options.near])
    tile_px = codec.tiling.config.tile_px
    if options.large and min(options.large) < 2 * tile_px:
        parser.error(f"--large needs sides of at least {2 * tile_px} pixels, to have borders of tiles in it")
    print(f"{codec.name}, tiles of {tile_px} pixels, {len(photos)} photos, {torch.get_num_threads()} threads of torch")
    pictures = {"photos": photos}
    if options.large:
        size = "{}x{}".format(*options.large)
        pictures = {
            f"photos stitched to {size}": [stitched(photos, options.large)],
            f"a photo enlarged to {size}": [enlarged(photos[-1], options.large)],
        }
    for title, images in pictures.items():
        report(title, [codings.measure(image, options.quality) for image in images])
        report_bands(codec, title, images, options.quality[len(options.quality) // 2], options.band_px)


if __name__ == "__main__":
    main()
