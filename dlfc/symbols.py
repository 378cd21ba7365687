"""The symbols of pictures: from what the network found to the sections of files, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlfc import hold
from dlfc.entropy.coder import Encoder
from dlfc.entropy.prior import FourPasses
from dlfc.entropy.sections import CutStream, SymbolCheck, WholeStream
from dlfc.errors import FormatError
from dlfc.formats import Container, Extra, pack
from dlfc.model.base import LinearBase
from dlfc.model.vit import joined
from dlfc.tensors import as_integers, cut
from dlfc.tiling import FREE_PX, Tiling
from dlfc.zoo.store import LoadedModel

Int32Array = npt.NDArray[np.int32]
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
class Walk:
    """What the four passes made of latents B C H W: symbols and table indices, by pass and picture."""

    quality: float
    latents: Tensor
    passes: FourPasses
    parts: list[list[tuple[Int32Array, Int32Array]]]


@dataclass(frozen=True)
class Symbols:
    """Reads and writes the symbols of one model's files."""

    model: LoadedModel

    @property
    def tiling(self) -> Tiling:
        """How pictures lie on the model's tiles."""
        return Tiling(self.model.network.config)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the model's weights, 32 bytes."""
        return bytes.fromhex(self.model.entry.fingerprint)

    def read(self, *containers: Container) -> tuple[Tensor, Tensor]:
        """Tokens T 32 and latents times their steps, B C H W, of pictures of one padded size.

        Raises FormatError if a stream or a check does not fit.
        """
        tables = self.model.detail_tables
        tokens: list[Tensor] = []
        readers: list[WholeStream | CutStream] = []
        tiles, across = self.tiling.tiles(containers[0].width_px, containers[0].height_px)
        if any(self.too_short(container.semantic, tiles) for container in containers):
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
        passes = FourPasses.side_by_side(
            [
                self.passes(each.quality, each.width_px, each.height_px, mine)
                for each, mine in zip(containers, tokens, strict=True)
            ]
        )
        for indices in passes:
            parts = zip(readers, cut(indices, passes.counts), strict=True)
            passes.accept(np.concatenate([reader.get(rows) for reader, rows in parts]))
        for reader, container in zip(readers, containers, strict=True):
            reader.finish(container.symbol_check)
        return joined(tokens).to(self.model.device), passes.latent()

    def settle(self, tokens: Tensor, across: int) -> tuple[Tensor, bytes]:
        """Tokens T 32, one of them changed where the format asks for that, and their section."""
        semantic = self.model.tokens.pack(as_integers(tokens), across)
        if self.too_short(semantic, tokens.shape[0]):  # they end in slots that begin at 0 and cost no bytes
            tokens[-1, -1] = _nearest_other(self.model.network.codebook.entries, int(tokens[-1, -1]))
            semantic = self.model.tokens.pack(as_integers(tokens), across)
        return tokens, semantic

    def walk_held(self, analyses: Sequence[Analysis], quality: float, latents: Tensor) -> Walk:
        """The symbols of `latents`, which are moved a little where rounding would change the mean colour."""
        walk = self.walk(analyses, quality, latents)
        base = self.model.network.base
        if base is None:
            return walk
        level = self.level([quality] * len(analyses))
        wanted = torch.cat([self._mean_colour(one) for one in analyses])
        nearest, least = latents, latents.new_full((len(analyses),), torch.inf)
        stride, before = torch.ones_like(level), torch.full_like(wanted, torch.nan)
        for attempt in range(hold.ATTEMPTS + 1):
            deviation = self._base_colours(base, analyses, walk, level) - wanted
            # A shift so small that it left all symbols as they were is followed by one twice as large.
            stride = torch.where((deviation == before).all(1), 2 * stride, 1)
            before = deviation
            largest = deviation.abs().amax(1).to(latents.device)
            nearest = torch.where((largest <= least)[:, None, None, None], latents, nearest)
            least = torch.minimum(largest, least)
            change = None
            if attempt < hold.ATTEMPTS:
                change = hold.shift(base, deviation, walk.passes.step().to(level.device), level)
            if change is None:
                break
            latents = latents + (stride[:, None, None, None] * change).to(latents.device)
            walk = self.walk(analyses, quality, latents)
        # The last attempt need not be the best.
        return walk if torch.equal(nearest, latents) else self.walk(analyses, quality, nearest)

    def walk(self, analyses: Sequence[Analysis], quality: float, latents: Tensor) -> Walk:
        """The symbols of `latents` pass by pass."""
        passes = FourPasses.side_by_side(
            [self.passes(quality, one.width_px, one.height_px, one.tokens) for one in analyses]
        )
        walk = Walk(quality, latents, passes, [])
        latents = latents.movedim(1, 0)
        for indices in passes:
            symbols = passes.residuals(latents)
            walk.parts.append(list(zip(cut(symbols, passes.counts), cut(indices, passes.counts), strict=True)))
            passes.accept(symbols)
        return walk

    def write(self, analyses: Sequence[Analysis], walk: Walk) -> list[bytes]:
        """The files of pictures whose symbols are these."""
        encoders = [Encoder() for _ in analyses]
        checks = [SymbolCheck(self.fingerprint) for _ in analyses]
        for check, analysis in zip(checks, analyses, strict=True):
            check.add(as_integers(analysis.tokens))
        for parts in walk.parts:
            for encoder, check, (mine, rows) in zip(encoders, checks, parts, strict=True):
                encoder.put(mine, rows, self.model.detail_tables)
                check.add(mine)
        return [
            pack(
                Container(
                    model_id=self.model.entry.model_id,
                    width_px=analysis.width_px,
                    height_px=analysis.height_px,
                    quality=walk.quality,
                    symbol_check=check.value,
                    semantic=analysis.semantic,
                    detail=encoder.finish(),
                    extras=analysis.extras,
                )
            )
            for analysis, check, encoder in zip(analyses, checks, encoders, strict=True)
        ]

    def level(self, qualities: Iterable[float]) -> Tensor:
        """Rate levels B of the network, 0 to levels - 1, for qualities from 0 to 100."""
        levels = self.model.network.config.levels
        return torch.tensor([quality / 100 * (levels - 1) for quality in qualities], device=self.model.device)

    def passes(self, quality: float, width_px: int, height_px: int, tokens: Tensor | None = None) -> FourPasses:
        """The walk over a picture's detail latent, from its begin; some models need its tokens T 32 for it."""
        network, (size, visible) = self.model.network, self.tiling.cells(width_px, height_px)
        cell_px = network.config.cell_px
        regions = None if tokens is None else network.regions(tokens, size[0] * cell_px, size[1] * cell_px)
        return FourPasses(self.model.prior, self.model.thresholds, round(2 * quality), size, visible, regions)

    def too_short(self, semantic: bytes, tiles: int) -> bool:
        """Whether a large picture comes from next to nothing (SPEC.md, "Semantic-token section")."""
        config = self.model.network.config
        least_bits = tiles * config.tokens_per_tile * self.model.tokens.least_bits
        return tiles * config.tile_px**2 > FREE_PX and 8 * len(semantic) + _SLACK_BITS < least_bits

    def _coded_px(self, analysis: Analysis) -> tuple[int, int]:
        """Rows and columns of pixels in cells that are coded."""
        rows, columns = self.tiling.cells(analysis.width_px, analysis.height_px)[1]
        cell_px = self.model.network.config.cell_px
        return rows * cell_px, columns * cell_px

    def _mean_colour(self, analysis: Analysis) -> Tensor:
        """The mean 1 3 of what is coded of a picture, in [-1, 1]."""
        height, width = self._coded_px(analysis)
        total = analysis.pixels[:, :, :height, :width].sum((2, 3), dtype=torch.int64)
        return (total.double() / (height * width * 127.5) - 1).float()

    def _base_colours(self, base: LinearBase, analyses: Sequence[Analysis], walk: Walk, level: Tensor) -> Tensor:
        """The same B 3 of the pictures that the linear base makes of the symbols."""
        latents = walk.passes.latent().to(level.device).split(1)
        return torch.cat(
            [
                base.mean_colours(one.tokens, latent, at, *self._coded_px(one))
                for one, latent, at in zip(analyses, latents, level.split(1), strict=True)
            ]
        )


def _nearest_other(entries: Tensor, token: int) -> int:
    """The token whose entry is nearest to that of `token`, but not it."""
    unit = torch.nn.functional.normalize(entries, dim=-1)
    alike = unit @ unit[token]
    alike[token] = -2.0
    return int(alike.argmax())
