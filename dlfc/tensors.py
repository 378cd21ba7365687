"""Small steps between pictures, arrays and tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dlfc.errors import LimitError
from dlfc.memory import sparing
from dlfc.raw import RawPicture, strips

# What torch says in a RuntimeError that means anything: its own allocator, and oneDNN, which has no room for its code.
_WANT_OF_MEMORY = re.compile("can't allocate memory|could not create a (primitive|memory)")

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Padded:
    """A picture as the network takes it, which is less memory than Pillow's."""

    size: tuple[int, int]  # width and height as they are
    pixels: Tensor  # 1 3 H W, bytes, padded right and bottom by replication to whole tiles


def as_integers(tokens: Tensor) -> Int32Array:
    """Tokens as the entropy coder takes them."""
    return tokens.to(torch.int32).cpu().numpy()


def cut(values: Int32Array, counts: Sequence[int]) -> list[Int32Array]:
    """The values of each picture."""
    return np.split(values, np.cumsum(counts)[:-1])


def padded(image: Image.Image | RawPicture, tile_px: int) -> Padded:
    """A picture, taken as RGB, strip by strip."""
    width, height = image.size
    pixels = torch.empty(1, 3, height + -height % tile_px, width + -width % tile_px, dtype=torch.uint8)
    for top, strip in strips(image):
        rows = torch.from_numpy(np.array(strip)).permute(2, 0, 1)  # 3 h W
        pixels[0, :, top : top + strip.height, :width] = rows
    pixels[:, :, :height, width:] = pixels[:, :, :height, width - 1 : width]
    pixels[:, :, height:] = pixels[:, :, height - 1 : height]
    return Padded(image.size, pixels)


def to_bytes(pixels: Tensor) -> Tensor:
    """`B 3 h W` in [-1, 1] as bytes `B h W 3`."""
    scaled = pixels.clamp(-1, 1).add_(1).mul_(127.5).round_()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """Bytes `H W 3` as a picture."""
    return Image.fromarray(pixels.contiguous().cpu().numpy())


@contextmanager
def memory_for(width_px: int, height_px: int) -> Iterator[None]:
    """Be sparing with a large picture, and say in one line that memory does not suffice.

    torch says so in an error that means anything.
    """
    try:
        with sparing(width_px * height_px):
            yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) and not _WANT_OF_MEMORY.search(str(error)):
            raise
        raise LimitError(f"not enough memory for a picture of {width_px}x{height_px} pixels") from error
