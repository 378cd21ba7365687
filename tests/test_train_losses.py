"""Losses: features of classifiers, the discriminator, the VQGAN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import PUBLISHED_TINY, TINY, photo, write_lpips
from safetensors.torch import save_file
from torch import Tensor

from dlfc.errors import ModelError
from dlfc.model.dlf import DLF
from dlfc.train import losses, vqgan
from dlfc.train.adversary import Adversary, PatchDiscriminator, adaptive_weight
from dlfc.train.data import to_tensor
from dlfc.train.losses import BORDER_PX, FLAT_WINDOW_PX, Objective, colour_error, flat_errors, grain_of, stamp_error
from dlfc.train.perceptual import Perceptual
from dlfc.train.recipe import Stage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for LPIPS and the first blocks of VGG16."""
    folder = write_lpips(tmp_path_factory.mktemp("metrics"))
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for at, c_in, c_out in ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128)):
        tensors[f"features.{at}.weight"] = torch.randn(c_out, c_in, 3, 3, generator=generator) * (2 / (9 * c_in)) ** 0.5
        tensors[f"features.{at}.bias"] = torch.zeros(c_out)
    save_file(tensors, folder / "vgg16_shallow.safetensors")
    return folder


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Two pictures in [0, 1], 2 3 64 64."""
    return to_tensor(np.stack([np.asarray(photo(64, 64, seed=seed)) for seed in range(2)])) * 0.5 + 0.5


@pytest.mark.parametrize("name", ["lpips", "vgg"])
def test_a_distance_of_features_grows_with_noise_and_pulls_the_picture_back(
    metrics: Path, pictures: Tensor, name: str
) -> None:
    perceptual = Perceptual(metrics, CPU)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(pictures.shape, generator=generator)
    assert float(perceptual.distance(name, pictures, pictures)) == pytest.approx(0, abs=1e-4)
    near, far = pictures + 0.05 * noise, (pictures + 0.2 * noise).requires_grad_()
    distance = perceptual.distance(name, far, pictures)
    assert distance > perceptual.distance(name, near, pictures) > 0
    distance.backward()
    assert far.grad is not None
    moved = far.detach() - 0.05 * far.grad / far.grad.std()
    assert perceptual.distance(name, moved, pictures) < distance


def test_weights_are_read_when_a_loss_needs_them(tmp_path: Path) -> None:
    perceptual = Perceptual(write_lpips(tmp_path), CPU)
    stage = Stage(steps=10, warmup_steps=0, vgg_weight=1.0, vgg_start=5)
    objective = Objective(stage, perceptual)
    assert objective.has_begun("lpips")
    assert not objective.has_begun("vgg")
    objective.step = 5
    assert objective.has_begun("vgg")
    for name, file in (("vgg", "vgg16_shallow"), ("inception", "inception_v3_trunk")):
        with pytest.raises(ModelError, match=file):
            perceptual.load(name)
        with pytest.raises(ModelError, match=file):
            Objective(Stage(steps=1, **{f"{name}_weight": 1.0}), perceptual)  # type: ignore[arg-type]


def test_terms_are_weighted_and_summed(metrics: Path, pictures: Tensor) -> None:
    stage = Stage(steps=1, mse_weight=2.0, l1_weight=3.0, lpips_weight=0.5, vgg_weight=0.25)
    total, terms = Objective(stage, Perceptual(metrics, CPU)).compare(pictures, pictures.flip(0), (3, 1))
    assert set(terms) == {"mse", "l1", "lpips", "vgg"}
    expected = 2 * terms["mse"] + 3 * terms["l1"] + 0.5 * terms["lpips"] + 0.25 * terms["vgg"]
    assert float(total) == pytest.approx(float(expected))


def test_the_network_can_be_compiled_as_one_graph() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.manual_seed(0)
    model = DLF(TINY).train()
    x, level = torch.rand(2, 3, 64, 64) * 2 - 1, torch.tensor([0.3, 1.7])
    call = torch.compile(model, dynamic=False, backend=keep)
    assert torch.equal(call(x, level).image, model(x, level).image)
    assert len(graphs) == 1


@pytest.mark.parametrize("spectral", [False, True])
def test_a_discriminator_learns_to_tell_pictures_apart(pictures: Tensor, spectral: bool) -> None:
    adversary = Adversary(CPU, spectral=spectral, seed=0, betas=(0.5, 0.9))
    adversary.optimizer.param_groups[0]["lr"] = 1e-3
    made = pictures.flip(3) * 0.3 + 0.5
    first = adversary.losses(made, pictures)
    for _ in range(12):
        loss = adversary.losses(made, pictures)
        adversary.optimizer.zero_grad()
        loss.backward()
        adversary.optimizer.step()
    assert adversary.losses(made, pictures) < 0.7 * first
    verdict, matching = adversary.judge(made.requires_grad_(), pictures)
    (verdict + matching).backward()
    assert matching > 0
    assert made.grad is not None
    assert made.grad.abs().sum() > 0


def test_a_discriminator_judges_patches_and_each_sample_alone(pictures: Tensor) -> None:
    network = PatchDiscriminator()
    both = network(pictures)
    assert [tuple(layer.shape[1:]) for layer in both] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 7, 7),
        (1, 6, 6),
    ]
    assert torch.allclose(both[-1][:1], network(pictures[:1])[-1], atol=1e-5)


def test_spectral_norm_bounds_every_layer(pictures: Tensor) -> None:
    network = PatchDiscriminator(spectral=True)
    for _ in range(20):
        network(pictures)
    norms = [torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2) for conv in network.convs]
    assert torch.stack(norms).tolist() == pytest.approx([1.0] * 5, rel=0.1)


def test_the_adaptive_weight_makes_both_gradients_equally_strong() -> None:
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    weight = adaptive_weight((3 * last).sum(), (0.5 * last).sum(), last)
    assert float(weight) == pytest.approx(6.0, rel=1e-3)


@pytest.mark.parametrize("config", [PUBLISHED_TINY, replace(TINY, base_components=0)])
def test_a_vqgan_codes_a_picture_by_entries_of_the_mixture(config: object) -> None:
    torch.manual_seed(0)
    model, encoder = DLF(config), vqgan.VqganEncoder(config)  # type: ignore[arg-type]
    x = to_tensor(np.array(photo(64, 64))[None])
    image, coded = vqgan.reconstruct(encoder, model, x)
    assert image.shape == x.shape
    assert coded.index.shape == (1, 4, 4)
    assert torch.equal(coded.latent.permute(0, 2, 3, 1), model.mixture[coded.index])
    assert torch.allclose(coded.passing, coded.latent, atol=1e-5)
    (image.float().square().mean() + coded.distance).backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert model.mixture.grad is not None


def test_errors_count_where_the_photo_is_flat(pictures: Tensor) -> None:
    flat = torch.full_like(pictures, 0.5)
    noise = 0.02 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    busy = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(1))
    power = float(noise.square().mean())
    fine = grain_of(noise)
    whole, grain = flat_errors(noise, fine, flat)
    assert whole == pytest.approx(power, rel=1e-3)
    assert grain == pytest.approx(power, rel=0.05)
    assert flat_errors(noise, fine, busy)[0] < 0.05 * power


def test_a_wrong_colour_is_no_grain(pictures: Tensor) -> None:
    error = torch.full_like(pictures, 0.1)
    whole, grain = flat_errors(error, grain_of(error), torch.full_like(pictures, 0.5))
    assert whole == pytest.approx(0.01, rel=1e-3)
    assert grain < 1e-9


def test_means_of_windows_leave_out_what_lies_outside() -> None:
    x = torch.rand(2, 3, 20, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pooled = F.avg_pool2d(x, FLAT_WINDOW_PX, 1, FLAT_WINDOW_PX // 2, count_include_pad=False)
    assert torch.allclose(losses._window_mean(x), pooled, atol=1e-6)


def test_colours_are_compared_by_regions_and_as_a_whole(pictures: Tensor) -> None:
    flat = torch.full((1, 3, 128, 128), 0.5)
    tinted = flat.clone()
    tinted[:, 0, :64, :64] += 0.1  # one of four regions, one of three channels
    assert colour_error(tinted, flat) == pytest.approx(0.01 / 12 + 0.025**2 / 3, rel=1e-3)
    busy = flat + 0.1 * torch.tensor([1.0, -1.0]).repeat(64)
    assert colour_error(busy, flat) < 1e-9


def test_lpips_looks_at_the_scales_and_directions_of_a_recipe(metrics: Path) -> None:
    seen: set[tuple[int, int]] = set()

    class Watching(Perceptual):
        def distance(self, name: str, image: Tensor, target: Tensor, compiled: bool = False) -> Tensor:
            assert image.shape == target.shape
            seen.add((image.shape[2], image.shape[3]))
            return super().distance(name, image, target, compiled)

    torch.manual_seed(0)
    objective = Objective(Stage(steps=1, lpips_scales=(1.0, 0.5)), Watching(metrics, CPU))
    for _ in range(20):
        objective.compare(torch.rand(1, 3, 128, 96), torch.rand(1, 3, 128, 96), (0, 0))
    height, width = 128 + sum(BORDER_PX), 96 + sum(BORDER_PX)
    assert seen == {(height, width), (width, height), (height // 2, width // 2), (width // 2, height // 2)}


def test_features_see_the_last_pixels_like_those_within(metrics: Path) -> None:
    class Strided(Perceptual):
        def distance(self, name: str, image: Tensor, target: Tensor, compiled: bool = False) -> Tensor:
            return F.avg_pool2d((image - target).square(), 16).mean()  # what no window reaches does not count

    target = torch.full((1, 3, 120, 120), 0.5)
    image = torch.full((1, 3, 120, 120), 0.4).requires_grad_()
    objective = Objective(Stage(steps=1, mse_weight=0), Strided(metrics, CPU))
    total, _ = objective.compare(image, target, (7, 7))
    total.backward()
    assert image.grad is not None
    felt = image.grad.abs()[0, 0]
    assert felt.min() > 0.9 * felt[60, 60]


def test_both_pictures_get_the_same_noise_for_lpips(metrics: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watching(Perceptual):
        def distance(self, name: str, image: Tensor, target: Tensor, compiled: bool = False) -> Tensor:
            seen.append((image, target))
            return super().distance(name, image, target, compiled)

    torch.manual_seed(0)
    image, target = torch.full((1, 3, 64, 64), 0.25), torch.full((1, 3, 64, 64), 0.5)
    Objective(Stage(steps=1, lpips_noise=0.02), Watching(metrics, CPU)).compare(image, target, (0, 0))
    ((noisy_image, noisy_target),) = seen
    assert torch.allclose(noisy_target - noisy_image, torch.tensor(0.25), atol=1e-6)
    assert float((noisy_target - 0.5).std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("period", "cell"), [(16, 32), (32, 32), (12, 24)])
def test_a_texture_that_repeats_counts_and_one_that_does_not_is_next_to_nothing(period: int, cell: int) -> None:
    generator = torch.Generator().manual_seed(5)
    stamp = torch.rand(1, 3, period, period, generator=generator) - 0.5
    repeated = grain_of(stamp.repeat(2, 1, 256 // period + 1, 256 // period + 1)[..., :256, :256])
    power = repeated.square().mean()
    assert stamp_error(repeated, cell) > 0.9 * power
    assert stamp_error(repeated[..., :96, :250], cell) > 0.9 * power
    random = torch.rand(2, 3, 256, 256, generator=generator) - 0.5
    assert stamp_error(grain_of(random), cell) < 0.01 * power
    assert stamp_error(repeated, cell + 3) < 0.2 * power  # out of step
    turning = torch.tensor([1.0, -1.0]).repeat(4).repeat_interleave(32)
    if cell == 32:
        assert stamp_error(repeated * turning, cell) == 0
