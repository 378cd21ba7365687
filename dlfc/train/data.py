"""Training photographs, held in memory as bytes of pixels."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dlfc.errors import ImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def load_photos(source: Path, *, min_side_px: int = 1, limit: int | None = None) -> list[np.ndarray]:
    """Every photo of a folder, and of the tar shards in it, as uint8 H W 3; smaller ones are left out."""
    photos: list[np.ndarray] = []

    def add(data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(image.convert("RGB"))  # a copy, which torch may write to
        if min(pixels.shape[:2]) >= min_side_px:
            photos.append(pixels)

    for path in sorted(source.iterdir()):
        if limit is not None and len(photos) >= limit:
            break
        if path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    if Path(member.name).suffix.lower() in SUFFIXES:
                        file = shard.extractfile(member)
                        if file is not None:
                            add(file.read())
        elif path.suffix.lower() in SUFFIXES:
            add(path.read_bytes())
    if not photos:
        raise ImageError(f"{source}: no photos of at least {min_side_px} pixels and no tar shards there")
    return photos[:limit]


class Crops:
    """Random crops and flips of photos, by a generator of its own, so that a run can be repeated.

    The photos lie on `device` as bytes, and so do the crops made of them.
    """

    def __init__(self, photos: list[np.ndarray], size_px: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.photos, self.size_px = [torch.from_numpy(photo).to(device) for photo in photos], size_px
        self.random = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """`count` crops as float32 in [-1, 1], count 3 size size."""
        size = self.size_px
        crops = []
        for _ in range(count):
            photo = self.photos[self.random.integers(len(self.photos))]
            top = int(self.random.integers(photo.shape[0] - size + 1))
            left = int(self.random.integers(photo.shape[1] - size + 1))
            crop = photo[top : top + size, left : left + size]
            crops.append(crop.flip(1) if self.random.random() < 0.5 else crop)
        return _scaled(torch.stack(crops))


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 N H W 3 -> float32 N 3 H W in [-1, 1]."""
    return _scaled(torch.from_numpy(np.ascontiguousarray(pixels)))
