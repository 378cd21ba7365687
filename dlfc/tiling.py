"""How pictures lie on the tiles and cells of a model, and which of them go through its network together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlfc.errors import LimitError
from dlfc.formats import MAX_SIDE_PX
from dlfc.model.config import DLFConfig

FREE_PX = 1 << 20  # padded pictures up to this size may come from nothing: they cost the decoder little
_TOGETHER_PX = 1 << 20  # padded pictures that go through the network at a time; more take memory and gain nothing


@dataclass(frozen=True)
class Tiling:
    """The tiles of one configuration; sizes are in pixels of the picture, as it is."""

    config: DLFConfig

    def padded_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height of such a picture in whole tiles; pictures of one padded size can go together."""
        tile_px = self.config.tile_px
        return -(-width_px // tile_px) * tile_px, -(-height_px // tile_px) * tile_px

    def together(self, width_px: int, height_px: int) -> int:
        """How many such pictures go through the network at a time: 1 if they are large."""
        padded = self.padded_size(width_px, height_px)
        return max(1, _TOGETHER_PX // (padded[0] * padded[1]))

    def groups(self, sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Which pictures go through the network together, by their places."""
        places: dict[tuple[int, int], list[int]] = {}
        for at, size in enumerate(sizes):
            places.setdefault(self.padded_size(*size), []).append(at)
        for padded, members in places.items():
            count = self.together(*padded)
            yield from (members[at : at + count] for at in range(0, len(members), count))

    def tiles(self, width_px: int, height_px: int) -> tuple[int, int]:
        """How many tiles such a picture takes, and how many of them lie in a row."""
        width, height = self.padded_size(width_px, height_px)
        return width * height // self.config.tile_px**2, width // self.config.tile_px

    def cells(self, width_px: int, height_px: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the detail latent, and of them those that do not lie wholly in padding."""
        cell_px = self.config.cell_px
        width, height = self.padded_size(width_px, height_px)
        return (height // cell_px, width // cell_px), (-(-height_px // cell_px), -(-width_px // cell_px))

    def check(self, width_px: int, height_px: int, max_pixels: int) -> None:
        """Raise LimitError if a side is too long for a file, or if padding makes a picture too large.

        That of a strip may be many times its own pixels.
        """
        if max(width_px, height_px) > MAX_SIDE_PX:
            raise LimitError(f"{width_px}x{height_px} pixels have a side over the limit of {MAX_SIDE_PX} pixels")
        width, height = self.padded_size(width_px, height_px)
        if width * height > max(FREE_PX, 2 * max_pixels):
            raise LimitError(
                f"{width_px}x{height_px} pixels make {width * height} when padded to whole tiles, too many"
            )
