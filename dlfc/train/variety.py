"""Crops that photos at hand lack: strange colours, even parts, backgrounds out of focus, narrow frames, large
structures, and low contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601
_GREY = np.full((3, 3), 1 / 3)
_AXIS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # the cross product with the grey axis
_FIELD = 4  # points of a mask to each side
_PATCH = 2  # means of a crop to each side that its even background runs through
_OUTLINE = 6  # points of a mask to each side, for what stands before a background out of focus
_DEFOCUSED = (5, 32)  # means of a crop to each side that such a background runs through, from and to
_FRAME_PX = 8  # of a side, at most
_ENLARGED = 2.0  # times, at most
_SHARPENED = 2.0  # times what a blur takes away is added, at most
_CALMED = 0.5  # of its contrast is left, at least


@dataclass(frozen=True)
class Change:
    """What is drawn for one crop; a field that is None leaves the crop as it is."""

    colours: np.ndarray | None = None  # 3 4: a matrix and what it adds
    background: np.ndarray | None = None  # 3 3: a matrix for the colours of an even background
    field: np.ndarray | None = None  # 4 4: the background shows where this is above 0
    sharpness: float = 0.0  # of its outline
    outline: np.ndarray | None = None  # 6 6: a background out of focus shows where this is above 0
    means: int = 0  # to each side that this background runs through
    edge: float = 0.0  # sharpness of what stands before it
    frame: np.ndarray | None = None  # 4: widths at the left, top, right and bottom, in pixels
    frame_colour: np.ndarray | None = None  # 3
    window: np.ndarray | None = (
        None  # 3: what is enlarged, the room above it and the room at its left, in parts of a side
    )
    sharpening: float = 0.0  # of what was enlarged
    contrast: float = 1.0  # left of it


@dataclass(frozen=True)
class Variety:
    """Shares of crops, 0 to 1, that get other colours, an even background in a part of them, or a frame, of which a
    part is enlarged to the whole, that lose contrast, or that get a background out of focus."""

    recoloured: float = 0.0
    evened: float = 0.0
    framed: float = 0.0
    enlarged: float = 0.0
    calmed: float = 0.0
    defocused: float = 0.0

    def draw(self, random: np.random.Generator) -> Change:
        """What becomes of the next crop; nothing is drawn for a share of 0."""
        drawn: dict[str, Any] = {}
        if self.recoloured and random.random() < self.recoloured:
            turn, strength, gain, shift = random.normal(0, (0.5, 0.4, 0.2, 0.1))
            matrix = np.exp(gain) * _colour_matrix(turn, np.exp(strength))
            drawn |= {"colours": np.column_stack([matrix, np.full(3, shift)])}
        if self.evened and random.random() < self.evened:
            drawn |= {
                "background": _colour_matrix(0.0, np.exp(abs(random.normal(0, 0.7)))),
                "field": random.normal(0, 1, (_FIELD, _FIELD)),
                "sharpness": float(np.exp(random.uniform(0, 4))),
            }
        if self.framed and random.random() < self.framed:
            widths = random.integers(1, _FRAME_PX + 1, 4) * (random.random(4) < 0.5)  # half of the sides have none
            colour = np.clip(random.uniform(-1, 1) + random.normal(0, 0.1, 3), -1, 1)  # nearly grey
            drawn |= {"frame": widths, "frame_colour": colour}
        if self.enlarged and random.random() < self.enlarged:
            part = _ENLARGED ** -random.random()
            window = np.array([part, *random.uniform(0, 1 - part, 2)])
            drawn |= {"window": window, "sharpening": random.uniform(0, _SHARPENED)}
        if self.calmed and random.random() < self.calmed:
            drawn |= {"contrast": random.uniform(_CALMED, 1)}
        if self.defocused and random.random() < self.defocused:
            drawn |= {
                "outline": random.normal(0, 1, (_OUTLINE, _OUTLINE)),
                "means": round(np.exp(random.uniform(*np.log(_DEFOCUSED)))),
                "edge": float(np.exp(random.uniform(1, 4))),
            }
        return Change(**drawn)

    def apply(self, crops: Tensor, changes: list[Change]) -> Tensor:
        """`crops` N 3 H W in [-1, 1] with the N `changes` made, in place."""
        for x, change in zip(crops, changes, strict=True):
            if change.window is not None:
                x.copy_(_enlarged(x, change.window, change.sharpening))
            if change.contrast < 1:
                x.copy_(torch.lerp(x.mean((1, 2), keepdim=True), x, change.contrast))
            if change.outline is not None:
                # Upside down, so that what stands before it has other colours.
                x.lerp_(_softened(x.flip(1, 2), change.means), _mask(x, change.outline, change.edge))
            if change.colours is not None:
                x.copy_(_recoloured(x, change.colours))
            if change.field is not None and change.background is not None:
                even = _recoloured(_softened(x, _PATCH), np.column_stack([change.background, np.zeros(3)]))
                x.lerp_(even, _mask(x, change.field, change.sharpness))
            if change.frame is not None and change.frame_colour is not None:
                _draw_frame(x, change.frame, change.frame_colour)
        return crops


def _softened(x: Tensor, means: int) -> Tensor:
    """What runs through `means` by `means` means of `x` 3 H W."""
    return F.interpolate(F.adaptive_avg_pool2d(x[None], means), x.shape[1:], mode="bicubic")[0]


def _mask(x: Tensor, field: np.ndarray, sharpness: float) -> Tensor:
    """Where a `field` of few points lies above 0, as 1 H W from 0 to 1 for `x` 3 H W."""
    points = torch.from_numpy(field).to(x)[None, None]
    return torch.sigmoid(sharpness * F.interpolate(points, x.shape[1:], mode="bicubic")[0])


def _enlarged(x: Tensor, window: np.ndarray, sharpening: float) -> Tensor:
    """A `window` of `x` 3 H W at its size, plus `sharpening` times what a blur over 3x3 pixels takes away from it."""
    height, width = x.shape[1:]
    part, above, left = window
    top, start = int(above * height), int(left * width)
    seen = x[None, :, top : top + round(part * height), start : start + round(part * width)]
    large = F.interpolate(seen, (height, width), mode="bicubic", align_corners=False)
    blurred = F.avg_pool2d(F.pad(large, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(blurred, large, 1 + sharpening)[0].clamp_(-1, 1)


def _colour_matrix(turn: float, strength: float) -> np.ndarray:
    """Hues turned by `turn` radians, colours `strength` times as far from grey of the same brightness."""
    rotation = np.cos(turn) * np.eye(3) + np.sin(turn) * _AXIS + (1 - np.cos(turn)) * _GREY  # after Rodrigues
    grey = np.outer(np.ones(3), _LUMA)
    return (strength * np.eye(3) + (1 - strength) * grey) @ rotation


def _recoloured(x: Tensor, matrix: np.ndarray) -> Tensor:
    """`x` 3 H W, each pixel multiplied by the first three columns of `matrix` 3 4, plus the last."""
    m = torch.from_numpy(matrix).to(x)
    return torch.einsum("ij,jhw->ihw", m[:, :3], x).add_(m[:, 3, None, None]).clamp_(-1, 1)


def _draw_frame(x: Tensor, widths: np.ndarray, colour: np.ndarray) -> None:
    """Paint the outermost pixels of `x` 3 H W, `widths` of them at the left, top, right and bottom."""
    left, top, right, bottom = (int(width) for width in widths)
    even = torch.from_numpy(colour).to(x)[:, None, None]
    for part in (x[:, :top], x[:, x.shape[1] - bottom :], x[:, :, :left], x[:, :, x.shape[2] - right :]):
        part.copy_(even.expand_as(part))


PLAIN = Variety()
