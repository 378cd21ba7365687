"""`dlfc compare`: a page that shows photos beside what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dlfc.cli import options, values
from dlfc.cli.codecs import Codecs
from dlfc.cli.encode import MAX_INPUT_BYTES, prepare_pillow
from dlfc.cli.inputs import refuse_overwriting
from dlfc.cli.messages import Reporter, UsageProblem, reason_of, say
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_STREAM, check_source, check_target, load, save, save_to_stdout
from dlfc.formats import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from dlfc.codec import Codec
    from dlfc.compare.versions import Photo
    from dlfc.evaluate.ordinary import OrdinaryCodec

EPILOG = (
    """\b
Examples:
  dlfc compare photo.jpg -o page.html
  dlfc compare *.png -o page.html -q 0,25,50,75,100
  dlfc compare photo.jpg -o page.html --against webp,avif,jpeg

"""
    + options.EXIT_STATUS
)


def compare(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", show_default=False)],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the page to FILE; - is standard output.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Replace a file that exists.", rich_help_panel=options.OUTPUT)
    ] = False,
    qualities: Annotated[
        str,
        typer.Option(
            "-q",
            "--qualities",
            metavar="LIST",
            parser=values.parse_qualities,
            help="Qualities to encode with.",
            rich_help_panel=options.MODEL,
        ),
    ] = "0,50,100",
    model: options.Model = None,
    against: Annotated[
        str,
        typer.Option(metavar="LIST", help="Ordinary codecs: jpeg, webp, avif; or none.", rich_help_panel=options.MODEL),
    ] = "webp,avif",
    device: options.Device = "auto",
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    quiet: options.Quiet = False,
) -> None:
    """Write a page that shows photos beside what is left of them.

    The page is one HTML file that needs no network. For each IMAGE it has the photo and its .dlf files at several
    qualities under a slider, with their sizes, next to ordinary files of at most the same size, or else the smallest
    there is. IMAGE is a file of any kind that dlfc encode takes.
    """
    if STANDARD_STREAM in images:
        raise UsageProblem("standard input (-) has no name to show; give files")
    refuse_overwriting(images, output)
    if output != STANDARD_STREAM:
        check_target(output, overwrite=force)
    ordinary = _ordinary(against)
    levels = [float(quality) for quality in qualities.split(",")]
    prepare_pillow()
    codecs = Codecs(model, device, "both")
    photos: list[Photo] = []
    with Reporter("comparing", len(images), quiet=quiet, verbose=False, as_json=False) as reporter:
        for name in images:
            try:
                check_source(name)
                photo = _compare(name, codecs.get(), levels, ordinary, max_pixels)
            except (DlfcError, OSError, MemoryError) as error:
                reporter.failed(name, reason_of(error, file=name))
                continue
            photos.append(photo)
            reporter.done(f"{name}  {', '.join(f'{level.dlf.file_bytes}' for level in photo.levels)} bytes", {})
    if photos:
        _write(photos, codecs.get(), output, force=force, quiet=quiet)
    if len(photos) < len(images):
        raise typer.Exit(1)


def _compare(name: str, codec: Codec, levels: list[float], ordinary: list[OrdinaryCodec], max_pixels: int) -> Photo:
    from dlfc.compare.versions import versions_of
    from dlfc.image import load_image

    data = load(name, max_bytes=MAX_INPUT_BYTES)
    prepared = load_image(data, max_pixels=max_pixels)
    return versions_of(name, len(data), prepared, codec, levels, ordinary, max_pixels)


def _write(photos: list[Photo], codec: Codec, output: str, *, force: bool, quiet: bool) -> None:
    from dlfc import __version__
    from dlfc.compare.page import page

    text = page(photos, f"dlfc {__version__} with model {codec.name} ({codec.model_id.hex()})")
    if output == STANDARD_STREAM:
        save_to_stdout(text)
        return
    save(output, text, overwrite=force)
    if not quiet:
        say(f"{output}  {max(len(text) / 1e6, 0.1):.1f} MB")


def _ordinary(against: str) -> list[OrdinaryCodec]:
    """The codecs to compare with. Raises UsageProblem for names of none, DlfcError if Pillow cannot write one."""
    from dlfc.evaluate.ordinary import ORDINARY

    names = [name.strip() for name in against.split(",")]
    for name in names if names != ["none"] else []:
        if name not in ORDINARY:
            raise UsageProblem(f"--against has {name!r}, which is none of {', '.join(ORDINARY)}; or say none")
        if not ORDINARY[name].available():
            raise DlfcError(f"Pillow here cannot write {name}; leave it out of --against")
    return [ORDINARY[name] for name in names if name in ORDINARY]
