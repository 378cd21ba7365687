"""The .dlf container: bytes to fields and back. SPEC.md in this folder is the format in words."""

from dlfc.formats.companions import (
    METADATA_MAX_BYTES,
    ColourSpace,
    Companions,
    damaged,
    deflate,
    inflate,
    pack_companions,
    unpack_companions,
)
from dlfc.formats.container import (
    DEFAULT_MAX_PIXELS,
    MAX_SIDE_PX,
    Coding,
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
    "METADATA_MAX_BYTES",
    "Coding",
    "ColourSpace",
    "Companions",
    "Container",
    "Extra",
    "Kind",
    "damaged",
    "deflate",
    "inflate",
    "kind_name",
    "nearest_quality",
    "pack",
    "pack_companions",
    "unpack",
    "unpack_companions",
]
