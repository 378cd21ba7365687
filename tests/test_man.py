"""The manual pages say what the program does: the same options, in well-formed mdoc."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from conftest import Finished

from dlfc.cli.app import program
from dlfc.formats import DEFAULT_MAX_PIXELS

MAN = Path(__file__).parent.parent / "man"
_PROGRAM = typer.main.get_command(program())
GROUPS = {
    name: tuple(command.commands)
    for name, command in vars(_PROGRAM)["commands"].items()
    if getattr(command, "commands", None)
}
PAGES = {"": "dlfc.1"} | {name: f"dlfc-{name}.1" for name in vars(_PROGRAM)["commands"]}


def _options_of_help(text: str) -> set[str]:
    """Return the options that the lists of a help text define."""
    found: set[str] = set()
    for line in text.splitlines():
        if match := re.match(r"  (-[^ ,]+(?:, -[^ ,]+)*)(?: |$)", line):
            found.update(match[1].split(", "))
    return found


def _options_of_page(page: Path) -> set[str]:
    """Return the options that the lists of a manual page define, with those of its synopsis."""
    synopsis, text = page.read_text().split(".Sh DESCRIPTION\n")
    tagged = synopsis + "".join(re.findall(r"^\.It Fl .*\n", text, re.MULTILINE))
    return {f"-{name}" for name in re.findall(r"\bFl (-?[A-Za-z][a-z-]*)", tagged)}


@pytest.mark.parametrize(("command", "page"), PAGES.items())
def test_help_and_manual_page_have_the_same_options(dlfc: Callable[..., Finished], command: str, page: str) -> None:
    in_help = _options_of_help(dlfc(*command.split(), "--help").out)
    for part in GROUPS.get(command, ()):
        in_help |= _options_of_help(dlfc(command, part, "--help").out)
    assert {"-h", "--help"} < in_help
    assert _options_of_page(MAN / page) == in_help


def test_the_page_of_the_program_names_every_command() -> None:
    synopsis, text = (MAN / "dlfc.1").read_text().split(".Sh DESCRIPTION\n")
    named = re.findall(r"^\.Xr (dlfc-\w+) 1", text.split(".Sh SEE ALSO\n")[1], re.MULTILINE)
    for command in filter(None, PAGES):
        assert f".Cm {command}\n" in synopsis
        assert f".It Cm {command}\n" in text
        assert f"dlfc-{command}" in named
    assert len(named) == len(PAGES) - 1
    assert named == sorted(named)


def test_the_page_of_a_group_describes_every_command_of_it() -> None:
    for group, commands in GROUPS.items():
        page = (MAN / PAGES[group]).read_text()
        assert {name for name in commands if f"Cm {name}" not in page} == set()


@pytest.mark.parametrize("page", sorted(MAN.glob("*.[1-9]")), ids=lambda page: page.name)
def test_a_manual_page_is_well_formed(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    run = subprocess.run(["mandoc", "-Tlint", "-Wwarning", str(page)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES.values())
def test_a_manual_page_has_the_usual_sections(page: str) -> None:
    sections = re.findall(r"^\.Sh (.+)$", (MAN / page).read_text(), re.MULTILINE)
    usual = ["NAME", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    assert sections == usual


def test_the_limit_in_the_manual_is_that_of_the_program() -> None:
    for name in ("encode", "decode", "info", "compare"):
        assert f"default is {DEFAULT_MAX_PIXELS}," in (MAN / PAGES[name]).read_text()
