"""`dlfc encode`: pictures to .dlf files."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from dlfc.cli import batch, options
from dlfc.cli.codecs import Codecs
from dlfc.cli.completion import model_names
from dlfc.cli.messages import Reporter
from dlfc.files import load, make_directory
from dlfc.formats import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from dlfc.codec import Codec
    from dlfc.companions import Prepared

SUFFIX = ".dlf"
MAX_INPUT_BYTES = 2**31  # far above any photograph; an endless input ends here

EPILOG = (
    """\b
Examples:
  dlfc encode photo.jpg                     writes photo.dlf beside it
  dlfc encode photo.png -o small.dlf -q 10  fewer bytes, less true
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
    quality: options.Quality = 50.0,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=model_names,
            help="Name of a model, or a .safetensors file with its weights.  [default: the one dlfc comes with]",
            rich_help_panel=options.MODEL,
            show_default=False,
        ),
    ] = None,
    device: options.Device = "auto",
    jobs: options.Jobs = 1,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    json: options.Json = False,
) -> None:
    """Make a .dlf file of each picture.

    INPUT is a PNG, JPEG, WebP, TIFF, AVIF, JPEG 2000, GIF, BMP or PPM file, or - for standard input. Without -o and
    --output-dir the result lies beside INPUT under the same name with the suffix .dlf; that of standard input goes to
    standard output. Files that exist are kept unless -f is given.

    The picture is stored as 8-bit sRGB, upright, without metadata. What had to be converted or dropped for that is
    said in one line.
    """
    planned = batch.plan(inputs, output, output_dir, SUFFIX)
    options.refuse_contradictions(planned, quiet=quiet, verbose=verbose, as_json=json)
    codecs = Codecs(model, device, "encode")

    def work(job: batch.Job) -> batch.Result:
        data, picture = _encode_file(job.source, codecs.get(), quality, max_pixels)
        width_px, height_px = picture.image.size
        bpp = 8 * len(data) / (width_px * height_px)
        return batch.Result(
            data,
            summary=f"{len(data)} bytes  {bpp:.4f} bpp",
            facts={
                "width": width_px,
                "height": height_px,
                "quality": quality,
                "file_bytes": len(data),
                "bpp": bpp,
            },
            codec=codecs.get(),
            notes=picture.notes,
            details=picture.details,
        )

    _prepare_pillow()
    if output_dir is not None:
        make_directory(output_dir)
    with Reporter("encoding", len(planned), quiet=quiet, verbose=verbose, as_json=json) as reporter:
        success = batch.run(planned, work, reporter, prepare=codecs.get, overwrite=force, threads=jobs)
    if not success:
        raise typer.Exit(1)


def _encode_file(name: str, codec: Codec, quality: float, max_pixels: int) -> tuple[bytes, Prepared]:
    from dlfc.image import load_image

    picture = load_image(load(name, max_bytes=MAX_INPUT_BYTES), max_pixels=max_pixels)
    return codec.encode(picture.image, quality=quality, max_pixels=max_pixels), picture


def _prepare_pillow() -> None:
    """Leave it to load_image to say what is wrong with a picture and which one is too large."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module="PIL")
