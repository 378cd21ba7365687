"""Networks small enough for tests, as weights files in a models folder, and random LPIPS weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dlfc.entropy.tables import detail_tables, token_table
from dlfc.entropy.tokens import ACTIVATION_BITS, WEIGHT_BITS
from dlfc.model.bottleneck import DetailPrior
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.zoo import store
from dlfc.zoo.registry import ModelEntry

# Tiles of 64 pixels instead of 256, so that small pictures have several of them.
TINY = DLFConfig(
    tile_px=64,
    patch_px=16,
    head_dim=8,
    width=16,
    heads=2,
    encoder_layers=2,
    decoder_layers=2,
    tokens_per_tile=8,
    token_dim=6,
    codebook_size=32,
    published_reshape=False,
    detail_dim=16,
    latent_dim=8,
    levels=3,
    swin_in=2,
    swin_out=2,
    swin_up=2,
    encoder_exchange=(0,),
    decoder_exchange=(1,),
    exchange_attention=1,
    exchange_swin=2,
    exchange_convnext=1,
    fusion_dim=16,
    fusion_swin_in=2,
    fusion_swin=2,
    mixture_size=12,
    mixture_dim=8,
    generator_channels=8,
    generator_mult=(1, 1, 2),
    generator_blocks=1,
    generator_norm=False,
    generator_attention=False,
    generator_mid=False,
    output_patch_px=4,
    base_components=5,
    base_region_px=(16, 32),
)

# The same with cells that fit into the regions of tokens, which the detail prior sees.
SEEING = replace(TINY, patch_px=8, output_patch_px=2, prior_context=3)

# The published mechanisms at small sizes: whole tiles, one level, no linear base, GroupNorm and attention.
PUBLISHED_TINY = DLFConfig(
    head_dim=8,
    width=16,
    heads=2,
    encoder_layers=2,
    decoder_layers=2,
    token_dim=6,
    codebook_size=32,
    detail_dim=16,
    latent_dim=8,
    encoder_exchange=(0,),
    decoder_exchange=(1,),
    exchange_attention=1,
    fusion_dim=16,
    fusion_swin_in=2,
    fusion_swin=2,
    mixture_size=12,
    mixture_dim=8,
    generator_channels=32,
    generator_mult=(1, 1, 1, 1, 1),
    generator_blocks=1,
)


def spread_prior(prior: DetailPrior, seed: int) -> None:
    """Fill a prior so that its scales reach from skipped to wide, and differ from cell to cell and level to level."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            fan_in = parameter[0].numel() if parameter.dim() == 4 else 1
            gain = 0.6 / fan_in**0.5 if parameter.dim() == 4 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain)
        if prior.context is not None:
            prior.context.codes *= 10  # of about 1, so that tokens change much
        prior.vector.add_(torch.linspace(1.0, 3.0, len(prior.vector))[:, None])
        for block in ("first.1", "spatial.2"):
            bias = prior.get_parameter(f"{block}.contract.bias")
            bias[: len(bias) // 2] += 0.5  # more scales above the threshold


def make_network(config: DLFConfig = TINY, seed: int = 0) -> DLF:
    """A network with random weights whose tokens, symbols and pixels depend on the picture."""
    torch.manual_seed(seed)
    network = DLF(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("semantic_add.weight"):
                parameter.normal_(0, 0.1)
            if ".bias" in name and parameter.dim() == 2:  # tables of window attention start at zero
                parameter.normal_(0, 0.5)
        for layer in ("contract", "adaptor"):
            network.get_parameter(f"bottleneck.encode_out.1.{layer}.weight").mul_(2.0)
    spread_prior(network.bottleneck.prior, seed)
    return network.requires_grad_(False)


def random_token_prior(size: int = TINY.codebook_size, seed: int = 0) -> dict[str, Tensor]:
    """The integers of a small token prior for which neighbours matter: some tokens are likely and many are not."""
    random, shapes = np.random.default_rng(seed), {"first": (8, 16), "second": (8, 8), "third": (6, 8)}

    def around(shape: tuple[int, ...], reach: float, dtype: type = np.int32) -> Tensor:
        return torch.from_numpy(random.integers(-int(reach), int(reach), shape, endpoint=True).astype(dtype))

    tensors = {"context": around((size + 1, 4), 2 * 2**ACTIVATION_BITS)}
    tensors["entries"] = around((size, 6), 2 * 2**WEIGHT_BITS)
    tensors["bias"] = around((size,), 2 ** (ACTIVATION_BITS + WEIGHT_BITS), np.int64)
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = around(shape, 0.7 * 2**WEIGHT_BITS)
        tensors[f"{name}.bias"] = around(shape[:1], 0.3 * 2 ** (ACTIVATION_BITS + WEIGHT_BITS), np.int64)
    return tensors


def install(
    folder: Path, name: str = "tiny", config: DLFConfig = TINY, seed: int = 0, *, by_neighbours: bool = False
) -> ModelEntry:
    """Write such a network to `folder` as an installed model, with Gaussian tables.

    Its tokens are equally likely, or each by its neighbours, with a random prior.
    """
    flat = token_table(np.full(config.codebook_size, 1000, np.int64))
    token = random_token_prior(config.codebook_size, seed) if by_neighbours else flat
    return store.save(make_network(config, seed), folder / f"{name}.safetensors", detail_tables(), token)


def photo(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """A picture with edges, gradients and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height_px, 0:width_px]
    waves = [np.sin(x / (9 + 7 * c) + random.uniform(0, 6)) * np.cos(y / (13 + 5 * c)) for c in range(3)]
    pixels = 128 + 70 * np.stack(waves, -1) + 60 * ((x // 23 + y // 31) % 2)[..., None] - 30
    pixels = pixels + random.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_lpips(folder: Path, seed: int = 0) -> Path:
    """Random LPIPS weights of the right shapes, for alex and squeeze; returns `folder`."""
    convs = {"alex": {}, "squeeze": {"features.0": (64, 3, 3)}}
    for at, c_out, c_in, side in (
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ):
        convs["alex"][f"features.{at}"] = (c_out, c_in, side)
    fires = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192)}
    fires |= {10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
    for at, (c_in, squeezed, out) in fires.items():
        convs["squeeze"][f"features.{at}.squeeze"] = (squeezed, c_in, 1)
        convs["squeeze"][f"features.{at}.expand1x1"] = (out, squeezed, 1)
        convs["squeeze"][f"features.{at}.expand3x3"] = (out, squeezed, 3)
    heads = {"alex": (64, 192, 384, 256, 256), "squeeze": (64, 128, 256, 384, 384, 512, 512)}
    generator = torch.Generator().manual_seed(seed)
    for net, shapes in convs.items():
        tensors: dict[str, Tensor] = {}
        for name, (c_out, c_in, side) in shapes.items():
            scale = (2 / (c_in * side * side)) ** 0.5
            tensors[f"{name}.weight"] = torch.randn(c_out, c_in, side, side, generator=generator) * scale
            tensors[f"{name}.bias"] = torch.randn(c_out, generator=generator) * 0.01
        for k, channels in enumerate(heads[net]):
            tensors[f"lin{k}"] = torch.rand(channels, generator=generator)
        save_file(tensors, folder / f"lpips_{net}.safetensors")
    return folder
