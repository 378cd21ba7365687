"""Mean colours that rounding would move are held by the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from networks import TINY, photo
from PIL import Image

from dlfc import hold
from dlfc.codec import Codec
from dlfc.formats import unpack
from dlfc.model.base import LinearBase
from dlfc.symbols import Analysis, Symbols, Walk


@pytest.fixture(scope="module")
def base() -> LinearBase:
    torch.manual_seed(3)
    made = LinearBase(TINY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.1)
    return made


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(device="cpu", purpose="encode")


@torch.no_grad()
@pytest.mark.parametrize("cut_px", [(0, 0), (32, 64), (64, 32)])
def test_mean_colours_are_those_of_the_picture(base: LinearBase, cut_px: tuple[int, int]) -> None:
    tile, cell = TINY.tile_px, TINY.cell_px
    tokens = torch.randint(TINY.codebook_size, (2 * 2 * 3, TINY.tokens_per_tile))
    latent, level = torch.randn(2, TINY.latent_dim, 2 * tile // cell, 3 * tile // cell), torch.tensor([0.0, 1.5])
    picture = base.token_image(tokens, 2 * tile, 3 * tile) + base.detail_image(latent, level)
    height, width = 2 * tile - cut_px[0], 3 * tile - cut_px[1]
    found = base.mean_colours(tokens, latent, level, height, width)
    assert (found - picture[:, :, :height, :width].mean((2, 3))).abs().max() < 1e-5


@torch.no_grad()
def test_a_shift_moves_the_mean_colour_to_within_the_tolerance(base: LinearBase) -> None:
    level, step = torch.tensor([1.0, 0.0]), torch.full((2, TINY.latent_dim), 0.5)
    deviation = torch.tensor([[6.0, -1.0, -9.0], [1.0, 2.0, -2.0]]) / 127.5
    change = hold.shift(base, deviation, step, level)
    assert change is not None
    moved = deviation + torch.einsum("bkc,bc->bk", base.colour_response(level), change[:, :, 0, 0])
    assert moved.abs().max() <= hold.TOLERANCE
    assert torch.equal(change[1], torch.zeros_like(change[1]))  # held as it is


@torch.no_grad()
@pytest.mark.parametrize("off", [2.0, 60.0])
def test_nothing_is_shifted_where_nothing_is_off_or_all_is(base: LinearBase, off: float) -> None:
    deviation, step = torch.tensor([[off, 0.0, 0.0]]) / 127.5, torch.ones(1, TINY.latent_dim)
    assert hold.shift(base, deviation, step, torch.zeros(1)) is None


def deviation_of(codec: Codec, image: Image.Image, quality: float) -> tuple[float, int]:
    """By how much the mean colour of the base in a file is off, of 255, and the size of the file."""
    data = codec.encode(image, quality=quality)
    tokens, latent = codec.symbols.read(unpack(data))
    base = codec.model.network.base
    assert base is not None
    with torch.inference_mode():
        found = base.mean_colours(tokens, latent, codec.symbols.level([quality]), image.height, image.width)[0].numpy()
    return float(np.abs((found + 1) * 127.5 - np.asarray(image).mean((0, 1))).max()), len(data)


def test_files_hold_the_mean_colour(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = [(60, 60, 200), (20, 90, 160), (150, 40, 90), (30, 30, 45), (200, 190, 120), (90, 160, 60)]
    pictures = [Image.blend(photo(256, 256), Image.new("RGB", (256, 256), colour), 0.8) for colour in colours]
    held = [deviation_of(codec, picture, 0) for picture in pictures]
    monkeypatch.setattr(hold, "ATTEMPTS", 0)
    plain = [deviation_of(codec, picture, 0) for picture in pictures]
    limit = hold.TOLERANCE * 127.5
    assert max(off for off, _ in plain) > limit
    assert max(off for off, _ in held) <= limit + 0.5
    assert all(mine == other for mine, other in zip(held, plain, strict=True) if other[0] <= limit)


def test_a_shift_that_changed_no_symbol_is_followed_by_one_twice_as_large(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = []
    walk = Symbols.walk

    def watched(self: Symbols, analyses: Sequence[Analysis], quality: float, latents: torch.Tensor) -> Walk:
        walked.append(latents)
        return walk(self, analyses, quality, latents)

    monkeypatch.setattr(Symbols, "walk", watched)
    monkeypatch.setattr(hold, "ATTEMPTS", 4)
    monkeypatch.setattr(hold, "shift", lambda *_: torch.full((1, 1, 1, 1), 1e-6))  # too small to round anything away
    codec.encode(photo(256, 256), quality=0)
    steps = [float((after - before).double().mean()) for before, after in pairwise(walked)]
    assert steps == pytest.approx([1e-6, 2e-6, 4e-6, 8e-6], rel=0.05)


def test_many_pictures_are_held_as_each_is(codec: Codec) -> None:
    pictures = [photo(256, 256), Image.new("RGB", (250, 200), (40, 60, 150)), Image.new("RGB", (200, 250), "navy")]
    assert codec.encode_many(pictures, quality=0) == [codec.encode(picture, quality=0) for picture in pictures]
