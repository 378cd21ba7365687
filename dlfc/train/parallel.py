"""Several devices that share each batch, started by torchrun: one process each.

All processes draw the same random numbers for the whole batch and work on their part of it. So a run does not depend
on how many there are, but for the order of sums, and can be resumed on another number of devices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlfc.errors import ModelError


class Workers:
    """The processes of this run; alone, all methods do nothing."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        self._opened = self.count > 1 and not dist.is_initialized()
        if self._opened:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        # What the processes agree on about time goes through the hosts, so that they need not wait for their devices.
        self._hosts = dist.new_group(backend="gloo") if self.count > 1 else None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the group that this object opened."""
        if self._opened:
            dist.destroy_process_group()

    def part(self, batch: int) -> slice:
        """The samples of a batch that this process works on; ModelError if they cannot be shared out evenly."""
        if batch % self.count:
            raise ModelError(f"a batch of {batch} cannot be shared evenly by {self.count} processes")
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes, in one exchange."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    def shared_out(
        self, items: Sequence[Tensor], work: Sequence[float], make: Callable[[Sequence[Tensor]], list[Tensor]]
    ) -> list[Tensor]:
        """`make(items)`, which keeps shapes, where each process makes a part and hears of the others as bfloat16.

        `items` are the same in all processes; `work` says how much each takes, so that the parts take about as long.
        """
        if self.count == 1:
            return make(items)
        parts: list[list[int]] = [[] for _ in range(self.count)]
        load = [0.0] * self.count
        for i in sorted(range(len(items)), key=lambda i: -work[i]):
            least = load.index(min(load))
            parts[least].append(i)
            load[least] += work[i]
        mine = make([items[i] for i in parts[self.rank]])
        made: dict[int, Tensor] = {}
        for rank, part in enumerate(parts):
            sizes = [items[i].numel() for i in part]
            flat = torch.empty(sum(sizes), dtype=torch.bfloat16, device=self.device)
            if rank == self.rank and mine:
                torch.cat([each.reshape(-1).bfloat16() for each in mine], out=flat)
            dist.broadcast(flat, rank)
            for i, x in zip(part, flat.split(sizes), strict=True):
                made[i] = x.view_as(items[i]).to(items[i].dtype)
        return [made[i] for i in range(len(items))]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        return self.total(value) / self.count

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def gathered(self, part: Tensor) -> Tensor:
        """The values of the whole batch from those of its parts."""
        if self.count == 1:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def agreed(self, *values: float) -> list[float]:
        """The first process's `values`, in every process."""
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(shared, 0, group=self._hosts)
        return shared.tolist()

    def share(self, modules: Iterable[nn.Module], *values: Any) -> list[Any]:
        """Give every process the first one's parameters and buffers; returns its `values`."""
        held = list(values)
        if self.count > 1:
            for module in modules:
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor.data, 0)
            dist.broadcast_object_list(held, 0, group=self._hosts)
        return held

    @contextmanager
    def first_then_rest(self) -> Iterator[None]:
        """Let the first process do something while the others wait for it."""
        yield
        if self._hosts is not None:
            dist.barrier(group=self._hosts)
