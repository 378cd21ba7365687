"""Training: a few steps of a tiny recipe, stopped and resumed, exported, and used to code a picture."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import TINY, photo, write_lpips

from dlfc.codec import Codec
from dlfc.entropy.prior import ACTIVATION_BITS, WEIGHT_BITS
from dlfc.errors import ImageError, ModelError
from dlfc.model.bottleneck import at_level, pass_masks
from dlfc.model.dlf import DLF
from dlfc.train.data import Crops, Photos, load_photos, to_tensor
from dlfc.train.export import export, load_run, place_levels
from dlfc.train.loop import Trainer
from dlfc.train.rate import RateController
from dlfc.train.recipe import Recipe, Stage, load_recipe
from dlfc.train.warmstart import warm_start
from dlfc.zoo import store

TARGETS = (0.013, 0.018, 0.03)  # of which tokens at a flat rate take 0.01
STAGE = Stage(steps=3, batch=2, crop_px=64, learning_rate=2e-3, warmup_steps=1)
RECIPE = Recipe("tiny", TINY, TARGETS, (STAGE,), warmstart_crops=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos and of a tar shard of photos."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        photo(150 + 10 * i, 130, seed=i).save(folder / f"{i}.png")
    photo(40, 200).save(folder / "too_narrow.png")
    (folder / "notes.txt").write_text("no photo")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for i in range(2):
            file = io.BytesIO()
            photo(128, 140, seed=10 + i).save(file, "JPEG", quality=95)
            entry = tarfile.TarInfo(f"{i}.jpg")
            entry.size = len(file.getvalue())
            shard.addfile(entry, io.BytesIO(file.getvalue()))
    return folder


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lpips(tmp_path_factory.mktemp("metrics"))


@pytest.fixture(scope="module")
def finished(data: Path, metrics: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run of three steps that nothing interrupted."""
    trainer = Trainer(RECIPE, data, metrics, tmp_path_factory.mktemp("runs") / "whole", data)
    trainer.run(log_steps=1)
    return trainer


def same(first: DLF, second: DLF) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- data ---------------------------------------------------------------------------------------------------------


def test_photos_are_read_from_a_folder_and_from_the_shards_in_it(data: Path) -> None:
    photos = load_photos(data, min_side_px=64)
    assert sorted(p.shape for p in photos) == [
        (130, 150, 3),
        (130, 160, 3),
        (130, 170, 3),
        (140, 128, 3),
        (140, 128, 3),
    ]
    assert len(load_photos(data, min_side_px=64, limit=2)) == 2
    assert len(load_photos(data)) == 6


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no photos of at least 64 pixels"):
        load_photos(tmp_path, min_side_px=64)


def test_crops_are_parts_of_the_photos_and_repeat_with_their_seed() -> None:
    height, width = np.mgrid[:40, :50]
    where = np.stack([height, width, np.zeros_like(height)], -1).astype(np.uint8)  # a pixel tells its place
    photos = Photos([where])
    batch = Crops(photos, 16, seed=5).batch(8)
    assert batch.shape == (8, 3, 16, 16)
    assert batch.min() >= -1
    assert torch.equal(batch, Crops(photos, 16, seed=5).batch(8))
    assert not torch.equal(batch, Crops(photos, 16, seed=6).batch(8))
    places = ((batch + 1) * 127.5).round().long()
    assert (places[:, 0].diff(dim=1) == 1).all()
    steps = places[:, 1].diff(dim=2)
    assert sorted(steps.unique().tolist()) == [-1, 1]  # some are mirrored
    assert len(places[:, :, 0, 0].unique(dim=0)) > 4


def test_pixels_become_numbers_from_minus_one_to_one() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    assert to_tensor(pixels)[0, :, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])


# --- the recipe ---------------------------------------------------------------------------------------------------

RECIPE_TEXT = """
name = "tiny"
target_bpp = [0.1, 0.2]
steps = 5
[model]
levels = 2
"""


def test_a_recipe_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE_TEXT)
    recipe = load_recipe(path)
    assert (recipe.name, recipe.target_bpp) == ("tiny", (0.1, 0.2))
    assert [(stage.steps, stage.batch) for stage in recipe.stages] == [(5, 8)]
    assert recipe.model.levels == 2


def test_the_recipe_of_the_default_model_is_valid() -> None:
    import dlfc.train

    recipe = load_recipe(Path(dlfc.train.__file__).with_name("small.toml"))
    assert recipe.name == "small"
    assert recipe.model.levels == len(recipe.target_bpp) >= 3
    assert recipe.model.base_components > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps = 5", ""),
        ("steps = 5", "stpes = 5"),
        ("steps = 5", "steps = "),
        ("[model]", "[modle]"),
        ("levels = 2", "levls = 2"),
        ("levels = 2", "levels = 2\nlatent_dim = 6"),
        ("steps = ", "first_lambda = [5]\nsteps = "),
        ("steps = ", "first_lambda = -1\nsteps = "),
        ("levels = 2", "levels = 3"),
        ("target_bpp = [0.1, 0.2]", "target_bpp = 0.1"),
        ("[model]\nlevels = 2", "model = 2"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_in_one_line(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE_TEXT.replace(old, new))
    with pytest.raises(ModelError, match=r"recipe\.toml: ") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("data", "reason"), [(b"name = 'tiny'", "it has no 'model'"), (b"\x89PNG", "it is no text")])
def test_what_is_no_recipe_at_all_is_said_in_plain_words(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "recipe.toml").write_bytes(data)
    with pytest.raises(ModelError, match=rf"recipe\.toml: not a training recipe: {reason}$"):
        load_recipe(tmp_path / "recipe.toml")


# --- the start ----------------------------------------------------------------------------------------------------


def test_training_starts_from_a_blurred_picture_and_not_from_noise(data: Path) -> None:
    torch.manual_seed(0)
    model = DLF(TINY)
    crops = Crops(Photos(load_photos(data)), 64, 0)
    warm_start(model, crops.batch(60), list(TARGETS))
    x = crops.batch(8)
    with torch.inference_mode():
        errors, bits = [], []
        for level in range(3):
            out = model.eval()(x, torch.full((8,), float(level)))
            assert torch.equal(out.image, out.base)  # the network adds nothing yet
            errors.append(float((out.image - x).square().mean()))
            bits.append(float(out.quantised.bits.sum()))
            assert (out.quantised.step - 1).abs().max() < 0.1
    flat = float((x - x.mean((2, 3), keepdim=True)).square().mean())
    assert errors[2] < errors[0] < 0.7 * flat
    assert bits[0] < bits[1] < bits[2]


def test_the_prior_starts_with_the_scales_of_its_level_in_every_pass(data: Path) -> None:
    torch.manual_seed(0)
    model = DLF(TINY)
    warm_start(model, Crops(Photos(load_photos(data)), 64, 0).batch(60), list(TARGETS))
    prior = model.bottleneck.prior
    with torch.inference_mode():
        step, scales, means, common = prior.start(prior.vector[1:2], 4, 4)
        assert (step - 1).abs().max() < 0.1
        assert means.abs().max() < 0.1
        known = torch.randn(1, TINY.latent_dim, 4, 4) * pass_masks(TINY.latent_dim, 4, 4)[0]
        for k in (1, 2, 3):
            again, means = prior.refine(k, known, common)
            assert (again - scales).abs().mean() < 0.3 * scales.mean()
            assert means.abs().mean() < 0.3


def test_the_rate_controller_raises_the_weight_of_a_level_that_spends_too_much() -> None:
    controller = RateController(TARGETS, first_lambda=5.0, rate=0.1)
    before = controller.log_lambda.clone()
    controller.update(torch.tensor([0.0, 2.0]), torch.tensor([0.03, 0.02]))
    assert controller.log_lambda[0] > before[0]
    assert controller.log_lambda[1] == before[1]
    assert controller.log_lambda[2] < before[2]
    between = controller.weight(torch.tensor([0.5])).log()
    assert between.item() == pytest.approx(controller.log_lambda[:2].mean().item(), rel=1e-5)


def test_the_rate_controller_begins_where_it_is_told() -> None:
    controller = RateController(TARGETS, first_lambda=(80.0, 20.0, 3.0), rate=0.1)
    assert controller.weight(torch.tensor([0.0, 1.0, 2.0])).tolist() == pytest.approx([80.0, 20.0, 3.0])


def test_a_low_level_power_draws_high_levels(data: Path, metrics: Path, tmp_path: Path) -> None:
    spent = []
    for power in (50.0, 0.02):
        recipe = replace(RECIPE, stages=(replace(STAGE, level_power=power),))
        trainer = Trainer(recipe, data, metrics, tmp_path / str(power), None)
        terms, _ = trainer.learner.train_step(trainer.crops)
        spent.append(terms["bpp"].item())
    assert spent[0] < 0.8 * spent[1]  # bits per pixel, of nearly the lowest level alone and of the highest


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_run_ends_at_its_last_step_and_leaves_its_state_and_its_logs(finished: Trainer) -> None:
    assert finished.learner.step == 3
    log = (finished.out / "log.csv").read_text().splitlines()
    assert log[0].startswith("step,total,mse,lpips,bpp,")
    assert [line.split(",")[0] for line in log[1:]] == ["1", "2", "3"]
    assert len((finished.out / "validation.csv").read_text().splitlines()) == 1 + TINY.levels
    assert len((finished.out / "tokens.csv").read_text().splitlines()) == 2
    made = {"curves.png", "log.csv", "sheet.jpg", "state.pt", "tokens.csv", "validation.csv"}
    assert {p.name for p in finished.out.iterdir()} == made


def test_training_moves_the_weights_and_the_average_follows(
    finished: Trainer, data: Path, metrics: Path, tmp_path: Path
) -> None:
    start = Trainer(RECIPE, data, metrics, tmp_path / "fresh", None)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(start.nets.model.parameters(), finished.nets.model.parameters(), strict=True)
    ]
    assert np.mean(moved) > 0.8
    assert not same(finished.nets.model, finished.learner.averaged.model)
    assert not same(start.learner.averaged.model, finished.learner.averaged.model)


def test_a_run_that_was_stopped_and_resumed_has_the_weights_of_one_that_was_not(
    finished: Trainer, data: Path, metrics: Path, tmp_path: Path
) -> None:
    stopped = Trainer(RECIPE, data, metrics, tmp_path / "run", None)
    stopped.train_step()
    stopped.save()
    resumed = Trainer(RECIPE, data, metrics, tmp_path / "run", None)
    assert resumed.learner.step == 1
    resumed.run()
    assert resumed.learner.step == 3
    assert same(resumed.nets.model, finished.nets.model)
    assert same(resumed.learner.averaged.model, finished.learner.averaged.model)
    assert torch.equal(resumed.learner.controller.log_lambda, finished.learner.controller.log_lambda)


def test_a_run_can_start_from_the_weights_of_another(
    finished: Trainer, data: Path, metrics: Path, tmp_path: Path
) -> None:
    other = Trainer(RECIPE, data, metrics, tmp_path / "run", None, start_from=[finished.out / "state.pt"])
    assert same(other.nets.model, finished.learner.averaged.model)
    assert same(other.learner.averaged.model, finished.learner.averaged.model)
    assert other.learner.step == 0


def test_a_run_can_start_from_the_mean_of_several(finished: Trainer, data: Path, metrics: Path, tmp_path: Path) -> None:
    one = torch.load(finished.out / "state.pt")
    two = {name: value + 1 if value.is_floating_point() else value for name, value in one["averaged"].items()}
    torch.save({"averaged": two, "log_lambda": one["log_lambda"] + 2}, tmp_path / "two.pt")
    starts = [finished.out / "state.pt", tmp_path / "two.pt"]
    run = Trainer(RECIPE, data, metrics, tmp_path / "run", None, start_from=starts)
    for name, value in run.nets.model.state_dict().items():
        torch.testing.assert_close(value, one["averaged"][name] + (0.5 if value.is_floating_point() else 0))
    torch.testing.assert_close(run.learner.controller.log_lambda, one["log_lambda"] + 1)

    torch.save({"averaged": {**two, "odd": torch.zeros(1)}}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=r"odd\.pt: not the network of .*state\.pt"):
        Trainer(RECIPE, data, metrics, tmp_path / "other", None, start_from=[*starts, tmp_path / "odd.pt"])


def test_a_run_can_start_from_a_model(finished: Trainer, data: Path, metrics: Path, tmp_path: Path) -> None:
    export(load_run(finished.out / "state.pt", TINY), finished.crops, tmp_path / "made.safetensors", count=4)
    first = replace(RECIPE.stages[0], first_lambda=(9.0, 8.0, 7.0))
    recipe = replace(RECIPE, stages=(first,))
    run = Trainer(recipe, data, metrics, tmp_path / "run", None, start_from=[tmp_path / "made.safetensors"])
    for ours, theirs in zip(run.nets.model.parameters(), finished.learner.averaged.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)  # weights of 16 bits, a prior of 14
    assert run.learner.controller.log_lambda.exp().tolist() == pytest.approx([9.0, 8.0, 7.0])
    wider = replace(recipe, model=replace(TINY, mixture_dim=16))
    with pytest.raises(ModelError, match=r"made\.safetensors: does not fit"):
        Trainer(wider, data, metrics, tmp_path / "other", None, start_from=[tmp_path / "made.safetensors"])
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        Trainer(recipe, data, metrics, tmp_path / "third", None, start_from=[Path("nowhere")])


def test_a_latent_can_grow_and_what_it_carried_stays_as_it_was(
    finished: Trainer, data: Path, metrics: Path, tmp_path: Path
) -> None:
    wider = replace(RECIPE, model=replace(TINY, latent_dim=TINY.latent_dim + 4))
    run = Trainer(wider, data, metrics, tmp_path / "run", None, start_from=[finished.out / "state.pt"])
    old, new = finished.learner.averaged.model, run.learner.averaged.model
    kept = torch.arange(TINY.latent_dim + 4).view(4, -1)[:, : TINY.latent_dim // 4].reshape(-1)
    x, level = finished.crops.batch(2), torch.tensor([0.5, 1.5])
    with torch.inference_mode():
        made = []
        for network in (old, new):
            inputs, features = network.analyse_tokens(x)
            tokens = network.codebook.nearest(inputs)
            latent = network.analyse_detail(x, features, tokens, level)
            made.append((network, tokens, network.bottleneck.quantise(latent, level)))
        torch.testing.assert_close(made[1][2].scales[:, kept], made[0][2].scales, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made[1][2].values[:, kept], made[0][2].values, rtol=1e-4, atol=1e-4)
        coded = made[1][2].values * made[1][2].step
        alone = torch.zeros_like(coded)
        alone[:, kept] = coded[:, kept]
        before = old.reconstruct(made[0][1], made[0][2].values * made[0][2].step, level)
        torch.testing.assert_close(new.reconstruct(made[1][1], alone, level), before, rtol=1e-4, atol=1e-4)
        errors = [
            ((network.base_image(tokens, q.values * q.step, level) - x) ** 2).mean() for network, tokens, q in made
        ]
    assert coded[:, kept].abs().sum() < coded.abs().sum()
    assert errors[1] < errors[0]
    run.train_step()


def test_a_network_can_get_more_blocks_and_does_at_first_what_it_did(
    finished: Trainer, data: Path, metrics: Path, tmp_path: Path
) -> None:
    depths = ("encoder_layers", "decoder_layers", "swin_in", "swin_out", "swin_up", "fusion_swin", "generator_blocks")
    depths += ("exchange_attention", "exchange_swin", "exchange_convnext")
    deeper = replace(RECIPE, model=replace(TINY, **{name: getattr(TINY, name) + 1 for name in depths}))
    run = Trainer(deeper, data, metrics, tmp_path / "run", None, start_from=[finished.out / "state.pt"])
    old, new = finished.learner.averaged.model, run.learner.averaged.model
    assert len(list(new.parameters())) > len(list(old.parameters())) + 100
    x, level = finished.crops.batch(2), torch.tensor([0.5, 1.5])
    with torch.inference_mode():
        pictures = []
        for network in (old, new):
            inputs, features = network.analyse_tokens(x)
            tokens = network.codebook.nearest(inputs)
            pictures.append(network.reconstruct(tokens, network.analyse_detail(x, features, tokens, level), level))
    torch.testing.assert_close(pictures[1], pictures[0])
    run.train_step()

    shallower = replace(RECIPE, model=replace(TINY, encoder_layers=TINY.encoder_layers - 1))
    with pytest.raises(ModelError, match=r"state\.pt: does not fit"):
        Trainer(shallower, data, metrics, tmp_path / "other", None, start_from=[finished.out / "state.pt"])


def test_the_state_of_another_recipe_is_refused_in_one_line(
    finished: Trainer, data: Path, metrics: Path, tmp_path: Path
) -> None:
    (tmp_path / "state.pt").write_bytes((finished.out / "state.pt").read_bytes())
    wider = replace(RECIPE, model=replace(TINY, mixture_dim=16))
    with pytest.raises(ModelError, match=r"state\.pt: does not fit") as caught:
        Trainer(wider, data, metrics, tmp_path, None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"state\.pt: does not fit") as caught:
        load_run(tmp_path / "state.pt", wider.model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04"])
def test_a_damaged_state_is_refused_in_one_line(data: Path, metrics: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    for attempt in (
        lambda: Trainer(RECIPE, data, metrics, tmp_path, None),
        lambda: load_run(tmp_path / "state.pt", TINY),
    ):
        with pytest.raises(ModelError, match=r"state\.pt: ") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_state_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"state\.pt: no such training state"):
        load_run(tmp_path / "state.pt", TINY)


def test_training_without_metric_weights_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no LPIPS weights"):
        Trainer(RECIPE, data, tmp_path, tmp_path / "run", None)


def test_too_few_crops_for_the_codebook_are_a_model_error(data: Path, metrics: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="codebook needs at least 32 regions"):
        Trainer(replace(RECIPE, warmstart_crops=3), data, metrics, tmp_path, None)


# --- export -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(finished: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("models")
    network = load_run(finished.out / "state.pt", TINY)
    assert same(network, finished.learner.averaged.model)
    entry = export(network, finished.crops, folder / "trained.safetensors", count=10, token_crops=20, token_steps=30)
    assert entry.name == "trained"
    return Codec.load("trained", device="cpu", models_dir=folder)


@pytest.mark.parametrize("highest", [80, 110])
def test_levels_are_placed_where_the_network_is_asked_to_have_them(finished: Trainer, highest: float) -> None:
    network, moved = (load_run(finished.out / "state.pt", TINY) for _ in range(2))
    place_levels(moved, (0, 60, highest))
    of_levels = [name for name, vectors in network.named_parameters() if len(vectors) == 3 and vectors.ndim == 2]
    assert len(of_levels) == 4
    for name in of_levels:
        before, after = (each.get_parameter(name) for each in (network, moved))
        for level, place in ((0.0, 0.0), (1.0, 1.2), (1.5, 0.6 + highest / 100), (2.0, highest / 50)):
            expected = at_level(before, torch.tensor([place]))
            assert torch.allclose(at_level(after, torch.tensor([level])), expected, rtol=1e-6)
    with pytest.raises(ModelError, match="3 levels, not 2"):
        place_levels(moved, (0, 100))


def test_an_exported_model_codes_a_picture(exported: Codec) -> None:
    picture = photo(150, 130, seed=1)
    sizes = []
    for quality in (0, 100):
        data = exported.encode(picture, quality=quality)
        sizes.append(len(data))
        decoded = np.asarray(exported.decode(data)).astype(int)
        assert decoded.shape == (130, 150, 3)
        assert np.square(decoded - np.asarray(picture)).mean() < np.asarray(picture).var()
    assert sizes[0] < sizes[1]


def test_the_tables_of_an_exported_model_are_those_of_its_own_symbols(exported: Codec, finished: Trainer) -> None:
    from safetensors.torch import load_file

    from dlfc.entropy.tables import detail_tables

    tensors = load_file(exported.model.entry.weights)
    bias = tensors["token_prior.bias"].float() / (1 << ACTIVATION_BITS + WEIGHT_BITS)
    assert bias.max() > bias.min() + 1  # some tokens are more frequent than others
    moved = (tensors["tables.detail.cdf"].numpy() != detail_tables().cdf).any(1)
    assert 3 < moved.sum() < 250  # levels that occurred moved, the others did not


def test_an_exported_network_is_the_one_that_its_tables_were_made_for(exported: Codec, finished: Trainer) -> None:
    stored = exported.model.network.state_dict()
    averaged = finished.learner.averaged.model.state_dict()
    assert all(torch.equal(value, averaged[name].half().float()) for name, value in stored.items())
    assert store.load(exported.model.entry, torch.device("cpu")).prior.levels == TINY.levels
