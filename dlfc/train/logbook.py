"""What a run says about its steps and its evaluations: lines for people, CSV files and pictures in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dlfc.errors import ModelError
from dlfc.train import watch
from dlfc.train.losses import TERMS
from dlfc.train.parallel import Workers

LOGGED = (*TERMS, "gradient")
_QUIET = ("total", "mse", "codebook", "gradient")  # lines leave these out, or show them in another way


class Logbook:
    """Adds up the terms of steps and the use of `codes` codes on the device, and writes them when asked to."""

    def __init__(self, out: Path, workers: Workers, codes: int) -> None:
        self._out, self._workers = out, workers
        self._sums = torch.zeros(len(LOGGED), device=workers.device)
        self._steps = 0
        self._counts = torch.zeros(codes, dtype=torch.long, device=workers.device)
        self._zero = torch.zeros((), device=workers.device)

    @torch.no_grad()
    def note(self, terms: Mapping[str, Tensor], tokens: Tensor | None) -> None:
        """Remember a step, without waiting for the device."""
        self._sums += torch.stack([terms.get(name, self._zero).detach().float() for name in LOGGED])
        self._steps += 1
        if tokens is not None:
            tokens = tokens.reshape(-1)
            self._counts.index_add_(0, tokens, torch.ones_like(tokens))

    def check(self) -> None:
        """Raise ModelError if a loss or a gradient since the last line was not finite."""
        self._means()

    def _means(self) -> dict[str, float]:
        means = (self._workers.mean(self._sums) / max(1, self._steps)).tolist()
        if not all(map(math.isfinite, means)):
            raise ModelError(f"{self._out}: losses are no numbers any more; state.pt is from before that")
        return dict(zip(LOGGED, means, strict=True))

    def line(self, step: int, where: str, more: Mapping[str, float | str], after: str) -> None:
        """Write the means since the last line: a row at `step`, with `more`, and a line from `where` to `after`."""
        mean = self._means()
        self._sums.zero_()
        self._steps = 0
        if not self._workers.leads:
            return
        psnr = watch.psnr(mean["mse"]) if mean["mse"] else ""
        shown = {name: value or "" for name, value in mean.items()}  # what is not computed stays empty
        watch.append(self._out / "log.csv", {"step": step, **shown, "psnr": psnr, **more})
        words = [where, f"loss {mean['total']:.4f}"]
        words += [f"psnr {psnr:.2f} dB"] if psnr else []
        words += [f"{name} {value:.4f}" for name, value in mean.items() if value and name not in _QUIET]
        print("  ".join([*words, after]), flush=True)

    def used(self) -> dict[str, float]:
        """How codes were used since the last call."""
        counts = self._workers.total(self._counts)
        used = watch.token_statistics(counts)
        self._counts = torch.zeros_like(self._counts)
        return used

    def report(
        self,
        step: int,
        rows: Sequence[Mapping[str, float]],
        pictures: Sequence[Sequence[Tensor]],
        captions: Sequence[str],
        used: Mapping[str, float],
    ) -> None:
        """Write what an evaluation at `step` found."""
        for row in rows:
            watch.append(self._out / "validation.csv", {"step": step, **row})
            print("  ".join(f"{k} {v:.4g}" for k, v in {"step": step, **row}.items()), flush=True)
        watch.append(self._out / "tokens.csv", {"step": step, **used})
        print(
            f"{used['tokens']:.0f} tokens in training: perplexity {used['perplexity']:.0f}, "
            f"{used['dead_codes']:.0f} of {len(self._counts)} codes not used",
            flush=True,
        )
        watch.sheet(self._out / "sheet.jpg", pictures, captions)
        watch.draw(self._out)
