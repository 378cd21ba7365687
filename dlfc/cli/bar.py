"""A bar of where the bytes of a file went, one part for each section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from dlfc.info import FileInfo

OVERHEAD = "overhead"
_KINDS = (OVERHEAD, "semantic", "detail")
_COLOURS = ("bright_black", "blue", "green", "magenta")  # of these kinds, and of companions
_BLOCKS = "░█▓▒"  # told apart without colour too
_PLAIN = ".#=+"  # where there are no blocks


def mark(name: str, encoding: str) -> Text:
    """The sign of a section in the bar, for its legend."""
    return _cells(name, 1, encoding)


def bar(info: FileInfo, width: int, encoding: str) -> Text:
    """The bar in the order of the file, `width` characters long."""
    from rich.text import Text

    parts = [(OVERHEAD, info.overhead_bytes), *((each.name, each.bytes) for each in info.sections)]
    parts = [(name, count) for name, count in parts if count]
    cells = shares([count for _, count in parts], width)
    return Text().join(_cells(name, count, encoding) for (name, _), count in zip(parts, cells, strict=True))


def shares(counts: Sequence[int], width: int) -> list[int]:
    """`width` in whole numbers, divided as `counts` are, which are positive; none is 0 while there is room for all."""
    if width < len(counts):
        return [1] * width + [0] * (len(counts) - width)
    total, left = sum(counts), width - len(counts)
    exact = [left * count / total for count in counts]
    cells = [int(share) for share in exact]
    by_rest = sorted(range(len(counts)), key=lambda at: cells[at] - exact[at])
    for at in by_rest[: left - sum(cells)]:
        cells[at] += 1
    return [1 + count for count in cells]


def _cells(name: str, count: int, encoding: str) -> Text:
    from rich.text import Text

    kind = _KINDS.index(name) if name in _KINDS else len(_KINDS)
    signs = _BLOCKS if _BLOCKS.encode(encoding, "ignore") else _PLAIN
    return Text(signs[kind] * count, style=_COLOURS[kind])
