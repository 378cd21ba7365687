"""From a training run to a weights file: integer prior, calibrated tables, safetensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dlfc.entropy.prior import ONE, FourPasses, IntegerPrior, to_integers
from dlfc.entropy.tables import detail_tables, scale_thresholds, token_table
from dlfc.errors import ModelError
from dlfc.model.base import by_region
from dlfc.model.bottleneck import at_level
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.train.data import Crops
from dlfc.train.state import misfit, read_state
from dlfc.train.token_prior import learn
from dlfc.zoo import store
from dlfc.zoo.registry import ModelEntry

CALIBRATION_CROPS = 1000
TOKEN_CROPS = 6000  # the photos of the default model give little more than these
TOKEN_STEPS = 2000
_TOGETHER = 8


def load_run(state: Path, config: DLFConfig) -> DLF:
    """The averaged weights of a run's `state.pt`; ModelError if they are not of `config`."""
    network = DLF(config)
    try:
        network.load_state_dict(read_state(state)["averaged"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise misfit(state, error) from error
    return network.eval()


@torch.no_grad()
def place_levels(network: DLF, qualities: Sequence[float]) -> None:
    """Make what `network` does at `qualities`, rising from 0 up, its rate levels.

    Above 100 the vectors of levels go on as between the highest two. Raises ModelError if qualities are not as many as
    levels.
    """
    bottleneck = network.bottleneck
    if len(qualities) != bottleneck.levels:
        raise ModelError(f"the network has {bottleneck.levels} levels, not {len(qualities)}")
    level = torch.tensor(qualities) / 100 * (bottleneck.levels - 1)
    of_levels = [bottleneck.encode_gain, bottleneck.decode_gain, bottleneck.prior.vector]
    if network.base is not None:
        of_levels.append(network.base.log_gain)
    for vectors in of_levels:
        vectors.copy_(at_level(vectors, level))
    if bottleneck.opening is not None:
        bottleneck.opening.copy_(at_level(bottleneck.opening, level).clamp(0, 1))


def export(
    network: DLF,
    crops: Crops,
    path: Path,
    *,
    count: int = CALIBRATION_CROPS,
    token_crops: int = TOKEN_CROPS,
    token_steps: int = TOKEN_STEPS,
) -> ModelEntry:
    """Write the weights file `path`, with tables calibrated on `count` crops of whole tiles.

    Detail symbols are counted by the scale that the integer prior gives them, at all rate levels in turn. Tokens are
    counted too; where they stand for regions, a prior learns from those of `token_crops` crops what neighbours say.
    """
    config = network.config
    network = _as_stored(network)
    prior = IntegerPrior(to_integers(network.bottleneck.prior), torch.device("cpu"))
    thresholds = torch.from_numpy(scale_thresholds(ONE))
    token_counts = np.zeros(config.codebook_size, np.int64)
    seen: dict[int, Counter[int]] = {}
    cells = crops.size_px // config.cell_px
    with torch.inference_mode():
        for i in range(count):
            x = crops.batch(1).cpu()
            quality = 100.0 * (i % (2 * config.levels - 1)) / (2 * config.levels - 2)
            level = torch.tensor([quality / 100 * (config.levels - 1)])
            inputs, features = network.analyse_tokens(x)
            tokens = network.codebook.nearest(inputs)
            token_counts += np.bincount(tokens.view(-1).numpy(), minlength=config.codebook_size)
            latent = network.analyse_detail(x, features, tokens, level)[0]
            regions = network.regions(tokens, *x.shape[2:])
            passes = FourPasses(prior, thresholds, round(2 * quality), (cells, cells), (cells, cells), regions)
            for indices in passes:
                symbols = passes.residuals(latent)
                for index, symbol in zip(indices.tolist(), symbols.tolist(), strict=True):
                    seen.setdefault(index, Counter())[symbol] += 1
                passes.accept(symbols)
    observed = {index: dict(counter) for index, counter in seen.items()}
    tables = detail_tables(observed)
    if network.base is None:
        return store.save(network, path, tables, token_table(token_counts))
    grids = token_grids(network, crops, token_crops)
    prior_of_tokens = learn(grids, network.base.token_codes.weight.detach(), token_steps)
    return store.save(network, path, tables, prior_of_tokens.to_integers())


@torch.no_grad()
def token_grids(network: DLF, crops: Crops, count: int) -> Tensor:
    """Tokens of `count` crops, by rows of the crop, each of which stands for a region: `count` H W."""
    grids = []
    for first in range(0, count, _TOGETHER):
        inputs, _ = network.analyse_tokens(crops.batch(min(_TOGETHER, count - first)).cpu())
        grids.append(by_region(network.config, network.codebook.nearest(inputs), crops.size_px, crops.size_px))
    return torch.cat(grids)


def _as_stored(network: DLF) -> DLF:
    """The network with its weights rounded to the 16 bits of the file; the prior stays exact."""
    state = {k: v if k.startswith("bottleneck.prior.") else v.half().float() for k, v in network.state_dict().items()}
    network.load_state_dict(state)
    return network
