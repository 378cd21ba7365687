"""From a training run to a weights file: integer prior, calibrated tables, safetensors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from dlfc.entropy.prior import ONE, FourPasses, IntegerPrior, to_integers
from dlfc.entropy.tables import detail_tables, scale_thresholds, token_table
from dlfc.model.config import DLFConfig
from dlfc.model.dlf import DLF
from dlfc.train.data import Crops
from dlfc.train.state import misfit, read_state
from dlfc.zoo import store
from dlfc.zoo.registry import ModelEntry

CALIBRATION_CROPS = 1000


def load_run(state: Path, config: DLFConfig) -> DLF:
    """The averaged weights of a run's `state.pt`; ModelError if they are not of `config`."""
    network = DLF(config)
    try:
        network.load_state_dict(read_state(state)["averaged"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise misfit(state, error) from error
    return network.eval()


def export(network: DLF, crops: Crops, path: Path, *, count: int = CALIBRATION_CROPS) -> ModelEntry:
    """Write the weights file `path`, with tables calibrated on `count` crops of whole tiles.

    Tokens are counted, and detail symbols by the scale that the integer prior gives them, at all rate levels in turn.
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
            tokens = network.codebook.nearest(inputs).view(inputs.shape[:2])
            token_counts += np.bincount(tokens.view(-1).numpy(), minlength=config.codebook_size)
            latent = network.analyse_detail(x, features, tokens, level)[0]
            passes = FourPasses(prior, thresholds, round(2 * quality), (cells, cells), (cells, cells))
            for indices in passes:
                symbols = passes.residuals(latent)
                for index, symbol in zip(indices.tolist(), symbols.tolist(), strict=True):
                    seen.setdefault(index, Counter())[symbol] += 1
                passes.accept(symbols)
    observed = {index: dict(counter) for index, counter in seen.items()}
    return store.save(network, path, detail_tables(observed), token_table(token_counts))


def _as_stored(network: DLF) -> DLF:
    """The network with its weights rounded to the 16 bits of the file; the prior stays exact."""
    state = {k: v if k.startswith("bottleneck.prior.") else v.half().float() for k, v in network.state_dict().items()}
    network.load_state_dict(state)
    return network
