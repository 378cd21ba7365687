"""Encoder and decoder: the semantic and the detail branch side by side (DLF, section 3.2 and figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlfc.model.config import DLFConfig
from dlfc.model.detail import ConvNeXtBlock, swin_run
from dlfc.model.vit import Exchange, VitBlock, cut_tiles, join_tiles, random_parameter


class _Branches(nn.Module):
    """What encoder and decoder share: transformer layers that exchange with the detail map at some places."""

    def __init__(self, config: DLFConfig, layers: int, exchange_at: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        cells = config.grid**2
        scale = config.width**-0.5
        self.class_token = random_parameter(1, config.width, scale=scale)
        self.position = random_parameter(cells + 1, config.width, scale=scale)
        self.token_position = random_parameter(config.tokens_per_tile, config.width, scale=scale)
        self.norm_in = nn.LayerNorm(config.width)
        self.norm_out = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(VitBlock(config.width, config.heads) for _ in range(layers))
        length = 1 + cells + config.tokens_per_tile
        self.exchanges = nn.ModuleDict()
        self.refinements = nn.ModuleDict()
        for i in exchange_at:
            self.exchanges[str(i)] = Exchange(
                config.width, config.detail_dim, config.head_dim, length, config.grid, config.exchange_attention
            )
            self.refinements[str(i)] = nn.Sequential(
                swin_run(config.detail_dim, config.head_dim, config.grid, config.exchange_swin),
                *(ConvNeXtBlock(config.detail_dim) for _ in range(config.exchange_convnext)),
            )

    def _sequence(self, cells: Tensor, tokens: Tensor) -> Tensor:
        """[class, cells, tokens] with their positions: T 1+256+32 width."""
        head = self.class_token.expand(len(cells), 1, -1)
        x = torch.cat([head, cells], 1) + self.position
        return self.norm_in(torch.cat([x, tokens + self.token_position], 1))

    def _run(self, semantic: Tensor, detail: Tensor, last: int = 0) -> tuple[Tensor, Tensor]:
        """All layers; of the semantic positions only the `last` ones are needed then, or all."""
        for i, layer in enumerate(self.layers):
            needed = last if i == len(self.layers) - 1 and str(i) not in self.exchanges else 0
            semantic = layer(semantic, needed)
            if str(i) in self.exchanges:
                semantic, detail = self.exchanges[str(i)](semantic, detail)
                detail = self.refinements[str(i)](detail)
        return semantic, detail


class Encoder(_Branches):
    """Picture -> unquantised tokens and unquantised detail features."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__(config, config.encoder_layers, config.encoder_exchange)
        c = config
        self.patch_embed = nn.Conv2d(3, c.width, c.patch_px, stride=c.patch_px)
        self.latent_tokens = random_parameter(c.tokens_per_tile, c.width, scale=c.width**-0.5)
        self.to_token = nn.Linear(c.width, c.token_dim)
        self.to_detail = nn.Linear(c.width, c.detail_dim)
        self.detail_in = swin_run(c.detail_dim, c.head_dim, c.grid, c.swin_in)
        self.detail_out = swin_run(c.detail_dim, c.head_dim, c.grid, c.swin_out)
        self.detail_down = nn.Conv2d(c.detail_dim, c.detail_dim, 2, stride=2)
        self.detail_norm = nn.LayerNorm(c.detail_dim)
        self.detail_project = nn.Linear(c.detail_dim, c.detail_dim)

    def embed(self, x: Tensor) -> Tensor:
        """`x` B 3 H W in [0, 1] -> patches B H/16 W/16 width, each by itself."""
        return self.patch_embed(x).permute(0, 2, 3, 1)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """What `embed` made of a picture of whole tiles -> tokens T 32 token_dim, detail B C H/32 W/32."""
        detail = self.detail_in(self.to_detail(patches))
        cells = cut_tiles(patches, self.config.grid)
        semantic = self._sequence(cells, self.latent_tokens.expand(len(cells), -1, -1))
        semantic, detail = self._run(semantic, detail, last=self.config.tokens_per_tile)
        latent = self.norm_out(semantic[:, -self.config.tokens_per_tile :])  # T 32 width
        if self.config.published_reshape:
            t, n, width = latent.shape
            latent = latent.reshape(t, width, n).transpose(1, 2)
        detail = self.detail_down(self.detail_out(detail).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        detail = self.detail_project(self.detail_norm(detail))
        return self.to_token(latent), detail.permute(0, 3, 1, 2)


class Decoder(_Branches):
    """Quantised tokens and detail features -> one map of each branch on the 1/16 grid."""

    def __init__(self, config: DLFConfig) -> None:
        super().__init__(config, config.decoder_layers, config.decoder_exchange)
        c = config
        self.mask_token = random_parameter(1, c.width, scale=c.width**-0.5)
        self.from_token = nn.Linear(c.token_dim, c.width)
        self.detail_up = nn.Sequential(nn.Conv2d(c.detail_dim, 4 * c.detail_dim, 1), nn.PixelShuffle(2))
        self.detail_in = swin_run(c.detail_dim, c.head_dim, c.grid, c.swin_up)

    def forward(self, tokens: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        """`tokens` T 32 token_dim, `detail` B C H/32 W/32 -> maps B H/16 W/16 width and B H/16 W/16 C."""
        detail = self.detail_in(self.detail_up(detail).permute(0, 2, 3, 1))
        _, h, w, _ = detail.shape
        cells = self.mask_token.expand(len(tokens), self.config.grid**2, -1)
        semantic, detail = self._run(self._sequence(cells, self.from_token(tokens)), detail)
        cells = self.norm_out(semantic[:, 1 : 1 + self.config.grid**2])
        return join_tiles(cells, self.config.grid, h, w), detail
