"""torch.compile for the network, without what would make it slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dlfc.model import detail


def compiled(call: Callable[..., Any], backend: str | Callable[..., Any] = "inductor") -> Callable[..., Any]:
    """`call` compiled for the one shape that it is called with.

    The network keeps tables that never change in caches, which the compiler does not see: it would make them anew, on
    the CPU, in every step. Here it is told that they are constants.
    """
    for tables in (detail._relative_index, detail._shift_masks):
        torch.compiler.assume_constant_result(tables.__wrapped__)
    return torch.compile(call, dynamic=False, backend=backend)
