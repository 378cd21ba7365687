"""Where a network spends its time, by the parts of the paper's figure 3: processor time within calls of its modules."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from dlfc.model.dlf import DLF
from dlfc.model.generator import Generator

VIT, INTERACTION, DETAIL, BOTTLENECK = "ViT", "interaction", "detail blocks", "bottleneck"
FUSION, GENERATOR, REST = "fusion", "generative decoder", "rest"
PARTS = (VIT, INTERACTION, DETAIL, BOTTLENECK, FUSION, GENERATOR, REST)  # the rest: pixels, symbols, checks

_OF_BRANCHES = {  # modules of the encoder and of the decoder; those of a list one by one
    VIT: ("patch_embed", "norm_in", "layers", "norm_out", "to_token", "from_token"),
    INTERACTION: ("exchanges",),
    DETAIL: ("to_detail", "detail_up", "detail_in", "refinements", "detail_out", "detail_down", "detail_norm",
             "detail_project"),
}  # fmt: skip


class Watch:
    """Seconds of one network by part, filled as it runs on one thread; none of the parts calls another one."""

    def __init__(self, network: DLF) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._start_s = 0.0
        for part, module in _modules(network):
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(lambda *_, part=part: self._leave(part))
        if hasattr(network, "generator"):  # it makes bands and is not called
            self._watch_bands(network.generator)

    def _enter(self, *_: Any) -> None:
        self._start_s = time.process_time()

    def _leave(self, part: str) -> None:
        self.seconds[part] += time.process_time() - self._start_s

    def _watch_bands(self, generator: Generator) -> None:
        usual = generator.in_bands

        def in_bands(*arguments: Any, **options: Any) -> Iterator[Tensor]:
            bands = usual(*arguments, **options)
            while True:
                self._enter()
                band = next(bands, None)
                self._leave(GENERATOR)
                if band is None:
                    return
                yield band

        generator.in_bands = in_bands  # type: ignore[method-assign]


def _modules(network: DLF) -> Iterator[tuple[str, nn.Module]]:
    """Each module that is a part, or one of several that make it; half a network has half of them."""
    for side in ("encoder", "decoder"):
        branches = getattr(network, side, None)
        for part, names in _OF_BRANCHES.items():
            for name in names:
                module = getattr(branches, name, None)
                if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                    members = module.values() if isinstance(module, nn.ModuleDict) else module
                    yield from ((part, member) for member in members)
                elif module is not None:
                    yield part, module
    for name, module in network.bottleneck.named_children():
        if name != "prior":
            yield BOTTLENECK, module
    if hasattr(network, "fusion"):
        yield FUSION, network.fusion
