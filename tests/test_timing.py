"""Where the time goes: parts are told apart, and nobody pays who does not ask."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dlfc.timing import collected, timed


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless it is moved."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_part_inside_another_counts_once(clock: list[float]) -> None:
    with collected() as seconds:
        with timed("network"):
            clock[0] += 1
            with timed("coder"):
                clock[0] += 10
                with timed("import"):
                    clock[0] += 100
            with timed("coder"):
                clock[0] += 20
            clock[0] += 2
        with timed("network"):
            clock[0] += 4
        clock[0] += 1000
    assert seconds == {"network": 7, "coder": 30, "import": 100}


def test_a_part_that_fails_counts_too(clock: list[float]) -> None:
    def fail() -> None:
        with timed("write"):
            clock[0] += 3
            raise OSError("full")

    with collected() as seconds, pytest.raises(OSError, match="full"):
        fail()
    assert seconds == {"write": 3}


def test_only_the_thread_that_asks_is_listened_to(clock: list[float]) -> None:
    def work() -> None:
        with timed("read"):
            clock[0] += 5

    work()
    with collected() as seconds, ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert seconds == {}


def test_one_who_asks_inside_another_hears_only_their_own(clock: list[float]) -> None:
    with collected() as outer:
        with collected() as inner, timed("load"):
            clock[0] += 6
        with timed("read"):
            clock[0] += 7
    assert (outer, inner) == ({"read": 7}, {"load": 6})
