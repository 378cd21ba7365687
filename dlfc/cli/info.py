"""`dlfc info`: what .dlf files say about themselves, without decoding them."""

from __future__ import annotations

import sys
from io import StringIO
from typing import TYPE_CHECKING, Annotated

import typer

from dlfc.cli import options
from dlfc.cli.messages import Reporter, UsageProblem, print_json, reason_of, stream_name
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_STREAM, display_name, load, print_to_stdout
from dlfc.formats import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from dlfc.info import FileInfo

MAX_INPUT_BYTES = 2**26  # as for decode

EPILOG = (
    """\b
Examples:
  dlfc info photo.dlf
  dlfc info --json *.dlf | jq .bpp
  dlfc info photo.dlf > /dev/null && echo "the file is whole"

"""
    + options.EXIT_STATUS
)


def info(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", show_default=False)],
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    json: options.Json = False,
) -> None:
    """Say what is in .dlf files.

    That is: size of the picture, quality, model, and where the bytes go. FILE is a .dlf file, or - for standard
    input. Nothing is decoded and no model is needed. A file that is damaged,
    cut short or too long is an error, so this is also a quick check of files.
    """
    if files.count(STANDARD_STREAM) > 1:
        raise UsageProblem("standard input (-) can be read only once")
    success = True
    reporter = Reporter("reading", len(files), quiet=True, verbose=False, as_json=json)
    for name in files:
        try:
            file_info = _read(name, max_pixels)
        except (DlfcError, OSError) as error:
            reporter.failed(name, reason_of(error, file=stream_name(name, "input")), key="file")
            success = False
            continue
        if json:
            print_json({"file": name} | file_info.to_dict())
        else:
            print_to_stdout(_for_people(stream_name(name, "input"), file_info))
    if not success:
        raise typer.Exit(1)


def _read(name: str, max_pixels: int) -> FileInfo:
    from dlfc.info import read_info

    return read_info(load(name, max_bytes=MAX_INPUT_BYTES), max_pixels=max_pixels)


def _for_people(name: str, file_info: FileInfo) -> str:
    from rich.console import Console
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    pixels = f"{file_info.width}x{file_info.height} pixels, quality {file_info.quality:g}"
    facts.add_row("  picture", pixels)
    facts.add_row("  size", f"{_bytes(file_info.file_bytes)}, {file_info.bpp:.4f} bits per pixel")
    for section in file_info.sections:
        facts.add_row(f"    {section.name}", _bytes(section.bytes))
    facts.add_row("    overhead", _bytes(file_info.overhead_bytes))
    facts.add_row("  model", f"{file_info.model or 'not known here'} ({file_info.model_id})")
    facts.add_row("  format", f"version {file_info.format_version}")

    text = StringIO()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(file=text, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    console.print(display_name(name), style="bold", soft_wrap=True)
    console.print(facts)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
