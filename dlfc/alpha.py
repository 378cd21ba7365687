"""Transparency as a coded plane, without loss: a constant, deflate or the lossless image stream of WebP."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, features

from dlfc.errors import FormatError, LimitError, ModelError
from dlfc.formats import Coding, Kind, damaged, deflate, inflate

_VP8L_MAX_SIDE_PX = 1 << 14  # RFC 9649: a side is stored in 14 bits; libwebp writes one pixel less
_VP8L_SIGNATURE = 0x2F
_SMALL_PX = 1 << 12  # deflate is never the shorter one above
_EFFORT = {"quality": 100, "method": 4}  # methods 5 and 6 take thirty times as long for the last percent
_SEEN = [0] + [255] * 255
_WEBP_HEADER_BYTES = 20  # RIFF, size, WEBP, VP8L, size


def pack_plane(alpha: Image.Image) -> bytes:
    """The payload of an alpha section for an image of mode L, the shortest that this Pillow can write."""
    first = alpha.tobytes()[:1]
    if alpha.getextrema() == (first[0], first[0]):
        return bytes([Coding.CONSTANT]) + first
    candidates = []
    if max(alpha.size) < _VP8L_MAX_SIDE_PX and features.check("webp"):
        candidates.append(bytes([Coding.VP8L]) + _pack_vp8l(alpha))
    if not candidates or alpha.width * alpha.height <= _SMALL_PX:
        candidates.append(bytes([Coding.DEFLATE]) + deflate(alpha.tobytes()))
    return min(candidates, key=len)


def unpack_plane(payload: bytes, size: tuple[int, int]) -> Image.Image:
    """The transparency, mode L, of a picture of `size` pixels, which is within the limit in force.

    Raises FormatError if the payload does not hold exactly that, ModelError if this Pillow cannot read its coding,
    LimitError if it would not read so much.
    """
    coding, content = payload[0], payload[1:]
    width_px, height_px = size
    if coding == Coding.CONSTANT and len(content) == 1:
        return Image.new("L", size, content[0])
    plane: bytes | None = None
    if coding == Coding.STORED and len(content) == width_px * height_px:
        plane = content
    elif coding == Coding.DEFLATE:
        plane = inflate(content, width_px * height_px)
    elif coding == Coding.VP8L:
        return _unpack_vp8l(content, size)
    if plane is None or len(plane) != width_px * height_px:
        raise damaged(Kind.ALPHA)
    return Image.frombytes("L", size, plane)


def fill_hidden(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """The picture with the colours around them spread over fully transparent parts, which cost the fewest bytes so.

    What was there could not be seen, and is often black, whose edges would show in the picture that is decoded.
    """
    seen = alpha.point(_SEEN)
    if seen.getextrema() == (0, 0):
        return rgb
    filled = rgb.convert("RGBA")
    filled.putalpha(seen)
    return _spread(filled).convert("RGB")


def _spread(image: Image.Image) -> Image.Image:
    """Fill where alpha is 0, elsewhere it is 255, from the picture halved until every pixel has a colour."""
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image
    half = image.convert("RGBa").reduce(2).convert("RGBA")  # colours weighted by alpha, then without weights again
    half.putalpha(half.getchannel("A").point(_SEEN))
    return Image.composite(image, _spread(half).resize(image.size, Image.Resampling.BILINEAR), alpha)


def _pack_vp8l(alpha: Image.Image) -> bytes:
    """The stream of a lossless WebP file without its headers, which say nothing new: the plane is its green."""
    blank = Image.new("L", alpha.size)
    buffer = BytesIO()
    Image.merge("RGB", (blank, alpha, blank)).save(buffer, "WEBP", lossless=True, **_EFFORT)
    data = buffer.getvalue()
    assert data[12:16] == b"VP8L", "Pillow wraps a plain lossless picture in one chunk"
    length = int.from_bytes(data[16:20], "little")
    return data[_WEBP_HEADER_BYTES + 5 : _WEBP_HEADER_BYTES + length]


def _unpack_vp8l(stream: bytes, size: tuple[int, int]) -> Image.Image:
    width_px, height_px = size
    if max(size) > _VP8L_MAX_SIDE_PX:
        raise damaged(Kind.ALPHA)
    if not features.check("webp"):
        raise ModelError("the picture has transparency that only a Pillow with WebP can read")
    header = bytes([_VP8L_SIGNATURE]) + (width_px - 1 | height_px - 1 << 14).to_bytes(4, "little")
    chunk = header + stream
    padding = bytes(len(chunk) % 2)
    body = b"WEBPVP8L" + len(chunk).to_bytes(4, "little") + chunk + padding
    try:
        with Image.open(BytesIO(b"RIFF" + len(body).to_bytes(4, "little") + body), formats=["WEBP"]) as image:
            found = image.convert("RGB").getchannel("G")
    except Image.DecompressionBombError as error:
        raise LimitError("the picture has transparency of more pixels than Pillow reads") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise damaged(Kind.ALPHA) from error
    if found.size != size:
        raise FormatError("the alpha section is of another size; the file is damaged")
    return found
