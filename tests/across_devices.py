"""Whether a GPU and a CPU read the same symbols: `python -m tests.across_devices PHOTOS`.

Encodes each photo of a folder on both devices and decodes every file on both. Prints one line per photo and quality;
exit status 1 if any symbol differs. Needs a CUDA device. The model may be of the published size, made as
`tests.bench.bench_paper` makes it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

from dlfc.codec import Codec
from dlfc.formats import unpack

DEVICES = ("cuda", "cpu")


def symbols(codec: Codec, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and latent that `codec` reads from a file, on the CPU."""
    tokens, latent = codec.symbols.read(unpack(data))
    return tokens.cpu(), latent.cpu()


def main() -> int:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--quality", type=float, nargs="+", default=[0.0, 50.0, 100.0])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here", file=sys.stderr)
        return 2
    codecs = {name: Codec.load(options.model, device=name, models_dir=options.models_dir) for name in DEVICES}
    different = 0
    for path in sorted(options.photos.glob("*.png")):
        with Image.open(path) as picture:
            image = picture.convert("RGB")
        for quality in options.quality:
            for writer in DEVICES:
                data = codecs[writer].encode(image, quality=quality)
                read = [symbols(codecs[reader], data) for reader in DEVICES]
                same = all(torch.equal(a, b) for a, b in zip(*read, strict=True))
                different += not same
                verdict = "same symbols" if same else "DIFFERENT SYMBOLS"
                print(f"{path.name}  q {quality:g}  written on {writer}, {len(data)} bytes: {verdict}", flush=True)
    print(f"{different} files were read differently")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
