"""The generator's noise: the same everywhere, like random numbers, and what breaks repetition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import TINY

from dlfc.model import noise
from dlfc.model.generator import Generator


def test_noise_depends_on_the_place_alone() -> None:
    whole = noise.at(range(3), 0, 40, 30)
    assert torch.equal(noise.at(range(3), 25, 9, 30), whole[:, :, 25:34])
    assert torch.equal(noise.at(range(1, 3), 0, 40, 20), whole[:, 1:, :, :20])


def test_noise_is_this_one_on_every_machine() -> None:
    found = ((noise.at(range(2), 100_000, 1, 3) / 3**0.5 + 1) * 2**15 - 0.5).round().int()
    assert found.flatten().tolist() == [27392, 55090, 22620, 4679, 57410, 14075]


def test_noise_has_no_order() -> None:
    x = noise.at(range(4), 0, 256, 256)
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    assert (x.var((0, 2, 3)) - 1).abs().max() < 0.02
    spectrum = torch.fft.fft2(x).abs().square() / x[0, 0].numel()
    assert spectrum.max() < 20  # of 2 * 10^5 values of an exponential distribution the largest is about 12
    channels = x[0].flatten(1)
    assert (channels @ channels.mT / channels.shape[1]).fill_diagonal_(0).abs().max() < 0.02


def test_noise_drawn_for_training_is_distributed_alike() -> None:
    torch.manual_seed(0)
    x = noise.drawn(4, 128, 128)
    assert x.shape == (1, 4, 128, 128)
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.var()) - 1) < 0.02
    assert float(x.abs().max()) <= 3**0.5


@pytest.mark.parametrize("grid", range(len(TINY.generator_mult)))
def test_with_noise_in_any_grid_an_even_latent_gives_no_texture_that_repeats(grid: int) -> None:
    torch.manual_seed(0)
    generator = Generator(replace(TINY, noise_channels=4, noise_grids=len(TINY.generator_mult))).eval()
    for i, into in enumerate(generator.noise_in):
        into.weight.data *= i == grid

    def differ(*, quiet: bool) -> float:
        picture = generator(torch.ones(1, TINY.mixture_dim, 16, 16), quiet=quiet)
        inner = picture[:, :, 64:192, 64:192].unfold(2, 32, 32).unfold(3, 32, 32)  # 4 by 4 cells
        return float(inner.var((2, 3)).mean())

    with torch.inference_mode():
        assert differ(quiet=True) < 1e-9
        assert differ(quiet=False) > 1e-5


def test_training_draws_other_noise_each_time_and_evaluation_does_not() -> None:
    torch.manual_seed(0)
    generator = Generator(replace(TINY, noise_channels=4))
    latent = torch.ones(1, TINY.mixture_dim, 4, 4)
    assert not torch.equal(generator(latent), generator(latent))
    generator.eval()
    assert torch.equal(generator(latent), generator(latent))


def test_noise_enters_no_more_grids_than_there_are() -> None:
    with pytest.raises(ValueError, match="noise_grids"):
        replace(TINY, noise_grids=len(TINY.generator_mult) + 1)
