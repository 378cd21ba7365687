"""The optimisers of a stage: what Muon does to matrices, and which parameters it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import run_shared
from networks import TINY
from torch import nn

from dlfc.model.dlf import DLF
from dlfc.train.optimiser import Muon, Optimisers, orthogonal
from dlfc.train.parallel import Workers
from dlfc.train.recipe import Stage

STAGE = Stage(steps=1, optimiser="muon", learning_rate=1e-2)


@pytest.mark.parametrize("shape", [(2, 24, 40), (1, 64, 16), (3, 20, 20)])
def test_the_singular_values_of_an_update_are_about_one(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    y = orthogonal(x)
    assert y.shape == x.shape
    values = torch.linalg.svdvals(y.float())
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    assert (x * y).sum() > 0  # and it still points where x does


def test_muon_finds_the_least_of_a_badly_scaled_sum_of_squares() -> None:
    scale = torch.logspace(0, -2, 32)[:, None]
    weight = nn.Parameter(torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2)))[0])
    optimiser = Muon([weight], 0.05, Workers())
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimiser.zero_grad()
        (scale * weight).square().sum().backward()
        optimiser.step()
    assert weight.detach().norm() < 0.1 * 32**0.5  # where it began


def moved_by_muon(workers: Workers) -> list[torch.Tensor]:
    """Weights of several shapes after two steps whose gradients are the same in all processes."""
    random = torch.Generator().manual_seed(3)
    shapes = [(24, 40), (64, 16), (24, 40), (16, 16, 3, 3), (24, 40)]
    weights = [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    optimiser = Muon(weights, 0.05, workers)
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=random)
        optimiser.step()
    return [weight.detach() for weight in weights]


WORKER = """
import sys
import torch
from test_train_optimiser import Workers, moved_by_muon
workers = Workers()
torch.save(moved_by_muon(workers), f"{sys.argv[1]}/{workers.rank}.pt")
workers.close()
"""


@pytest.mark.parametrize("count", [2, 6])  # 6: more than there are matrices
def test_processes_that_share_muon_out_move_weights_as_one_does(tmp_path: Path, count: int) -> None:
    run_shared(WORKER, count, tmp_path, tmp_path)
    alone = moved_by_muon(Workers())
    for rank in range(count):
        for mine, theirs in zip(alone, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert torch.allclose(mine, theirs, rtol=0, atol=1e-4)  # steps are of about 0.01


def test_only_dense_weights_go_to_muon() -> None:
    model = DLF(TINY)
    optimisers = Optimisers(model, [], STAGE, Workers())
    names = {id(p): name for name, p in model.named_parameters()}
    adam, muon = optimisers._all
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adam = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam
    assert "decoder.layers.0.mlp.expand.weight" in by_muon
    assert all(name.endswith(".weight") for name in by_muon)
    for outer in ("codebook.entries", "mixture", "generator.conv_out.weight", "encoder.to_token.weight"):
        assert outer in by_adam
    assert not any("depthwise" in name for name in by_muon)


def test_optimisers_go_on_from_their_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 20)

    def fresh() -> tuple[nn.Module, Optimisers]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(20, 24), nn.Linear(24, 18))
        return model, Optimisers(model, [], STAGE, Workers())

    def train(model: nn.Module, optimisers: Optimisers) -> None:
        for rate in (1e-2, 5e-3):
            optimisers.set_rate(rate)
            optimisers.zero_grad()
            model(x).square().mean().backward()
            optimisers.step()

    model, optimisers = fresh()
    train(model, optimisers)
    torch.save([model.state_dict(), optimisers.state()], tmp_path / "state.pt")
    train(model, optimisers)
    resumed, again = fresh()
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(weights)
    again.load_state(state)
    train(resumed, again)
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_recipe_names_an_optimiser_that_exists() -> None:
    with pytest.raises(ValueError, match="optimiser 'sgd'; there are: adamw, muon"):
        Stage(steps=1, optimiser="sgd")
