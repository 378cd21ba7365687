"""Many files at once: reading, network and writing overlap, small pictures share the network, memory stays bounded.

Files are read ahead in order. What goes through the network together depends on that order and on the number of
workers, never on how fast anything was, so the same command always makes the same files.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from dlfc.cli.inputs import Job
from dlfc.cli.messages import reason_of, stream_name
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_STREAM, save, save_to_stdout
from dlfc.timing import collected, timed

FILE_ERRORS = (DlfcError, OSError, MemoryError)
_PENDING_PX = 1 << 23  # pixels of pictures that wait for others of their kind, or to be written; one may be larger
_AHEAD = 256  # a picture waits for others of its kind at most for so many files

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Extent:
    """How large a picture is, which others can share the network with it, and how many at a time."""

    pixels: int
    kind: Hashable
    together: int


@dataclass(frozen=True)
class Result:
    """What a file became, with what there is to say about it: for people, for scripts, and about the conversion.

    `data` makes the bytes to write, whole or in pieces, `by_network` says that making them runs the network.
    """

    data: Callable[[], bytes | Iterable[bytes]]
    source_bytes: int
    summary: str
    facts: dict[str, Any]
    codec: ModelNames
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    by_network: bool = False


class Load(Protocol):
    """Reads a file as `dlfc.files.load` does."""

    def __call__(self, name: str, *, max_bytes: int) -> bytes: ...


class Store(Protocol):
    """Writes a file completely or not at all, as `dlfc.files.save` does."""

    def __call__(self, name: str, data: bytes, *, overwrite: bool) -> object: ...


class ModelNames(Protocol):
    """What messages say of a model."""

    @property
    def name(self) -> str: ...

    @property
    def model_id(self) -> bytes: ...


class Task(Protocol[T]):
    """What is done to each file: read it, measure it, put it through the network with others of its kind."""

    def read(self, job: Job) -> T:
        """What `work` needs of a file."""

    def extent(self, item: T) -> Extent:
        """How large it is and what it can be together with."""

    def work(self, items: Sequence[T]) -> list[Result]:
        """The results of items of one kind, in order."""


@dataclass
class Outcome(Generic[T]):
    """What became of one file: a result, or the reason why there is none; and the seconds of each part."""

    job: Job
    seconds: dict[str, float] = field(default_factory=dict)
    result: Result | None = None
    reason: str = ""
    target_bytes: int = 0
    item: T | None = None
    extent: Extent | None = None
    is_read: bool = False
    is_done: bool = False

    def add(self, seconds: dict[str, float], share: int = 1) -> None:
        """Count time that was spent on this file and others, `share` in all."""
        for part, spent in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + spent / share

    def fail(self, error: BaseException) -> None:
        """Keep the reason; nothing else is needed any more."""
        self.reason = reason_of(error, file=stream_name(self.job.source, "input"))
        self.item = self.result = None


def outcomes(
    jobs: Sequence[Job], task: Task[T], *, overwrite: bool, workers: int, store: Store = save
) -> Generator[Outcome[T]]:
    """Yield what becomes of each job, in order; `store` writes what does not go to standard output.

    Errors of dlfc and of the system end one job, any other ends the run.
    """
    steps = _Steps(task, overwrite, workers + 1, store, overlap=len(jobs) > 1)
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


class _Steps(Generic[T]):
    """The three steps of one file, each with its time and its errors."""

    def __init__(self, task: Task[T], overwrite: bool, hands: int, store: Store, *, overlap: bool) -> None:
        self._task, self._overwrite, self._hands, self._store = task, overwrite, hands, store
        self._overlap = overlap
        self._saving = threading.Semaphore(hands)
        self._stopped = threading.Event()

    def read(self, outcome: Outcome[T]) -> None:
        with collected() as seconds:
            try:
                with timed("read"):
                    outcome.item = self._task.read(outcome.job)
                    outcome.extent = self._task.extent(outcome.item)
            except FILE_ERRORS as error:
                outcome.fail(error)
        outcome.add(seconds)

    def work(self, group: Sequence[Outcome[T]]) -> None:
        """Put a group through the network; where that fails, each by itself, so that one spoils no other."""
        items = [outcome.item for outcome in group if outcome.item is not None]
        if not items:
            return
        failure: BaseException | None = None
        with collected() as seconds:
            try:
                for outcome, result in zip(group, self._task.work(items), strict=True):
                    outcome.result, outcome.item = self._without_network(result), None
            except FILE_ERRORS as error:
                failure = error
        for outcome in group:
            outcome.add(seconds, len(group))
        if failure is not None and len(group) == 1:
            group[0].fail(failure)
        elif failure is not None:
            for outcome in group:
                self.work([outcome])

    def _without_network(self, result: Result) -> Result:
        """A result whose bytes other threads can make beside the network: they are made now if they take it."""
        if not (result.by_network and self._overlap):
            return result
        data = result.data()
        made = data if isinstance(data, bytes) else list(data)
        return replace(result, data=lambda: made)

    def write(self, outcome: Outcome[T]) -> None:
        if outcome.result is None:
            return
        with collected() as seconds:
            try:
                with timed("write"):
                    outcome.target_bytes = self._save(outcome.job, outcome.result)
                outcome.result = replace(outcome.result, data=bytes)
            except FILE_ERRORS as error:
                if isinstance(error, BrokenPipeError) and outcome.job.target == STANDARD_STREAM:
                    raise
                outcome.fail(error)
        outcome.add(seconds)

    def _save(self, job: Job, result: Result) -> int:
        data = result.data()
        with self._saving:
            if self._stopped.is_set():
                return 0
            if job.target == STANDARD_STREAM:
                return save_to_stdout(data)
            if self._store is save:
                return save(job.target, data, overwrite=self._overwrite)
            whole = data if isinstance(data, bytes) else b"".join(data)
            self._store(job.target, whole, overwrite=self._overwrite)
            return len(whole)

    def stop(self) -> None:
        """Save nothing more; return when files that are being saved are there."""
        self._stopped.set()
        for _ in range(self._hands):
            self._saving.acquire()
        self._saving.release(self._hands)  # who waits for their turn learns that there is none


class _Line(Generic[T]):
    """Runs the steps of many files in threads. All decisions are made in the thread that asks for the outcomes."""

    def __init__(self, steps: _Steps[T], jobs: Sequence[Job], workers: int) -> None:
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
