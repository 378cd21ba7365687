"""Lets Pillow read and write .dlf files: `import dlfc.pillow` once, then `Image.open` and `Image.save` know them.

Opening reads what the file says and checks it, without torch and without a model; the picture is decoded when its
pixels are first asked for.

>>> from PIL import Image
>>> import dlfc.pillow
>>> Image.linear_gradient("L").save("gradient.dlf", quality=40)
>>> with Image.open("gradient.dlf") as image:
...     print(image.format, image.mode, image.size)
DLF L (256, 256)
"""

from __future__ import annotations

import os
from typing import IO, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from dlfc.companions import info_of
from dlfc.errors import DlfcError, LimitError
from dlfc.formats import DEFAULT_MAX_PIXELS, MAGIC, unpack, unpack_companions

FORMAT = "DLF"
_MAX_BYTES = 2**26  # a byte for two pixels of the largest picture, far above what any needs
_METADATA = {"icc": "icc_profile", "exif": "exif", "xmp": "xmp"}  # names of --keep, and those of Pillow
_SAVE_OPTIONS = ("quality", "target_size", "target_bpp", "effort", "keep", "model", "device")


class DlfImageFile(ImageFile.ImageFile):
    """A .dlf file. `ImageFile.LOAD_TRUNCATED_IMAGES` lets it read one that was cut short, as for other formats."""

    format = FORMAT
    format_description = "Learned image codec dlfc"

    def _open(self) -> None:
        assert self.fp is not None
        self._data = self.fp.read(_MAX_BYTES + 1)
        name = os.fsdecode(self.filename) if self.filename else "the file"
        try:
            if len(self._data) > _MAX_BYTES:
                raise LimitError(f"more than {_MAX_BYTES} bytes, which is the limit for a .dlf file")
            container = unpack(self._data, max_pixels=_max_pixels(), allow_partial=ImageFile.LOAD_TRUNCATED_IMAGES)
            companions = unpack_companions(container.extras)
        except LimitError as error:
            raise Image.DecompressionBombError(f"{name}: {error}") from error
        except DlfcError as error:
            raise UnidentifiedImageError(f"{name}: {error}") from error
        self._size = container.width_px, container.height_px
        self._mode = companions.mode
        self.tile = []
        for key, data in info_of(companions).items():
            self.info[key] = data

    def load(self) -> Image.core.PixelAccess | None:
        """Decode the picture, the first time. Raises OSError."""
        if self._data:
            from dlfc.api import decode

            try:
                image = decode(self._data, allow_partial=ImageFile.LOAD_TRUNCATED_IMAGES, max_pixels=_max_pixels())
            except DlfcError as error:
                raise OSError(str(error)) from error
            self._data = b""
            self.im = image.im
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
            self.fp = None
        return super().load()


def _max_pixels() -> int:
    """The larger limit of Pillow and of dlfc; None is Pillow's way to say that there is none."""
    limit = Image.MAX_IMAGE_PIXELS
    return 2**40 if limit is None else max(2 * limit, DEFAULT_MAX_PIXELS)


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, stream: IO[bytes], filename: str | bytes) -> None:
    """Write a .dlf file. Options are those of `dlfc.encode`, and `icc_profile`, `exif` and `xmp` as for other formats.

    Metadata that are given here are kept, others only as `keep` says. Raises OSError or ValueError.
    """
    from dlfc.api import encode

    options = {name: image.encoderinfo[name] for name in _SAVE_OPTIONS if name in image.encoderinfo}
    given = {name: image.encoderinfo[key] for name, key in _METADATA.items() if key in image.encoderinfo}
    if given:
        image = _with_metadata(image, given)
        options["keep"] = _and_also(options.get("keep"), [name for name, data in given.items() if data])
    try:
        stream.write(encode(image, **options))
    except DlfcError as error:
        raise OSError(str(error)) from error


def _with_metadata(image: Image.Image, given: dict[str, Any]) -> Image.Image:
    """The picture with these metadata as if they had come with it; an empty one takes away what had."""
    changed = image.copy()
    for name, data in given.items():
        changed.info[_METADATA[name]] = data.tobytes() if isinstance(data, Image.Exif) else data
    return changed


def _and_also(keep: str | None, names: list[str]) -> str | None:
    """The value of `keep` that asks for more."""
    if keep == "all" or not names:
        return keep
    asked = {*names, *(keep.split(",") if keep and keep != "none" else ())}
    return ",".join(sorted(asked))


Image.register_open(FORMAT, DlfImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".dlf")
Image.register_mime(FORMAT, "image/x-dlf")
