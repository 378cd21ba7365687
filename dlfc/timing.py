"""Where the time goes: parts of the work state their name, and whoever asks for it gets their seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _Record:
    """Seconds by part; `inner_seconds` are those of parts that lie within the one that is going on."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.inner_seconds = 0.0


_record: ContextVar[_Record | None] = ContextVar("record", default=None)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the time of the block as that of `part`, without other parts inside it, if this thread is listened to."""
    record = _record.get()
    if record is None:
        yield
        return
    outer, record.inner_seconds = record.inner_seconds, 0.0
    start = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - start
        record.seconds[part] += spent - record.inner_seconds
        record.inner_seconds = outer + spent


@contextmanager
def collected() -> Iterator[dict[str, float]]:
    """The seconds of each part that this thread works on within the block, filled as it goes."""
    record = _Record()
    token = _record.set(record)
    try:
        yield record.seconds
    finally:
        _record.reset(token)
