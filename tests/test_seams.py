"""The report of seams finds those that are there, and none in pictures that merely differ from place to place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench.seams import FloatArray, at_smaller_parts, measures, ratios, small_bands
from conftest import picture
from networks import install

from dlfc.codec import Codec

TILE_PX = 64


def errors(begin_px: int, seam: float) -> FloatArray:
    """Of tiles that begin at `begin_px`: more to the right, and `seam` times as much at their borders."""
    rng = np.random.default_rng(begin_px)
    error = rng.normal(0, np.linspace(1, 3, 320)[None, :, None], (192, 320, 3))
    near = [((np.arange(side) - begin_px + 4) % TILE_PX) < 8 for side in error.shape[:2]]
    error[near[0][:, None] | near[1]] *= seam
    return error.astype(np.float32)


@pytest.mark.parametrize("seam", [1.0, 1.5])
def test_the_paired_figure_is_the_error_at_borders_over_that_inside(seam: float) -> None:
    of_lines = next(iter(measures(errors(TILE_PX // 2, seam), errors(0, seam), TILE_PX, [4])))
    (found,) = ratios(of_lines)
    borders, midway, paired = found.values()
    assert paired == pytest.approx(seam**2, rel=0.05)
    assert borders == pytest.approx(seam**2 * midway, rel=0.05)


def test_a_step_from_tile_to_tile_is_a_jump_there_and_nowhere_else() -> None:
    there, here = (np.zeros((192, 320, 3), np.float32) + errors(9, 1) / 99 for _ in range(2))
    for error, begin_px in ((there, TILE_PX // 2), (here, 0)):
        error += ((np.arange(320) - begin_px) // TILE_PX % 2)[None, :, None]
    (columns,) = (ratios(one) for one in measures(there, here, TILE_PX, []) if one.name == "jump between columns")
    assert next(iter(columns)).values()[2] > 100
    inside, *at = at_smaller_parts(here)[1]
    assert at[-1] > 100 * max(inside, *at[:-1])


def test_bands_are_made_small_and_again_as_they_were(tmp_path: Path) -> None:
    install(tmp_path)
    codec = Codec.load("tiny", device="cpu", models_dir=tmp_path)
    generator = codec.model.network.generator
    latent = torch.zeros(1, 8, 12, 4)

    def rows() -> list[int]:
        return [band.shape[2] for band in generator.in_bands(latent)]

    whole = rows()
    with small_bands(codec, 1):
        assert len(rows()) > len(whole) == 1
        data = codec.encode(picture(130, 70))
    assert rows() == whole
    assert codec.encode(picture(130, 70)) == data
