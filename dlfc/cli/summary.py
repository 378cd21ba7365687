"""What a run has done in all: counts, bytes, rate, and where the time went."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from io import StringIO

PARTS = ("import", "load", "read", "network", "coder", "write")


@dataclass
class Summary:
    """Counts what becomes of files."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bpp: float = 0.0  # of all files that are done
    seconds: dict[str, float] = field(default_factory=dict)  # by part; parts overlap where several files are in work
    begun: float = field(default_factory=time.perf_counter)

    def add_time(self, seconds: dict[str, float]) -> None:
        """Count the time of a file or of the preparations."""
        for part, spent in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + spent

    def time_line(self) -> str:
        """Where the time went, in one line."""
        parts = ", ".join(f"{part} {self.seconds[part]:.2f} s" for part in PARTS if part in self.seconds)
        return f"time: {parts}; {time.perf_counter() - self.begun:.2f} s in all"

    def table(self, *, styled: bool) -> list[str]:
        """The lines of the table for the end of a run of several files."""
        from rich.console import Console
        from rich.table import Table

        spent = time.perf_counter() - self.begun
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        counts = [f"{self.done} done", *(f"{n} {what}" for what, n in self._others() if n)]
        table.add_row("files", ", ".join(counts))
        if self.done:
            table.add_row("bytes", f"{self.bytes_in:,} in, {self.bytes_out:,} out")
            table.add_row("mean rate", f"{self.bpp / self.done:.4f} bpp")
            table.add_row("time", f"{spent:.1f} s, {self.done / spent:.1f} files/s")
        text = StringIO()
        Console(file=text, force_terminal=styled, width=1000, highlight=False).print(table)
        return [line.rstrip() for line in text.getvalue().splitlines()]

    def _others(self) -> tuple[tuple[str, int], ...]:
        return ("failed", self.failed), ("skipped, for their results exist", self.skipped)
