"""How far a picture is from a photo, for refining at encoding: squared error, and the texture of small places.

Squared error alone is content with blur. Texture is seen as the first layers of networks for pictures see it, by a
bank of Gabor filters and means of colour whose answers are brought to unit length at each place. The bank is made of
formulas, so this needs no weights.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_FILTER_PX = 11
_STRIDE_PX = 4
_WAVES_PX = ((3.5, 1.6), (6.0, 2.4), (10.0, 3.2))  # wavelength, and sigma of the window
_DIRECTIONS = 6
_BLOB_SIGMA_PX = 2.5
_BLOB_WEIGHT = 0.5  # of colour beside waves
_FAINT = 0.05  # length of answers, for samples from -1 to 1, below which texture counts less
_TEXTURE = 1.4  # of the logarithm of a distance; the rest, below 0, is squared error's, of which some may come back
_LEAST_TEXTURE, _LEAST_SQUARES = 1e-4, 1e-6  # so that the logarithm of no distance is bounded


class Likeness:
    """Distances to one photo, `1 3 H W` in [-1, 1], both sides at least 16 pixels."""

    def __init__(self, photo: Tensor) -> None:
        self._photo = photo
        self._texture = _texture(photo)

    def log_distances(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the distance of a picture of that size, with gradients, and that of its squared error.

        The distance is a mean of logarithms, so that the scale of what they are of plays no part.
        """
        texture = sum(
            (
                (mine - photos).square().sum(1).mean()
                for mine, photos in zip(_texture(picture), self._texture, strict=True)
            ),
            start=picture.new_tensor(_LEAST_TEXTURE),
        )
        squares = (F.mse_loss(picture, self._photo) + _LEAST_SQUARES).log()
        return _TEXTURE * texture.log() + (1 - _TEXTURE) * squares, squares


def _texture(x: Tensor) -> list[Tensor]:
    """Answers of unit length, at two sizes of the picture, and the strongest of each neighbourhood of them."""
    waves, blob = _bank(x.device)
    red, green, blue = x.split(1, 1)
    luma = 0.3 * red + 0.59 * green + 0.11 * blue
    planes = torch.cat([red - green, (red + green) / 2 - blue, luma], 1)
    found = []
    for scale in (1, 2):
        shrunk = F.avg_pool2d(planes, scale)
        padded = F.pad(shrunk, [_FILTER_PX // 2] * 4, mode="replicate")
        stride = _STRIDE_PX // scale
        answers = torch.cat(
            [
                F.conv2d(padded[:, 2:], waves, stride=stride),
                _BLOB_WEIGHT * F.conv2d(padded, blob.expand(3, -1, -1, -1), stride=stride, groups=3),
            ],
            1,
        )
        signed = torch.cat([F.relu(answers), F.relu(-answers)], 1)
        found += [_unit(signed), _unit(F.max_pool2d(signed, 3, 2))]
    return found


def _unit(answers: Tensor) -> Tensor:
    return answers / (answers.square().sum(1, keepdim=True) + _FAINT**2).sqrt()


@cache
@torch.inference_mode(False)  # kept for later calls, which need gradients
def _bank(device: torch.device) -> tuple[Tensor, Tensor]:
    """Gabor filters, `N 1 h w`, of zero mean and unit magnitude, and a round window, `1 1 h w`."""
    offset = torch.arange(_FILTER_PX) - _FILTER_PX // 2
    y, x = torch.meshgrid(offset.float(), offset.float(), indexing="ij")
    filters = []
    for wave_px, sigma_px in _WAVES_PX:
        window = _window(x, y, sigma_px)
        for direction in range(_DIRECTIONS):
            angle = math.pi * direction / _DIRECTIONS
            along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / wave_px)
            for wave in (window * torch.cos(along), window * torch.sin(along)):
                wave = wave - window * wave.sum()
                filters.append(wave / wave.abs().sum())
    blob = _window(x, y, _BLOB_SIGMA_PX)
    return torch.stack(filters)[:, None].to(device), blob[None, None].to(device)


def _window(x: Tensor, y: Tensor, sigma_px: float) -> Tensor:
    window = torch.exp(-(x.square() + y.square()) / (2 * sigma_px**2))
    return window / window.sum()
