"""`dlfc info`: what .dlf files say about themselves, without decoding them."""

from __future__ import annotations

import shutil
import sys
from io import StringIO
from typing import TYPE_CHECKING, Annotated

import typer

from dlfc.cli import bar as bars
from dlfc.cli import options
from dlfc.cli.messages import Reporter, UsageProblem, print_json, reason_of, stream_name
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_STREAM, display_name, load, print_to_stdout
from dlfc.formats import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from dlfc.info import FileInfo

MAX_INPUT_BYTES = 2**26  # as for decode
_BAR_WIDTH = 48
_LINE_WIDTH = 1000  # no line is broken: scripts read these too
_NAMES_WIDTH = 16  # of the column with the names, so that the bar beside it fits

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
    bar: Annotated[
        bool,
        typer.Option(
            "--bar",
            help="Draw where the bytes went, also where standard output is not a terminal.",
            rich_help_panel=options.MESSAGES,
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Say what is in .dlf files.

    That is: size of the picture, quality, model, and where the bytes go, which a bar shows on a terminal. FILE is a
    .dlf file, or - for standard input. Nothing is decoded and no model is needed. A file that is damaged, cut short
    or too long is an error, so this is also a quick check of files.
    """
    if bar and json:
        raise UsageProblem("--bar and --json exclude each other")
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
            print_to_stdout(_for_people(stream_name(name, "input"), file_info, with_bar=bar))
    if not success:
        raise typer.Exit(1)


def _read(name: str, max_pixels: int) -> FileInfo:
    from dlfc.info import read_info

    return read_info(load(name, max_bytes=MAX_INPUT_BYTES), max_pixels=max_pixels)


def _for_people(name: str, file_info: FileInfo, *, with_bar: bool) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    text = StringIO()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    with_bar = with_bar or terminal
    columns = shutil.get_terminal_size().columns
    console = Console(file=text, force_terminal=terminal, width=_LINE_WIDTH, highlight=False, markup=False, emoji=False)

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    pixels = f"{file_info.width}x{file_info.height} pixels, quality {file_info.quality:g}"
    facts.add_row("  picture", pixels)
    facts.add_row("  size", f"{_bytes(file_info.file_bytes)}, {file_info.bpp:.4f} bits per pixel")
    if with_bar:
        facts.add_row("", bars.bar(file_info, max(1, min(_BAR_WIDTH, columns - _NAMES_WIDTH)), encoding))
    for section_name, count in (
        *((section.name, section.bytes) for section in file_info.sections),
        (bars.OVERHEAD, file_info.overhead_bytes),
    ):
        sign = bars.mark(section_name, encoding) if with_bar else Text(" ")
        facts.add_row(Text.assemble("  ", sign, f" {section_name}"), _bytes(count))
    facts.add_row("  model", f"{file_info.model or 'not known here'} ({file_info.model_id})")
    facts.add_row("  format", f"version {file_info.format_version}")

    console.print(display_name(name), style="bold", soft_wrap=True)
    console.print(facts)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
