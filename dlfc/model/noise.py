"""Noise that is the same on every machine: a function of the place in the picture alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_AMPLITUDE = math.sqrt(3)  # of a uniform distribution with a variance of 1
_BITS = 16  # of each value; exact in 32-bit floats
_MIX = 0x45D9F3B  # multiplier of a well-known mixing step for 32 bits; below 2**31, so that products fit into 64
_LOW = 0xFFFFFFFF


def at(channels: range, row: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """`channels` of the noise, 1 C `height` `width`, from row `row` of a grid on; uniform, of mean 0 and variance 1."""
    rows = torch.arange(row, row + height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    place = _mixed(_mixed(rows) + columns & _LOW)
    values = torch.stack([_mixed(place + channel & _LOW) >> 32 - _BITS for channel in channels])[None]
    return (values.float() + 0.5) * (2 * _AMPLITUDE / 2**_BITS) - _AMPLITUDE


def drawn(channels: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise of the same distribution from torch's generator, for training."""
    return (torch.rand(1, channels, height, width, device=device) * 2 - 1) * _AMPLITUDE


def _mixed(x: Tensor) -> Tensor:
    """Integers of 32 bits, in 64, with every bit of the result depending on every bit of `x`."""
    x = (x ^ x >> 16) * _MIX & _LOW
    x = (x ^ x >> 16) * _MIX & _LOW
    return x ^ x >> 16
