"""`dlfc encode`: pictures to .dlf files."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlfc.cli import options
from dlfc.cli.cluster import Files
from dlfc.cli.codecs import Codecs
from dlfc.cli.inputs import Job
from dlfc.cli.steps import Extent, Load, Result
from dlfc.cli.work import Work
from dlfc.effort import PLAIN, what_to_load
from dlfc.files import load
from dlfc.formats import DEFAULT_MAX_PIXELS, unpack
from dlfc.memory import LARGE_PX
from dlfc.target import DEFAULT_QUALITY
from dlfc.zoo.registry import find

if TYPE_CHECKING:
    from PIL import Image

    from dlfc.formats import Extra
    from dlfc.keep import Keep
    from dlfc.tensors import Padded

SUFFIX = ".dlf"
PICTURE_SUFFIXES = (  # of files that folders are searched for
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".gif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_INPUT_BYTES = 2**31  # far above any photograph; an endless input ends here

EPILOG = (
    """\b
Examples:
  dlfc encode photo.jpg                     writes photo.dlf beside it
  dlfc encode photo.png -o small.dlf -q 10  fewer bytes, less true
  dlfc encode photo.png --target-size 2KB   the best that fits into 2000 bytes
  dlfc encode album --recursive --output-dir out
  dlfc encode *.png --output-dir out        loads the model once for all
  magick photo.heic png:- | dlfc encode - > photo.dlf

"""
    + options.EXIT_STATUS
)


def encode(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", show_default=False)],
    output: options.Output = None,
    output_dir: options.OutputDir = None,
    force: options.Force = False,
    recursive: options.Recursive = False,
    skip_existing: options.SkipExisting = False,
    quality: options.Quality = None,
    target_size: options.TargetSize = None,
    target_bpp: options.TargetBpp = None,
    effort: options.Effort = PLAIN,
    model: options.Model = None,
    keep: options.KeepNames = None,
    no_alpha: options.NoAlpha = False,
    no_grain: options.NoGrain = False,
    device: options.Device = "auto",
    jobs: options.Jobs = 1,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    manifest: options.Manifest = None,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    json: options.Json = False,
) -> None:
    """Make a .dlf file of each picture.

    INPUT is a PNG, JPEG, WebP, TIFF, AVIF, JPEG 2000, GIF, BMP or PPM file, or - for standard input. Without -o and
    --output-dir the result lies beside INPUT under the same name with the suffix .dlf; that of standard input goes to
    standard output. Files that exist are kept unless -f is given. With --recursive, INPUT may be a folder.

    The picture is stored upright, with 8 bits per sample. Gray stays gray and transparency is kept. Colours become
    sRGB unless their profile is kept. Of noise the strength is kept. What else was converted or dropped is said in one
    line.
    """
    options.refuse_targets(quality, target_size, target_bpp)
    work = Work(
        command="encode",
        files=Files(inputs, output_dir, SUFFIX, PICTURE_SUFFIXES, recursive=recursive),
        output=output,
        engine=engine,
        jobs=jobs,
        workers=workers,
        manifest=manifest,
        device=device,
        force=force,
        skip_existing=skip_existing,
        quiet=quiet,
        verbose=verbose,
        as_json=json,
    )
    codecs = Codecs(model, device, *what_to_load(effort))
    kept = _what_to_keep(keep, no_alpha=no_alpha, no_grain=no_grain)
    task = _Encoding(codecs, quality, target_size, target_bpp, max_pixels, kept, effort)
    work.run(task)


@dataclass(frozen=True)
class _Loaded:
    picture: Image.Image | Padded
    extras: tuple[Extra, ...]
    notes: tuple[str, ...]
    details: tuple[str, ...]
    source_bytes: int


@dataclass(frozen=True)
class _Encoding:
    """What is done to each picture."""

    codecs: Codecs
    quality: float | None
    target_size: int | None
    target_bpp: float | None
    max_pixels: int
    keep: Keep
    effort: int = PLAIN
    load: Load = load

    def prepare(self) -> None:
        """Get ready in a process of its own."""
        prepare_pillow()
        self.codecs.get()

    def settings(self) -> dict[str, Any]:
        """What decides the results."""
        return {
            "model": find(self.codecs.model).model_id.hex(),
            "quality": DEFAULT_QUALITY if self.quality is None else self.quality,
            "target size": self.target_size,
            "target bpp": self.target_bpp,
            "effort": self.effort,
            "what is kept": asdict(self.keep),
        }

    def read(self, job: Job) -> _Loaded:
        from dlfc.image import load_image

        data = self.load(job.source, max_bytes=MAX_INPUT_BYTES)
        prepared = load_image(data, max_pixels=self.max_pixels, keep=self.keep)
        width_px, height_px = prepared.image.size
        picture: Image.Image | Padded
        if width_px * height_px > LARGE_PX:  # Pillow's own form is larger
            picture = self.codecs.get().take(prepared.image, max_pixels=self.max_pixels)
        else:
            picture = prepared.whole()
        return _Loaded(picture, prepared.extras, prepared.notes, prepared.details, len(data))

    def extent(self, item: _Loaded) -> Extent:
        size, codec = item.picture.size, self.codecs.get()
        return Extent(size[0] * size[1], codec.tiling.padded_size(*size), codec.tiling.together(*size))

    def work(self, items: Sequence[_Loaded]) -> list[Result]:
        files = self.codecs.get().encode_many(
            [item.picture for item in items],
            quality=self.quality,
            target_size=self.target_size,
            target_bpp=self.target_bpp,
            effort=self.effort,
            extras=[item.extras for item in items],
            max_pixels=self.max_pixels,
        )
        return [self._result(item, data) for item, data in zip(items, files, strict=True)]

    def _result(self, item: _Loaded, data: bytes) -> Result:
        width_px, height_px = item.picture.size
        bpp = 8 * len(data) / (width_px * height_px)
        quality = DEFAULT_QUALITY if self.quality is None else self.quality
        summary = f"{len(data)} bytes  {bpp:.4f} bpp"
        if self.target_size is not None or self.target_bpp is not None:
            quality = unpack(data, max_pixels=self.max_pixels).quality
            summary += f"  quality {quality:g}"
        return Result(
            lambda: data,
            source_bytes=item.source_bytes,
            summary=summary,
            facts={"width": width_px, "height": height_px, "quality": quality, "file_bytes": len(data), "bpp": bpp},
            codec=self.codecs.get(),
            notes=item.notes,
            details=item.details,
        )


def _what_to_keep(names: str | None, *, no_alpha: bool, no_grain: bool) -> Keep:
    from dlfc.keep import USUAL, parse_keep

    keep = USUAL if names is None else parse_keep(names)
    return replace(keep, alpha=not no_alpha, grain=not no_grain)


def prepare_pillow() -> None:
    """Leave it to load_image to say what is wrong with a picture and which one is too large."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module="PIL")
