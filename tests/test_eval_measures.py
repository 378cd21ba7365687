"""Measures of quality: what a folder of weights allows, and distances by the features of Inception."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import photo, write_lpips
from PIL import Image
from safetensors.torch import save_file

from dlfc.errors import DlfcError, ModelError
from dlfc.evaluate import inception
from dlfc.evaluate.measures import COLOUR, Judge, colour_error, ms_ssim


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_lpips(tmp_path_factory.mktemp("weights"))
    _write_inception(folder)
    return folder


def _write_inception(folder: Path) -> None:
    """Random weights of the trunk's shape, but with two channels wherever one can choose."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def conv(name: str, c_in: int, *size: int) -> int:
        fan_in = c_in * math.prod(size)
        tensors[f"{name}.weight"] = torch.randn(2, c_in, *size, generator=generator) * (2 / fan_in) ** 0.5
        tensors[f"{name}.bias"] = torch.rand(2, generator=generator) * 0.1
        return 2

    def tower(name: str, c_in: int, *sizes: tuple[int, int]) -> int:
        for i, size in enumerate(sizes):
            c_in = conv(f"{name}_{i}" if i else name, c_in, *size)
        return c_in

    one, three, five, row, column = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
    conv("conv", 3, 3, 3)
    for name, size in (("conv_1", three), ("conv_2", three), ("conv_3", one), ("conv_4", three)):
        channels = conv(name, 2, *size)
    for name in ("mixed", "mixed_1", "mixed_2"):
        towers = [tower(f"{name}_tower_conv", channels, one, five)]
        towers.append(tower(f"{name}_tower_1_conv", channels, one, three, three))
        channels = sum(towers) + conv(f"{name}_conv", channels, *one) + conv(f"{name}_tower_2_conv", channels, *one)
    channels += conv("mixed_3_conv", channels, *three) + tower("mixed_3_tower_conv", channels, one, three, three)
    for name in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
        towers = [tower(f"{name}_tower_conv", channels, one, row, column)]
        towers.append(tower(f"{name}_tower_1_conv", channels, one, column, row, column, row))
        channels = sum(towers) + conv(f"{name}_conv", channels, *one) + conv(f"{name}_tower_2_conv", channels, *one)
    save_file(tensors, folder / inception.WEIGHTS)


def _noisy(image: Image.Image, sigma: float) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(1).normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _random(seed: int, *shape: int) -> inception.Array:
    return np.random.default_rng(seed).normal(size=shape)


# --- what is measured ---------------------------------------------------------------------------------------------


def test_without_weights_there_are_only_ms_ssim_and_psnr(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        judge = Judge(folder)
        assert [measure.name for measure in judge.measures] == ["MS-SSIM", "PSNR"]
        assert [measure.name for measure in judge.left_out] == [
            *("LPIPS-alex", "LPIPS-squeeze", "IPS", "DISTS-I", "FID-768", "KID-768")
        ]


def test_measures_can_be_chosen_in_small_letters(weights: Path) -> None:
    judge = Judge(weights, ["psnr", "lpips-squeeze"])
    values = judge.compare(judge.look(photo(96, 80)), judge.look(photo(96, 80, seed=1)))
    assert [measure.name for measure in judge.measures] == ["LPIPS-squeeze", "PSNR"]
    assert values.keys() == {"LPIPS-squeeze", "PSNR", COLOUR}


def test_a_measure_that_is_unknown_or_has_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DlfcError, match="no measure 'vmaf'; there are: LPIPS-alex, "):
        Judge(tmp_path, ["vmaf"])
    with pytest.raises(DlfcError, match=r"IPS needs inception_v3_trunk\.safetensors"):
        Judge(tmp_path, ["ips"])


def test_every_measure_is_best_for_the_photo_itself_and_gets_worse_with_noise(weights: Path) -> None:
    judge = Judge(weights)
    image = photo(192, 176)
    sight = judge.look(image)
    same, little, much = (judge.compare(judge.look(_noisy(image, sigma)), sight) for sigma in (0, 5, 50))
    for measure in judge.of_pictures:
        assert measure.better(little[measure.name], much[measure.name])
        assert measure.better(same[measure.name], little[measure.name])
    assert same["PSNR"] == math.inf
    assert same["MS-SSIM"] == pytest.approx(1)
    for name in ("LPIPS-alex", "LPIPS-squeeze", "IPS", "DISTS-I", COLOUR):
        assert same[name] == pytest.approx(0, abs=1e-6)


def test_ms_ssim_is_left_out_for_photos_whose_fifth_scale_is_smaller_than_the_window() -> None:
    judge = Judge(None)
    for height_px, defined in ((160, False), (161, True)):
        sight = judge.look(photo(200, height_px))
        assert ("MS-SSIM" in judge.compare(sight, sight)) == defined
    assert math.isnan(ms_ssim(torch.zeros(1, 3, 200, 160), torch.zeros(1, 3, 200, 160)))


def test_the_colour_error_is_that_of_the_worst_channel_in_steps_of_eight_bits() -> None:
    x = torch.full((1, 3, 8, 8), 0.5)
    shift = torch.tensor([1.0, -3.0, 2.0]).view(1, 3, 1, 1) / 255
    assert colour_error(x + shift, x) == pytest.approx(3, abs=1e-3)
    checkered = torch.tensor([0.1, -0.1]).repeat(4)
    assert colour_error(x + checkered, x) == pytest.approx(0, abs=1e-3)


# --- Inception ----------------------------------------------------------------------------------------------------


def test_a_folder_without_inception_weights_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"inception_v3_trunk\.safetensors: no Inception weights"):
        inception.InceptionTrunk(tmp_path)


def test_the_trunk_has_the_sizes_of_inception(weights: Path) -> None:
    taps = inception.InceptionTrunk(weights)(torch.zeros(1, 3, 299, 299))
    sides = {name: tap.shape[2] for name, tap in taps.items()}
    assert sides == {"conv_2": 147, "conv_4": 71, "mixed_2": 35, "mixed_5": 17, "mixed_7": 17}


def test_ips_is_the_mean_over_layers_and_forgets_the_length_of_features() -> None:
    x = {"a": torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), "b": torch.tensor([0.0, 5.0]).view(1, 2, 1, 1)}
    y = {"a": torch.tensor([0.0, 2.0]).view(1, 2, 1, 1), "b": torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)}
    assert inception.ips(x, y) == pytest.approx((2 + 0) / 2)


def test_dists_of_pictures_that_share_no_more_than_their_statistics_is_a_half() -> None:
    x = torch.from_numpy(_random(0, 1, 3, 64, 64)).float()
    rolled = x.roll(1, 3)
    assert inception.dists_i(x, rolled, {}, {}) == pytest.approx(0.5, abs=0.02)  # equal means, no covariance


def test_patches_cover_the_picture_in_two_grids_half_a_patch_apart() -> None:
    x = torch.arange(512.0).view(1, 1, 1, 512) + 1000 * torch.arange(600.0).view(1, 1, 600, 1)
    found = inception.patches(x.expand(1, 3, 600, 512))
    assert found.shape == (5, 3, 256, 256)
    corners = [int(patch[0, 0, 0]) for patch in found]
    assert corners == [0, 256, 256000, 256256, 128128]
    assert inception.patches(torch.zeros(1, 3, 255, 600)).shape == (0, 3, 256, 256)


def test_the_frechet_distance_of_a_set_moved_by_one_is_its_dimension() -> None:
    a = _random(0, 200, 12)
    assert inception.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert inception.frechet_distance(a, a + 1) == pytest.approx(12)


def test_the_frechet_distance_of_independent_gaussians_is_that_of_their_moments() -> None:
    a = _random(0, 50, 2) @ np.diag([1.0, 2.0])
    centred = (a - a.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(a.T)).T)  # covariance exactly one
    expected = (3.0 - 1.0) ** 2 + (0.5 - 1.0) ** 2
    assert inception.frechet_distance(centred, centred @ np.diag([3.0, 0.5])) == pytest.approx(expected)


def test_the_kernel_distance_leaves_out_pairs_of_a_row_and_itself() -> None:
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    within = (1 * 2 + 1) ** 3 + (0 * 3 + 1) ** 3  # one pair in each set
    between = np.mean([(1 * 0 + 1) ** 3, (1 * 3 + 1) ** 3, (2 * 0 + 1) ** 3, (2 * 3 + 1) ** 3])
    assert inception.kernel_distance(a, b) == pytest.approx(within - 2 * between)


def test_sets_are_compared_by_their_patches(weights: Path) -> None:
    judge = Judge(weights, ["kid-768", "fid-768"])
    photos = judge.patch_features(judge.look(photo(512, 256)))
    other = judge.patch_features(judge.look(photo(512, 256, seed=3)))
    assert photos.shape[0] == 2
    values = judge.compare_sets(other, photos)
    assert values["FID-768"] == pytest.approx(inception.frechet_distance(other, photos))
    assert values["KID-768"] == pytest.approx(1000 * inception.kernel_distance(other, photos))
    assert judge.compare_sets(other[:1], photos) == {}
