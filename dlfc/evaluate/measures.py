"""How like its photo a decoded picture is: PSNR, MS-SSIM, and what weights in a folder allow besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dlfc.errors import DlfcError
from dlfc.evaluate import inception
from dlfc.evaluate.lpips import Lpips

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik, 2003
_WINDOW_PX = 11
_WINDOW_SIGMA_PX = 1.5
COLOUR = "colour"  # not a measure of its own, but what the checks need: see `colour_error`


@dataclass(frozen=True)
class Measure:
    """A measure of quality as tables show it; `weights` is the file that it needs."""

    name: str
    title: str
    digits: int
    higher_is_better: bool = False
    weights: str | None = None
    of_sets: bool = False  # compares two sets of pictures, not two pictures

    def better(self, a: float, b: float) -> bool:
        """Whether value `a` is strictly better than `b`."""
        return a > b if self.higher_is_better else a < b

    def show(self, value: float | None) -> str:
        """The value as tables show it."""
        return "-" if value is None else f"{value:.{self.digits}f}"


MEASURES = (
    Measure("LPIPS-alex", "LPIPS-alex", 3, weights="lpips_alex.safetensors"),
    Measure("LPIPS-squeeze", "LPIPS-squeeze", 3, weights="lpips_squeeze.safetensors"),
    Measure("MS-SSIM", "MS-SSIM", 3, higher_is_better=True),
    Measure("PSNR", "PSNR dB", 2, higher_is_better=True),
    Measure("IPS", "IPS", 3, weights=inception.WEIGHTS),
    Measure("DISTS-I", "DISTS-I", 3, weights=inception.WEIGHTS),
    Measure("FID-768", "FID-768", 3, weights=inception.WEIGHTS, of_sets=True),
    Measure("KID-768", "KID-768 x1000", 3, weights=inception.WEIGHTS, of_sets=True),
)


@dataclass(frozen=True)
class Sight:
    """A picture as the measures see it: pixels, 1 3 H W in [0, 1], and the features that networks find in it."""

    pixels: Tensor
    lpips: Mapping[str, list[Tensor]]
    inception: Mapping[str, Tensor]


class Judge:
    """Measures pictures with what the folder `weights` offers. Safe to use from several threads.

    `names` chooses among MEASURES; what it names without weights for it raises ModelError. Without `names` everything
    is measured that can be, and `left_out` holds the rest.
    """

    def __init__(self, weights: Path | None, names: Sequence[str] | None = None, device: str = "cpu") -> None:
        self._device = torch.device(device)
        by_name = {measure.name.lower(): measure for measure in MEASURES}
        for name in names or ():
            if name.lower() not in by_name:
                raise DlfcError(f"no measure {name!r}; there are: {', '.join(m.name for m in MEASURES)}")
        asked = MEASURES if names is None else [m for m in MEASURES if m.name.lower() in {n.lower() for n in names}]
        self.left_out = tuple(m for m in asked if m.weights and not (weights and (weights / m.weights).is_file()))
        if names is not None and self.left_out:
            missing = self.left_out[0]
            raise DlfcError(f"{missing.name} needs {missing.weights}; name the folder that holds it with --metrics")
        self.measures = tuple(m for m in asked if m not in self.left_out)
        chosen = {measure.name for measure in self.measures}
        self._lpips: dict[str, Lpips] = {}
        self._trunk: inception.InceptionTrunk | None = None
        if weights is not None:
            for net in ("alex", "squeeze"):
                if f"LPIPS-{net}" in chosen:
                    self._lpips[f"LPIPS-{net}"] = Lpips(weights, net).to(self._device)
            if any(measure.weights == inception.WEIGHTS for measure in self.measures):
                self._trunk = inception.InceptionTrunk(weights).to(self._device)

    @property
    def of_pictures(self) -> tuple[Measure, ...]:
        """The measures that compare two pictures."""
        return tuple(measure for measure in self.measures if not measure.of_sets)

    @property
    def of_sets(self) -> tuple[Measure, ...]:
        """The measures that compare two sets of pictures."""
        return tuple(measure for measure in self.measures if measure.of_sets)

    @torch.inference_mode()
    def look(self, image: Image.Image) -> Sight:
        """What the measures need to know of an RGB picture."""
        x = torch.from_numpy(np.array(image)).to(self._device).permute(2, 0, 1)[None].float() / 255
        features = {name: net.features(x) for name, net in self._lpips.items()}
        needed = self._trunk is not None and {"IPS", "DISTS-I"} & {measure.name for measure in self.measures}
        return Sight(x, features, self._trunk(x) if self._trunk is not None and needed else {})

    @torch.inference_mode()
    def compare(self, picture: Sight, photo: Sight) -> dict[str, float]:
        """The value of each measure of two pictures, and the error of the mean colour.

        What is not defined for a picture of this size is left out.
        """
        x, y = picture.pixels, photo.pixels
        values: dict[str, float] = {}
        for measure in self.of_pictures:
            if measure.name in self._lpips:
                net = self._lpips[measure.name]
                value = float(net.distance(picture.lpips[measure.name], photo.lpips[measure.name]))
            elif measure.name == "PSNR":
                value = psnr(x, y)
            elif measure.name == "MS-SSIM":
                value = ms_ssim(x, y)
            elif measure.name == "IPS":
                value = inception.ips(picture.inception, photo.inception)
            else:
                value = inception.dists_i(x, y, picture.inception, photo.inception)
            if not math.isnan(value):
                values[measure.name] = value
        return values | {COLOUR: colour_error(x, y)}

    @torch.inference_mode()
    def patch_features(self, sight: Sight) -> inception.Array:
        """What the measures of sets keep of one picture: N 768, one row for each patch."""
        if self._trunk is None:
            return np.zeros((0, 768))
        return inception.pooled(self._trunk, inception.patches(sight.pixels))

    def compare_sets(self, pictures: inception.Array, photos: inception.Array) -> dict[str, float]:
        """The value of each measure of sets, for the patch features of all pictures and of all photos."""
        if min(len(pictures), len(photos)) < 2:
            return {}
        values: dict[str, float] = {}
        for measure in self.of_sets:
            if measure.name == "FID-768":
                values[measure.name] = inception.frechet_distance(pictures, photos)
            else:
                values[measure.name] = 1000 * inception.kernel_distance(pictures, photos)
        return values


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio over RGB in [0, 1], in dB; infinite for equal pictures."""
    error = float(F.mse_loss(x.double(), y.double()))
    return -10 * math.log10(error) if error else math.inf


def ms_ssim(x: Tensor, y: Tensor) -> float:
    """Multi-scale SSIM of two pictures, 1 3 H W in [0, 1]: five scales, 11-tap Gaussian of sigma 1.5, mean of RGB.

    Not a number for pictures with a side below 161 pixels, whose fifth scale would be smaller than the window.
    """
    if min(x.shape[2:]) <= (_WINDOW_PX - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1):
        return math.nan
    result = torch.ones(3).to(x)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        mean_x, mean_y = _blur(x), _blur(y)
        var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
        similarity = (2 * (_blur(x * y) - mean_x * mean_y) + 0.03**2) / (var_x + var_y + 0.03**2)
        if scale == len(_SCALE_WEIGHTS) - 1:
            similarity = similarity * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        result = result * similarity.mean((0, 2, 3)).clamp(min=0) ** weight
        odd = [side % 2 for side in x.shape[2:]]  # half pixels are padded, as in the program that papers use
        x, y = F.avg_pool2d(x, 2, padding=odd), F.avg_pool2d(y, 2, padding=odd)
    return float(result.mean())


def _blur(x: Tensor) -> Tensor:
    """Means of 1 C H W under the window of MS-SSIM, where it lies wholly inside.

    Shifted sums: on a CPU twenty times as fast as torch's convolution of single channels.
    """
    half = _WINDOW_PX // 2
    taps = [math.exp(-((k - half) ** 2) / (2 * _WINDOW_SIGMA_PX**2)) for k in range(_WINDOW_PX)]
    for side in (2, 3):
        size = x.shape[side] - 2 * half
        parts = x.narrow(side, 0, size) * (taps[0] / sum(taps))
        for k in range(1, _WINDOW_PX):
            parts.add_(x.narrow(side, k, size), alpha=taps[k] / sum(taps))
        x = parts
    return x


def colour_error(x: Tensor, y: Tensor) -> float:
    """How far the mean colours of two pictures in [0, 1] are apart: the worst of R, G and B, in 1/255."""
    return 255 * float((x.mean((2, 3)) - y.mean((2, 3))).abs().max())
