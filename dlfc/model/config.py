"""The one description of a DLF network: every size that the modules need, and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

_MAX_SIZE = 1 << 16  # far above any network that runs; a hostile file must not ask for years of work
_MAX_DEPTH = 64
_DEPTHS = {  # how often something is repeated, perhaps never
    "encoder_layers",
    "decoder_layers",
    "swin_in",
    "swin_out",
    "swin_up",
    "exchange_attention",
    "exchange_swin",
    "exchange_convnext",
    "fusion_swin_in",
    "fusion_swin",
    "generator_blocks",
}

_NUMBERS = ("base_components", "noise_channels", "prior_context", "closed_levels")  # of something that may be missing


@dataclass(frozen=True)
class DLFConfig:
    """Sizes of a DLF network. The defaults are the published configuration (DLF, ICCV 2025, section 4.1).

    Pictures are cut into tiles of `tile_px`; a patch of `patch_px` is one cell of the 1/16 grid, two by two of
    them are one cell of the detail latent (the 1/32 grid).
    """

    tile_px: int = 256
    patch_px: int = 16
    head_dim: int = 64  # of every attention but the ViT's, which has `heads`

    # semantic branch: ViTs over [class, patches, latent tokens] of each tile
    width: int = 1024
    heads: int = 16
    encoder_layers: int = 24
    decoder_layers: int = 24
    tokens_per_tile: int = 32
    token_dim: int = 12
    codebook_size: int = 4096
    published_reshape: bool = True  # the published token projection mixes positions and channels; its weights need that

    # detail branch
    detail_dim: int = 768
    latent_dim: int = 64
    levels: int = 1
    closed_levels: int = 0  # of the lowest: there, what the latent grew by says nothing (0: as published)
    swin_in: int = 4
    swin_out: int = 2
    swin_up: int = 4

    # exchange between the branches after these transformer layers
    encoder_exchange: tuple[int, ...] = (3, 7, 11, 15, 19)
    decoder_exchange: tuple[int, ...] = (3, 7, 11, 15, 19)
    exchange_attention: int = 2
    exchange_swin: int = 2
    exchange_convnext: int = 2

    # fusion of both branches into a mixture of codebook entries
    fusion_dim: int = 1024
    fusion_swin_in: int = 2
    fusion_swin: int = 4
    mixture_size: int = 256
    mixture_dim: int = 256

    # generative decoder (VQGAN's)
    generator_channels: int = 128
    generator_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    generator_blocks: int = 3
    generator_norm: bool = True
    generator_attention: bool = True
    generator_mid: bool = True
    output_patch_px: int = 1  # the last grid's cell in pixels; more than one ends in a pixel shuffle
    noise_channels: int = 0  # of fixed noise that enters each of the last grids, to make texture of (0: as published)
    noise_grids: int = 1  # how many those are

    # linear base: a data-dependent linear codec beside the network (0 components: none, as published)
    base_components: int = 0
    base_region_px: tuple[int, int] = (32, 64)
    prior_context: int = 0  # numbers of each token that the detail prior begins from (0: of none, as published)

    def __post_init__(self) -> None:
        """Refuse what is no size and sizes that do not fit together, with ValueError."""
        for field in fields(self):
            _check_field(field.name, field.default, getattr(self, field.name))
        if self.patch_px != self.output_patch_px * 2 ** (len(self.generator_mult) - 1):
            raise ValueError("the generator must lead from the patch grid to pixels")
        if self.latent_dim % 4:
            raise ValueError("latent_dim must be a multiple of 4: channels are coded in four groups")
        if self.closed_levels >= self.levels:
            raise ValueError("closed_levels must be below levels")
        if self.tile_px % self.cell_px:
            raise ValueError("tiles must consist of whole cells")
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        dims = self.width, self.detail_dim, self.fusion_dim
        if any(dim < self.head_dim or dim % (dim // self.head_dim) for dim in dims):
            raise ValueError("width, detail_dim and fusion_dim must split into heads of at least head_dim")
        if self.noise_grids > len(self.generator_mult):
            raise ValueError("noise_grids must be at most the number of the generator's grids")
        if self.base_components:
            whole = len(self.base_region_px) == 2 and not any(self.tile_px % side for side in self.base_region_px)
            if not whole or math.prod(self.base_regions) != self.tokens_per_tile:
                raise ValueError("the linear base needs one region per token")
        whole_cells = not any(side % self.cell_px for side in self.base_region_px)
        if self.prior_context and not (self.base_components and whole_cells):
            raise ValueError("a prior that sees tokens needs regions of whole cells")

    @property
    def grid(self) -> int:
        """Patches along one side of a tile."""
        return self.tile_px // self.patch_px

    @property
    def base_regions(self) -> tuple[int, int]:
        """Rows and columns of the regions of a tile, each of which a token of the linear base stands for."""
        height, width = self.base_region_px
        return self.tile_px // height, self.tile_px // width

    @property
    def region_cells(self) -> tuple[int, int]:
        """Rows and columns of cells in such a region."""
        height, width = self.base_region_px
        return height // self.cell_px, width // self.cell_px

    @property
    def cell_px(self) -> int:
        """Pixels along one side of a cell of the detail latent."""
        return 2 * self.patch_px

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> DLFConfig:
        """The configuration written by `to_dict`; raises TypeError on an unknown field."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


def _check_field(name: str, default: Any, value: Any) -> None:
    """Raise ValueError unless a field holds what its default is like, within bounds."""
    if isinstance(default, bool):
        right = isinstance(value, bool)
    elif isinstance(default, tuple):
        least = 0 if name.endswith("_exchange") else 1
        right = isinstance(value, tuple) and len(value) <= _MAX_DEPTH and all(_is_size(v, least) for v in value)
    else:
        least = 0 if name in _DEPTHS or name in _NUMBERS else 1
        right = _is_size(value, least, _MAX_DEPTH if name in _DEPTHS else _MAX_SIZE)
    if not right:
        raise ValueError(f"{name} cannot be {value!r:.40}")


def _is_size(value: Any, least: int, most: int = _MAX_SIZE) -> bool:
    return type(value) is int and least <= value <= most


PAPER = DLFConfig()
