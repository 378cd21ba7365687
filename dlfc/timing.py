"""Where the time goes: parts of the work state their name, and whoever asks for it gets their seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_seconds: ContextVar[defaultdict[str, float] | None] = ContextVar("seconds", default=None)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the time of the block as that of `part`, if anyone in this thread listens."""
    seconds = _seconds.get()
    if seconds is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[part] += time.perf_counter() - start


@contextmanager
def collected() -> Iterator[dict[str, float]]:
    """The seconds of each part that this thread works on within the block, filled as it goes."""
    seconds: defaultdict[str, float] = defaultdict(float)
    token = _seconds.set(seconds)
    try:
        yield seconds
    finally:
        _seconds.reset(token)
