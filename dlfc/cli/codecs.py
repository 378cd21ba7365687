"""The codecs of one run: each model is loaded once, when it is first needed."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Literal

from dlfc.timing import timed

if TYPE_CHECKING:
    from dlfc.codec import Codec


class Codecs:
    """Loads codecs on demand; safe to use from several threads."""

    def __init__(
        self,
        model: str | None,
        device: str,
        purpose: Literal["encode", "decode", "both"],
        precision: str | None = None,
    ) -> None:
        self.model = model
        self._precision = precision
        self._device = device
        self._purpose = purpose
        self._lock = threading.Lock()
        self._loaded: dict[str | bytes | None, Codec] = {}

    def __reduce__(self) -> tuple[type[Codecs], tuple[object, ...]]:
        """Sent to another process, it loads its models there."""
        return Codecs, (self.model, self._device, self._purpose, self._precision)

    def get(self, model_id: bytes | None = None) -> Codec:
        """Return the codec of the model that the user named, or else of `model_id`, or else the default one.

        Raises ModelError.
        """
        # torch reads this when it is loaded: large tensors in large pages, which some systems hand out much faster.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        key = self.model if self.model is not None else model_id
        with self._lock:
            if key not in self._loaded:
                with timed("import"):
                    from dlfc.codec import Codec
                with timed("load"):
                    self._loaded[key] = Codec.load(
                        key, device=self._device, purpose=self._purpose, precision=self._precision
                    )
            return self._loaded[key]
