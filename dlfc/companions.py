"""What comes with a picture besides its colours: what is kept of it, and how it comes back.

`prepare` turns any picture into 8-bit RGB pixels and optional sections, `Finish` turns decoded pixels into a picture
with all that again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image, ImageChops

from dlfc import alpha as planes
from dlfc import colour
from dlfc.errors import LimitError
from dlfc.exif import ORIENTATION_TAG, PREFIX, exif_of, upright_exif, upright_xmp, xmp_of
from dlfc.formats import (
    METADATA_MAX_BYTES,
    ColourSpace,
    Companions,
    Container,
    Extra,
    pack_companions,
    unpack_companions,
)
from dlfc.keep import Keep
from dlfc.pixels import GRAY_MODES, separate
from dlfc.raw import RawPicture, strips

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_METADATA = {"exif": "EXIF", "xmp": "XMP"}


@dataclass(frozen=True)
class Prepared:
    """A picture to encode: 8-bit RGB, upright, and the optional sections of its file. A RawPicture may also be gray.

    `notes` says what of it was dropped or converted, `details` what changed without a loss that can be seen.
    """

    image: Image.Image | RawPicture
    extras: tuple[Extra, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    def whole(self) -> Image.Image:
        """The picture as Pillow's."""
        return self.image.whole() if isinstance(self.image, RawPicture) else self.image


def prepare(source: Image.Image, keep: Keep, *, deep: bool = False, find_gray: bool = False) -> Prepared:
    """Return what is encoded of a loaded picture.

    Orientation is applied. Colours stay as they are if a profile that says what they mean is kept, or if it means a
    colour space that files can name; else they become sRGB. With `find_gray`, RGB pixels without any colour count as
    gray too. `deep` says that Pillow reduced the samples from 16 bits by itself.
    """
    notes: list[str] = []
    details: list[str] = []
    pixels = separate(source, deep=deep)
    notes.extend(pixels.notes)
    rgb, companions = _colours(pixels.colours, source.info.get("icc_profile"), keep, notes, details)
    if source.mode in GRAY_MODES or (find_gray and _is_gray(rgb, companions)):
        rgb = rgb.convert("L").convert("RGB")
        companions = replace(companions, gray=True, colour_space=None)
    orientation = _orientation(source, details)
    rgb = _turn(rgb, orientation)
    if keep.grain:
        companions = replace(companions, grain=_grain_of(rgb))
    if pixels.alpha is not None:
        alpha = _turn(pixels.alpha, orientation)
        rgb, companions = _transparency(rgb, alpha, companions, keep, notes, details)
    companions = _metadata(source, companions, keep, notes, details)
    if rgb is source:
        rgb = source.copy()
    rgb.info = {}
    return Prepared(rgb, pack_companions(companions), tuple(notes), tuple(details))


def prepare_raw(source: Image.Image, picture: RawPicture, keep: Keep) -> Prepared | None:
    """Return what `prepare` with `find_gray` would, but the picture as it lies in its file; None if its pixels change.

    `source` is the same picture as Pillow opened it, not loaded.
    """
    notes: list[str] = []
    details: list[str] = []
    if source.info.get("icc_profile") or "transparency" in source.info or _orientation(source, details) != 1 or details:
        return None
    gray = picture.mode in GRAY_MODES or _is_gray(picture, Companions())
    grain = _grain_of(picture) if keep.grain else 0
    companions = _metadata(source, Companions(gray=gray, grain=grain), keep, notes, details)
    return Prepared(picture, pack_companions(companions), tuple(notes), tuple(details))


@dataclass(frozen=True)
class Finish:
    """What turns decoded pixels into the picture that was encoded."""

    companions: Companions
    alpha: Image.Image | None

    @classmethod
    def of(cls, container: Container, *, grain: bool = True) -> Finish:
        """What a file says about it, without its grain if that is not wanted.

        Raises FormatError for damaged sections, LimitError for want of memory.
        """
        companions = unpack_companions(container.extras)
        if not grain:
            companions = replace(companions, grain=0)
        size = container.width_px, container.height_px
        try:
            alpha = None if companions.alpha is None else planes.unpack_plane(companions.alpha, size)
        except MemoryError as error:
            raise LimitError(f"not enough memory for a picture of {size[0]}x{size[1]} pixels") from error
        return cls(companions, alpha)

    def apply(self, rgb: Image.Image, top: int = 0) -> Image.Image:
        """Rows from `top` on in mode L, LA, RGB or RGBA, with what was kept of the picture in their `info`."""
        if self.companions.grain:
            from dlfc.grain import with_grain

            rgb = with_grain(rgb, self.companions.grain, top)
        image = rgb.convert("L") if self.companions.gray else rgb
        if self.alpha is not None:
            image.putalpha(self.alpha.crop((0, top, rgb.width, top + rgb.height)))
        for name, data in info_of(self.companions).items():
            image.info[name] = data
        return image


def info_of(companions: Companions) -> dict[str, bytes]:
    """What of a file goes into the `info` of a Pillow image: `icc_profile`, `exif` and `xmp`, each only if it is there.

    A profile that does not describe gray or RGB pixels, as the picture has them, is left out.
    """
    icc = companions.icc
    if icc is None and companions.colour_space is not None:
        icc = colour.profile_of(companions.colour_space)
    if icc is not None and colour.mode_of(icc) != ("L" if companions.gray else "RGB"):
        icc = None
    exif = PREFIX + companions.exif if companions.exif else None
    found = {"icc_profile": icc, "exif": exif, "xmp": companions.xmp}
    return {name: data for name, data in found.items() if data}


def over_white(image: Image.Image) -> Image.Image:
    """A picture of mode LA or RGBA in L or RGB, on white."""
    mode = image.mode[:-1]
    flat = Image.composite(image.convert(mode), Image.new(mode, image.size, "white"), image.getchannel("A"))
    flat.info = dict(image.info)
    return flat


def _colours(
    colours: Image.Image, profile: bytes | None, keep: Keep, notes: list[str], details: list[str]
) -> tuple[Image.Image, Companions]:
    """Return the pixels as RGB, and what the file says about their colours."""
    companions = Companions()
    if profile:
        try:
            return _profiled(colours, profile, keep, notes, details)
        except colour.UnusableProfileError:
            notes.append("unusable colour profile ignored")
    if colours.mode == "LAB":
        return colour.lab_to_srgb(colours), companions
    return colours.convert("RGB"), companions


def _profiled(
    colours: Image.Image, profile: bytes, keep: Keep, notes: list[str], details: list[str]
) -> tuple[Image.Image, Companions]:
    name = colour.describe(profile)
    fits = colours.mode in ("L", "RGB") and colour.mode_of(profile) == colours.mode
    if keep.icc and fits and len(profile) <= METADATA_MAX_BYTES:
        return colours.convert("RGB"), Companions(icc=profile)
    if colours.mode == "RGB":
        if colour.is_srgb(profile):
            details.append(f"colour profile dropped ({name}, which is sRGB)")
            return colours, Companions()
        space = colour.recognise(profile) if keep.colour else None
        if space is not None:
            details.append(f"colour profile kept by name ({colour.NAMES[space]})")
            return colours, Companions(colour_space=space)
    converted = colour.to_srgb(colours, profile)
    notes.append(f"colours converted from profile {name} to sRGB")
    return converted, Companions()


def _is_gray(rgb: Image.Image | RawPicture, companions: Companions) -> bool:
    if companions.icc is not None or companions.colour_space not in (None, ColourSpace.DISPLAY_P3):
        return False  # gray files are sRGB, whose curve Display P3 has too
    return all(_is_gray_strip(strip) for _, strip in strips(rgb))


def _is_gray_strip(strip: Image.Image) -> bool:
    red, green, blue = strip.split()
    return all(ImageChops.difference(red, other).getextrema() == (0, 0) for other in (green, blue))


def _grain_of(picture: Image.Image | RawPicture) -> int:
    from dlfc.grain import strength_of  # needs numpy, which takes longer to load than opening a file takes

    return strength_of(picture)


def _orientation(source: Image.Image, details: list[str]) -> int:
    try:
        found = source.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises whatever the damaged block provokes; the pixels are sound
        details.append("damaged EXIF data ignored")
        return 1
    if found not in _ORIENTATIONS:
        return 1
    details.append("turned as its EXIF data says")
    return int(found)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else image


def _transparency(
    rgb: Image.Image,
    alpha: Image.Image,
    companions: Companions,
    keep: Keep,
    notes: list[str],
    details: list[str],
) -> tuple[Image.Image, Companions]:
    if alpha.getextrema() == (255, 255):
        details.append("alpha channel dropped (fully opaque)")
        return rgb, companions
    if keep.alpha:
        return planes.fill_hidden(rgb, alpha), replace(companions, alpha=planes.pack_plane(alpha))
    notes.append("transparency laid over white")
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha), companions


def _metadata(
    source: Image.Image, companions: Companions, keep: Keep, notes: list[str], details: list[str]
) -> Companions:
    """Return `companions` with the metadata that are kept, and say which are not."""
    dropped = []
    for field, name in _METADATA.items():
        try:
            content = exif_of(source) if field == "exif" else xmp_of(source)
            if content is None:
                continue
            if not getattr(keep, field):
                dropped.append(name)
                continue
            content = upright_exif(content) if field == "exif" else upright_xmp(content)
        except Exception:  # as in _orientation
            notes.append(f"damaged {name} data dropped")
            continue
        if len(content) > METADATA_MAX_BYTES:
            notes.append(f"{name} data of {len(content)} bytes dropped, which are too many")
        else:
            companions = replace(companions, **{field: content})
    if dropped:
        (details if keep.asked else notes).append(f"{' and '.join(dropped)} data dropped")
    return companions
