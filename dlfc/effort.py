"""The efforts of encoding, without what does the work: `--help` needs no torch."""

from __future__ import annotations

from typing import Literal

ITERATIONS = (0, 2, 3, 4, 5, 8, 12, 20, 30)  # of the efforts 1 to 9; each takes as long as decoding three times
PLAIN, MOST = 1, len(ITERATIONS)


def what_to_load(effort: int) -> tuple[Literal["encode", "both"], str | None]:
    """The purpose and the precision with which `Codec.load` makes a codec that can encode with this effort."""
    return ("encode", None) if effort == PLAIN else ("both", "float32")  # refining decodes, and needs gradients
