"""Puts dlfc and what belongs to it under a prefix, and takes it back: `make install` and `make uninstall`.

What is made is first written down in PREFIX/lib/dlfc/manifest, a path relative to PREFIX on each line, directories
with a slash at the end. Uninstalling removes exactly that; a directory only if nothing else came into it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
APP = "lib/dlfc"
MIME = "share/mime"
DESKTOP_FILES = {
    "dlfc.xml": f"{MIME}/packages/dlfc.xml",
    "dlfc.thumbnailer": "share/thumbnailers/dlfc.thumbnailer",
    "magic": "share/dlfc/magic",
}
COMPLETIONS = {
    "bash": "share/bash-completion/completions/dlfc",
    "zsh": "share/zsh/site-functions/_dlfc",
    "fish": "share/fish/vendor_completions.d/dlfc.fish",
}


@dataclass(frozen=True)
class Place:
    """Where files are put now (below `destdir`), and the prefix under which they will be found later."""

    destdir: str
    prefix: Path

    @property
    def root(self) -> Path:
        """The prefix as it is now."""
        return Path(f"{self.destdir}{self.prefix}")

    @property
    def manifest(self) -> Path:
        """The list of what was made."""
        return self.root / APP / "manifest"

    def install(self, python: Path | None) -> None:
        """Put everything in its place; `python` has dlfc already, without it an environment of its own is made.

        What an earlier call put there is replaced. If something fails, nothing stays.
        """
        if self.manifest.exists():
            self.uninstall()
        try:
            self._install(python)
        except BaseException:
            if self.manifest.exists():
                self.uninstall()
            raise

    def _install(self, python: Path | None) -> None:
        made = _Making(self.root, self.manifest)
        made.refuse_existing("bin/dlfc")  # before what takes minutes
        made.directory(self.root / APP)
        if python is None:
            python = _make_environment(self.root / APP)
            runs_later = self.prefix / python.relative_to(self.root)
        else:
            runs_later = python
        for shell, target in COMPLETIONS.items():
            made.file(target, _completion(python, shell))
        for page in sorted((SOURCE / "man").glob("*.[1-9]")):
            made.file(f"share/man/man{page.suffix[1:]}/{page.name}", page.read_text())
        for name, target in DESKTOP_FILES.items():
            made.file(target, (SOURCE / "dlfc" / "desktop" / name).read_text())
        command = f'#!/bin/sh\nexec {shlex.quote(str(runs_later))} -P -m dlfc.cli "$@"\n'
        made.file("bin/dlfc", command, mode=0o755)
        self._update_mime_database()

    def uninstall(self) -> None:
        """Remove what was made."""
        lines = self.manifest.read_text().splitlines()
        paths = [Path(os.path.normpath(self.root / line)) for line in reversed(lines)]
        for path in (path for path, line in zip(paths, reversed(lines), strict=True) if not line.endswith("/")):
            path.unlink(missing_ok=True)
        self._update_mime_database()
        if f"{MIME}/" in lines and not any(self.root.glob(f"{MIME}/packages/*.xml")):
            shutil.rmtree(self.root / MIME, ignore_errors=True)  # made of packages, and there are none left
        shutil.rmtree(self.root / APP)
        for path in (path for path, line in zip(paths, reversed(lines), strict=True) if line.endswith("/")):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _update_mime_database(self) -> None:
        """Let desktops know now, unless this is for another machine or time."""
        program = shutil.which("update-mime-database")
        if program and not self.destdir and (self.root / MIME / "packages").is_dir():
            subprocess.run([program, str(self.root / MIME)], check=False, stderr=subprocess.DEVNULL)


class _Making:
    """Makes directories and files, each written down before it is made."""

    def __init__(self, root: Path, manifest: Path) -> None:
        self._root = root
        self._manifest = manifest
        self._unwritten: list[str] = []

    def directory(self, path: Path) -> None:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            self._note(f"{os.path.relpath(each, self._root)}/")
            each.mkdir()

    def refuse_existing(self, target: str) -> None:
        path = self._root / target
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"{path} is there already and is not from an earlier make install; remove it first")

    def file(self, target: str, text: str, mode: int = 0o644) -> None:
        self.refuse_existing(target)
        path = self._root / target
        self.directory(path.parent)
        self._note(target)
        path.write_text(text)
        path.chmod(mode)

    def _note(self, line: str) -> None:
        self._unwritten.append(line)
        if self._manifest.parent.is_dir():  # the first directories are those that lead to the manifest
            with self._manifest.open("a") as stream:
                stream.writelines(f"{each}\n" for each in self._unwritten)
            self._unwritten.clear()


def _make_environment(folder: Path) -> Path:
    """A virtual environment with dlfc in it; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        SOURCE / "constraints.txt",
    ]
    subprocess.run([*pip, "torch"], check=True)  # first, so that no other package pulls in a larger build of it
    for earlier in (SOURCE / "build").glob("lib*"):  # what is left of it would be installed too
        shutil.rmtree(earlier)
    subprocess.run([*pip, SOURCE], check=True)
    return python


def _completion(python: Path, shell: str) -> str:
    environment = os.environ | {"_DLFC_COMPLETE": f"source_{shell}"}
    run = subprocess.run(
        [python, "-P", "-m", "dlfc.cli"], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    script = run.stdout.strip() + "\n"
    if shell == "zsh":  # which loads the file at the first TAB, and that one wants an answer too
        script += '\n_dlfc_completion "$@"\n'
    return script


def main() -> int:
    """Run the command line of the Makefile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("install", "uninstall"))
    parser.add_argument("--prefix", required=True, type=lambda text: Path(text).expanduser().absolute())
    parser.add_argument("--destdir", default="")
    parser.add_argument("--python", type=lambda text: Path(text).expanduser().absolute() if text else None)
    arguments = parser.parse_args()
    os.umask(0o022)  # everyone may read it, also if root is careful otherwise
    place = Place(os.path.abspath(arguments.destdir) if arguments.destdir else "", arguments.prefix)
    try:
        if arguments.what == "install":
            place.install(arguments.python)
            print(f"the command is {place.prefix / 'bin' / 'dlfc'}")
        else:
            place.uninstall()
    except FileNotFoundError as error:
        if error.filename != str(place.manifest):
            raise
        print(f"nothing to take back: there is no {place.manifest}", file=sys.stderr)
        return 1
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"make {arguments.what}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
