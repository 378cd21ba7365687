"""The functions for programs: `dlfc.encode` and `dlfc.decode`. `dlfc.read_info` lives in `dlfc.info`."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from PIL import Image

from dlfc.codec import Codec
from dlfc.companions import prepare
from dlfc.effort import PLAIN, what_to_load
from dlfc.formats import DEFAULT_MAX_PIXELS, unpack
from dlfc.keep import USUAL, parse_keep
from dlfc.model.dlf import Part


def encode(
    image: Image.Image,
    *,
    quality: float | None = None,
    target_size: int | None = None,
    target_bpp: float | None = None,
    effort: int = PLAIN,
    keep: str | None = None,
    grain: bool = True,
    model: str | None = None,
    device: str = "auto",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> bytes:
    """The .dlf file of a picture of any mode.

    `quality` is a number from 0 to 100, 50 unless told otherwise. In its place, `target_size` (bytes) or `target_bpp`
    (bits per pixel) asks for the highest quality whose file is not larger. An `effort` above 1, up to 9, takes more
    time to make more of that size. Gray pictures stay gray, transparency is kept without loss, and the picture is
    stored upright if `image` has EXIF data that say how it lies. `keep` names what else is kept: `"icc"`, `"exif"`,
    `"xmp"`, several with commas between them, `"all"` or `"none"`; with None, a well-known colour profile is kept as
    one byte, and other colours become sRGB. Of noise its strength is measured, and decoders make such grain anew,
    unless `grain` is False. `model` is a name or the path of a weights file, `device` auto, cpu or
    cuda. The model stays loaded for the next call.

    Raises LimitError if the picture has more than `max_pixels` pixels, or no file is as small as the target,
    ModelError if there is no such model or device, TypeError if `image` is no Pillow image, and ValueError for other
    arguments that make no sense.

    >>> from PIL import Image
    >>> import dlfc
    >>> picture = Image.linear_gradient("L")
    >>> data = dlfc.encode(picture, quality=25)
    >>> len(data) < 300
    True
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"encode takes a picture of PIL.Image, not {type(image).__name__}; PIL.Image.open reads a file")
    if 0 in image.size:
        raise ValueError("the picture has no pixels")
    prepared = prepare(image, replace(USUAL if keep is None else parse_keep(keep), grain=grain))
    return _codec(model, device, *what_to_load(effort)).encode(
        prepared.whole(),
        quality=quality,
        target_size=target_size,
        target_bpp=target_bpp,
        effort=effort,
        extras=prepared.extras,
        max_pixels=max_pixels,
    )


def decode(
    data: bytes,
    *,
    device: str = "auto",
    allow_partial: bool = False,
    grain: bool = True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image:
    """The picture in a .dlf file, in mode L, LA, RGB or RGBA.

    What was kept of its metadata is in `info`: `icc_profile`, `exif` and `xmp`. With `allow_partial` a file that was
    cut after its semantic section gives a picture too. Without `grain`, the film grain that a file asks for is left
    out. The model is the one that the file names; it stays loaded for the next call.

    Raises FormatError if the file is damaged or cut short, LimitError if the picture has more than `max_pixels`
    pixels, ModelError if its model is not there, and TypeError if `data` is not bytes.

    >>> from PIL import Image
    >>> import dlfc
    >>> data = dlfc.encode(Image.linear_gradient("L"))
    >>> dlfc.decode(data)
    <PIL.Image.Image image mode=L size=256x256 at ...>
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"decode takes the bytes of a file, not {type(data).__name__}")
    model_id = unpack(data, allow_partial=allow_partial, max_pixels=max_pixels).model_id
    codec = _codec(model_id, device, "decode")
    return codec.decode(data, allow_partial=allow_partial, grain=grain, max_pixels=max_pixels)


@lru_cache(maxsize=4)
def _codec(model: str | bytes | None, device: str, purpose: Part, precision: str | None = None) -> Codec:
    return Codec.load(model, device=device, purpose=purpose, precision=precision)
