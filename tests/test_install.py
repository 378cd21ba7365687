"""`make install` and `make uninstall`, and what they put on a desktop: completion, MIME type, magic, thumbnails."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import fake_command, real_command, run_process
from PIL import Image

from dlfc import __version__
from dlfc.formats import Container, pack

ROOT = Path(__file__).parent.parent
DESKTOP = ROOT / "dlfc" / "desktop"
ENTRY = DESKTOP / "dlfc.thumbnailer"
FILE = pack(Container(b"\x01\x02\x03\x04", 768, 512, 50.0, 0, b"s", b"d"))
PAGES = sorted(page.name for page in (ROOT / "man").glob("*.[1-9]"))


def _make(target: str, prefix: Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    words = [f"{name}={value}" for name, value in {"PREFIX": prefix, "PYTHON": sys.executable, **variables}.items()]
    return subprocess.run(
        ["make", "-s", target, *words], cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )


def _tree(folder: Path) -> dict[str, str | None]:
    """All paths below a folder, with the text of files."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in paths}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix with a space in its name, in which others have files."""
    prefix = tmp_path / "a prefix"
    (prefix / "share" / "man" / "man1").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "other").write_text("of others")
    return prefix


def test_install_puts_everything_in_its_place_and_uninstall_takes_exactly_that_back(prefix: Path) -> None:
    before = _tree(prefix)
    for _ in range(2):  # the second time it replaces the first
        run = _make("install", prefix, DLFC_PYTHON=sys.executable)
        assert (run.returncode, run.stderr) == (0, "")
    program = prefix / "bin" / "dlfc"
    run_version = run_process([str(program), "--version"], cwd=prefix)
    assert run_version.stdout.decode() == f"dlfc {__version__}\n"
    assert sorted(page.name for page in prefix.glob("share/man/man*/*")) == PAGES
    assert "complete -o default" in (prefix / "share/bash-completion/completions/dlfc").read_text()
    assert (prefix / "share/zsh/site-functions/_dlfc").read_text().startswith("#compdef dlfc\n")
    assert "complete --command dlfc" in (prefix / "share/fish/vendor_completions.d/dlfc.fish").read_text()
    assert (prefix / "share/mime/packages/dlfc.xml").is_file()
    assert (prefix / "share/thumbnailers/dlfc.thumbnailer").read_text() == ENTRY.read_text()
    run = _make("uninstall", prefix)
    assert (run.returncode, run.stderr) == (0, "")
    assert _tree(prefix) == before


def test_install_keeps_a_program_of_the_same_name_and_leaves_nothing(prefix: Path) -> None:
    (prefix / "bin" / "dlfc").write_text("of others")
    before = _tree(prefix)
    run = _make("install", prefix, DLFC_PYTHON=sys.executable)
    assert run.returncode != 0
    assert "bin/dlfc is there already and is not from an earlier make install" in run.stderr
    assert _tree(prefix) == before
    run = _make("uninstall", prefix)
    assert run.returncode != 0
    assert run.stderr.startswith("nothing to take back")
    assert _tree(prefix) == before


def test_a_staged_install_runs_from_where_it_will_lie(tmp_path: Path) -> None:
    run = _make("install", Path("/opt/dlfc test"), DESTDIR=tmp_path / "stage", DLFC_PYTHON=sys.executable)
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "stage/opt/dlfc test/bin/dlfc").stat().st_mode & 0o777 == 0o755
    assert str(tmp_path / "stage") not in (tmp_path / "stage/opt/dlfc test/bin/dlfc").read_text()
    assert not (tmp_path / "stage/opt/dlfc test/share/mime/mime.cache").exists()
    assert _make("uninstall", Path("/opt/dlfc test"), DESTDIR=tmp_path / "stage").returncode == 0
    assert _tree(tmp_path) == {}


@pytest.mark.slow
def test_install_makes_an_environment_of_its_own(prefix: Path) -> None:
    before = _tree(prefix)
    run = _make("install", prefix)
    assert run.returncode == 0, run.stderr
    photo = ROOT / "tests" / "data" / "photo.png"
    run_encode = run_process([str(prefix / "bin" / "dlfc"), "encode", str(photo), "-o", "photo.dlf"], cwd=prefix.parent)
    assert run_encode.returncode == 0, run_encode.stderr.decode()
    assert _make("uninstall", prefix).returncode == 0
    assert _tree(prefix) == before


def _complete(words: str, folder: Path) -> list[str]:
    """What bash is offered for the last of these words."""
    environment = os.environ | {
        "_DLFC_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "DLFC_MODELS_DIR": str(folder),
    }
    run = run_process(real_command(), env=environment)
    assert run.stderr == b""
    return run.stdout.decode().split()


def test_the_shell_is_offered_commands_options_and_models_and_completes_files_itself(tmp_path: Path) -> None:
    assert _complete("dlfc enc", tmp_path) == ["encode"]
    assert "--max-pixels" in _complete("dlfc encode --m", tmp_path)
    assert _complete("dlfc encode -m ", tmp_path) == ["small"]
    assert _complete("dlfc decode --device c", tmp_path) == ["cpu", "cuda"]
    assert _complete("dlfc encode ph", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_one_command_installs_completion_for_the_shell_that_runs_it(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = shlex.join(real_command("--install-completion"))
    environment = os.environ | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    run = run_process([shell, "-c", f"{command}; true"], env=environment)
    assert f"{shell} completion installed in {tmp_path}" in run.stdout.decode(), run.stderr.decode()


def test_file_knows_the_files_by_the_magic_rule(tmp_path: Path) -> None:
    if shutil.which("file") is None:
        pytest.skip("file is not installed")
    (tmp_path / "a").write_bytes(FILE)
    (tmp_path / "b").write_bytes(b"\xdf\x1c\x7f" + FILE[3:])
    rule = str(DESKTOP / "magic")
    said = run_process(["file", "-b", "-m", rule, "a", "b"], cwd=tmp_path).stdout.decode().splitlines()
    assert said == ["DLF image, version 1, model 01020304", "data"]
    assert run_process(["file", "-b", "-m", rule, "--mime-type", "a"], cwd=tmp_path).stdout == b"image/x-dlf\n"


def test_the_mime_type_has_the_magic_number_of_the_format() -> None:
    names = {"": "http://www.freedesktop.org/standards/shared-mime-info"}
    kind = ElementTree.parse(DESKTOP / "dlfc.xml").getroot().find("mime-type", names)
    assert kind is not None
    match, glob = kind.find("magic/match", names), kind.find("glob", names)
    assert match is not None
    assert glob is not None
    assert (kind.attrib["type"], glob.attrib["pattern"]) == ("image/x-dlf", "*.dlf")
    number = match.attrib["value"].encode().decode("unicode_escape").encode("latin-1")
    assert FILE.startswith(number)
    assert len(number) == 3


def test_the_thumbnailer_entry_makes_a_small_png_over_an_empty_file_of_any_name(tmp_path: Path) -> None:
    entry = dict(re.findall(r"^(\w+)=(.*)$", ENTRY.read_text(), re.MULTILINE))
    assert entry["MimeType"] == "image/x-dlf;"
    photo, target = tmp_path / "a photo.dlf", tmp_path / ".thumbnail-AXB12Z"
    encode = fake_command("encode", str(ROOT / "tests/data/photo.png"), "-o", photo)
    assert run_process(encode).returncode == 0
    target.touch()  # file managers reserve a name first
    values = {"%s": "128", "%o": str(target), "%i": str(photo)}
    program, *words = [values.get(word, word) for word in entry["Exec"].split()]
    assert program == entry["TryExec"] == "dlfc"
    run = run_process(fake_command(*words))
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert target.read_bytes().startswith(b"\x89PNG")
    with Image.open(target) as small:
        assert max(small.size) == 128


def test_a_file_is_not_overwritten_by_its_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "a.dlf").write_bytes(FILE)
    run = run_process(fake_command("thumbnail", "a.dlf", "-f", "-o", "./a.dlf"), cwd=tmp_path)
    assert run.returncode == 2
    assert b"./a.dlf is an input and would be overwritten" in run.stderr
    assert (tmp_path / "a.dlf").read_bytes() == FILE


def test_a_thumbnail_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.dlf").write_bytes(FILE[:-1])
    run = run_process(fake_command("thumbnail", "cut.dlf", "-o", "small.png"), cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.decode().startswith("dlfc: cut.dlf: file is cut short")
    assert not (tmp_path / "small.png").exists()
