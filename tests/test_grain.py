"""Film grain: measured in pictures, stated in files, made anew by decoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_decoder
from make_vectors import NAME
from PIL import Image
from test_vectors import FROZEN, VECTORS

import dlfc
from dlfc import errors
from dlfc.codec import Codec
from dlfc.companions import prepare
from dlfc.formats import Companions, Kind, pack_companions, unpack, unpack_companions
from dlfc.grain import MOST, strength_of, with_grain
from dlfc.image import load_image
from dlfc.keep import PIXELS_ONLY, USUAL
from dlfc.memory import LARGE_PX
from dlfc.raw import RawPicture

FOLDER = VECTORS / "grain"
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text())
MANIFEST_SHA256 = "8ffd09e15f9c27e6d19241b2f4b81bcc02b2adbfdf28aa3dfdcf1153f4ef0b99"


def slope(width: int, height: int) -> np.ndarray:
    """A picture H W 3 of smooth colours, in floats."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([60 + 100 * rows / height, 70 + 90 * columns / width, 120 + 0 * rows], -1)


def noisy(deviation: float, width: int = 256, height: int = 256) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, deviation, (height, width, 1))
    return Image.fromarray((slope(width, height) + noise).round().clip(0, 255).astype(np.uint8))


# --- the format ---------------------------------------------------------------------------------------------------


def test_the_files_are_those_that_were_frozen() -> None:
    assert hashlib.sha256((FOLDER / "manifest.json").read_bytes()).hexdigest() == MANIFEST_SHA256, FROZEN
    for kind in ("good", "bad"):
        assert {path.stem for path in (FOLDER / kind).iterdir()} == MANIFEST[kind].keys(), FROZEN
        for name, file in MANIFEST[kind].items():
            data = (FOLDER / kind / f"{name}.dlf").read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"], FROZEN


@pytest.mark.parametrize("name", MANIFEST["good"])
def test_a_decoder_adds_what_a_good_file_asks_for(name: str) -> None:
    codec = Codec.load(str(VECTORS / "model" / f"{NAME}.safetensors"), device="cpu")
    expected, data = MANIFEST["good"][name], (FOLDER / "good" / f"{name}.dlf").read_bytes()
    for found in (
        unpack_companions(unpack(data).extras),
        second_decoder.read_companions(second_decoder.read_container(data)),
    ):
        assert (found.grain, found.gray) == (expected["grain"], expected["gray"])
    plain = codec.decode((VECTORS / "good" / "31x33-q62.5.dlf").read_bytes())
    added = [
        [second_decoder.grain_at(row, column, expected["grain"]) for column in range(plain.width)]
        for row in range(plain.height)
    ]
    grainy = (np.asarray(plain, int) + np.array(added)[:, :, None]).clip(0, 255).astype(np.uint8)
    wanted = Image.fromarray(grainy)
    assert codec.decode(data).tobytes() == (wanted.convert("L") if expected["gray"] else wanted).tobytes()


@pytest.mark.parametrize("name", MANIFEST["bad"])
def test_a_bad_file_is_refused_by_both_readers(name: str) -> None:
    data = (FOLDER / "bad" / f"{name}.dlf").read_bytes()
    with pytest.raises(errors.FormatError, match="section grain does not hold what it should"):
        dlfc.read_info(data)
    with pytest.raises(second_decoder.Refused) as refused:
        second_decoder.read_companions(second_decoder.read_container(data))
    assert refused.value.rule == 13


def test_the_noise_is_that_of_the_frozen_places() -> None:
    for place in MANIFEST["offsets"]:
        row, column, strength = place["row"], place["column"], place["strength"]
        assert second_decoder.grain_at(row, column, strength) == place["offset"], FROZEN
        if column < 1000:
            gray = Image.new("RGB", (column + 1, 1), (128,) * 3)
            found = np.asarray(with_grain(gray, strength, row), int)[0, column] - 128
            assert (found == max(-128, min(127, place["offset"]))).all(), FROZEN


def test_grain_is_one_byte_in_its_order() -> None:
    sections = pack_companions(Companions(gray=True, grain=7, alpha=b"\3\x80"))
    assert [(extra.kind, extra.payload) for extra in sections][1] == (Kind.GRAIN, b"\7")
    assert unpack_companions(sections) == Companions(gray=True, grain=7, alpha=b"\3\x80")
    assert pack_companions(Companions()) == ()


# --- the picture --------------------------------------------------------------------------------------------------


def test_grain_in_strips_is_grain_of_the_whole() -> None:
    picture = noisy(3, 90, 70)
    whole = np.asarray(with_grain(picture, 12))
    strips = [with_grain(picture.crop((0, top, 90, top + 14)), 12, top) for top in range(0, 70, 14)]
    assert np.array_equal(np.concatenate([np.asarray(strip) for strip in strips]), whole)
    assert with_grain(picture, 0) is picture


def test_grain_has_its_deviation_and_no_mean_and_stays_in_range() -> None:
    offsets = np.asarray(with_grain(Image.new("RGB", (512, 512), (128,) * 3), 20), float) - 128
    assert abs(offsets.std() - 2.04) < 0.05
    assert abs(offsets.mean()) < 0.02
    assert (offsets[..., 0] == offsets[..., 2]).all()
    light = np.asarray(with_grain(Image.new("RGB", (64, 64), (255, 254, 0)), 100))
    assert light[..., 0].max() == light[..., 1].max() == 255
    assert light[..., 2].min() == 0


# --- what is measured ---------------------------------------------------------------------------------------------


def test_strength_grows_with_noise_up_to_a_bound() -> None:
    found = [strength_of(noisy(deviation)) for deviation in (0, 0.6, 0.9, 1.5, 9)]
    assert found == sorted(found)
    assert found[0] == 0 < found[2] <= found[4] == MOST


def test_what_is_even_only_here_and_there_decides() -> None:
    picture = np.asarray(noisy(0)).copy()
    picture[:200] = np.random.default_rng(1).integers(0, 256, (200, 256, 3))  # as busy as can be
    assert strength_of(Image.fromarray(picture)) == 0


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (300, 17), (18, 18)])
def test_small_pictures_are_measured_too(size: tuple[int, int]) -> None:
    assert 0 <= strength_of(noisy(3, *size)) <= MOST


def test_shadows_and_lights_say_nothing() -> None:
    assert strength_of(Image.new("RGB", (64, 64))) == strength_of(Image.new("RGB", (64, 64), "white")) == 0
    picture = np.asarray(noisy(4)).copy()
    picture[:100] = 0
    assert strength_of(Image.fromarray(picture)) > 0


def test_a_picture_that_lies_in_its_file_is_measured_as_any_other() -> None:
    picture, buffer = noisy(1.5, 2500, LARGE_PX // 2500 + 1), BytesIO()
    picture.save(buffer, "PPM")
    raw = load_image(buffer.getvalue(), max_pixels=10**8, keep=USUAL)
    assert isinstance(raw.image, RawPicture)
    assert raw.extras == prepare(picture, USUAL).extras != ()


# --- files --------------------------------------------------------------------------------------------------------


def test_a_noisy_picture_gets_three_bytes_and_its_noise_back() -> None:
    picture = noisy(1.5)
    with_it, without = dlfc.encode(picture, quality=25), dlfc.encode(picture, quality=25, grain=False)
    assert len(with_it) == len(without) + 3
    container = unpack(with_it)
    assert replace(container, extras=()) == unpack(without)
    seen, plain = np.asarray(dlfc.decode(with_it), float), np.asarray(dlfc.decode(without), float)
    strength = unpack_companions(container.extras).grain
    assert abs((seen - plain).std() - strength / 10) < 0.2
    assert np.array_equal(dlfc.decode(with_it, grain=False), plain)
    assert prepare(picture, PIXELS_ONLY).extras == ()


def test_the_command_leaves_grain_out_when_asked(dlfc: Callable[..., Any], tmp_path: Path) -> None:
    noisy(3).save("a.png")
    assert dlfc("encode", "a.png", "-o", "with.dlf").status == 0
    assert dlfc("encode", "a.png", "-o", "without.dlf", "--no-grain", "--keep", "none").status == 0
    sections = [
        [extra.kind for extra in unpack(Path(name).read_bytes()).extras] for name in ("with.dlf", "without.dlf")
    ]
    assert sections == [[Kind.GRAIN], []]
    assert "grain" in dlfc("info", "with.dlf").out


def test_the_command_leaves_out_grain_that_a_file_asks_for(dlfc: Callable[..., Any], tmp_path: Path) -> None:
    noisy(3).save("a.png")
    for name, options in (("with", ()), ("without", ("--no-grain",))):
        assert dlfc("encode", "a.png", "-o", f"{name}.dlf", *options).status == 0
    assert dlfc("decode", "with.dlf", "without.dlf", "--no-grain").status == 0
    assert dlfc("decode", "with.dlf", "-o", "grain.png").status == 0
    with_it, plain, grain = (Path(f"{name}.png").read_bytes() for name in ("with", "without", "grain"))
    assert with_it == plain != grain
