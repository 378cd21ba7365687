"""The .dlf container: what is written is read back, and everything else is refused."""

from __future__ import annotations

import re
import time
import tracemalloc
from binascii import crc_hqx
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlfc.errors import DlfcError, FormatError, LimitError, UnsupportedVersionError
from dlfc.formats import (
    DEFAULT_MAX_PIXELS,
    MAX_SIDE_PX,
    Container,
    Extra,
    Kind,
    kind_name,
    nearest_quality,
    pack,
    unpack,
)
from dlfc.formats.layout import FILE_MIN_BYTES, Varint

SPEC = Path(__file__).parents[1] / "formats" / "SPEC.md"

PHOTO = Container(
    model_id=bytes.fromhex("5eed1234"),
    width_px=768,
    height_px=512,
    quality=50.0,
    symbol_check=0xC0DE,
    semantic=bytes.fromhex("a1a2a3a4a5a6a7a8a9aaab"),
    detail=bytes.fromhex("d1d2d3d4d5d6d7"),
)
PHOTO_BYTES = bytes.fromhex("df1c015eed1234ff05ff03646632dec00ba1a2a3a4a5a6a7a8a9aaab07d1d2d3d4d5d6d7")
TAGGED = replace(PHOTO, extras=(Extra(Kind.ICC, b"colours"), Extra(0x2A, b"hi!")))
SEMANTIC_END = 16 + 1 + 11
DETAIL_END = SEMANTIC_END + 1 + 7
ICC_END = DETAIL_END + 2 + 7

payloads = st.binary(max_size=300)
# A check of 16 bits can be met by chance; the same examples on every run keep that from happening on one of them.
unlucky_once_in_65536 = settings(derandomize=True)


@st.composite
def containers(draw: st.DrawFn) -> Container:
    kinds = sorted(draw(st.sets(st.integers(0, 0x7F), max_size=4)))
    return Container(
        model_id=draw(st.binary(min_size=4, max_size=4)),
        width_px=draw(st.integers(1, 2**13)),
        height_px=draw(st.integers(1, 2**13)),
        quality=draw(st.integers(0, 200)) / 2,
        symbol_check=draw(st.integers(0, 0xFFFF)),
        semantic=draw(payloads),
        detail=draw(payloads),
        extras=tuple(Extra(kind, draw(payloads)) for kind in kinds),
    )


def file_by_hand(
    *, width: bytes = b"\x0f", height: bytes = b"\x0f", quality: int = 100, body: bytes = b"\x00\x00", version: int = 1
) -> bytes:
    """A file made by hand, with a right file check, from parts that `pack` would not write."""
    before = b"\xdf\x1c" + bytes([version]) + b"\x5e\xed\x12\x34" + width + height + bytes([quality])
    after = b"\xde\xc0" + body
    return before + crc_hqx(after, crc_hqx(before, 0xFFFF)).to_bytes(2, "little") + after


def varint(value: int) -> bytes:
    encoded: bytes = Varint.build(value)
    return encoded


# What is written is read back


@given(containers())
def test_a_container_comes_back_as_it_was(container: Container) -> None:
    assert unpack(pack(container)) == container


@given(containers())
def test_sizes_are_those_of_the_file(container: Container) -> None:
    data = pack(container)
    payload = len(container.semantic) + len(container.detail) + sum(len(extra.payload) for extra in container.extras)
    assert container.size_bytes == len(data)
    assert container.payload_bytes == payload
    assert container.overhead_bytes == len(data) - payload


def test_a_fixed_container_gives_these_bytes() -> None:
    assert pack(PHOTO) == PHOTO_BYTES
    assert unpack(PHOTO_BYTES) == PHOTO


@pytest.mark.parametrize("section_bytes", [0, 127, 128, 2**14 - 1])
def test_a_photo_has_at_most_20_bytes_of_overhead(section_bytes: int) -> None:
    photo = replace(PHOTO, semantic=bytes(section_bytes), detail=bytes(section_bytes))
    assert len(pack(photo)) - 2 * section_bytes <= 20


def test_the_smallest_file_is_as_small_as_the_layout_says() -> None:
    smallest = replace(PHOTO, width_px=1, height_px=1, semantic=b"", detail=b"")
    assert len(pack(smallest)) == FILE_MIN_BYTES == 16


@pytest.mark.parametrize(("width", "height"), [(1, 1), (128, 129), (MAX_SIDE_PX, 1), (1, MAX_SIDE_PX), (2**13, 2**13)])
def test_extreme_sizes_come_back(width: int, height: int) -> None:
    container = replace(PHOTO, width_px=width, height_px=height)
    assert unpack(pack(container)) == container


# The specification


def dump_in_the_spec() -> bytes:
    rows = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} ?)+)$", SPEC.read_text(encoding="utf-8"), re.MULTILINE)
    return bytes.fromhex("".join(rows))


def test_the_file_dumped_in_the_spec_is_one_that_we_write() -> None:
    expected = replace(PHOTO, extras=(Extra(0x2A, b"hi!"),))
    assert dump_in_the_spec() == pack(expected)
    assert unpack(dump_in_the_spec()) == expected


def test_the_table_below_the_dump_covers_each_byte_of_it() -> None:
    rows = re.findall(r"^\| (\d+) \| `([0-9a-f ]+)` \|", SPEC.read_text(encoding="utf-8"), re.MULTILINE)
    joined = b""
    for offset, octets in rows:
        assert int(offset) == len(joined)
        joined += bytes.fromhex(octets)
    assert joined == dump_in_the_spec()


def test_the_check_value_in_the_spec_is_that_of_our_crc() -> None:
    stated = re.search(r"`123456789` give 0x([0-9A-F]{4})", SPEC.read_text(encoding="utf-8"))
    assert stated is not None
    assert int(stated[1], 16) == crc_hqx(b"123456789", 0xFFFF)


def test_the_file_check_is_what_the_loop_in_the_spec_gives() -> None:
    crc = 0xFFFF
    for byte in PHOTO_BYTES[:12] + PHOTO_BYTES[14:]:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    assert int.from_bytes(PHOTO_BYTES[12:14], "little") == crc


# Damage


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xdf\x1d" + PHOTO_BYTES[2:], b"\x00", b"RIFF"])
def test_bytes_of_something_else_are_no_dlf_file(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"not a \.dlf file"):
        unpack(data)


@pytest.mark.parametrize("container", [PHOTO, TAGGED])
def test_a_file_cut_at_any_byte_is_refused(container: Container) -> None:
    data = pack(container)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            unpack(data[:size])


@unlucky_once_in_65536
@given(containers(), st.data())
def test_a_cut_file_is_refused(container: Container, data: st.DataObject) -> None:
    packed = pack(container)
    with pytest.raises(FormatError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


def test_a_cut_file_is_called_cut() -> None:
    with pytest.raises(FormatError, match="file is cut short: 30 of at least 36 bytes"):
        unpack(PHOTO_BYTES[:30])
    with pytest.raises(FormatError, match="file is cut short: 9 of at least 16 bytes"):
        unpack(PHOTO_BYTES[:9])


@pytest.mark.parametrize("container", [PHOTO, TAGGED])
@pytest.mark.parametrize("allow_partial", [False, True])
def test_any_byte_after_the_end_is_refused_and_counted(container: Container, allow_partial: bool) -> None:
    for byte in range(256):
        with pytest.raises(FormatError, match="1 byte after the end of the last section"):
            unpack(pack(container) + bytes([byte]), allow_partial=allow_partial)


@unlucky_once_in_65536
@given(containers(), st.binary(min_size=1, max_size=40))
def test_bytes_after_the_end_are_refused(container: Container, surplus: bytes) -> None:
    with pytest.raises(FormatError):
        unpack(pack(container) + surplus)


def test_bytes_that_look_like_a_section_after_the_end_are_counted() -> None:
    with pytest.raises(FormatError, match="4 bytes after the end of the last section"):
        unpack(PHOTO_BYTES + b"\x05\x02ab")


def test_zeros_after_the_end_are_counted() -> None:
    with pytest.raises(FormatError, match="4096 bytes after the end of the last section"):
        unpack(pack(TAGGED) + bytes(4096))


@pytest.mark.parametrize("container", [PHOTO, TAGGED])
def test_every_flipped_bit_is_refused(container: Container) -> None:
    data = pack(container)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DlfcError):
            unpack(bytes(damaged))


@given(containers(), st.data())
def test_a_flipped_bit_in_a_section_is_refused(container: Container, data: st.DataObject) -> None:
    packed = bytearray(pack(container))
    body_start = len(pack(replace(container, semantic=b"", detail=b"", extras=()))) - 2
    bit = data.draw(st.integers(8 * body_start, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        unpack(bytes(packed))


def test_damage_in_a_payload_is_called_damage() -> None:
    damaged = bytearray(PHOTO_BYTES)
    damaged[20] ^= 0x10
    with pytest.raises(FormatError, match="damaged: file check fails"):
        unpack(bytes(damaged))
    with pytest.raises(FormatError, match="damaged: file check fails"):
        unpack(bytes(damaged), allow_partial=True)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_in_a_container_or_an_error_of_ours(tail: bytes, allow_partial: bool) -> None:
    for data in (tail, b"\xdf\x1c\x01" + tail, PHOTO_BYTES[:16] + tail, PHOTO_BYTES + tail):
        try:
            found = unpack(data, allow_partial=allow_partial)
        except DlfcError as error:
            message = str(error)
        else:
            message = f"{found.width_px}x{found.height_px}"
            assert found.width_px * found.height_px <= DEFAULT_MAX_PIXELS
        assert message
        assert "\n" not in message


# Numbers


@pytest.mark.parametrize(
    ("value", "octets"), [(0, "00"), (127, "7f"), (128, "8001"), (767, "ff05"), (2**35 - 1, "ffffffff7f")]
)
def test_varints_have_these_bytes(value: int, octets: str) -> None:
    assert varint(value) == bytes.fromhex(octets)
    assert Varint.parse(bytes.fromhex(octets)) == value


@given(st.integers(0, 2**35 - 1))
def test_a_varint_comes_back(value: int) -> None:
    assert Varint.parse(varint(value)) == value


@pytest.mark.parametrize("octets", ["8000", "ff00", "80808000", "8080808000", "808080808001", "ffffffffffff7f"])
@pytest.mark.parametrize("allow_partial", [False, True])
def test_a_varint_that_is_too_long_is_refused_wherever_it_stands(octets: str, allow_partial: bool) -> None:
    long_form = bytes.fromhex(octets)
    for data in (
        file_by_hand(width=long_form),
        file_by_hand(height=long_form),
        file_by_hand(body=long_form + b"\x00"),
        file_by_hand(body=b"\x00" + long_form),
        file_by_hand(body=b"\x00\x00\x05" + long_form),
    ):
        with pytest.raises(FormatError, match="shortest form"):
            unpack(data, allow_partial=allow_partial)


def test_the_same_file_with_short_varints_is_read() -> None:
    assert unpack(file_by_hand(body=b"\x00\x00\x05\x00")).extras == (Extra(5, b""),)


@pytest.mark.parametrize("quality", range(201, 256))
def test_a_quality_over_100_is_refused(quality: int) -> None:
    with pytest.raises(FormatError, match="quality is over 100"):
        unpack(file_by_hand(quality=quality))


# Versions and optional sections


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_by_its_number(version: int) -> None:
    with pytest.raises(UnsupportedVersionError, match=f"format version {version} "):
        unpack(file_by_hand(version=version))


@given(st.integers(0, 0x7F), payloads)
def test_an_unknown_optional_section_is_kept(kind: int, payload: bytes) -> None:
    container = replace(PHOTO, extras=(Extra(kind, payload),))
    assert unpack(pack(container)).extras == (Extra(kind, payload),)


@pytest.mark.parametrize("kind", range(0x80, 0x100))
def test_an_unknown_critical_section_is_refused(kind: int) -> None:
    data = pack(replace(TAGGED, extras=(*TAGGED.extras, Extra(kind, b"?"))))
    with pytest.raises(UnsupportedVersionError, match=kind_name(kind)):
        unpack(data)


def test_a_critical_section_that_was_cut_is_refused_too() -> None:
    data = pack(replace(PHOTO, extras=(Extra(Kind.ALPHA, b"coverage"),)))
    with pytest.raises(UnsupportedVersionError, match="alpha"):
        unpack(data[:-3], allow_partial=True)


@pytest.mark.parametrize("body", ["0000 0100 0100", "0000 0200 0100", "0000 0500 0000"])
def test_sections_twice_or_out_of_order_are_refused(body: str) -> None:
    with pytest.raises(FormatError, match="out of order or stands twice"):
        unpack(file_by_hand(body=bytes.fromhex(body)))


def test_kinds_have_names() -> None:
    assert [kind_name(kind) for kind in (0x01, 0x02, 0x03, 0x84, 0x2A)] == ["icc", "exif", "xmp", "alpha", "0x2a"]


# Limits


def peak_bytes_of_refusing(data: bytes, error: type[DlfcError], **options: Any) -> int:
    tracemalloc.start()
    try:
        started = time.perf_counter()
        with pytest.raises(error):
            unpack(data, **options)
        assert time.perf_counter() - started < 1
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", ["ffffffff07", "00 ffffffff07", "00 00 05 ffffffff07", "ffffffff7f", "00 ffffffff7f"])
@pytest.mark.parametrize("options", [{}, {"allow_partial": True}])
def test_a_claim_of_two_gigabytes_is_refused_without_allocating(body: str, options: dict[str, bool]) -> None:
    data = file_by_hand(body=bytes.fromhex(body) + b"payload")
    semantic_is_whole = body.startswith("00")
    if options and semantic_is_whole:
        assert not unpack(data, allow_partial=True).complete
    else:
        assert peak_bytes_of_refusing(data, FormatError, **options) < 100_000


@pytest.mark.parametrize(
    ("width", "height"),
    [(2**35 - 1, 2**35 - 1), (2**20, 2**20 - 1), (MAX_SIDE_PX, 0), (0, MAX_SIDE_PX), (16384, 16383)],
)
@pytest.mark.parametrize("options", [{}, {"allow_partial": True}])
def test_a_giant_picture_is_refused_without_allocating(width: int, height: int, options: dict[str, bool]) -> None:
    """Width and height stand here as in the file, minus 1."""
    data = file_by_hand(width=varint(width), height=varint(height))
    assert peak_bytes_of_refusing(data, LimitError, **options) < 100_000


def test_the_limit_can_be_moved() -> None:
    with pytest.raises(LimitError, match="768x512 pixels is over the limit of 393215 pixels"):
        unpack(PHOTO_BYTES, max_pixels=768 * 512 - 1)
    assert unpack(PHOTO_BYTES, max_pixels=768 * 512) == PHOTO
    huge = replace(PHOTO, width_px=MAX_SIDE_PX, height_px=MAX_SIDE_PX)
    assert unpack(pack(huge), max_pixels=MAX_SIDE_PX**2) == huge


def test_a_file_of_countless_empty_sections_is_refused_quickly() -> None:
    assert peak_bytes_of_refusing(file_by_hand(body=bytes(2_000_000)), FormatError) < 10_000_000


# Files that were cut


@pytest.mark.parametrize("container", [PHOTO, TAGGED])
def test_a_file_cut_before_the_end_of_its_tokens_is_refused_even_as_partial(container: Container) -> None:
    data = pack(container)
    for size in range(SEMANTIC_END):
        with pytest.raises(FormatError):
            unpack(data[:size], allow_partial=True)


def test_a_file_cut_after_its_tokens_gives_what_is_left() -> None:
    for size in range(SEMANTIC_END, DETAIL_END):
        left = PHOTO.detail[: max(size - SEMANTIC_END - 1, 0)]
        assert unpack(PHOTO_BYTES[:size], allow_partial=True) == replace(PHOTO, detail=left, complete=False)


def test_a_file_cut_in_its_optional_sections_gives_those_that_are_whole() -> None:
    data = pack(TAGGED)
    for size in range(DETAIL_END + 1, len(data)):
        if size == ICC_END:
            continue
        found = unpack(data[:size], allow_partial=True)
        assert found == replace(TAGGED, extras=TAGGED.extras[: size > ICC_END], complete=False)


@pytest.mark.parametrize("size", [DETAIL_END, ICC_END])
def test_a_cut_between_optional_sections_looks_like_damage(size: int) -> None:
    with pytest.raises(FormatError, match="damaged: file check fails"):
        unpack(pack(TAGGED)[:size], allow_partial=True)


def test_a_whole_file_is_complete_when_partial_ones_are_allowed() -> None:
    assert unpack(PHOTO_BYTES, allow_partial=True) == PHOTO


def test_a_container_from_a_cut_file_is_not_written() -> None:
    with pytest.raises(ValueError, match="cut"):
        pack(unpack(PHOTO_BYTES[:-1], allow_partial=True))


# Fields that no file can hold


@pytest.mark.parametrize(
    "fields",
    [
        {"model_id": b"abc"},
        {"width_px": 0},
        {"height_px": -1},
        {"quality": 50.25},
        {"quality": 100.5},
        {"quality": float("nan")},
        {"symbol_check": 0x10000},
        {"version": 2},
        {"extras": (Extra(2, b""), Extra(1, b""))},
        {"extras": (Extra(1, b""), Extra(1, b""))},
    ],
)
def test_a_container_with_an_impossible_field_is_not_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(PHOTO, **fields)


def test_a_side_that_no_reader_accepts_is_not_written() -> None:
    with pytest.raises(LimitError, match="1048577x512"):
        replace(PHOTO, width_px=MAX_SIDE_PX + 1)


@given(st.floats(0, 100))
def test_the_nearest_quality_can_be_written(quality: float) -> None:
    nearest = nearest_quality(quality)
    assert abs(nearest - quality) <= 0.25
    assert unpack(pack(replace(PHOTO, quality=nearest))).quality == nearest
