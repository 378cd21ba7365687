"""Learns what a token's neighbours say about it: the float form of `dlfc.entropy.tokens.ByNeighbours`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.entropy.prior import ACTIVATION_BITS, WEIGHT_BITS, rounded
from dlfc.entropy.tokens import NEIGHBOURS

WIDTH = 96  # of the hidden layers
DIM = 32  # of a token, as a neighbour and as what is predicted
BATCH = 1024
RATE = 2e-3
DECAY = 0.05


class FloatTokenPrior(nn.Module):
    """Tokens of neighbours -> logarithms of the weights of all tokens, to base 2."""

    def __init__(self, counts: Tensor, features: Tensor) -> None:
        """`counts` V says how often each token was seen; `features` V C is where tokens start from, alike if near."""
        super().__init__()
        size, channels = features.shape
        start = torch.zeros(size + 1, DIM)
        start[:size, : min(DIM, channels)] = (features / features.std()).nan_to_num()[:, :DIM]
        start[size, -1] = 4.0  # no neighbour
        self.context = nn.Parameter(start)
        self.first = nn.Linear(len(NEIGHBOURS) * DIM, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.third = nn.Linear(WIDTH, DIM)
        nn.init.zeros_(self.third.weight)
        nn.init.zeros_(self.third.bias)  # it starts as one table
        self.entries = nn.Parameter(0.3 * start[:size])
        self.bias = nn.Parameter(((counts + 0.5) / (counts.sum() + 0.5 * size)).log2())

    def forward(self, neighbours: Tensor) -> Tensor:
        """`neighbours` N 4 -> N V."""
        x = self.context[neighbours].flatten(1)
        x = F.relu(self.second(F.relu(self.first(x))))
        return F.linear(self.third(x), self.entries, self.bias)

    def to_integers(self) -> dict[str, Tensor]:
        """The tensors of a weights file."""
        tensors = {"context": rounded(self.context, ACTIVATION_BITS), "entries": rounded(self.entries, WEIGHT_BITS)}
        biases = {"bias": self.bias}
        for name in ("first", "second", "third"):
            layer = self.get_submodule(name)
            tensors[f"{name}.weight"] = rounded(layer.get_parameter("weight"), WEIGHT_BITS)
            biases[f"{name}.bias"] = layer.get_parameter("bias")
        return {
            **{name: value.to(torch.int32) for name, value in tensors.items()},
            **{name: rounded(value, ACTIVATION_BITS + WEIGHT_BITS).to(torch.int64) for name, value in biases.items()},
        }


def with_neighbours(grid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Tokens B H W of a codebook of `size` -> the neighbours of each, N 4, and the tokens themselves, N."""
    _, height, width = grid.shape
    framed = F.pad(grid, (1, 1, 1, 0), value=size)
    views = [
        framed[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width].reshape(-1) for down, right in NEIGHBOURS
    ]
    return torch.stack(views, 1), grid.reshape(-1)


def learn(grids: Tensor, features: Tensor, steps: int, seed: int = 0) -> FloatTokenPrior:
    """The prior of tokens seen in `grids` B H W, of a codebook with `features` V C."""
    size = len(features)
    neighbours, tokens = with_neighbours(grids, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = FloatTokenPrior(torch.bincount(tokens, minlength=size), features)
        optimiser = torch.optim.AdamW(prior.parameters(), RATE, weight_decay=DECAY)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            chosen = torch.randint(len(tokens), (BATCH,))
            loss = F.cross_entropy(prior(neighbours[chosen]) * math.log(2), tokens[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return prior.eval()
