"""Pictures to .dlf bytes and back: the one place where image, model, entropy coder and format meet.

Encoding has two steps: `analyse` runs the network once for pictures, `code` makes files of what it found, at a quality.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dlfc.companions import Finish
from dlfc.effort import MOST, PLAIN
from dlfc.entropy.coder import Encoder
from dlfc.entropy.prior import FourPasses
from dlfc.entropy.sections import CutStream, SymbolCheck, WholeStream
from dlfc.errors import FormatError, LimitError, ModelError
from dlfc.formats import DEFAULT_MAX_PIXELS, Container, Extra, nearest_quality, pack, unpack
from dlfc.model.dlf import Part, pad_to_tiles
from dlfc.model.linear import Linear, can_pack
from dlfc.model.vit import joined
from dlfc.refine import Plain, refine
from dlfc.target import DEFAULT_QUALITY, largest_within, limit_of
from dlfc.tensors import as_integers, cut, memory_for, to_bytes, to_image
from dlfc.tiling import FREE_PX, Tiling
from dlfc.timing import timed
from dlfc.zoo import registry, store

Int32Array = npt.NDArray[np.int32]
PRECISION_VARIABLE = "DLFC_PRECISION"
_LARGE = 10**8  # parameters; smaller models encode fast enough, and then every machine writes the same file
_SLACK_BITS = 64  # tokens whose shortest number is this much shorter than they cost come once in 2^64 pictures


@dataclass(frozen=True)
class Analysis:
    """What the network finds in one picture whatever the quality, with the picture itself."""

    width_px: int
    height_px: int
    tokens: Tensor  # T 32
    semantic: bytes  # the section of these tokens
    pixels: Tensor  # 1 3 H W, bytes, padded to whole tiles
    features: Tensor  # 1 C H/32 W/32
    extras: tuple[Extra, ...] = ()  # optional sections that its file gets


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
        return bytes.fromhex(self.model.entry.fingerprint)

    @property
    def tiling(self) -> Tiling:
        """How pictures lie on the model's tiles, and which of them go through the network together."""
        return Tiling(self.model.network.config)

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

    def encode_many(
        self,
        images: Sequence[Image.Image],
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
        limits = [limit_of(image.width * image.height, target_size, target_bpp) for image in images]
        for image in images:
            if image.width * image.height > max_pixels:
                raise LimitError(f"{image.width}x{image.height} pixels are more than the limit of {max_pixels}")
            self.tiling.check(*image.size, max_pixels)
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

    def analyse(self, images: Sequence[Image.Image]) -> list[Analysis]:
        """What the network finds in pictures of one padded size, which go through it together."""
        network = self.model.network
        with torch.inference_mode(), timed("network"):
            padded = [pad_to_tiles(self._to_tensor(image), network.config.tile_px) for image in images]
            inputs, features = network.analyse_tokens(joined(padded))
            tokens = network.codebook.nearest(inputs).view(len(images), -1, inputs.shape[1])
            _, across = self.tiling.tiles(*images[0].size)
            return [
                Analysis(*image.size, *self._settle(mine, across), pixels, found[None])
                for image, mine, pixels, found in zip(images, tokens, padded, features, strict=True)
            ]

    def code(self, analyses: Sequence[Analysis], quality: float) -> list[bytes]:
        """The .dlf files at `quality`, 0 to 100, of pictures of one padded size. Raises ValueError."""
        if not 0 <= quality <= 100:
            raise ValueError(f"quality must be a number from 0 to 100, not {quality}")
        quality = nearest_quality(quality)
        with torch.inference_mode():
            latents = self._latents(analyses, quality)
            with timed("coder"):
                return self._write(analyses, quality, latents.cpu())

    def _latents(self, analyses: Sequence[Analysis], quality: float) -> Tensor:
        with timed("network"):
            return self.model.network.analyse_detail(
                joined([one.pixels for one in analyses]),
                joined([one.features for one in analyses]),
                joined([one.tokens for one in analyses]),
                self._level([quality] * len(analyses)),
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
                latent=self._latents([analysis], quality),
                level=self._level([quality]),
                file_bits=8.0 * len(data),
            )
        with timed("network"):
            prior = self.model.prior.as_floats(self.model.network.config)
            aim_bits = 8.0 * (limit_bytes or len(data))
            latent = refine(self.model.network, prior, plain, effort, aim_bits, strict=limit_bytes > 0)
        with torch.inference_mode(), timed("coder"):
            refined = self._write([analysis], quality, latent.cpu())[0]
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

    def _write(self, analyses: Sequence[Analysis], quality: float, latents: Tensor) -> list[bytes]:
        encoders = [Encoder() for _ in analyses]
        checks = [SymbolCheck(self.fingerprint) for _ in analyses]
        for check, analysis in zip(checks, analyses, strict=True):
            check.add(as_integers(analysis.tokens))
        passes = FourPasses.side_by_side([self._passes(quality, one.width_px, one.height_px) for one in analyses])
        latents = latents.movedim(1, 0)
        for indices in passes:
            symbols = passes.residuals(latents)
            parts = zip(cut(symbols, passes.counts), cut(indices, passes.counts), strict=True)
            for encoder, check, (mine, rows) in zip(encoders, checks, parts, strict=True):
                encoder.put(mine, rows, self.model.detail_tables)
                check.add(mine)
            passes.accept(symbols)
        return [
            pack(
                Container(
                    model_id=self.model_id,
                    width_px=analysis.width_px,
                    height_px=analysis.height_px,
                    quality=quality,
                    symbol_check=check.value,
                    semantic=analysis.semantic,
                    detail=encoder.finish(),
                    extras=analysis.extras,
                )
            )
            for analysis, check, encoder in zip(analyses, checks, encoders, strict=True)
        ]

    def decode(self, data: bytes, *, allow_partial: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
        """The picture in a .dlf file, in mode L, LA, RGB or RGBA, with what was kept of it in its `info`.

        With `allow_partial` a file that was cut after its semantic section gives a picture too. Raises FormatError if
        the file is damaged, LimitError if it is larger than `max_pixels` or than memory, ModelError if it names another
        model.
        """
        return self.decode_many([data], allow_partial=allow_partial, max_pixels=max_pixels)[0]

    def decode_many(
        self, files: Sequence[bytes], *, allow_partial: bool = False, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> list[Image.Image]:
        """The pictures in .dlf files, each as `decode` gives it but for the last bit of some pixels.

        Small ones of one padded size go through the network together, which takes less time. Raises the errors of
        `decode` for the first file that has one.
        """
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
        images: dict[int, Image.Image] = {}
        for group in self.tiling.groups([(container.width_px, container.height_px) for container in containers]):
            members = [containers[at] for at in group]
            with memory_for(members[0].width_px, members[0].height_px), torch.inference_mode():
                images |= zip(group, self._paint(members), strict=True)
        return [images[at] for at in range(len(files))]

    def _paint(self, containers: Sequence[Container]) -> list[Image.Image]:
        with timed("coder"):
            finishes = [Finish.of(container) for container in containers]  # bad sections cost no work then
            tokens, latents = self._read_symbols(*containers)
        with timed("network"):
            level = self._level([container.quality for container in containers])
            bands = self.model.network.reconstruct_bands(tokens, latents, level)
            padded = joined((to_bytes(band) for band in bands), 1)  # B H W 3
            return [
                finish.apply(to_image(pixels[: container.height_px, : container.width_px]))
                for pixels, container, finish in zip(padded, containers, finishes, strict=True)
            ]

    def _read_symbols(self, *containers: Container) -> tuple[Tensor, Tensor]:
        """Tokens T 32 and latents times their steps, B C H W, of pictures of one padded size.

        Raises FormatError if a stream or a check does not fit.
        """
        tables = self.model.detail_tables
        tokens: list[Tensor] = []
        readers: list[WholeStream | CutStream] = []
        tiles, across = self.tiling.tiles(containers[0].width_px, containers[0].height_px)
        if any(self._too_short(container.semantic, tiles) for container in containers):
            raise FormatError("the semantic section is too short for a picture of this size; the file is damaged")
        unpacked = self.model.tokens.unpack_many([container.semantic for container in containers], tiles, across)
        for container, mine in zip(containers, unpacked, strict=True):
            tokens.append(torch.from_numpy(mine).long())
            if container.complete:
                check = SymbolCheck(self.fingerprint)
                check.add(mine)
                readers.append(WholeStream(container.detail, tables, check))
            else:
                readers.append(CutStream(container.detail, tables))
        passes = FourPasses.side_by_side([self._passes(c.quality, c.width_px, c.height_px) for c in containers])
        for indices in passes:
            parts = zip(readers, cut(indices, passes.counts), strict=True)
            passes.accept(np.concatenate([reader.get(rows) for reader, rows in parts]))
        for reader, container in zip(readers, containers, strict=True):
            reader.finish(container.symbol_check)
        return joined(tokens).to(self.model.device), passes.latent()

    def _to_tensor(self, image: Image.Image) -> Tensor:
        """1 3 H W, bytes."""
        return torch.from_numpy(np.array(image.convert("RGB"))).to(self.model.device).permute(2, 0, 1)[None]

    def _settle(self, tokens: Tensor, across: int) -> tuple[Tensor, bytes]:
        """Tokens T 32, one of them changed where the format asks for that, and their section."""
        semantic = self.model.tokens.pack(as_integers(tokens), across)
        if self._too_short(semantic, tokens.shape[0]):  # they end in slots that begin at 0 and cost no bytes
            tokens[-1, -1] = _nearest_other(self.model.network.codebook.entries, int(tokens[-1, -1]))
            semantic = self.model.tokens.pack(as_integers(tokens), across)
        return tokens, semantic

    def _too_short(self, semantic: bytes, tiles: int) -> bool:
        """Whether a large picture comes from next to nothing (SPEC.md, "Semantic-token section")."""
        config = self.model.network.config
        least_bits = tiles * config.tokens_per_tile * self.model.tokens.least_bits
        return tiles * config.tile_px**2 > FREE_PX and 8 * len(semantic) + _SLACK_BITS < least_bits

    def _passes(self, quality: float, width_px: int, height_px: int) -> FourPasses:
        size, visible = self.tiling.cells(width_px, height_px)
        return FourPasses(self.model.prior, self.model.thresholds, round(2 * quality), size, visible)

    def _level(self, qualities: Iterable[float]) -> Tensor:
        levels = self.model.network.config.levels
        return torch.tensor([quality / 100 * (levels - 1) for quality in qualities], device=self.model.device)


def _nearest_other(entries: Tensor, token: int) -> int:
    """The token whose entry is nearest to that of `token`, but not it."""
    unit = torch.nn.functional.normalize(entries, dim=-1)
    alike = unit @ unit[token]
    alike[token] = -2.0
    return int(alike.argmax())


def _packs(precision: str, purpose: Part, entry: registry.ModelEntry, gpu: bool) -> bool:
    """Whether to hold the weights of linear layers and convolutions in 16 bits.

    What encodes is not packed but where it must be, so that a picture becomes the same file on as many machines as can
    be.
    """
    if precision == "auto":
        return not gpu and (purpose == "decode" or entry.parameters >= _LARGE) and can_pack()
    if precision not in ("float32", "bfloat16"):
        raise ModelError(f"no precision {precision!r}; there are: auto, float32, bfloat16")
    if precision == "bfloat16" and (gpu or not can_pack()):
        raise ModelError("bfloat16 needs a CPU with instructions for it; use float32 or auto")
    return precision == "bfloat16"
