"""What rounding the prior to fixed point costs, in bits.

`python -m dlfc.evaluate.fixed_point RECIPE STATE PHOTOS` compares, for a training run's float weights, the code length
of the detail symbols under the float prior and exact Gaussians with that under the integer prior and its integer
tables (Gaussians too, so that calibration plays no part), each prior coding the latent in its own way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from dlfc.entropy.prior import ONE, FourPasses, IntegerPrior, to_integers
from dlfc.entropy.tables import TOTAL, detail_tables, scale_thresholds
from dlfc.model.bottleneck import SKIP_SCALE
from dlfc.model.dlf import DLF, pad_to_tiles
from dlfc.train.data import load_photos, to_tensor
from dlfc.train.export import load_run
from dlfc.train.recipe import load_recipe


def compare(network: DLF, pixels: np.ndarray, quality: int) -> tuple[float, float]:
    """Bits of one photo, uint8 H W 3, at `quality`: with the float prior, and with the integer prior."""
    config = network.config
    tables, counts = detail_tables(), []
    for row, length in zip(tables.cdf, tables.lengths, strict=True):
        counts.append(np.diff(row[:length]))
    level = torch.tensor([quality / 100 * (config.levels - 1)])
    x = pad_to_tiles(to_tensor(pixels[None]), config.tile_px)
    inputs, features = network.analyse_tokens(x)
    tokens = network.codebook.nearest(inputs)
    latent = network.analyse_detail(x, features, tokens, level)
    regions = network.regions(tokens, *x.shape[2:])
    quantised = network.bottleneck.quantise(latent, level, regions)
    float_bits = float((quantised.bits * (quantised.scales >= SKIP_SCALE)).sum())

    size = (latent.shape[2], latent.shape[3])
    prior = IntegerPrior(to_integers(network.bottleneck.prior), torch.device("cpu"))
    passes = FourPasses(prior, torch.from_numpy(scale_thresholds(ONE)), 2 * quality, size, size, regions)
    integer_bits = 0.0
    for indices in passes:
        symbols = passes.residuals(latent[0])
        for index, symbol in zip(indices, symbols, strict=True):
            slot = symbol - tables.offsets[index]
            inside = 0 <= slot < len(counts[index]) - 1
            integer_bits -= np.log2(counts[index][slot if inside else -1] / TOTAL)
            if not inside:  # sign, and the distance from the table in Exp-Golomb form
                excess = -slot if slot < 0 else slot - len(counts[index]) + 2
                integer_bits += 2 + 2 * int(np.log2(excess))
        passes.accept(symbols)
    return float_bits, integer_bits


def main() -> None:
    """Print the cost at each quality and over all."""
    parser = argparse.ArgumentParser(prog="python -m dlfc.evaluate.fixed_point", description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("photos", type=Path)
    options = parser.parse_args()
    network = load_run(options.state, load_recipe(options.recipe).model)
    photos = load_photos(options.photos)
    total = np.zeros(2)
    with torch.inference_mode():
        for quality in (0, 25, 50, 75, 100):
            bits = np.sum([compare(network, photo, quality) for photo in photos], 0)
            total += bits
            cost = bits[1] / bits[0] - 1
            print(f"quality {quality:3}: float {bits[0]:.0f} bits, fixed point {bits[1]:.0f}, {cost:+.3%}")
    print(f"over all: {total[1] / total[0] - 1:+.3%}")


if __name__ == "__main__":
    main()
