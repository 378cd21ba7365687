"""A reader of lossless WebP bitstreams, RFC 9649 section 3, in plain Python, for the second decoder.

It gives the green of every pixel of a stream without its five bytes of header. Pixels are [alpha, red, green, blue].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Pixel = tuple[int, int, int, int]  # alpha, red, green, blue

_LENGTH_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
# fmt: off
_NEAR = bytes.fromhex(  # section 3.6.2.2: y in the high four bits, 8 - x in the low ones
    "1807171928062729161a262a38053739151b363a252b48044749141c353b464a"
    "242c58454b343c035759131d565a232d444c555b333d68026769121e666a222e"
    "545c434d656b323e78017779535d111f646c424e767a212f757b313f636d525e"
    "00747c414f1020626e30737d515f40727e616f50717f6070"
)
# fmt: on


class Broken(Exception):
    """The stream is not valid."""


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise Broken("the stream ends too early")
        found = self.value & (1 << count) - 1
        self.value >>= count
        return found


@dataclass(frozen=True)
class _Transform:
    kind: int
    bits: int
    width: int  # of the picture that it makes
    pixels: list[Pixel]


def greens(stream: bytes, width: int, height: int) -> bytes:
    """The green values of a picture, rows from the top; raises Broken."""
    bits = _Bits(stream)
    transforms: list[_Transform] = []
    stored_width = width
    while bits.take(1):
        kind = bits.take(2)
        if any(other.kind == kind for other in transforms):
            raise Broken("a transform stands twice")
        if kind in (0, 1):
            size = bits.take(3) + 2
            pixels = _image(bits, _blocks(stored_width, size), _blocks(height, size))
            transforms.append(_Transform(kind, size, stored_width, pixels))
        elif kind == 2:
            transforms.append(_Transform(kind, 0, stored_width, []))
        else:
            count = bits.take(8) + 1
            table = _image(bits, count, 1)
            for at in range(1, count):
                table[at] = _add(table[at], table[at - 1])
            packed = 3 if count <= 2 else 2 if count <= 4 else 1 if count <= 16 else 0
            transforms.append(_Transform(kind, packed, stored_width, table))
            stored_width = _blocks(stored_width, packed)
    pixels = _image(bits, stored_width, height, main=True)
    for transform in reversed(transforms):
        pixels = (_predict, _recolour, _add_green, _look_up)[transform.kind](transform, pixels)
    return bytes(pixel[2] for pixel in pixels)


def _blocks(size: int, bits: int) -> int:
    return (size + (1 << bits) - 1) >> bits


# --- the entropy-coded image --------------------------------------------------------------------------------------


class _Code:
    """A canonical prefix code, read bit by bit."""

    def __init__(self, lengths: list[int]) -> None:
        used = [symbol for symbol, length in enumerate(lengths) if length]
        self.only = used[0] if len(used) == 1 else None
        self.symbols: dict[tuple[int, int], int] = {}
        code = 0
        if self.only is None:
            for length in range(1, 16):
                for symbol in used:
                    if lengths[symbol] == length:
                        self.symbols[length, code] = symbol
                        code += 1
                code <<= 1
            if code != 1 << 16:
                raise Broken("a prefix code is not complete")

    def take(self, bits: _Bits) -> int:
        if self.only is not None:
            return self.only
        code = 0
        for length in range(1, 16):
            code = code << 1 | bits.take(1)
            if (length, code) in self.symbols:
                return self.symbols[length, code]
        raise Broken("no such code")


def _read_code(bits: _Bits, alphabet: int) -> _Code:
    lengths = [0] * alphabet
    if bits.take(1):
        two = bits.take(1)
        symbols = [bits.take(8 if bits.take(1) else 1)]
        if two:
            symbols.append(bits.take(8))
        for symbol in symbols:
            if symbol >= alphabet:
                raise Broken("a symbol outside the alphabet")
            lengths[symbol] = 1
        return _Code(lengths)
    of_lengths = [0] * 19
    for symbol in _LENGTH_ORDER[: 4 + bits.take(4)]:
        of_lengths[symbol] = bits.take(3)
    code = _Code(of_lengths)
    left = alphabet
    if bits.take(1):
        left = 2 + bits.take(2 + 2 * bits.take(3))
        if left > alphabet:
            raise Broken("too many code lengths")
    at, last = 0, 8
    while at < alphabet and left:
        left -= 1
        symbol = code.take(bits)
        if symbol < 16:
            lengths[at] = symbol
            at += 1
            last = symbol or last
            continue
        extra, least = {16: (2, 3), 17: (3, 3), 18: (7, 11)}[symbol]
        count = least + bits.take(extra)
        if at + count > alphabet:
            raise Broken("too many code lengths")
        lengths[at : at + count] = [last if symbol == 16 else 0] * count
        at += count
    return _Code(lengths)


def _image(bits: _Bits, width: int, height: int, *, main: bool = False) -> list[Pixel]:
    cache_bits = 0
    if bits.take(1):
        cache_bits = bits.take(4)
        if not 1 <= cache_bits <= 11:
            raise Broken("a colour cache of a wrong size")
    cache: list[Pixel] = [(0, 0, 0, 0)] * (1 << cache_bits if cache_bits else 0)
    groups_of = None
    size = 0
    if main and bits.take(1):
        size = bits.take(3) + 2
        groups_of = [red << 8 | green for _, red, green, _ in _image(bits, _blocks(width, size), _blocks(height, size))]
    groups = [
        [_read_code(bits, alphabet) for alphabet in (256 + 24 + len(cache), 256, 256, 256, 40)]
        for _ in range(max(groups_of or [0]) + 1)
    ]
    pixels: list[Pixel] = []

    def put(pixel: Pixel) -> None:
        pixels.append(pixel)
        if cache:
            alpha, red, green, blue = pixel
            word = alpha << 24 | red << 16 | green << 8 | blue
            cache[(0x1E35A7BD * word & 0xFFFFFFFF) >> 32 - cache_bits] = pixel

    while len(pixels) < width * height:
        y, x = divmod(len(pixels), width)
        group = groups[groups_of[(y >> size) * _blocks(width, size) + (x >> size)] if groups_of else 0]
        green = group[0].take(bits)
        if green < 256:
            red, blue, alpha = (code.take(bits) for code in group[1:4])
            put((alpha, red, green, blue))
        elif green < 280:
            length = _value(bits, green - 256)
            distance = _distance(_value(bits, group[4].take(bits)), width)
            if distance > len(pixels) or len(pixels) + length > width * height:
                raise Broken("a copy from or to outside the picture")
            for _ in range(length):
                put(pixels[-distance])
        else:
            put(cache[green - 280])
    return pixels


def _value(bits: _Bits, prefix: int) -> int:
    if prefix < 4:
        return prefix + 1
    extra = (prefix - 2) >> 1
    return ((2 + (prefix & 1)) << extra) + bits.take(extra) + 1


def _distance(code: int, width: int) -> int:
    if code > len(_NEAR):
        return code - len(_NEAR)
    y, x = _NEAR[code - 1] >> 4, 8 - (_NEAR[code - 1] & 15)
    return max(x + y * width, 1)


# --- transforms ---------------------------------------------------------------------------------------------------


def _add(a: Pixel, b: Pixel) -> Pixel:
    return (a[0] + b[0]) & 255, (a[1] + b[1]) & 255, (a[2] + b[2]) & 255, (a[3] + b[3]) & 255


def _each(function: Callable[..., int], *pixels: Pixel) -> Pixel:
    alpha, red, green, blue = (function(*values) for values in zip(*pixels, strict=True))
    return alpha, red, green, blue


def _mean(a: Pixel, b: Pixel) -> Pixel:
    return _each(lambda p, q: (p + q) // 2, a, b)


def _select(left: Pixel, top: Pixel, corner: Pixel) -> Pixel:
    to_left = sum(abs(t - c) for t, c in zip(top, corner, strict=True))
    to_top = sum(abs(a - c) for a, c in zip(left, corner, strict=True))
    return left if to_left < to_top else top


def _clip(value: int) -> int:
    return max(0, min(255, value))


_PREDICTORS: tuple[Callable[[Pixel, Pixel, Pixel, Pixel], Pixel], ...] = (  # of left, top, top right, top left
    lambda a, b, c, d: (255, 0, 0, 0),
    lambda a, b, c, d: a,
    lambda a, b, c, d: b,
    lambda a, b, c, d: c,
    lambda a, b, c, d: d,
    lambda a, b, c, d: _mean(_mean(a, c), b),
    lambda a, b, c, d: _mean(a, d),
    lambda a, b, c, d: _mean(a, b),
    lambda a, b, c, d: _mean(d, b),
    lambda a, b, c, d: _mean(b, c),
    lambda a, b, c, d: _mean(_mean(a, d), _mean(b, c)),
    lambda a, b, c, d: _select(a, b, d),
    lambda a, b, c, d: _each(lambda p, q, r: _clip(p + q - r), a, b, d),
    lambda a, b, c, d: _each(lambda m, r: _clip(m + int((m - r) / 2)), _mean(a, b), d),
    lambda a, b, c, d: (255, 0, 0, 0),
    lambda a, b, c, d: (255, 0, 0, 0),
)


def _predict(transform: _Transform, pixels: list[Pixel]) -> list[Pixel]:
    width = transform.width
    found: list[Pixel] = []
    for at, pixel in enumerate(pixels):
        y, x = divmod(at, width)
        if at == 0:
            guess: Pixel = (255, 0, 0, 0)
        elif y == 0:
            guess = found[at - 1]
        elif x == 0:
            guess = found[at - width]
        else:
            block = (y >> transform.bits) * _blocks(width, transform.bits) + (x >> transform.bits)
            mode = transform.pixels[block][2] & 15
            # Right of the last column stands the first pixel of the row, as the order in memory has it.
            guess = _PREDICTORS[mode](found[at - 1], found[at - width], found[at - width + 1], found[at - width - 1])
        found.append(_add(pixel, guess))
    return found


def _signed(value: int) -> int:
    return value - 256 if value > 127 else value


def _recolour(transform: _Transform, pixels: list[Pixel]) -> list[Pixel]:
    found = []
    for at, (alpha, red, green, blue) in enumerate(pixels):
        y, x = divmod(at, transform.width)
        block = (y >> transform.bits) * _blocks(transform.width, transform.bits) + (x >> transform.bits)
        _, red_to_blue, green_to_blue, green_to_red = map(_signed, transform.pixels[block])
        red = (red + (green_to_red * _signed(green) >> 5)) & 255
        blue = (blue + (green_to_blue * _signed(green) >> 5) + (red_to_blue * _signed(red) >> 5)) & 255
        found.append((alpha, red, green, blue))
    return found


def _add_green(transform: _Transform, pixels: list[Pixel]) -> list[Pixel]:
    return [(alpha, (red + green) & 255, green, (blue + green) & 255) for alpha, red, green, blue in pixels]


def _look_up(transform: _Transform, pixels: list[Pixel]) -> list[Pixel]:
    per_pixel, depth = 1 << transform.bits, 8 >> transform.bits
    stored_width = _blocks(transform.width, transform.bits)
    table = transform.pixels + [(0, 0, 0, 0)] * (256 - len(transform.pixels))
    found = []
    for at in range(len(pixels) // stored_width * transform.width):
        y, x = divmod(at, transform.width)
        packed = pixels[y * stored_width + x // per_pixel][2]
        found.append(table[packed >> depth * (x % per_pixel) & (1 << depth) - 1])
    return found
