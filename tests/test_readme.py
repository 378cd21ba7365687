"""README, help, manual pages and the generated docs say the same, and what README says to type works."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dlfc.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PHOTO = ROOT / "tests" / "data" / "photo.png"

_FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
_BLOCKS = [text for language, text in _FENCED if not language]  # what is typed into a shell
_INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
_LINES = [shlex.split(line, comments=True) for block in _BLOCKS for line in block.splitlines()]
COMMANDS = [words for words in _LINES if words and words[0] == "dlfc"]
TARGETS = {words[1] for words in [*_LINES, *map(str.split, _INLINE)] if len(words) > 1 and words[0] == "make"}
_MAKE_COMMANDS = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))
HELP = {words: _MAKE_COMMANDS["help_of"](words) for words in _MAKE_COMMANDS["commands"]()}


def test_the_commands_of_the_readme_work_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLFC_MODELS_DIR", str(tmp_path / "no models"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Image.open(PHOTO) as photo:
        photo.convert("RGB").crop((128, 128, 384, 384)).save("photo.jpg")
    assert {words[1] for words in COMMANDS} >= {"encode", "decode", "info", "compare"}
    for words in COMMANDS:
        if words[1:] != ["--install-completion"]:  # test_install.py runs it in a shell
            assert main(words[1:]) == 0, f"{shlex.join(words)}\n{capfd.readouterr().err}"
    assert {"photo.dlf", "photo.png", "page.html"} <= {path.name for path in tmp_path.iterdir()}


def test_what_the_readme_says_to_make_can_be_made() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    assert {"demo", "test", "install", "uninstall"} <= TARGETS
    run = subprocess.run(["make", "-n", *sorted(TARGETS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_make_demo_decodes_the_photograph() -> None:
    run = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with Image.open(ROOT / "out" / "photo.png") as seen, Image.open(PHOTO) as photo:
        assert seen.size == photo.size


def test_every_command_is_in_the_readme() -> None:
    mentioned = {words[1] for words in [*COMMANDS, *map(str.split, _INLINE)] if len(words) > 1 and words[0] == "dlfc"}
    assert mentioned >= {words[0] for words in HELP if words}


def test_commands_and_options_of_the_readme_exist() -> None:
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(HELP.values())))
    for text in [*map(shlex.join, _LINES), *_INLINE]:
        if not text.startswith(("dlfc ", "-")):
            continue
        words = text.split()
        options = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert options <= known, text
        if words[0] == "dlfc" and re.fullmatch("[a-z]+", words[1]):
            assert (words[1],) in HELP, text
            assert options <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", _help_with_parts(words[1]))), text


def test_files_that_the_readme_names_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    named = [name for name in _INLINE if re.fullmatch(r"(docs|dlfc|tests|formats|man|native)/[\w./-]*", name)]
    assert linked
    assert named
    assert [name for name in [*linked, *named] if not (ROOT / name).exists()] == []


def test_readme_manual_and_help_say_what_decoded_pictures_are_not_for() -> None:
    manual = (ROOT / "man" / "dlfc.1").read_text()
    for text in (README, manual, HELP[()], HELP[("decode",)], (ROOT / "dlfc/compare/page.html").read_text()):
        plain = " ".join(text.split())
        assert re.search(r"is generated|paints the detail anew", plain)
        assert all(word in plain for word in ("documents", "evidence", "medic"))


def test_the_help_in_the_docs_is_that_of_the_program() -> None:
    written = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert written == _MAKE_COMMANDS["text"](), "run make docs"


def _help_with_parts(command: str) -> str:
    """The help of a command, and of the commands below it."""
    return " ".join(text for words, text in HELP.items() if words[:1] == (command,))
