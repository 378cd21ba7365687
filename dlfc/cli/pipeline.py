"""Many files at once: reading, network and writing overlap, small pictures share the network, memory stays bounded.

Files are read ahead in order. What goes through the network together depends on that order and on the number of
workers, never on how fast anything was, so the same command always makes the same files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from dlfc.cli.inputs import Job
from dlfc.cli.steps import Outcome, Steps, Store, Task
from dlfc.files import save

_PENDING_PX = 1 << 23  # pixels of pictures that wait for others of their kind, or to be written; one may be larger
_AHEAD = 256  # a picture waits for others of its kind at most for so many files

T = TypeVar("T")
S = TypeVar("S")


def outcomes(
    jobs: Sequence[Job], task: Task[T], *, overwrite: bool, workers: int, store: Store = save
) -> Generator[Outcome[T]]:
    """Yield what becomes of each job, in order; `store` writes what does not go to standard output.

    Errors of dlfc and of the system end one job, any other ends the run.
    """
    steps = Steps(task, overwrite, workers + 1, store, overlap=len(jobs) > 1)
    if len(jobs) <= 1:
        for job in jobs:
            outcome: Outcome[T] = Outcome(job)
            steps.read(outcome)
            steps.work([outcome])
            steps.write(outcome)
            yield outcome
        return
    line = _Line(steps, jobs, workers)
    try:
        yield from line.run()
    finally:
        line.stop()


class _Line(Generic[T]):
    """Runs the steps of many files in threads. All decisions are made in the thread that asks for the outcomes."""

    def __init__(self, steps: Steps[T], jobs: Sequence[Job], workers: int) -> None:
        self._steps, self._workers = steps, workers
        self._most_together = -(-len(jobs) // workers)  # so that every worker has something to do
        self._unread = deque(jobs)
        self._read_ahead: deque[Outcome[T]] = deque()  # being read, or read but not looked at yet, in order
        self._waiting: dict[Hashable, list[tuple[int, Outcome[T]]]] = {}  # for others of their kind
        self._groups: deque[list[Outcome[T]]] = deque()  # for the network
        self._unreported: deque[Outcome[T]] = deque()
        self._looked_at = self._working = self._ahead_px = self._writing_px = 0
        self._events: SimpleQueue[Callable[[], None] | BaseException] = SimpleQueue()
        self._readers, self._writers = ThreadPoolExecutor(workers + 1), ThreadPoolExecutor(workers + 1)
        self._network = ThreadPoolExecutor(workers, initializer=_share_of_torch_threads(workers))

    def run(self) -> Iterator[Outcome[T]]:
        """Yield all outcomes, in order."""
        while self._unread or self._unreported:
            self._start_what_can_start()
            while self._unreported and self._unreported[0].is_done:
                yield self._unreported.popleft()
            if not self._unreported:
                continue
            event = self._events.get()
            if isinstance(event, BaseException):
                raise event
            event()

    def stop(self) -> None:
        """Begin nothing more; files that are being saved are finished, pictures in work are given up."""
        for pool in (self._readers, self._network, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._steps.stop()

    def _start_what_can_start(self) -> None:
        while self._groups and self._working < self._workers and self._writing_px <= _PENDING_PX:
            group = self._groups.popleft()
            self._working += 1
            self._ahead_px -= sum(map(_pixels, group))
            self._submit(self._network, self._steps.work, group, self._worked)
        while self._unread and len(self._read_ahead) <= self._workers + 1 and self._ahead_px <= _PENDING_PX:
            outcome: Outcome[T] = Outcome(self._unread.popleft())
            self._read_ahead.append(outcome)
            self._unreported.append(outcome)
            self._submit(self._readers, self._steps.read, outcome, self._has_read)

    def _submit(self, pool: Executor, step: Callable[[S], None], what: S, then: Callable[[S], None]) -> None:
        def run() -> None:
            try:
                step(what)
            except BaseException as error:  # no file's fault: it ends the run, in the thread that waits
                self._events.put(error)
            else:
                self._events.put(lambda: then(what))

        pool.submit(run)

    def _has_read(self, outcome: Outcome[T]) -> None:
        outcome.is_read = True
        while self._read_ahead and self._read_ahead[0].is_read:
            self._look_at(self._read_ahead.popleft())
        if not self._unread and not self._read_ahead:
            while self._waiting:
                self._send_oldest()

    def _look_at(self, outcome: Outcome[T]) -> None:
        self._looked_at += 1
        if outcome.extent is None:  # it has failed
            outcome.is_done = True
            return
        self._ahead_px += outcome.extent.pixels
        members = self._waiting.setdefault(outcome.extent.kind, [])
        members.append((self._looked_at, outcome))
        if len(members) >= min(outcome.extent.together, self._most_together):
            self._send(outcome.extent.kind)
        while self._waiting and self._must_send():
            self._send_oldest()

    def _must_send(self) -> bool:
        pixels = sum(_pixels(outcome) for members in self._waiting.values() for _, outcome in members)
        oldest = min(members[0][0] for members in self._waiting.values())
        return pixels > _PENDING_PX or self._looked_at - oldest >= _AHEAD

    def _send_oldest(self) -> None:
        self._send(min(self._waiting, key=lambda kind: self._waiting[kind][0][0]))

    def _send(self, kind: Hashable) -> None:
        self._groups.append([outcome for _, outcome in self._waiting.pop(kind)])

    def _worked(self, group: Sequence[Outcome[T]]) -> None:
        self._working -= 1
        for outcome in group:
            self._writing_px += _pixels(outcome)
            self._submit(self._writers, self._steps.write, outcome, self._written)

    def _written(self, outcome: Outcome[T]) -> None:
        self._writing_px -= _pixels(outcome)
        outcome.is_done = True


def _pixels(outcome: Outcome[Any]) -> int:
    return 0 if outcome.extent is None else outcome.extent.pixels


def _share_of_torch_threads(workers: int) -> Callable[[], None]:
    """Return what each of several workers calls first, so that together they use as many cores as one would."""

    def limit() -> None:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // workers))

    return limit
