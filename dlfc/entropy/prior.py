"""The detail prior in integers: the same symbols on every device, thread count, library and instruction set.

It is `dlfc.model.bottleneck.DetailPrior` rounded to fixed point. Activations are integers that stand for multiples
of 2^-12, weights for multiples of 2^-14. Everything is held in float64 tensors whose values are integers and whose
sums stay below 2^53, so any order of summation gives the same result. SPEC.md, section "Detail prior", states the
arithmetic for other decoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlfc.errors import ModelError
from dlfc.model.bottleneck import DetailPrior, pass_masks
from dlfc.model.config import DLFConfig

ACTIVATION_BITS = 12
WEIGHT_BITS = 14
ONE = 1 << ACTIVATION_BITS
MAX_ACTIVATION = 1 << 26  # activations are clamped to +-this, so sums have a bound
MAX_ROW = 1 << 26  # bound on the summed magnitudes of a row of weights: products stay below 2^52
MAX_BIAS = 1 << 51  # bound on a bias, so that sums stay below 2^53
SLOPE_BITS = 16
SLOPE_1 = 655  # 0.01 of 2^16
SLOPE_2 = 6554  # 0.1 of 2^16
MIN_STEP = ONE // 2
SKIP_SCALE = 492  # 0.12: below it a symbol is 0 and not coded
QUALITY_STEPS = 200  # quality in half steps
CODES = "context.codes"  # of tokens; a prior that has them sees tokens
MAX_SYMBOL = 1 << 13  # an encoder never writes a larger residual: half of the clamp, the rest is for the mean

Int32Array = npt.NDArray[np.int32]


def to_integers(prior: DetailPrior) -> dict[str, Tensor]:
    """The tensors of an integer prior, int32 weights and int64 biases, from float weights.

    Raises ModelError if a value is too large for the fixed point or not a number.
    """
    tensors = {"vector": rounded(prior.vector, ACTIVATION_BITS)}
    if prior.context is not None:
        tensors[CODES] = rounded(prior.context.codes, ACTIVATION_BITS)
    for name, module in prior.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            tensors[f"{name}.weight"] = rounded(module.weight, WEIGHT_BITS).flatten(1)  # depthwise: nine a channel
            tensors[f"{name}.bias"] = rounded(module.bias, ACTIVATION_BITS + WEIGHT_BITS)
    check_integers(tensors, prior)
    return {name: value.to(torch.int64 if name.endswith("bias") else torch.int32) for name, value in tensors.items()}


def check_integers(tensors: Mapping[str, Tensor], prior: DetailPrior) -> None:
    """Raise ModelError unless `tensors` have the names and shapes of `prior` and stay within the fixed point."""
    shapes = {"vector": prior.vector.shape}
    if prior.context is not None:
        shapes[CODES] = prior.context.codes.shape
    for name, module in prior.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            shapes[f"{name}.weight"] = module.weight.flatten(1).shape
            shapes[f"{name}.bias"] = torch.Size([module.out_channels])
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in shapes or name not in tensors or tensors[name].shape != shapes[name]:
            raise ModelError(f"the prior's {name} is missing, unknown or of another shape")
        size = tensors[name].double().abs()
        if name.endswith(".weight"):
            fits = size.sum(1) < MAX_ROW
        else:
            fits = size < MAX_BIAS if name.endswith(".bias") else size <= MAX_ACTIVATION
        if not bool((fits & (size.floor() == size).all()).all()):
            raise ModelError(f"the prior's {name} has values that are too large for fixed point or no integers")


def rounded(values: Tensor, bits: int) -> Tensor:
    """The multiples of 2^-bits nearest to `values`, as integers in float64."""
    return torch.round(values.detach().double() * (1 << bits))


_KEPT_CELLS = 1 << 10  # starts of pictures up to this size are kept for the next one: 1.5 MB at 48 channels


class IntegerPrior:
    """Evaluates the prior; holds the tensors that `to_integers` made.

    Maps are C H W, or C B H W for several pictures side by side.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.device = device
        self.vector = tensors["vector"].to(torch.int64)
        self.levels, self.channels = self.vector.shape
        self._tensors = {k: v.to(device, torch.float64) for k, v in tensors.items() if k != "vector"}
        self._sees_tokens = CODES in tensors
        self._last_start: tuple[tuple[int, int, int], tuple[Tensor, Tensor, Tensor, Tensor]] | None = None

    def as_floats(self, config: DLFConfig) -> DetailPrior:
        """The same prior in floats, for gradients. Its symbols may differ once in a while: no file may rest on it."""
        with torch.device("meta"):
            prior = DetailPrior(config).requires_grad_(False)
        prior.to_empty(device=self.device)
        prior.vector.copy_(self.vector / ONE)
        if prior.context is not None:
            prior.context.codes.copy_(self._tensors[CODES] / ONE)
        for name, module in prior.named_modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
                module.weight.copy_((weight / (1 << WEIGHT_BITS)).view(module.weight.shape))
                module.bias.copy_(bias / (1 << ACTIVATION_BITS + WEIGHT_BITS))
        return prior

    def start(
        self, quality_step: int, height: int, width: int, regions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step, scales, means and the common map of a latent of `height` x `width` cells, each C H W.

        `regions` R S, or 1 R S, are the tokens of the picture's regions, which must be given if the prior sees them.
        What does not depend on them is kept for the next small picture. Not to be written to.
        """
        step, *maps = self._alike(quality_step, height, width)
        if self._sees_tokens:
            if regions is None:
                raise ValueError("this prior needs the tokens of a picture")
            more = self._of_tokens(quality_step, height, width, regions).chunk(3)
            maps = [_clamp(a + b) for a, b in zip(maps, more, strict=True)]
        scales, means, common = maps
        return step, scales, means, common

    def _alike(self, quality_step: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same four for whatever tokens."""
        key, last = (quality_step, height, width), self._last_start
        if last is not None and last[0] == key:
            return last[1]
        params = self._block("first.1", self._block("first.0", self._vector(quality_step, height, width)))
        step, scales, means = params.chunk(3)
        maps = step.clamp(min=MIN_STEP), scales, means, self._pointwise("reduce", params)
        if height * width <= _KEPT_CELLS:
            self._last_start = key, maps
        return maps

    def _vector(self, quality_step: int, height: int, width: int) -> Tensor:
        """What the prior starts from at a quality, the same in all cells, C H W."""
        at, part = divmod(quality_step * (self.levels - 1), QUALITY_STEPS)
        above = self.vector[min(at + 1, self.levels - 1)]
        vector = (self.vector[at] * (QUALITY_STEPS - part) + above * part).div(QUALITY_STEPS, rounding_mode="floor")
        return vector.to(self.device, torch.float64)[:, None, None].expand(-1, height, width)

    def _of_tokens(self, quality_step: int, height: int, width: int, regions: Tensor) -> Tensor:
        """What the tokens of regions add to scales, means and common map, 3C H W."""
        rows, cols = regions.shape[-2:]
        codes = self._tensors[CODES][regions.view(rows, cols).to(self.device)]
        x = self._pointwise("context.spread", codes.movedim(2, 0))
        x = x.view(height // rows, width // cols, -1, rows, cols).permute(2, 3, 0, 4, 1)  # C R rows S columns
        x = _clamp(x.reshape(-1, height, width) + self._vector(quality_step, height, width))
        return self._pointwise("context.out", self._block("context.blocks.1", self._block("context.blocks.0", x)))

    def refine(self, k: int, known: Tensor, common: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means of pass `k` (1..3), given the values of the passes before."""
        x = self._block(f"adaptors.{k - 1}", torch.cat([known, common]))
        for i in range(3):
            x = self._block(f"spatial.{i}", x)
        scales, means = x.chunk(2)
        return scales, means

    def _block(self, name: str, x: Tensor) -> Tensor:
        y = _leaky(self._pointwise(f"{name}.conv1", x), SLOPE_1)
        y = self._pointwise(f"{name}.conv2", self._depthwise(f"{name}.depthwise", y))
        skip = self._pointwise(f"{name}.adaptor", x) if f"{name}.adaptor.weight" in self._tensors else x
        x = _clamp(skip + y)
        a, b = self._pointwise(f"{name}.expand", x).chunk(2)
        return _clamp(x + self._pointwise(f"{name}.contract", _clamp(_leaky(a, SLOPE_2) + _leaky(b, SLOPE_1))))

    def _pointwise(self, name: str, x: Tensor) -> Tensor:
        total = self._tensors[f"{name}.weight"] @ x.reshape(x.shape[0], -1)
        return _rescale(total.add_(self._tensors[f"{name}.bias"][:, None])).view(-1, *x.shape[1:])

    def _depthwise(self, name: str, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
        per_channel = (slice(None), *[None] * (x.dim() - 1))
        weight = self._tensors[f"{name}.weight"]
        total = self._tensors[f"{name}.bias"][per_channel].expand_as(x).clone()
        for i in range(9):
            row, col = divmod(i, 3)
            total.addcmul_(weight[:, i][per_channel], padded[..., row : row + h, col : col + w])
        return _rescale(total)


def _clamp(x: Tensor) -> Tensor:
    return x.clamp(-MAX_ACTIVATION, MAX_ACTIVATION)


def _rescale(total: Tensor) -> Tensor:
    """Back to activation units: divided by 2^14, rounded half up, clamped; `total` is overwritten."""
    total.add_(1 << (WEIGHT_BITS - 1)).mul_(2.0**-WEIGHT_BITS)
    return total.floor_().clamp_(-MAX_ACTIVATION, MAX_ACTIVATION)


def _leaky(x: Tensor, slope: int) -> Tensor:
    """`x` where it is not negative, else the floor of `x` times the slope: always the larger of the two."""
    return torch.maximum(x, (x * slope).mul_(2.0**-SLOPE_BITS).floor_())


class FourPasses:
    """Walks the four passes of one latent; encoder and decoder share it, so they cannot differ.

    Iterating gives, for each pass, the table index of every symbol to code, int32 in coding order (channel groups
    merged, then rows, then columns); call `residuals` (encoder) and then `accept` with the symbols, before the next.
    Cells outside `visible` (rows, columns) lie wholly in padding: their symbols are 0 and not coded.
    """

    def __init__(
        self,
        prior: IntegerPrior,
        thresholds: Tensor,
        quality_step: int,
        size: tuple[int, int],
        visible: tuple[int, int],
        regions: Tensor | None = None,
    ) -> None:
        """Of a latent of `size` cells; `regions` as in `IntegerPrior.start`."""
        self._prior, self._thresholds = prior, thresholds.to(prior.device)
        height, width = size
        self._step, self._scales, self._means, self._common = prior.start(quality_step, height, width, regions)
        self._values = torch.zeros_like(self._step)
        self._masks = pass_masks(prior.channels, height, width).to(prior.device)
        self._seen = torch.zeros(height, width, dtype=torch.bool, device=prior.device)
        self._seen[: visible[0], : visible[1]] = True
        self._mask = self._coded = self._masks[0]

    @classmethod
    def side_by_side(cls, passes: Sequence[FourPasses]) -> FourPasses:
        """The walks of latents of one size, none of them begun, as one that takes less time.

        In all arrays the symbols of one picture follow those of the one before; `counts` says how many are whose.
        """
        many = object.__new__(cls)
        many._prior, many._thresholds = passes[0]._prior, passes[0]._thresholds
        for name in ("_step", "_scales", "_means", "_common", "_values"):
            setattr(many, name, torch.stack([getattr(one, name) for one in passes], 1))  # C B H W
        many._masks = passes[0]._masks[:, :, None]
        many._seen = torch.stack([one._seen for one in passes])
        many._mask = many._coded = many._masks[0]
        return many

    @property
    def counts(self) -> list[int]:
        """How many symbols of this pass belong to each picture."""
        return _by_picture(self._coded).flatten(-3).sum(-1).reshape(-1).tolist()

    def __iter__(self) -> Iterator[Int32Array]:
        for k, mask in enumerate(self._masks):
            if k:
                self._scales, self._means = self._prior.refine(k, self._values, self._common)
            self._mask = mask
            scales = self._merge(self._scales)
            self._coded = (scales >= SKIP_SCALE) & self._seen
            coded = _by_picture(scales)[_by_picture(self._coded)]
            index = torch.searchsorted(self._thresholds, coded.long(), right=True) - 1
            yield index.clamp(min=0).to(torch.int32).cpu().numpy()

    def residuals(self, latent: Tensor) -> Int32Array:
        """The symbols of this pass for an encoder's `latent` C H W (before the step), rounded half to even.

        For several pictures, `latent` is C B H W.
        """
        y = latent.to(self._prior.device, torch.float64) * ONE / self._step
        rounded = torch.round(_by_picture(self._merge(y - self._means / ONE))[_by_picture(self._coded)])
        return rounded.clamp(-MAX_SYMBOL, MAX_SYMBOL).to(torch.int32).cpu().numpy()

    def accept(self, symbols: Int32Array) -> None:
        """Take the symbols of this pass into the values that later passes see."""
        group = torch.zeros(self._coded.shape, dtype=torch.float64, device=self._prior.device)
        _by_picture(group)[_by_picture(self._coded)] = torch.from_numpy(symbols.astype(np.float64)).to(group.device)
        spread = group.repeat(4, *[1] * (group.dim() - 1))  # a position holds one channel group per pass
        self._values = torch.where(self._mask, _clamp(spread * ONE + self._means), self._values)

    def step(self) -> Tensor:
        """The mean step of each channel, float32 B C."""
        step = self._step.double().mean((-2, -1)) / ONE
        return step.movedim(0, -1).reshape(-1, step.shape[0]).float()

    def latent(self) -> Tensor:
        """The quantised latent times its step, float32 B C H W, B being 1 for one picture."""
        latent = (self._values * self._step * 2.0 ** (-2 * ACTIVATION_BITS)).float()
        return latent.movedim(0, -3).reshape(-1, latent.shape[0], *latent.shape[-2:])

    def _merge(self, x: Tensor) -> Tensor:
        """The coded quarter of C H W as C/4 H W: the sum over channel groups of what this pass's mask leaves."""
        return torch.where(self._mask, x, torch.zeros_like(x)).reshape(4, -1, *x.shape[1:]).sum(0)


def _by_picture(x: Tensor) -> Tensor:
    """C H W as it is, C B H W as B C H W: coding order."""
    return x.movedim(0, -3)
