"""What needs no network starts without loading one."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["encode", "--help"], 0),
        (["decode", "--help"], 0),
        (["info", "--help"], 0),
        (["info", "a.dlf"], 0),
        (["info", "a.dlf", "--json"], 0),
        (["encode", "a.png", "-q", "101"], 2),
        (["encode", "missing.png"], 1),
        (["encode", "a.png", "-o", "missing/a.dlf"], 1),
        (["decode", "a.png", "-o", "b.png"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_torch_is_not_loaded(tmp_path: Path, arguments: list[str], status: int) -> None:
    (tmp_path / "a.dlf").write_bytes(pack(Container(b"none", 8, 8, 50.0, 0, b"", b"")))
    picture().save(tmp_path / "a.png")
    run = run_process([sys.executable, "-c", _REPORT, *arguments], cwd=tmp_path)
    assert run.returncode == status
    modules = run.stderr.decode().splitlines()
    assert "dlfc.cli" in modules
    assert not [name for name in modules if name in HEAVY or name.startswith(tuple(f"{heavy}." for heavy in HEAVY))]


def test_help_loads_neither_numpy_nor_pillow() -> None:
    modules = run_process([sys.executable, "-c", _REPORT, "encode", "--help"]).stderr.decode().splitlines()
    assert not {"numpy", "PIL"} & set(modules)
