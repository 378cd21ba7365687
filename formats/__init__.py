"""The .dlf container: bytes to fields and back. SPEC.md in this folder is the format in words."""

from dlfc.formats.container import (
    DEFAULT_MAX_PIXELS,
    MAX_SIDE_PX,
    Container,
    Extra,
    Kind,
    kind_name,
    nearest_quality,
    pack,
    unpack,
)
from dlfc.formats.layout import FORMAT_VERSION, MAGIC

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMAT_VERSION",
    "MAGIC",
    "MAX_SIDE_PX",
    "Container",
    "Extra",
    "Kind",
    "kind_name",
    "nearest_quality",
    "pack",
    "unpack",
]
