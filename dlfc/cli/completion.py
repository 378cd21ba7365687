"""What the shell offers after a TAB; names of files it completes by itself. Loads no torch."""

from __future__ import annotations

from dlfc.zoo import registry


def model_names(incomplete: str) -> list[tuple[str, str]]:
    """The models known here whose names begin so, each with what to say of it."""
    known = registry.scan()[0]
    return [(entry.name, f"{entry.parameters:,} parameters") for entry in known if entry.name.startswith(incomplete)]
