"""Pictures to .dlf bytes and back: the one place where image, model, symbols and format meet.

Encoding has two steps: `analyse` runs the network once for pictures, `code` makes files of what it found, at a quality.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dlfc.companions import Finish, info_of
from dlfc.effort import MOST, PLAIN
from dlfc.errors import LimitError, ModelError
from dlfc.formats import (
    DEFAULT_MAX_PIXELS,
    Container,
    Extra,
    nearest_quality,
    unpack,
    unpack_companions,
)
from dlfc.model.dlf import Part
from dlfc.model.linear import Linear, can_pack, packing_pays
from dlfc.model.vit import joined
from dlfc.painting import Canvas, Strips, in_strips
from dlfc.raw import RawPicture
from dlfc.refine import Plain, refine
from dlfc.symbols import Analysis, Symbols
from dlfc.target import DEFAULT_QUALITY, largest_within, limit_of
from dlfc.tensors import Padded, memory_for, padded
from dlfc.tiling import Tiling
from dlfc.timing import timed
from dlfc.zoo import registry, store

Int32Array = npt.NDArray[np.int32]
PRECISION_VARIABLE = "DLFC_PRECISION"
_LARGE = 10**8  # parameters; smaller models encode fast enough, and then every machine writes the same file


@dataclass(frozen=True)
class Codec:
    """A loaded model as an image codec. Safe to use from several threads."""

    model: store.LoadedModel

    @classmethod
    def load(
        cls,
        model: str | bytes | None = None,
        *,
        device: str = "auto",
        models_dir: Path | None = None,
        purpose: Part = "both",
        precision: str | None = None,
    ) -> Codec:
        """Load a model by name, by the path of its weights file or by the 4-byte id in a file; None is the default.

        `device` is auto (a GPU if there is one), cpu or cuda. With the `purpose` encode or decode, only what that
        needs is loaded. `precision` is float32, or bfloat16, which is about twice as fast on a CPU with instructions
        for it and moves pixels a little, or auto: bfloat16 on such a CPU to decode only, and for large models. None
        takes it from the variable DLFC_PRECISION, or is auto. Raises ModelError if there is no such model or device.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise ModelError(f"no device {device!r}; there are: auto, cpu, cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError("no CUDA device is available; use --device cpu")
        gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        entry = registry.find(model, models_dir)
        packed = _packs(precision or os.environ.get(PRECISION_VARIABLE) or "auto", purpose, entry, gpu)
        return cls(store.load(entry, torch.device("cuda" if gpu else "cpu"), purpose, packed=packed))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.entry.name

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the model's weights, 32 bytes."""
        return self.symbols.fingerprint

    @property
    def symbols(self) -> Symbols:
        """What reads and writes the symbols of this model's files."""
        return Symbols(self.model)

    @property
    def tiling(self) -> Tiling:
        """How pictures lie on the model's tiles, and which of them go through the network together."""
        return self.symbols.tiling

    @property
    def model_id(self) -> bytes:
        """What files say of this model, 4 bytes."""
        return self.model.entry.model_id

    def encode(
        self,
        image: Image.Image,
        *,
        quality: float | None = None,
        target_size: int | None = None,
        target_bpp: float | None = None,
        effort: int = PLAIN,
        extras: tuple[Extra, ...] = (),
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> bytes:
        """The .dlf file of `image`, which is taken as RGB, with `extras` as its optional sections.

        `quality` from 0 to 100 counts in half steps; the default is 50. In its place, `target_size` in bytes or
        `target_bpp` in bits per pixel asks for the highest quality whose file is not larger than that. With an `effort`
        above 1, up to 9, the picture is refined at that quality, still within the target; this needs a codec with both
        halves and weights in float32. Readers refuse pictures of more than DEFAULT_MAX_PIXELS unless told otherwise.

        Raises LimitError if the picture is larger than `max_pixels` or than memory, or if no file is as small as the
        target; ValueError if a number is out of range or more than one of quality and targets is given.
        """
        return self.encode_many(
            [image],
            quality=quality,
            target_size=target_size,
            target_bpp=target_bpp,
            effort=effort,
            extras=[extras],
            max_pixels=max_pixels,
        )[0]

    def take(self, image: Image.Image | RawPicture, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Padded:
        """A picture for `encode_many`, which needs `image` no longer then. Raises LimitError as that does."""
        self._check_size(*image.size, max_pixels)
        with memory_for(*image.size):
            return padded(image, self.tiling.config.tile_px)

    def encode_many(
        self,
        images: Sequence[Image.Image | Padded],
        *,
        quality: float | None = None,
        target_size: int | None = None,
        target_bpp: float | None = None,
        effort: int = PLAIN,
        extras: Sequence[tuple[Extra, ...]] | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> list[bytes]:
        """The .dlf files of `images`, each as `encode` makes it, in less time if they are small.

        Pictures that take equally many rows and columns of tiles go through the network together. Its sums may then
        differ in their last bits, so once in a while another token of nearly the same distance is chosen.
        """
        if sum(value is not None for value in (quality, target_size, target_bpp)) > 1:
            raise ValueError("quality, target_size and target_bpp exclude each other")
        if self.model.part == "decode":
            raise ValueError("this codec was loaded for decoding only")
        self._check_effort(effort)
        limits = [limit_of(image.size[0] * image.size[1], target_size, target_bpp) for image in images]
        for image in images:
            self._check_size(*image.size, max_pixels)
        files = [b""] * len(images)
        for group in self.tiling.groups([image.size for image in images]):
            with memory_for(*images[group[0]].size):
                analyses = self.analyse([images[at] for at in group])
                if extras is not None:
                    analyses = [replace(one, extras=extras[at]) for one, at in zip(analyses, group, strict=True)]
                if target_size is target_bpp is None:
                    coded = self.code(analyses, DEFAULT_QUALITY if quality is None else quality)
                else:
                    coded = [
                        self._code_within(*each) for each in zip(analyses, [limits[at] for at in group], strict=True)
                    ]
                if effort > PLAIN:
                    coded = [
                        self._refined(*each, effort)
                        for each in zip(analyses, coded, [limits[at] for at in group], strict=True)
                    ]
            for at, data in zip(group, coded, strict=True):
                files[at] = data
        return files

    def _check_size(self, width_px: int, height_px: int, max_pixels: int) -> None:
        if width_px * height_px > max_pixels:
            raise LimitError(f"{width_px}x{height_px} pixels are more than the limit of {max_pixels}")
        self.tiling.check(width_px, height_px, max_pixels)

    def analyse(self, images: Sequence[Image.Image | Padded]) -> list[Analysis]:
        """What the network finds in pictures of one padded size, which go through it together."""
        network = self.model.network
        with torch.inference_mode(), timed("network"):
            taken = [self._on_device(image) for image in images]
            inputs, features = network.analyse_tokens(joined(taken))
            tokens = network.codebook.nearest(inputs).view(len(images), -1, inputs.shape[1])
            _, across = self.tiling.tiles(*images[0].size)
            return [
                Analysis(*image.size, *self.symbols.settle(mine, across), pixels, found[None])
                for image, mine, pixels, found in zip(images, tokens, taken, features, strict=True)
            ]

    def code(self, analyses: Sequence[Analysis], quality: float) -> list[bytes]:
        """The .dlf files at `quality`, 0 to 100, of pictures of one padded size. Raises ValueError."""
        if not 0 <= quality <= 100:
            raise ValueError(f"quality must be a number from 0 to 100, not {quality}")
        quality = nearest_quality(quality)
        with torch.inference_mode():
            latents = self._latents(analyses, quality)
            with timed("coder"):
                return self.symbols.write(analyses, self.symbols.walk_held(analyses, quality, latents.cpu()))

    def _latents(self, analyses: Sequence[Analysis], quality: float) -> Tensor:
        with timed("network"):
            return self.model.network.analyse_detail(
                joined([one.pixels for one in analyses]),
                joined([one.features for one in analyses]),
                joined([one.tokens for one in analyses]),
                self.symbols.level([quality] * len(analyses)),
            )

    def _code_within(self, analysis: Analysis, limit_bytes: int) -> bytes:
        return largest_within(lambda step: self.code([analysis], step / 2)[0], limit_bytes)

    def _refined(self, analysis: Analysis, data: bytes, limit_bytes: int, effort: int) -> bytes:
        """What refining makes of the plain file `data`, which stays if the result is above a limit (0: none)."""
        quality = unpack(data, max_pixels=analysis.width_px * analysis.height_px).quality
        with torch.inference_mode():
            plain = Plain(
                pixels=analysis.pixels,
                visible=self.tiling.cells(analysis.width_px, analysis.height_px)[1],
                tokens=analysis.tokens,
                latent=self.symbols.walk_held([analysis], quality, self._latents([analysis], quality)).latents,
                level=self.symbols.level([quality]),
                file_bits=8.0 * len(data),
            )
        with timed("network"):
            prior = self.model.prior.as_floats(self.model.network.config)
            aim_bits = 8.0 * (limit_bytes or len(data))
            latent = refine(self.model.network, prior, plain, effort, aim_bits, strict=limit_bytes > 0)
        with torch.inference_mode(), timed("coder"):
            refined = self.symbols.write([analysis], self.symbols.walk([analysis], quality, latent.cpu()))[0]
        return data if 0 < limit_bytes < len(refined) else refined

    def _check_effort(self, effort: int) -> None:
        if not isinstance(effort, int) or not PLAIN <= effort <= MOST:
            raise ValueError(f"effort must be a whole number from {PLAIN} to {MOST}, not {effort!r}")
        if effort == PLAIN:
            return
        if self.model.part != "both":
            raise ValueError("this codec was loaded for plain encoding only; efforts above 1 need both halves")
        if any(isinstance(module, Linear) and module.packed is not None for module in self.model.network.modules()):
            raise ModelError("efforts above 1 need weights in 32 bits; load the model with the precision float32")

    def decode(
        self, data: bytes, *, allow_partial: bool = False, grain: bool = True, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> Image.Image:
        """The picture in a .dlf file, in mode L, LA, RGB or RGBA, with what was kept of it in its `info`.

        With `allow_partial` a file that was cut after its semantic section gives a picture too; without `grain`, the
        film grain that a file asks for is left out. Raises FormatError if the file is damaged, LimitError if it is
        larger than `max_pixels` or than memory, ModelError if it names another model.
        """
        return self.decode_many([data], allow_partial=allow_partial, grain=grain, max_pixels=max_pixels)[0]

    def decode_many(
        self,
        files: Sequence[bytes],
        *,
        allow_partial: bool = False,
        grain: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> list[Image.Image]:
        """The pictures in .dlf files, each as `decode` gives it but for the last bit of some pixels.

        Small ones of one padded size go through the network together, which takes less time. Raises the errors of
        `decode` for the first file that has one.
        """
        containers = self._containers(files, max_pixels, allow_partial)
        images: dict[int, Image.Image] = {}
        for group in self.tiling.groups([(container.width_px, container.height_px) for container in containers]):
            members = [containers[at] for at in group]
            canvases = [Canvas(container.width_px, container.height_px) for container in members]
            with memory_for(members[0].width_px, members[0].height_px):
                for place, top, strip in self._paint(members, grain):
                    canvases[place].put(top, strip)
            images |= zip(group, (canvas.image for canvas in canvases), strict=True)
        return [images[at] for at in range(len(files))]

    def decode_strips(
        self, data: bytes, *, allow_partial: bool = False, grain: bool = True, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> Strips:
        """The picture in a .dlf file as `decode` gives it, for what need not hold all of it.

        The errors of `decode` are raised here, but for want of memory, which may also come while strips are taken.
        """
        (container,) = self._containers([data], max_pixels, allow_partial)
        size, companions = (container.width_px, container.height_px), unpack_companions(container.extras)
        strips = (strip for _, _, strip in self._paint([container], grain))
        return Strips(size, companions.mode, info_of(companions), strips)

    def _containers(self, files: Sequence[bytes], max_pixels: int, allow_partial: bool) -> list[Container]:
        """What files say, if this codec can decode them."""
        if self.model.part == "encode":
            raise ValueError("this codec was loaded for encoding only")
        with timed("coder"):
            containers = [unpack(data, max_pixels=max_pixels, allow_partial=allow_partial) for data in files]
        for container in containers:
            if container.model_id != self.model_id:
                raise ModelError(
                    f"the file was made with model {container.model_id.hex()}, "
                    f"which is not {self.name!r} ({self.model_id.hex()})"
                )
            self.tiling.check(container.width_px, container.height_px, max_pixels)
        return containers

    def _paint(self, containers: Sequence[Container], grain: bool) -> Iterator[tuple[int, int, Image.Image]]:
        """Strips of pictures of one padded size from their tops: which picture, the first row, the strip.

        Everything about the files is checked before this returns; the network runs as strips are taken.
        """
        with memory_for(containers[0].width_px, containers[0].height_px), torch.inference_mode(), timed("coder"):
            finishes = [Finish.of(container, grain=grain) for container in containers]  # bad sections cost no work then
            symbols = self.symbols.read(*containers)
        return self._strips(containers, finishes, *symbols)

    @torch.inference_mode()
    def _strips(
        self, containers: Sequence[Container], finishes: Sequence[Finish], tokens: Tensor, latents: Tensor
    ) -> Iterator[tuple[int, int, Image.Image]]:
        level = self.symbols.level([container.quality for container in containers])
        bands = self.model.network.reconstruct_bands(tokens, latents, level)
        sizes = [(container.width_px, container.height_px) for container in containers]
        with memory_for(*sizes[0]):
            yield from in_strips(bands, sizes, finishes)

    def _on_device(self, image: Image.Image | Padded) -> Tensor:
        """1 3 H W, bytes."""
        taken = image if isinstance(image, Padded) else padded(image, self.tiling.config.tile_px)
        return taken.pixels.to(self.model.device)


def _packs(precision: str, purpose: Part, entry: registry.ModelEntry, gpu: bool) -> bool:
    """Whether to hold the weights of linear layers and convolutions in 16 bits.

    What encodes is not packed but where it must be, so that a picture becomes the same file on as many machines as can
    be.
    """
    if precision == "auto":
        return not gpu and (purpose == "decode" or entry.parameters >= _LARGE) and packing_pays()
    if precision not in ("float32", "bfloat16"):
        raise ModelError(f"no precision {precision!r}; there are: auto, float32, bfloat16")
    if precision == "bfloat16" and (gpu or not can_pack()):
        raise ModelError("bfloat16 needs a CPU with instructions for it; use float32 or auto")
    return precision == "bfloat16"
