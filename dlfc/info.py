"""What a .dlf file says about itself, without decoding a pixel: no weights, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dlfc.formats import DEFAULT_MAX_PIXELS, kind_name, unpack, unpack_companions


@dataclass(frozen=True)
class SectionInfo:
    """Name of a section and the size of its payload."""

    name: str
    bytes: int


@dataclass(frozen=True)
class FileInfo:
    """The facts of one .dlf file; the fields are named as `dlfc info --json` prints them.

    `model` is None when no model known here has that `model_id` (8 hex digits). `width` and `height` are in
    pixels, `bpp` is in bits of the whole file per pixel. The bytes of all sections and `overhead_bytes` add up to
    `file_bytes`.
    """

    format_version: int
    model: str | None
    model_id: str
    width: int
    height: int
    quality: float
    bpp: float
    file_bytes: int
    overhead_bytes: int
    sections: tuple[SectionInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them, in order; `sections` is a list of `name` and `bytes`."""
        return {**asdict(self), "sections": [asdict(section) for section in self.sections]}


def read_info(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> FileInfo:
    """Return the facts of a .dlf file after checking that it is whole and undamaged.

    Raises FormatError for bytes that are no .dlf file, are damaged, cut short or too long; UnsupportedVersionError
    for a newer format; LimitError for more than `max_pixels` pixels.

    >>> import dlfc
    >>> from PIL import Image
    >>> info = dlfc.read_info(dlfc.encode(Image.linear_gradient("L"), quality=25))
    >>> info.width, info.height, info.quality, info.model
    (256, 256, 25.0, 'small')
    >>> [section.name for section in info.sections]
    ['semantic', 'detail', 'gray']
    """
    from dlfc.zoo.registry import name_of

    container = unpack(data, max_pixels=max_pixels)
    unpack_companions(container.extras)  # refuses what `decode` would refuse, but for the plane of transparency
    return FileInfo(
        format_version=container.version,
        model=name_of(container.model_id),
        model_id=container.model_id.hex(),
        width=container.width_px,
        height=container.height_px,
        quality=container.quality,
        bpp=8 * len(data) / (container.width_px * container.height_px),
        file_bytes=len(data),
        overhead_bytes=container.overhead_bytes,
        sections=(
            SectionInfo("semantic", len(container.semantic)),
            SectionInfo("detail", len(container.detail)),
            *(SectionInfo(kind_name(extra.kind), len(extra.payload)) for extra in container.extras),
        ),
    )
