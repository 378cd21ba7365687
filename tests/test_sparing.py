"""Memory of large pictures: what is freed goes back to the system while they are worked on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dlfc import memory
from dlfc.memory import LARGE_PX, sparing


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the C library is asked for."""
    calls: list[tuple[int, int]] = []

    def option(*arguments: int) -> int:
        calls.append(arguments)  # type: ignore[arg-type]
        return 1

    monkeypatch.setattr(memory, "_option", lambda: option)
    return calls


def test_only_large_pictures_count_and_the_last_of_them_ends_it(calls: list[tuple[int, int]]) -> None:
    with sparing(LARGE_PX):
        assert calls == []
    with sparing(LARGE_PX + 1):
        with pytest.raises(MemoryError), sparing(LARGE_PX + 1):
            raise MemoryError
        assert len(calls) == 1
    assert len(calls) == 2
    assert calls[0][1] < calls[1][1]


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_option", lambda: None)
    with sparing(LARGE_PX + 1):
        pass


_HOLES = """
import torch
from dlfc.memory import LARGE_PX, sparing

MIB = 1 << 20
SIZES = [4 * MIB + 4096 * k for k in range(20)]

def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * 4096

def holes():
    torch.empty(24 * MIB, dtype=torch.uint8)  # when it is freed, the C library begins to keep what is smaller
    kept = [torch.ones(size, dtype=torch.uint8) for size in SIZES]
    before = resident()
    del kept[::2]
    return sum(SIZES[::2]) - (before - resident())

with sparing(LARGE_PX + 1):
    spared = holes()
print(spared < 4 * MIB < holes())
"""


@pytest.mark.skipif(sys.platform != "linux" or memory._option() is None, reason="needs Linux and glibc")
def test_freed_tensors_leave_no_holes() -> None:
    ran = subprocess.run([sys.executable, "-c", _HOLES], check=True, stdout=subprocess.PIPE, text=True)
    assert ran.stdout == "True\n"
