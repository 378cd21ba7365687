"""`dlfc thumbnail`: the small picture of a .dlf file that a file manager shows."""

from __future__ import annotations

from typing import Annotated

import typer

from dlfc.cli import values
from dlfc.cli.codecs import Codecs
from dlfc.cli.decode import MAX_INPUT_BYTES
from dlfc.cli.inputs import refuse_overwriting
from dlfc.cli.messages import reason_of, say, stream_name
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_STREAM, check_source, check_target, load, save, save_to_stdout
from dlfc.formats import unpack

MAX_PIXELS = 2**24  # a folder is opened to be looked at now, and larger pictures take a minute each

EPILOG = """\b
Examples:
  dlfc thumbnail photo.dlf -o small.png
  dlfc thumbnail photo.dlf -o small.png --size 512

\b
Exit status:
  0  the thumbnail was written
  1  the file is damaged or missing, or cannot be written
  2  the command line was wrong, nothing was done"""


def thumbnail(
    source: Annotated[str, typer.Argument(metavar="INPUT", show_default=False)],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write PNG to FILE; - is standard output.", show_default=False
        ),
    ],
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a file that exists.")] = False,
    size: Annotated[
        int,
        typer.Option(
            "-s", "--size", metavar="N", parser=values.parse_count, help="Longest side in pixels.", show_default=True
        ),
    ] = 256,
    max_pixels: Annotated[
        int,
        typer.Option(
            metavar="N", parser=values.parse_count, help="Refuse pictures of more than N pixels.", show_default=True
        ),
    ] = MAX_PIXELS,
) -> None:
    """Write a small picture of a .dlf file.

    INPUT is a .dlf file, or - for standard input. The result is a PNG picture whose longest side has at most as many
    pixels as --size says, whatever the suffix of FILE. File managers call this command.
    """
    refuse_overwriting([source], output)
    try:
        check_source(source)
        if output != STANDARD_STREAM:
            check_target(output, overwrite=force)
        picture = _thumbnail(load(source, max_bytes=MAX_INPUT_BYTES), size, max_pixels)
    except (DlfcError, OSError) as error:
        say(f"dlfc: {reason_of(error, file=stream_name(source, 'input'))}")
        raise typer.Exit(1) from None
    if output == STANDARD_STREAM:
        save_to_stdout(picture)
    else:
        save(output, picture, overwrite=force)


def _thumbnail(data: bytes, size_px: int, max_pixels: int) -> bytes:
    from dlfc.image import DEFAULT_FORMAT, save_image

    model_id = unpack(data, max_pixels=max_pixels).model_id
    image = Codecs(None, "cpu", "decode").get(model_id).decode(data, max_pixels=max_pixels)
    image.thumbnail((size_px, size_px))
    return save_image(image, DEFAULT_FORMAT)
