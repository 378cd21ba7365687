"""dlfc: an image codec for extreme low bitrates.

`encode`, `decode` and `read_info` are the interface for programs, `import dlfc.pillow` lets Pillow read and write .dlf
files, and the command line is `dlfc.cli`. Importing this package loads neither torch nor a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlfc.errors import (
    DlfcError,
    FormatError,
    ImageError,
    LimitError,
    ModelError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from dlfc.api import decode, encode
    from dlfc.info import read_info

__version__ = "0.1.0"
__all__ = [
    "DlfcError",
    "FormatError",
    "ImageError",
    "LimitError",
    "ModelError",
    "UnsupportedVersionError",
    "__version__",
    "decode",
    "encode",
    "read_info",
]

_LAZY = {"encode": "dlfc.api", "decode": "dlfc.api", "read_info": "dlfc.info"}


def __getattr__(name: str) -> Any:
    """Load the heavy modules only when one of their functions is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
