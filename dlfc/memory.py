"""Memory that large pictures need, and no more.

The C library keeps freed memory of up to 32 MB for the next request, but the network's tensors are of many sizes, and
pieces of one seldom serve for another: with large pictures a third of what is held would be such pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

LARGE_PX = 1 << 22  # larger pictures are handled in strips, and with little memory, which takes a tenth more time
_MMAP_THRESHOLD = -3  # glibc's malloc.h
_SPARING_BYTES, _USUAL_BYTES = 1 << 21, 1 << 25  # the latter is where the C library would end up by itself

_lock = threading.Lock()
_users = 0


@contextmanager
def sparing(pixels: int) -> Iterator[None]:
    """While the block works on a picture of so many pixels, if they are many, freed memory goes back to the system.

    That holds for all threads. Where there is no glibc, nothing happens.
    """
    if pixels <= LARGE_PX:
        yield
        return
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _users
    option = _option()
    with _lock:
        before, _users = _users, _users + change
        if option is not None and 0 in (before, _users):
            option(_MMAP_THRESHOLD, _SPARING_BYTES if _users else _USUAL_BYTES)


@cache
def _option() -> Callable[[int, int], int] | None:
    import ctypes

    try:
        option: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no such handle
        return None
    return option
