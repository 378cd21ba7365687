"""What is done to a file: it is read, put through the network, and the result written; and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from dlfc.cli.inputs import Job
from dlfc.cli.messages import reason_of, stream_name
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_STREAM, save, save_to_stdout
from dlfc.timing import collected, timed

FILE_ERRORS = (DlfcError, OSError, MemoryError)

T = TypeVar("T")


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


class Steps(Generic[T]):
    """The three steps of files, each with its time and its errors; `hands` threads may write.

    With `overlap`, other threads write while the network runs.
    """

    def __init__(self, task: Task[T], overwrite: bool, hands: int, store: Store, *, overlap: bool) -> None:
        self._task, self._overwrite, self._hands, self._store = task, overwrite, hands, store
        self._overlap = overlap
        self._saving = threading.Semaphore(hands)
        self._stopped = threading.Event()

    def read(self, outcome: Outcome[T]) -> None:
        """Read a file and measure it."""
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
        """Write what the network made of a file, if it has made anything."""
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
