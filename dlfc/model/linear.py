"""Linear layers and attention that a processor without gradients to keep runs faster than torch's own.

oneDNN multiplies some 15 % faster than the library that torch takes for 32 bits, and can apply the GELU on the way.
Packed in 16 bits (bfloat16) it is more than twice as fast on processors that have instructions for that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlfc.model import fused

_SCORES = 1 << 22  # pairs of positions whose scores are held at a time

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`... in` -> `... out`, with a GELU behind it if asked for; the same parameters as `nn.Linear`."""

    packed: Tensor | None = None  # the weights in 16 bits and in oneDNN's own order, in place of `weight`

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """With packed weights the result is bfloat16, else of the type of `x`."""
        if self.packed is not None:
            return _run(x.bfloat16(), self.packed, self.bias, gelu)
        if _ONEDNN and not torch.is_grad_enabled() and x.is_cpu and x.dtype == self.weight.dtype == torch.float32:
            return _run(x, self.weight, self.bias, gelu)
        y = super().forward(x)
        return F.gelu(y) if gelu else y

    def pack(self, weight: Tensor) -> None:
        """Hold `weight` in 16 bits from now on; the parameter of that name is given up."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16())
        self.weight = None  # type: ignore[assignment]


class Pointwise(nn.Conv2d):
    """A 1x1 convolution of `B in H W` -> `B out H W`, with the parameters of `nn.Conv2d`."""

    packed: Tensor | None = None

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Of the type of `x`."""
        if self.packed is None:
            return super().forward(x)
        y = _run(x.permute(0, 2, 3, 1).bfloat16(), self.packed, self.bias, gelu=False)
        return y.permute(0, 3, 1, 2).to(x.dtype)

    def pack(self, weight: Tensor) -> None:
        """Hold `weight` in 16 bits from now on; the parameter of that name is given up."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1).bfloat16())
        self.weight = None  # type: ignore[assignment]


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    given = bias if bias is None else bias.to(x.dtype)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, given, "gelu" if gelu else "none", [], "none")
    return y


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of `q`, T heads N head_dim, to `k` and `v`, T heads M head_dim.

    `bias`, T or 1, 1, N, M, is added to the scores, which are never held for all pairs at once.
    """
    if bias is None and q.dtype == torch.bfloat16 and q.is_cpu and torch.is_grad_enabled():
        return torch.softmax(q * q.shape[-1] ** -0.5 @ k.mT, -1) @ v  # the backward of torch's own is slow
    if q.dtype != torch.bfloat16 or not q.is_cpu or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    tiles, heads, n, dim = q.shape
    m = k.shape[2]
    rows = min(n, max(64, _SCORES // (heads * m)))
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    held = torch.empty(heads, rows, m, dtype=q.dtype)  # used again and again: new memory is slow
    for t in range(tiles):
        queries, keys, values = q[t] * dim**-0.5, k[t].mT, v[t]
        for top in range(0, n, rows):
            count = min(rows, n - top)
            weights = held[:, :count]
            torch.bmm(queries[:, top : top + count], keys, out=weights)
            added = None if bias is None else bias[t % len(bias), 0, top : top + count]
            if not fused.softmax(weights, added):
                scores = weights if added is None else weights + added  # in the precision of `bias`
                weights.copy_(torch.softmax(scores, -1))
            torch.bmm(weights, values, out=out[t, :, top : top + count])
    return out


def can_pack() -> bool:
    """Whether this processor has instructions for numbers of 16 bits."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return _ONEDNN and supported is not None and bool(supported())


def packing_pays() -> bool:
    """Whether it multiplies those faster than numbers of 32 bits.

    Intel's do so by AMX alone, which virtual machines may hide; without it, 16 bits take up to four times as long.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    by_intel = "Intel" in capabilities.get("cpu_name", "")
    return can_pack() and (not by_intel or capabilities.get("amx_bf16", False))
