"""Runs in stages, for limited time, stopped by signals, and shared by processes."""

from __future__ import annotations

import csv
import os
import signal
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import run_shared
from networks import SEEING, TINY, photo, write_lpips
from test_train import same
from torch import Tensor, nn

from dlfc.errors import ModelError
from dlfc.train.export import load_run
from dlfc.train.loop import Trainer
from dlfc.train.recipe import Recipe, Stage, load_recipe
from dlfc.train.state import read_state

TARGETS = (0.013, 0.018, 0.03)
STAGE = Stage(steps=2, batch=2, crop_px=64, learning_rate=1e-3, warmup_steps=1)
RECIPE = Recipe("tiny", TINY, TARGETS, (STAGE,), warmstart_crops=40)

BARE = replace(TINY, base_components=0)
VQGAN = replace(STAGE, stage="vqgan", task="vqgan", adversarial_weight=0.5, adversarial_start=1, matching_weight=0.1)
FROZEN = ("generator.", "mixture")
PUBLISHED = (
    replace(VQGAN, adversarial_adaptive=True, learn=("generator.", "mixture")),
    replace(STAGE, stage="tokens", task="tokens", freeze=FROZEN),
    replace(STAGE, stage="latent", task="latent", freeze=FROZEN, latent_weight=1.0, index_weight=0.25),
    replace(STAGE, stage="pixels", l1_weight=1.0, mse_weight=0.0, adversarial_weight=0.1, spectral_norm=True),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        photo(150 + 10 * i, 130, seed=i).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lpips(tmp_path_factory.mktemp("metrics"))


@pytest.fixture(scope="module")
def published(data: Path, metrics: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run through all published stages, without a linear base."""
    recipe = Recipe("bare", BARE, TARGETS, PUBLISHED)
    trainer = Trainer(recipe, data, metrics, tmp_path_factory.mktemp("runs") / "published", data)
    assert trainer.run(log_steps=1)
    return trainer


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


# --- stages -------------------------------------------------------------------------------------------------------


def test_all_stages_are_trained_one_after_the_other(published: Trainer) -> None:
    log = rows(published.out / "log.csv")
    assert [row["step"] for row in log] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert [row["stage"] for row in log] == [stage.stage for stage in PUBLISHED for _ in range(2)]
    assert all(row["index"] and row["latent"] for row in log[2:6])
    assert [bool(row["bpp"]) for row in log] == [False] * 4 + [True] * 4
    assert [bool(row["adversarial"]) for row in log] == [False, True, False, False, False, False, True, True]
    assert [bool(row["mse"]) for row in log] == [True] * 2 + [False] * 4 + [True] * 2
    levels = [row["level"] for row in rows(published.out / "validation.csv")]
    assert levels == ["0", "0", "0", "1", "2", "0", "1", "2"]  # one picture each without rate levels


def test_a_stage_moves_only_what_it_is_to_train(published: Trainer) -> None:
    ends = [read_state(published.out / f"stage-{n}.pt") for n in (1, 2, 3, 4)]
    assert moved(ends[0]["averaged"], ends[1]["model"]) == {"encoder", "codebook", "decoder", "fusion"}
    assert moved(ends[1]["averaged"], ends[2]["model"]) == {"encoder", "codebook", "bottleneck", "decoder", "fusion"}
    assert {"generator", "mixture"} < moved(ends[2]["averaged"], ends[3]["model"])
    assert moved(ends[0]["averaged_teacher"], ends[3]["teacher"]) == set()


def test_a_run_resumes_in_the_stage_where_it_was(published: Trainer, data: Path, metrics: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes((published.out / "stage-2.pt").read_bytes())
    resumed = Trainer(published.recipe, data, metrics, tmp_path, None)
    assert (resumed.stage_index, resumed.learner.step) == (1, 2)
    resumed.run(log_steps=1)
    assert same(resumed.learner.averaged.model, published.learner.averaged.model)
    whole = read_state(published.out / "state.pt")["adversary"]["network"]
    again = read_state(tmp_path / "state.pt")["adversary"]["network"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_any_stage_can_start_from_any_checkpoint(published: Trainer, data: Path, metrics: Path, tmp_path: Path) -> None:
    start = published.out / "stage-1.pt"
    trainer = Trainer(published.recipe, data, metrics, tmp_path, None, start_from=[start], stage=2)
    assert trainer.stage.stage == "latent"
    assert moved(read_state(start)["averaged"], trainer.learner.averaged.model.state_dict()) == set()
    assert trainer.nets.teacher is not None
    assert moved(read_state(start)["averaged_teacher"], trainer.nets.teacher.state_dict()) == set()
    with pytest.raises(ModelError, match="has 4 stages, none of number 5"):
        Trainer(published.recipe, data, metrics, tmp_path, None, stage=4)


def test_a_prior_learns_alone_from_tokens_and_keeps_what_is_said(data: Path, metrics: Path, tmp_path: Path) -> None:
    alone = replace(STAGE, stage="prior", task="prior", steps=60, batch=4, learning_rate=5e-3)
    without = Recipe("tiny", replace(SEEING, prior_context=0), TARGETS, (STAGE,), warmstart_crops=40)
    assert Trainer(without, data, metrics, tmp_path / "pixels", None).run()
    recipe = replace(without, model=SEEING, stages=(alone,))
    start = tmp_path / "pixels" / "state.pt"
    whole = Trainer(recipe, data, metrics, tmp_path / "whole", None, start_from=[start])
    before = deepcopy(whole.nets.model.state_dict())
    assert whole.run(log_steps=1)
    moved = {name for name, value in whole.nets.model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("bottleneck.prior.") for name in moved)
    assert {name.split(".")[2] for name in moved} == {"context", "reduce", "adaptors", "spatial"}
    with (tmp_path / "whole" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    first, last = (sum(float(row["total"]) for row in part) / 10 for part in (rows[:10], rows[-10:]))
    assert last < 0.98 * first
    assert float(rows[-1]["latent"]) < 0.1
    stopped = Trainer(recipe, data, metrics, tmp_path / "stopped", None, start_from=[start])
    for _ in range(20):
        stopped.train_step()
    stopped.save()
    resumed = Trainer(recipe, data, metrics, tmp_path / "stopped", None)
    assert resumed.run()
    assert same(resumed.nets.model, whole.nets.model)


def test_the_model_of_a_staged_run_can_be_exported(published: Trainer) -> None:
    assert same(load_run(published.out / "state.pt", BARE), published.learner.averaged.model)


# --- recipes ------------------------------------------------------------------------------------------------------


def test_a_recipe_lists_stages_that_override_what_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        name = "two"
        target_bpp = [0.1]
        batch = 4
        [model]
        [[stages]]
        stage = "small"
        steps = 7
        [[stages]]
        stage = "large"
        total_minutes = 2.5
        crop_px = 512
        batch = 2
        scales = [1.0, 0.5]
        """
    )
    small, large = load_recipe(path).stages
    assert (small.stage, small.steps, small.batch, small.crop_px) == ("small", 7, 4, 256)
    assert (large.stage, large.total_minutes, large.batch, large.crop_px) == ("large", 2.5, 2, 512)
    assert large.scales == (1.0, 0.5)


@pytest.mark.parametrize("name", ["small", "small-gpu", "published"])
def test_recipes_that_come_with_dlfc_are_valid(name: str) -> None:
    import dlfc.train

    recipe = load_recipe(Path(dlfc.train.__file__).with_name(f"{name}.toml"))
    assert recipe.stages
    with torch.device("meta"):
        from dlfc.model.dlf import DLF

        names = [parameter for parameter, _ in DLF(recipe.model).named_parameters()]
    for stage in recipe.stages:
        assert all(any(parameter.startswith(each) for parameter in names) for each in (*stage.learn, *stage.freeze))
        assert any(stage.learns(parameter) for parameter in names)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"total_minutes": 3.0},
        {"task": "paint"},
        {"scales": ()},
        {"scales": (2.0,)},
        {"betas": (0.9,)},
        {"batch": 0},
        {"adversarial_every": 0},
        {"stamp_px": ()},
        {"stamp_px": (32, 1)},
        {"stamp_weight": 1.0, "stamp_px": (64,), "crop_px": 96},
        {"compile": True, "adversarial_adaptive": True},
    ],
)
def test_settings_that_make_no_stage_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Stage(**asdict(STAGE) | change)


def test_a_network_with_a_linear_base_learns_no_latents() -> None:
    with pytest.raises(ValueError, match="linear base"):
        Recipe("tiny", TINY, TARGETS, (replace(STAGE, task="latent"),))
    with pytest.raises(ValueError, match="multiple of a tile"):
        Recipe("tiny", TINY, TARGETS, (replace(STAGE, crop_px=100),))


def test_the_learning_rate_follows_steps_or_minutes() -> None:
    steps = Stage(steps=110, learning_rate=1.0, warmup_steps=10, final_rate=0.1)
    assert [steps.rate(n, 0.0) for n in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1, 1, 0.55, 0.1])
    minutes = Stage(total_minutes=2, learning_rate=1.0, warmup_steps=0, final_rate=0.1)
    assert [minutes.rate(50, s) for s in (0, 60, 120, 500)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert (minutes.is_over(10**6, 119.0), minutes.is_over(1, 120.0)) == (False, True)
    assert minutes.has_begun(0.5, 3, 60.0)
    assert not minutes.has_begun(0.5, 3, 59.0)
    assert minutes.has_begun(3, 3, 0.0)


# --- limited time -------------------------------------------------------------------------------------------------


def test_slots_of_time_chain_to_the_run_that_nothing_interrupted(data: Path, metrics: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(replace(STAGE, steps=3),))
    whole = Trainer(recipe, data, metrics, tmp_path / "whole", None)
    whole.run()
    slots = 0
    while slots < 9:
        slots += 1
        if Trainer(recipe, data, metrics, tmp_path / "slots", None).run(minutes=1e-6):
            break
    assert slots == 3  # a step each
    assert same(load_run(tmp_path / "slots" / "state.pt", TINY), whole.learner.averaged.model)


def test_a_run_by_minutes_ends_after_its_time(data: Path, metrics: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(replace(STAGE, steps=0, total_minutes=0.005),))
    trainer = Trainer(recipe, data, metrics, tmp_path, None)
    assert trainer.run()
    assert trainer.learner.seconds >= 0.3
    state = read_state(tmp_path / "state.pt")
    assert state["seconds"] == trainer.learner.seconds
    resumed = Trainer(recipe, data, metrics, tmp_path, None)
    assert resumed.is_over


def test_a_signal_ends_a_run_in_good_order(
    data: Path, metrics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(replace(RECIPE, stages=(replace(STAGE, steps=50),)), data, metrics, tmp_path, None)
    step = trainer.train_step

    def interrupted() -> None:
        step()
        if trainer.learner.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "train_step", interrupted)
    usual = signal.getsignal(signal.SIGTERM)
    assert not trainer.run()
    assert signal.getsignal(signal.SIGTERM) is usual
    assert read_state(tmp_path / "state.pt")["step"] == 2


def test_losses_that_are_no_numbers_end_the_run_and_spare_its_state(data: Path, metrics: Path, tmp_path: Path) -> None:
    trainer = Trainer(RECIPE, data, metrics, tmp_path, None)
    trainer.save()
    with torch.no_grad():
        next(trainer.nets.model.generator.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="no numbers"):
        trainer.run()
    assert read_state(tmp_path / "state.pt")["step"] == 0


def test_a_profile_names_the_parts_of_a_step(data: Path, metrics: Path, tmp_path: Path) -> None:
    stage = replace(STAGE, adversarial_weight=0.1)
    trainer = Trainer(replace(RECIPE, stages=(stage,)), data, metrics, tmp_path, None)
    table = trainer.profiled(steps=1)
    for part in ("crops", "network and losses", "discriminator", "backward", "optimiser", "all"):
        assert f"\n{part}" in table
    assert not (tmp_path / "state.pt").exists()


def test_the_discriminator_may_learn_in_some_steps_only(data: Path, metrics: Path, tmp_path: Path) -> None:
    stage = replace(STAGE, adversarial_weight=0.1, adversarial_every=2)
    trainer = Trainer(replace(RECIPE, stages=(stage,)), data, metrics, tmp_path, None)
    moved = []
    for _ in range(4):
        before = (
            None if trainer.learner.adversary is None else [p.clone() for p in trainer.learner.adversary.parameters]
        )
        trainer.train_step()
        assert trainer.learner.adversary is not None
        now = trainer.learner.adversary.parameters
        moved.append(before is None or any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)))
    assert moved == [True, False, True, False]


# --- several processes --------------------------------------------------------------------------------------------

WORKER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_train_stages import SHARED
from dlfc.train.loop import Trainer
data, metrics, out = map(Path, sys.argv[1:])
trainer = Trainer(SHARED, data, metrics, out, data)
trainer.run(log_steps=1)
trainer.workers.close()
"""
SHARED = replace(RECIPE, stages=(replace(STAGE, batch=4, adversarial_weight=0.1, adversarial_start=1),))


def test_two_processes_that_share_batches_make_the_run_of_one(data: Path, metrics: Path, tmp_path: Path) -> None:
    alone = Trainer(SHARED, data, metrics, tmp_path / "alone", data)
    alone.run(log_steps=1)
    run_shared(WORKER, 2, tmp_path, data, metrics, tmp_path / "shared")
    state = read_state(tmp_path / "shared" / "state.pt")
    assert state["step"] == 2
    own, shared = (
        nn.utils.parameters_to_vector(alone.learner.averaged.model.parameters()),
        load_run(tmp_path / "shared" / "state.pt", TINY),
    )
    theirs = nn.utils.parameters_to_vector(shared.parameters())
    start = nn.utils.parameters_to_vector(
        Trainer(SHARED, data, metrics, tmp_path / "fresh", None).learner.averaged.model.parameters()
    )
    assert (own - theirs).norm() < 0.1 * (own - start).norm()  # sums of 16 bits differ by their order
    assert torch.allclose(state["log_lambda"], alone.learner.controller.log_lambda, atol=1e-3)
    logs = [rows(tmp_path / name / "log.csv") for name in ("alone", "shared")]
    for mine, other in zip(*logs, strict=True):
        assert float(mine["mse"]) == pytest.approx(float(other["mse"]), rel=0.02)
        assert float(mine["bpp"]) == pytest.approx(float(other["bpp"]), rel=0.05)
    used = [rows(tmp_path / name / "tokens.csv") for name in ("alone", "shared")]
    assert [row["tokens"] for row in used[0]] == [row["tokens"] for row in used[1]] == ["64.0"]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    from dlfc.train.parallel import Workers

    workers = Workers()
    workers.count = 3
    with pytest.raises(ModelError, match="cannot be shared evenly by 3"):
        workers.part(4)
