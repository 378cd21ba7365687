"""Training photographs, held in memory as bytes of pixels."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dlfc.errors import ImageError
from dlfc.train.variety import PLAIN, Variety

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}
_CHUNK = 64  # crops gathered at a time: the places of their pixels take eight bytes each
_ROOM = 0.5  # of a GPU's free memory that photos may take


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


class Photos:
    """All photos in one buffer of bytes, at one or more scales, on `device` if it has room for them.

    One buffer, so that a whole batch of crops is gathered by arithmetic on places, in a handful of kernels.
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], device: torch.device | str = "cpu", scales: Sequence[float] = (1.0,)
    ) -> None:
        self.device, self.scales = torch.device(device), tuple(scales)
        sizes = [[_scaled_size(array, scale) for scale in scales] for array in arrays]
        self.shapes = np.array(sizes, np.int64)  # photo, scale, (height, width)
        ends = self.shapes.prod(-1).reshape(-1).cumsum()
        self.starts = np.concatenate([[0], ends[:-1]]).reshape(self.shapes.shape[:2])  # first pixel in the buffer
        self.pixels = torch.empty(int(ends[-1]), 3, dtype=torch.uint8, device=self._home(3 * int(ends[-1])))
        for array, starts, shapes in zip(arrays, self.starts.tolist(), self.shapes.tolist(), strict=True):
            whole = torch.from_numpy(np.ascontiguousarray(array)).to(self.pixels.device)
            for start, (height, width) in zip(starts, shapes, strict=True):
                scaled = whole if whole.shape[:2] == (height, width) else _shrunk(whole, height, width)
                self.pixels[start : start + height * width] = scaled.view(-1, 3)

    def _home(self, size_bytes: int) -> torch.device:
        if self.device.type == "cuda" and size_bytes > _ROOM * torch.cuda.mem_get_info(self.device)[0]:
            return torch.device("cpu")
        return self.device

    def gather(self, starts: np.ndarray, widths: np.ndarray, mirrored: np.ndarray, size_px: int) -> Tensor:
        """Crops as uint8, N size size 3, of lines `widths` pixels long, whose first pixels lie at `starts`."""
        home = self.pixels.device
        table = torch.from_numpy(np.stack([starts, widths, mirrored.astype(np.int64)]))
        if home.type == "cuda":
            table = table.pin_memory()  # or the host would wait for all that the device has yet to do
        table = table.to(home, non_blocking=True)
        crops = torch.empty(len(starts), size_px, size_px, 3, dtype=torch.uint8, device=home)
        side = torch.arange(size_px, device=home)
        for part, crop in zip(table.split(_CHUNK, 1), crops.split(_CHUNK), strict=True):
            start, width, mirror = part[:, :, None]
            column = torch.where(mirror.bool(), size_px - 1 - side, side)  # N size
            place = start[:, :, None] + width[:, :, None] * side[:, None] + column[:, None]
            crop.view(-1, 3).copy_(self.pixels[place.view(-1)])
        return crops.to(self.device, non_blocking=True)


def _scaled_size(array: np.ndarray, scale: float) -> tuple[int, int]:
    return max(1, round(array.shape[0] * scale)), max(1, round(array.shape[1] * scale))


def _shrunk(pixels: Tensor, height: int, width: int) -> Tensor:
    x = pixels.permute(2, 0, 1)[None].float()
    x = F.interpolate(x, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return x[0].permute(1, 2, 0).round().clamp(0, 255).byte().contiguous()


class Crops:
    """Random crops and flips of photos, by a generator of its own, so that a run can be repeated.

    Of each photo one of its `scales` is drawn, by default all that are there. What is smaller than a crop is left out;
    ImageError if nothing is left. `variety` changes a share of the crops.
    """

    def __init__(
        self,
        photos: Photos,
        size_px: int,
        seed: int,
        scales: Sequence[float] | None = None,
        variety: Variety = PLAIN,
    ) -> None:
        self.photos, self.size_px, self.variety = photos, size_px, variety
        self.random = np.random.default_rng(seed)
        wanted = np.array([scales is None or scale in scales for scale in photos.scales])
        fits = (photos.shapes.min(2) >= size_px) & wanted  # photo, scale
        self.scales = [np.flatnonzero(row) for row in fits]
        self.large = np.flatnonzero(fits.any(1))
        if not len(self.large):
            raise ImageError(f"no photo has the {size_px} pixels of a crop in width and height")

    def batch(self, count: int, part: slice = slice(None)) -> Tensor:
        """`count` crops as float32 in [-1, 1], count 3 size size.

        All are drawn but only `part` of them is made, so that devices which share a batch stay in step.
        """
        size = self.size_px
        rows, changes = [], []
        for _ in range(count):
            photo = self.large[self.random.integers(len(self.large))]
            scales = self.scales[photo]
            scale = scales[0] if len(scales) == 1 else scales[self.random.integers(len(scales))]
            height, width = self.photos.shapes[photo, scale]
            top = int(self.random.integers(height - size + 1))
            left = int(self.random.integers(width - size + 1))
            rows.append((self.photos.starts[photo, scale] + top * width + left, width, self.random.random() < 0.5))
            changes.append(self.variety.draw(self.random))
        starts, widths, mirrored = (np.array(column) for column in zip(*rows[part], strict=True))
        return self.variety.apply(_scaled(self.photos.gather(starts, widths, mirrored, size)), changes[part])


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 N H W 3 -> float32 N 3 H W in [-1, 1]."""
    return _scaled(torch.from_numpy(np.ascontiguousarray(pixels)))
