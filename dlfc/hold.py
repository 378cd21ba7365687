"""Holding the mean colour of a picture.

At low qualities most symbols round to zero, and where all cells of an even picture round the same way, its mean colour
moves. A small shift of the latent, the same in all cells, lets those round the other way that were nearest to it, until
the linear base has the photo's mean colour again but for a tolerance. The network keeps to the colours of the base.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlfc.model.base import LinearBase

TOLERANCE = 2.0 / 127.5  # of the mean of red, green or blue in [-1, 1]; the generator may add one or two 255ths
ATTEMPTS = 6
_FARTHEST = 24 / 127.5  # what is farther off is no matter of rounding: the base is no picture of this photo
_AIM = 0.9  # of the tolerance: where a shift aims, so that it need not be repeated for very little


def shift(base: LinearBase, deviation: Tensor, step: Tensor, level: Tensor) -> Tensor | None:
    """What to add to latents for mean colours that are off by `deviation` B 3, as B C 1 1, or None if nothing is to do.

    `step` B C is the quantiser's; of all additions that do it, this one is the smallest in steps.
    """
    largest = deviation.abs().amax(1)
    off = (largest > TOLERANCE) & (largest < _FARTHEST)
    if not off.any():
        return None
    wanted = torch.where(off[:, None], deviation.clamp(-_AIM * TOLERANCE, _AIM * TOLERANCE) - deviation, 0.0)
    response = base.colour_response(level) * step[:, None]
    return (step * (torch.linalg.pinv(response.double()) @ wanted.double()[..., None])[..., 0])[..., None, None].float()
