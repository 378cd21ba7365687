"""Metrics: known values for known pictures, and LPIPS from weights in a folder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import photo, write_lpips
from torch import Tensor

from dlfc.errors import ModelError
from dlfc.evaluate.lpips import Lpips
from dlfc.evaluate.measures import ms_ssim, psnr


def picture(seed: int = 0, side: int = 192) -> Tensor:
    """A picture as the metrics take it: 1 3 H W in [0, 1]."""
    return torch.from_numpy(np.array(photo(side, side, seed))).permute(2, 0, 1)[None].double() / 255


# --- PSNR and MS-SSIM ---------------------------------------------------------------------------------------------


def test_psnr_is_twenty_decibels_for_an_error_of_a_tenth() -> None:
    x = picture() * 0.8
    assert psnr(x, x + 0.1) == pytest.approx(20)
    assert psnr(x, x - 0.01) == pytest.approx(40)


def test_psnr_of_equal_pictures_is_infinite() -> None:
    assert psnr(picture(), picture()) == math.inf


def test_ms_ssim_of_equal_pictures_is_one() -> None:
    assert ms_ssim(picture(), picture()) == pytest.approx(1, abs=1e-9)


def test_ms_ssim_of_flat_pictures_is_that_of_their_brightness() -> None:
    dark, bright = torch.full((1, 3, 192, 192), 0.2).double(), torch.full((1, 3, 192, 192), 0.6).double()
    similarity = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)  # counts at the coarsest scale alone
    assert ms_ssim(dark, bright) == pytest.approx(similarity**0.1333, abs=1e-6)


def test_ms_ssim_falls_with_noise_and_is_symmetric() -> None:
    x = picture()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    little, much = ms_ssim(x, x + 0.02 * noise), ms_ssim(x, x + 0.2 * noise)
    assert 0.9 < little < 1
    assert much < 0.9 * little
    assert ms_ssim(x + 0.2 * noise, x) == pytest.approx(much, abs=1e-9)


def test_ms_ssim_forgives_a_change_of_brightness_more_than_a_loss_of_structure() -> None:
    x = picture() * 0.8
    blurred = torch.nn.functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False)
    shift = float((blurred - x).square().mean().sqrt())  # the same PSNR
    assert psnr(x, x + shift) == pytest.approx(psnr(x, blurred))
    assert ms_ssim(x, x + shift) > ms_ssim(x, blurred) + 0.05


# --- LPIPS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lpips(tmp_path_factory.mktemp("lpips"))


@pytest.fixture(scope="module", params=["alex", "squeeze"])
def lpips(request: pytest.FixtureRequest, weights: Path) -> Lpips:
    return Lpips(weights, request.param)


def test_lpips_of_equal_pictures_is_zero(lpips: Lpips) -> None:
    x = picture(side=96).float()
    assert lpips(x, x).tolist() == [0]


def test_lpips_grows_with_the_difference_and_is_symmetric(lpips: Lpips) -> None:
    x = picture(side=96).float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    little, much = lpips(x, x + 0.02 * noise), lpips(x, x + 0.3 * noise)
    assert 0 < little < much
    torch.testing.assert_close(lpips(x + 0.3 * noise, x), much)


def test_lpips_gives_one_value_per_picture(lpips: Lpips) -> None:
    x, y = torch.cat([picture(i, 96) for i in (0, 1)]).float(), torch.cat([picture(i, 96) for i in (0, 2)]).float()
    both = lpips(x, y)
    assert both.shape == (2,)
    assert both[0] == 0
    torch.testing.assert_close(both[1:], lpips(x[1:], y[1:]))


def test_lpips_lets_gradients_through_to_the_first_picture_alone(lpips: Lpips) -> None:
    x, y = picture(0, 96).float().requires_grad_(), picture(1, 96).float().requires_grad_()
    lpips(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert y.grad is None
    assert not list(lpips.parameters())


def test_the_features_of_lpips_have_unit_length_and_as_many_taps_as_heads(weights: Path) -> None:
    for net, channels in (("alex", [64, 192, 384, 256, 256]), ("squeeze", [64, 128, 256, 384, 384, 512, 512])):
        taps = Lpips(weights, net).features(picture(side=96).float())
        assert [tap.shape[1] for tap in taps] == channels
        for tap in taps:
            lengths = tap.norm(dim=1)
            assert torch.allclose(lengths[lengths > 0], torch.ones(()), atol=1e-4)


def test_lpips_of_one_layer_is_the_weighted_distance_of_its_features(weights: Path) -> None:
    x, y = picture(0, 96).float(), picture(1, 96).float()
    lpips = Lpips(weights, "alex")
    expected = 0.0
    for k, (a, b) in enumerate(zip(lpips.features(x), lpips.features(y), strict=True)):
        head = getattr(lpips, f"lin{k}")
        expected += sum(float(head[c]) * float((a[0, c] - b[0, c]).square().mean()) for c in range(len(head)))
    assert float(lpips(x, y)) == pytest.approx(expected, rel=1e-4)


def test_a_folder_without_lpips_weights_is_refused_by_name(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"lpips_alex\.safetensors: no LPIPS weights"):
            Lpips(folder)
