"""What needs no network starts without loading one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import picture, run_process

from dlfc.formats import Container, pack

HEAVY = ("torch", "safetensors", "dlfc.codec", "dlfc.model", "dlfc.entropy")

_REPORT = """
import sys
from dlfc.cli import main
status = main()
print(*sys.modules, sep="\\n", file=sys.stderr)
sys.exit(status)
"""

_COMPLETE = "from dlfc.cli import main\nmain()"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["encode", "--help"], 0),
        (["decode", "--help"], 0),
        (["info", "--help"], 0),
        (["compare", "--help"], 0),
        (["info", "a.dlf"], 0),
        (["info", "a.dlf", "--json"], 0),
        (["info", "a.dlf", "--bar"], 0),
        (["encode", "a.png", "-q", "101"], 2),
        (["encode", "missing.png"], 1),
        (["encode", "a.png", "-o", "missing/a.dlf"], 1),
        (["decode", "a.png", "-o", "b.png"], 1),
        (["compare", "a.png", "-o", "a.dlf"], 1),
        (["thumbnail", "a.png", "-o", "b.png"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_torch_is_not_loaded(tmp_path: Path, arguments: list[str], status: int) -> None:
    (tmp_path / "a.dlf").write_bytes(pack(Container(b"none", 8, 8, 50.0, 0, b"", b"")))
    picture().save(tmp_path / "a.png")
    run = run_process([sys.executable, "-c", _REPORT, *arguments], cwd=tmp_path)
    assert run.returncode == status
    _check_that_torch_was_not_loaded(run.stderr)


def test_completion_does_not_load_torch(tmp_path: Path) -> None:
    words = {"_DLFC_COMPLETE": "complete_bash", "COMP_WORDS": "dlfc encode -m s", "COMP_CWORD": "3"}
    code = f"import atexit, sys\natexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr))\n{_COMPLETE}"
    run = run_process([sys.executable, "-c", code], env=os.environ | words | {"DLFC_MODELS_DIR": str(tmp_path)})
    assert run.stdout == b"small\n"
    _check_that_torch_was_not_loaded(run.stderr)


def _check_that_torch_was_not_loaded(report: bytes) -> None:
    modules = report.decode().splitlines()
    assert "dlfc.cli" in modules
    assert not [name for name in modules if name in HEAVY or name.startswith(tuple(f"{heavy}." for heavy in HEAVY))]


def test_help_loads_neither_numpy_nor_pillow() -> None:
    modules = run_process([sys.executable, "-c", _REPORT, "encode", "--help"]).stderr.decode().splitlines()
    assert not {"numpy", "PIL"} & set(modules)


@pytest.mark.parametrize("command", [["encode", "a.png", "-o", "b.dlf"], ["decode", "a.dlf", "-o", "b.png"]])
def test_a_model_is_loaded_without_what_torch_only_needs_to_compile(tmp_path: Path, command: list[str]) -> None:
    picture().save(tmp_path / "a.png")
    run_process([sys.executable, "-m", "dlfc.cli", "encode", "a.png", "--quiet"], cwd=tmp_path)
    code = "import torch, sys\nbefore = set(sys.modules)\nfrom dlfc.cli import main\nstatus = main()\n"
    report = "print('sympy' in set(sys.modules) - before)\nsys.exit(status)"  # most of a second to import
    run = run_process([sys.executable, "-c", code + report, *command], cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout == b"False\n"
