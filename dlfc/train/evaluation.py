"""Measuring a model on validation photos during its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlfc.model.dlf import DLF, pad_to_tiles
from dlfc.train import vqgan, watch
from dlfc.train.data import to_tensor
from dlfc.train.losses import latents, token_bpp

Distance = Callable[[Tensor, Tensor], Tensor]


def _picture(
    model: DLF, encoder: vqgan.VqganEncoder | None, task: str, x: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    """The picture 1 3 H W that `task` is about, and all bits that it took."""
    height, width = x.shape[2:]
    padded = pad_to_tiles(x, model.config.tile_px)
    if task == "vqgan":
        assert encoder is not None
        image, _ = vqgan.reconstruct(encoder, model, padded)
        return image[:, :, :height, :width], torch.zeros(())
    bits = torch.tensor(token_bpp(model) * height * width)
    if task == "tokens":
        latent = latents(model, padded, level, with_detail=False).latent
        return model.generator(latent)[:, :, :height, :width], bits
    out = model(x, level)
    return out.image, out.quantised.bits.sum().cpu() + bits


@torch.no_grad()
def evaluate(
    model: DLF,
    encoder: vqgan.VqganEncoder | None,
    task: str,
    photos: Sequence[np.ndarray],
    distances: Mapping[str, Distance],
    device: torch.device,
) -> tuple[list[dict[str, float]], list[list[Tensor]], list[str]]:
    """Mean bpp, PSNR and `distances` of photos at each level, and rows and captions for a contact sheet.

    Levels that a task does not know are left out.
    """
    levels = model.config.levels if task in ("pixels", "prior", "latent") else 1
    rows: list[dict[str, float]] = []
    middles = [[watch.middle(watch.to_pictures(to_tensor(photo[None]))[0])] for photo in photos]
    for level in range(levels):
        sums = torch.zeros(2 + len(distances))
        for photo, cells in zip(photos, middles, strict=True):
            x = to_tensor(photo[None]).to(device)
            made, bits = _picture(model, encoder, task, x, torch.tensor([float(level)], device=device))
            image, target = watch.to_pictures(made), x * 0.5 + 0.5
            bpp = float(bits) / (x.shape[2] * x.shape[3])
            found = [float(distance(image, target)) for distance in distances.values()]
            sums += torch.tensor([bpp, watch.psnr(float(F.mse_loss(image, target))), *found])
            cells.append(watch.middle(image[0]).cpu())
        means = (sums / len(photos)).tolist()
        rows.append({"level": level, **dict(zip(("bpp", "psnr", *distances), means, strict=True))})
    captions = ["photo", *(f"{row['bpp']:.4f} bpp, lpips {row['lpips_alex']:.3f}" for row in rows)]
    return rows, middles, captions
