"""The photos that an evaluation goes over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dlfc.errors import DlfcError, ImageError
from dlfc.files import load
from dlfc.formats import DEFAULT_MAX_PIXELS
from dlfc.image import load_image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".bmp"})
MIN_SIDE_PX = 64  # below, the networks that measure have nothing left in their last layers
_MAX_BYTES = 2**31  # as for dlfc encode


@dataclass(frozen=True)
class Photo:
    """A photo in a file; its name is the file's without the suffix."""

    path: Path

    @property
    def name(self) -> str:
        """What tables and output files call the photo."""
        return self.path.stem

    def load(self) -> Image.Image:
        """The picture as the encoder sees it, 8-bit RGB. Raises OSError, or ImageError also for a very small one."""
        try:
            image = load_image(load(str(self.path), max_bytes=_MAX_BYTES), max_pixels=DEFAULT_MAX_PIXELS).whole()
        except ImageError as error:
            raise ImageError(f"{self.path}: {error}") from error
        if min(image.size) < MIN_SIDE_PX:
            raise ImageError(f"{self.path}: measuring needs at least {MIN_SIDE_PX} pixels on each side")
        return image


def find_photos(folder: Path) -> list[Photo]:
    """The photos in `folder`, by name. Raises DlfcError if there is none or two have one name."""
    photos = [Photo(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not photos:
        raise DlfcError(f"{folder}: no photos there")
    by_name: dict[str, Photo] = {}
    for photo in photos:
        if photo.name in by_name:
            raise DlfcError(f"{folder}: {by_name[photo.name].path.name} and {photo.path.name} have the same name")
        by_name[photo.name] = photo
    return photos
