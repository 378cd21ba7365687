"""Makes commands.md: the help of every command. `make docs` runs it, and a test compares."""

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import typer

from dlfc.cli import main
from dlfc.cli.app import program

TARGET = Path(__file__).with_name("commands.md")
_HEAD = """# Commands

What `dlfc COMMAND --help` prints. The manual pages in `man/` say more. Made by `make docs`.
"""


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, those of groups too, in the order of the help; the program itself is ()."""
    yield from _below((), typer.main.get_command(program()))


def _below(words: tuple[str, ...], command: object) -> Iterator[tuple[str, ...]]:
    yield words
    for name, each in getattr(command, "commands", {}).items():
        yield from _below((*words, name), each)


def help_of(words: tuple[str, ...]) -> str:
    """What the program prints, in 80 columns."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(out), patch.dict(os.environ, COLUMNS="80"):
        main([*words, "--help"])
        out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue().decode()


def text() -> str:
    """All of commands.md."""
    parts = (f"\n## {' '.join(('dlfc', *words))}\n\n```\n{help_of(words).rstrip()}\n```\n" for words in commands())
    return _HEAD + "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(text(), "utf-8")
