"""Make formats/vectors/companions: frozen files with metadata, colour space, gray and transparency, and bad ones.

They are the file 31x33-q62.5 of the other vectors, or 200x150-q62.5, with optional sections. As there: run once, never
to make a failing test pass. From the root of the repository:

    python tests/make_companion_vectors.py formats/vectors
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import second_decoder
from make_vectors import resealed
from PIL import Image, ImageDraw
from second_decoder import ALPHA, COLOUR_SPACE, EXIF, GRAY, ICC, XMP

from dlfc.colour import profile_of
from dlfc.formats import ColourSpace, Container, Extra, pack, unpack

LIMIT = 1 << 22
XMP_DATA = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>'
EXIF_DATA = b"MM\0*\0\0\0\x08\0\1\x01\x0f\0\2\0\0\0\x09\0\0\0\x1a\0\0\0\0A camera\0"


def deflated(content: bytes) -> bytes:
    """A raw deflate stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def mask(width_px: int, height_px: int, scale: int = 4) -> Image.Image:
    """An ellipse with soft edges, or hard ones with a scale of 1."""
    large = Image.new("L", (width_px * scale, height_px * scale))
    ImageDraw.Draw(large).ellipse((scale, scale * 2, large.width - 3 * scale, large.height - scale), fill=255)
    return large.reduce(scale)


def vp8l(green: Image.Image) -> bytes:
    """The image stream of a lossless WebP file that has `green` in its green, and something in its other colours."""
    red = Image.linear_gradient("L").resize(green.size)
    buffer = BytesIO()
    Image.merge("RGB", (red, green, red)).save(buffer, "WEBP", lossless=True, quality=80, method=4)
    data = buffer.getvalue()
    assert data[12:16] == b"VP8L"
    return data[25 : 20 + int.from_bytes(data[16:20], "little")]


def good_files(plain: Container, larger: Container) -> dict[str, bytes]:
    """Valid files by name."""
    size = plain.width_px, plain.height_px
    soft, hard = mask(*size), mask(*size, 1)
    profile = profile_of(ColourSpace.DISPLAY_P3)
    bilevel = vp8l(hard)
    sections: dict[str, Mapping[int, bytes]] = {
        "gray": {GRAY: b""},
        "display-p3": {COLOUR_SPACE: b"\1"},
        "adobe-rgb": {COLOUR_SPACE: b"\2"},
        "a-colour-space-of-the-future": {COLOUR_SPACE: b"\xc8"},
        "icc-stored": {ICC: b"\0" + profile},
        "icc-deflate": {ICC: b"\1" + deflated(profile)},
        "exif-deflate": {EXIF: b"\1" + deflated(EXIF_DATA)},
        "xmp-stored": {XMP: b"\0" + XMP_DATA},
        "metadata-of-no-bytes": {ICC: b"\0", EXIF: b"\1" + deflated(b"")},
        "metadata-as-long-as-they-may-be": {XMP: b"\1" + deflated(bytes(LIMIT))},
        "metadata-with-a-coding-of-the-future": {ICC: b"\2?", EXIF: b"\3?", XMP: b"\xff"},
        "alpha-constant": {ALPHA: b"\3\x80"},
        "alpha-stored": {ALPHA: b"\0" + soft.tobytes()},
        "alpha-deflate": {ALPHA: b"\1" + deflated(soft.tobytes())},
        "alpha-vp8l": {ALPHA: b"\2" + vp8l(soft)},
        "alpha-vp8l-of-two-values": {ALPHA: b"\2" + bilevel},
        "alpha-vp8l-with-bytes-after-its-end": {ALPHA: b"\2" + bilevel + b"more"},
        "gray-with-alpha": {GRAY: b"", ALPHA: b"\1" + deflated(hard.tobytes())},
        "all-of-them": {
            ICC: b"\1" + deflated(profile), EXIF: b"\1" + deflated(EXIF_DATA), XMP: b"\1" + deflated(XMP_DATA),
            ALPHA: b"\2" + vp8l(soft), 0x2A: b"hi!",
        },
    }  # fmt: skip
    files = {name: with_sections(plain, found) for name, found in sections.items()}
    wide = larger.width_px, larger.height_px
    return files | {"alpha-vp8l-larger": with_sections(larger, {ALPHA: b"\2" + vp8l(mask(*wide))})}


def with_sections(plain: Container, sections: Mapping[int, bytes]) -> bytes:
    """The file with these optional sections."""
    return pack(replace(plain, extras=tuple(Extra(kind, sections[kind]) for kind in sorted(sections))))


@dataclass(frozen=True)
class Bad:
    """A file that is refused, and how: the rule in SPEC.md, the error of the product and words of its message."""

    data: bytes
    rule: int
    error: str
    message: str


def bad_files(plain: Container) -> dict[str, Bad]:
    """Files that are refused, by name."""
    size = plain.width_px, plain.height_px
    soft = mask(*size)
    stream, count = vp8l(soft), size[0] * size[1]
    sections = {
        "gray-with-a-payload": {GRAY: b"\0"},
        "a-colour-space-of-no-bytes": {COLOUR_SPACE: b""},
        "a-colour-space-of-two-bytes": {COLOUR_SPACE: b"\1\1"},
        "icc-without-a-coding": {ICC: b""},
        "exif-cut-short": {EXIF: b"\1" + deflated(EXIF_DATA)[:-4]},
        "exif-that-is-no-deflate-stream": {EXIF: b"\1\xff\xff\xff"},
        "xmp-with-a-byte-after-its-stream": {XMP: b"\1" + deflated(XMP_DATA) + b"\0"},
        "a-byte-too-much-of-xmp": {XMP: b"\1" + deflated(bytes(LIMIT + 1))},
        "a-bomb-of-xmp": {XMP: b"\1" + deflated(bytes(1 << 23))},
        "alpha-without-a-coding": {ALPHA: b""},
        "alpha-constant-of-two-bytes": {ALPHA: b"\3\x80\x80"},
        "alpha-constant-of-no-bytes": {ALPHA: b"\3"},
        "alpha-stored-a-byte-short": {ALPHA: b"\0" + soft.tobytes()[:-1]},
        "alpha-stored-a-byte-long": {ALPHA: b"\0" + soft.tobytes() + b"\0"},
        "alpha-deflate-a-byte-short": {ALPHA: b"\1" + deflated(soft.tobytes()[:-1])},
        "alpha-deflate-a-byte-long": {ALPHA: b"\1" + deflated(soft.tobytes() + b"\0")},
        "alpha-deflate-bomb": {ALPHA: b"\1" + deflated(bytes(1 << 23))},
        "alpha-vp8l-of-nothing": {ALPHA: b"\2"},
        "alpha-vp8l-cut-short": {ALPHA: b"\2" + stream[: len(stream) // 2]},
        "alpha-vp8l-of-a-smaller-picture": {ALPHA: b"\2" + vp8l(soft.resize((3, 3)))},
        "alpha-vp8l-that-is-noise": {ALPHA: b"\2" + bytes(range(251, 1, -7)) * 9},
    }
    assert count > 9
    bad = {
        name: Bad(with_sections(plain, found), 13, "FormatError", "does not hold what it should")
        for name, found in sections.items()
    }
    future = with_sections(plain, {ALPHA: b"\4?"})
    return bad | {
        "alpha-with-a-coding-of-the-future": Bad(future, 9, "UnsupportedVersionError", "alpha"),
        "alpha-before-gray": Bad(
            resealed(pack(plain) + b"\x84\2\3\x80\4\0"), 8, "FormatError", "out of order or stands twice"
        ),
    }


def main(folder: Path) -> None:
    """Write files and manifest."""
    plain, larger = (unpack((folder / "good" / f"{name}-q62.5.dlf").read_bytes()) for name in ("31x33", "200x150"))
    target = folder / "companions"
    for name in ("good", "bad"):
        (target / name).mkdir(parents=True, exist_ok=True)
    good, bad = {}, {}
    for name, data in sorted(good_files(plain, larger).items()):
        (target / "good" / f"{name}.dlf").write_bytes(data)
        found = second_decoder.read_companions(second_decoder.read_container(data))
        good[name] = {"sha256": hashlib.sha256(data).hexdigest(), **facts(found)}
    for name, file in sorted(bad_files(plain).items()):
        (target / "bad" / f"{name}.dlf").write_bytes(file.data)
        digest = hashlib.sha256(file.data).hexdigest()
        bad[name] = {"sha256": digest, "rule": file.rule, "error": file.error, "message": file.message}
    text = json.dumps({"format_version": 1, "good": good, "bad": bad}, indent=1) + "\n"
    (target / "manifest.json").write_text(text)


def facts(found: second_decoder.Companions) -> dict[str, object]:
    """What the manifest says of the optional sections of a file."""

    def digest(content: bytes | None) -> str | None:
        return None if content is None else hashlib.sha256(content).hexdigest()

    return {
        "gray": found.gray,
        "colour_space": found.colour_space,
        "icc_sha256": digest(found.metadata.get(ICC)),
        "exif_sha256": digest(found.metadata.get(EXIF)),
        "xmp_sha256": digest(found.metadata.get(XMP)),
        "alpha_sha256": digest(found.alpha),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
