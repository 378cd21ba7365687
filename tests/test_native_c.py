"""The C sources: strict compilation; the range coder's round trips and garbage under the sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parent.parent / "native"
COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def build(target: Path, *arguments: str | Path) -> Path:
    """The program built from the coder and `arguments`; the test is skipped where there are no sanitizers."""
    assert COMPILER is not None
    probe = target.with_suffix(".c")
    probe.write_text("int main(void) { return 0; }\n")
    if run(COMPILER, *SANITIZE, probe, "-o", target).returncode != 0 or run(target).returncode != 0:
        pytest.skip("the compiler has no sanitizers")
    built = run(COMPILER, *STRICT, *SANITIZE, *arguments, NATIVE / "dlfc_range_coder.c", "-o", target)
    assert built.returncode == 0, built.stderr
    return target


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_the_sources_compile_without_a_warning(level: str, tmp_path: Path) -> None:
    assert COMPILER is not None
    for source in ("dlfc_range_coder.c", "dlfc_fused.c", "check_coder.c", "fuzz_coder.c"):
        built = run(COMPILER, *STRICT, level, "-c", NATIVE / source, "-o", tmp_path / "out.o")
        assert built.returncode == 0, built.stderr


def test_round_trips_and_garbage_pass_the_sanitizers(tmp_path: Path) -> None:
    ran = run(build(tmp_path / "check", NATIVE / "check_coder.c"), "1000")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("1000 round trips")


def test_the_fuzzer_runs_files_under_the_sanitizers(tmp_path: Path) -> None:
    inputs = [b"", b"\x01", b"\x02\xff", b"\x03\x10" + b"\xff" * 30, b"\x04\x80" + bytes(range(200))]
    paths = [tmp_path / f"input{i}" for i in range(len(inputs))]
    for path, data in zip(paths, inputs, strict=True):
        path.write_bytes(data)
    ran = run(build(tmp_path / "fuzz", NATIVE / "fuzz_coder.c"), *paths)
    assert ran.returncode == 0, ran.stderr
