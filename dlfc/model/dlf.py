"""The whole DLF network: pictures to tokens and latent, and back (ICCV 2025, arXiv 2503.01428)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.model.base import LinearBase, by_region
from dlfc.model.bottleneck import Bottleneck, Quantised
from dlfc.model.branches import Decoder, Encoder
from dlfc.model.config import DLFConfig
from dlfc.model.fused import LayerNorm
from dlfc.model.generator import Fusion, Generator
from dlfc.model.linear import Linear, Pointwise
from dlfc.model.vit import each_position, joined, parts, random_parameter

Part = Literal["encode", "decode", "both"]
BAND_PX = 1 << 21  # of the picture, looked at at a time: some ten times as many bytes for each of a few tensors
_CODED_AT_ONCE = 2048  # vectors compared with all entries of the codebook without gradients


class Codebook(nn.Module):
    """Vector quantisation of unit vectors; the quantised vector is the normalised entry (TiTok)."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.entries = random_parameter(size, dim)

    def nearest(self, z: Tensor) -> Tensor:
        """`z` ... dim -> ... indices of the nearest entries (squared distance of unit vectors; the first wins)."""
        with torch.autocast(z.device.type, enabled=False):  # neighbours differ by less than 16 bits can tell
            unit, e = F.normalize(z.float(), dim=-1).reshape(-1, z.shape[-1]), F.normalize(self.entries, dim=-1)
            return joined(self._nearest(part, e) for part in parts(unit, _CODED_AT_ONCE)).view(z.shape[:-1])

    @staticmethod
    def _nearest(z: Tensor, e: Tensor) -> Tensor:
        distance = z.square().sum(1, keepdim=True) + e.square().sum(1) - 2 * z @ e.T
        return distance.argmin(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Token indices -> unit vectors."""
        return F.normalize(self.entries[tokens], dim=-1)


@dataclass(frozen=True)
class Reconstruction:
    """Everything the float path computes for one batch; names as in the published description."""

    tokens: Tensor  # T 32, indices
    token_inputs: Tensor  # T 32 token_dim, before quantisation
    detail: Tensor  # B C H/32 W/32, before the bottleneck
    quantised: Quantised
    detail_hat: Tensor  # B C H/32 W/32, after the bottleneck
    semantic_map: Tensor  # B H/16 W/16 width
    detail_map: Tensor  # B H/16 W/16 C
    logits: Tensor  # B H/16 W/16 mixture_size
    latent: Tensor  # B mixture_dim H/16 W/16
    base: Tensor | None  # B 3 H W
    image: Tensor  # B 3 H W


class DLF(nn.Module):
    """Encoder side: `analyse_tokens`, `analyse_detail`. Decoder side: `reconstruct`. `forward` runs both."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebook = Codebook(config.codebook_size, config.token_dim)
        self.bottleneck = Bottleneck(config)
        self.decoder = Decoder(config)
        self.fusion = Fusion(config)
        self.mixture = random_parameter(config.mixture_size, config.mixture_dim)
        self.generator = Generator(config)
        self.base = LinearBase(config) if config.base_components else None

    def keep_half(self, part: Part) -> None:
        """Remove the modules that encoding, or decoding, does not run."""
        if part == "encode":
            del self.decoder, self.fusion, self.mixture, self.generator
            del self.bottleneck.decode_gain, self.bottleneck.decode_in, self.bottleneck.decode_out
        elif part == "decode":
            del self.encoder
            self.bottleneck.opening = None
            del self.bottleneck.encode_gain, self.bottleneck.encode_in, self.bottleneck.encode_out

    def put(self, name: str, value: Tensor) -> None:
        """Set a parameter to a copy of `value`, in 16 bits in linear layers, after the latent and in the generator.

        What quantises, and what leaves the network, stays in 32 bits. Raises ValueError for another shape.
        """
        owner, _, leaf = name.rpartition(".")
        module = self.get_submodule(owner)
        if value.shape != getattr(module, leaf).shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, not {list(getattr(module, leaf).shape)}")
        if leaf == "weight" and (
            isinstance(module, Linear) or (isinstance(module, Pointwise) and name.startswith("bottleneck.decode_"))
        ):
            module.pack(value)
            return
        if isinstance(module, LayerNorm):
            module.narrow = True  # all of these stand before linear layers
        if isinstance(module, nn.Conv2d) and name.startswith("generator.") and owner != "generator.conv_out":
            value = value.bfloat16()
        setattr(module, leaf, nn.Parameter(value.clone(), requires_grad=False))

    def analyse_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` B 3 H W, in [-1, 1] or as bytes, sides multiples of a tile -> token inputs T 32 token_dim, features."""
        patches, inputs = [], []
        for top, bottom in self._bands(x):
            band = as_floats(x[:, :, top:bottom])
            patches.append(self.encoder.embed(band * 0.5 + 0.5))
            if self.base is not None:
                with torch.autocast(x.device.type, enabled=False):
                    inputs.append(self.base.tokens(band).unflatten(0, (len(x), -1)))
        embedded = joined(patches, 1)
        del patches, band
        z, detail = self.encoder(embedded)
        return (z.float() + joined(inputs, 1).flatten(0, 1) if inputs else z), detail

    def regions(self, tokens: Tensor, height_px: int, width_px: int) -> Tensor | None:
        """Tokens T 32 of pictures of this size, of whole tiles -> by region, B R S, if the detail prior sees them."""
        return by_region(self.config, tokens, height_px, width_px) if self.config.prior_context else None

    def analyse_detail(self, x: Tensor, detail: Tensor, tokens: Tensor, level: Tensor) -> Tensor:
        """Detail features and the chosen tokens -> latent B latent_dim H/32 W/32, before the step."""
        y = self.bottleneck.analyse(detail, level).float()
        if self.base is None:
            return self.bottleneck.opened(y, level)
        bases, tile = [], self.config.tile_px
        with torch.autocast(x.device.type, enabled=False):
            for top, bottom in self._bands(x):
                band = as_floats(x[:, :, top:bottom])
                codes = tokens_of_rows(tokens, len(x), x.shape[2] // tile, top // tile, bottom // tile)
                rest = band - self.base.token_image(codes, *band.shape[2:])
                bases.append(self.base.detail(rest, level))
        return self.bottleneck.opened(y + joined(bases, 2), level)

    def base_image(
        self, tokens: Tensor, latent: Tensor, level: Tensor, top: int = 0, bottom: int | None = None
    ) -> Tensor | None:
        """Rows `top` to `bottom` of the linear picture that the generator refines, B 3 h W, or None without a base."""
        if self.base is None:
            return None
        cell, tile = self.config.cell_px, self.config.tile_px
        height, width = (side * cell for side in latent.shape[2:])
        bottom = height if bottom is None else bottom
        first, end = top // tile, -(-bottom // tile)  # tiles are made whole
        cells = latent[:, :, first * tile // cell : end * tile // cell].float()
        codes = tokens_of_rows(tokens, len(latent), height // tile, first, end)
        with torch.autocast(latent.device.type, enabled=False):
            image = self.base.token_image(codes, (end - first) * tile, width)
            image += self.base.detail_image(cells, level)
        return image[:, :, top - first * tile : bottom - first * tile]

    def fuse(self, vectors: Tensor, detail_hat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Token vectors and detail features -> semantic map, detail map, logits, latent."""
        semantic_map, detail_map = self.decoder(vectors, detail_hat)
        logits = self.fusion(semantic_map, detail_map)
        latent = each_position(self._mix, logits)
        return semantic_map, detail_map, logits, latent.permute(0, 3, 1, 2)

    def _fused(self, tokens: Tensor, latent: Tensor, level: Tensor) -> Tensor:
        """Tokens and quantised latent times step -> the latent of `fuse`; nothing else is kept."""
        detail_hat = self.bottleneck.synthesise(latent, level)
        merged = self.fusion.merged(*self.decoder(self.codebook.lookup(tokens), detail_hat))
        return each_position(lambda part: self._mix(self.fusion.head(part)), merged).permute(0, 3, 1, 2)

    def _mix(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.float(), -1) @ self.mixture.float()

    def reconstruct(self, tokens: Tensor, latent: Tensor, level: Tensor, *, quiet: bool = False) -> Tensor:
        """Tokens T 32 and quantised latent times step, B latent_dim H/32 W/32 -> picture B 3 H W.

        With `quiet`, the generator gets no noise.
        """
        return joined(self.reconstruct_bands(tokens, latent, level, quiet=quiet), 2)

    def reconstruct_bands(
        self, tokens: Tensor, latent: Tensor, level: Tensor, *, quiet: bool = False
    ) -> Iterator[Tensor]:
        """The same as bands B 3 h W of the picture from its top; on a CPU without gradients, in little memory."""
        if not latent.is_cpu or torch.is_grad_enabled():
            base_image = self.base_image(tokens, latent, level)
            yield self.generator(self._fused(tokens, latent, level), base_image, quiet=quiet)
            return
        base = None if self.base is None else partial(self.base_image, tokens, latent, level)
        yield from self.generator.in_bands(self._fused(tokens, latent, level), base, quiet=quiet)

    def _bands(self, x: Tensor) -> list[tuple[int, int]]:
        """Rows of whole tiles of `x` to look at together: all while gradients are kept, else few at a time."""
        count, _, height, width = x.shape
        tile = self.config.tile_px
        rows = height if torch.is_grad_enabled() else max(1, BAND_PX // (count * width * tile)) * tile
        return [(top, min(top + rows, height)) for top in range(0, height, rows)]

    def forward(self, x: Tensor, level: Tensor) -> Reconstruction:
        """`x` B 3 H W in [-1, 1], `level` B in [0, levels-1]; sides that are no multiples of a tile are padded."""
        _, _, h, w = x.shape
        x = pad_to_tiles(x, self.config.tile_px)
        z, detail = self.analyse_tokens(x)
        tokens = self.codebook.nearest(z)
        vectors = self.codebook.lookup(tokens)
        if self.training:  # gradients pass the quantiser
            unit = F.normalize(z.float(), dim=-1)
            vectors = unit + (vectors - unit).detach()
        y = self.analyse_detail(x, detail, tokens, level)
        with torch.autocast(x.device.type, enabled=False):
            quantised = self.bottleneck.quantise(y, level, self.regions(tokens, *x.shape[2:]))
            coded = quantised.values * quantised.step
        detail_hat = self.bottleneck.synthesise(coded, level)
        semantic_map, detail_map, logits, latent = self.fuse(vectors, detail_hat)
        base = self.base_image(tokens, coded, level)
        image = self.generator(latent, base)[:, :, :h, :w]
        return Reconstruction(
            tokens, z, detail, quantised, detail_hat, semantic_map, detail_map, logits, latent, base, image
        )


def pad_to_tiles(x: Tensor, tile_px: int) -> Tensor:
    """Pad B C H W right and bottom by replication to whole tiles."""
    h, w = x.shape[2:]
    return F.pad(x, (0, -w % tile_px, 0, -h % tile_px), mode="replicate")


def tokens_of_rows(tokens: Tensor, count: int, rows: int, first: int, end: int) -> Tensor:
    """Of tokens T 32 of `count` pictures, each of `rows` rows of tiles, those of the rows `first` to `end`."""
    return tokens.view(count, rows, -1, tokens.shape[-1])[:, first:end].flatten(0, 2)


def as_floats(pixels: Tensor) -> Tensor:
    """Bytes as floats in [-1, 1]; what is no bytes as it is."""
    return pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels
