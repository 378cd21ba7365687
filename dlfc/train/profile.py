"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Profile:
    """Adds up the time of named parts of a step, if it is switched on.

    It then waits for the device at both ends of each part, so the sum is more than an undisturbed step takes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self.on = False

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what happens inside under `name`."""
        if not self.on:
            yield
            return
        since = self._now()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - since

    def table(self, steps: int) -> str:
        """Milliseconds per step and shares of the whole, a line for each part."""
        whole = sum(self._seconds.values()) or 1.0
        lines = [f"{'part':<16}{'ms/step':>10}{'share':>8}"]
        for name, seconds in sorted(self._seconds.items(), key=lambda item: -item[1]):
            lines.append(f"{name:<16}{1000 * seconds / steps:>10.2f}{100 * seconds / whole:>7.1f}%")
        lines.append(f"{'all':<16}{1000 * whole / steps:>10.2f}{100:>7.1f}%")
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            lines.append(f"most memory in use: {peak / 2**30:.1f} GiB")
        return "\n".join(lines)
