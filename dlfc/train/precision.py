"""Where training computes in 16 bits."""

from __future__ import annotations

import torch

from dlfc.model.linear import packing_pays


def narrowed(device: torch.device) -> torch.autocast:
    """A context in which matrices and convolutions on `device` are multiplied in bfloat16, where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or packing_pays())
