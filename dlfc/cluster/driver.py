"""Gives batches of files to workers on a Ray cluster, and sees to it that each file is done once.

A batch makes two trips: a worker *looks* which results are there already; what is free is noted in the manifest as
begun; then the worker *codes* it. Each worker has one batch in work and one that waits, so memory does not grow with
the number of files. When a worker dies, another one takes its place, and its batches are looked at and coded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from dlfc import __version__
from dlfc.cli.inputs import Job
from dlfc.cli.steps import Outcome
from dlfc.cluster.connection import Pool
from dlfc.cluster.manifest import Manifest, key_of
from dlfc.cluster.worker import Look, PortableTask
from dlfc.errors import DlfcError

BATCH = 32  # files; enough for small ones to share the network, few enough to lose little with a worker
_AT_A_WORKER = 2  # batches: one in work, and one that waits for it
_BATCH_DEATHS = 2  # workers that may die of a batch before its files are tried one by one
_FILE_DEATHS = 4  # workers that may die before the file is given up
_TICK_S = 0.5  # Ray lets no signal through while it waits
_PATIENCE_S = 30.0  # without a worker, before we say so

Trip = Literal["start", "look", "code"]


@dataclass(frozen=True)
class Skipped:
    """A file whose result is there."""

    job: Job


@dataclass(frozen=True)
class Note:
    """Something about the run as a whole."""

    text: str


Event = Outcome[Any] | Skipped | Note


@dataclass(eq=False)
class _Batch:
    jobs: list[Job]
    deaths: int = 0
    in_work: bool = False


@dataclass(eq=False)
class _Hand:
    """A worker as the driver sees it, with its batches in the order in which it got them."""

    actor: Any
    ready: bool = False
    batches: list[_Batch] = field(default_factory=list)


@contextmanager
def _signals_told() -> Iterator[None]:
    """Ray wraps what a handler of signals raises while it waits."""
    try:
        yield
    except SystemError as error:
        raise error.__cause__ or error from None


class Driver:
    """Does a task to many files; see the head of this module."""

    def __init__(
        self,
        pool: Pool,
        task: PortableTask,
        manifest: Manifest,
        *,
        folder: str | None,
        overwrite: bool,
        skip_existing: bool,
    ) -> None:
        self._pool, self._ray = pool, pool.ray
        errors = pool.ray.exceptions
        self._deaths = errors.RayActorError, errors.OutOfMemoryError, errors.WorkerCrashedError, errors.NodeDiedError
        self._manifest, self._overwrite, self._skip_existing = manifest, overwrite, skip_existing
        self._for_a_worker = task, folder, overwrite
        self._hands: list[_Hand] = []
        self._queue: deque[_Batch] = deque()
        self._trips: dict[Any, tuple[Trip, _Hand, _Batch | None]] = {}  # by Ray's reference to the answer
        self._quiet_s = 0.0  # since the last answer
        self._futile = 0  # workers that died since one has answered

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Yield what becomes of each job, as it becomes known. Raises DlfcError if no work is possible."""
        try:
            for _ in range(self._pool.size):
                self._start_hand()
            yield from self._do(jobs)
        finally:  # what they have in work is not wanted any more
            for hand in self._hands:
                self._end(hand)

    def _do(self, jobs: Iterable[Job]) -> Iterator[Event]:
        batch: list[Job] = []
        for job in jobs:
            if job.problem:
                yield Outcome(job, reason=job.problem)
            elif self._manifest.is_done(_key(job)):
                yield Skipped(job)
            else:
                batch.append(job)
            if len(batch) == BATCH:
                yield from self._offer(batch)
                batch = []
        if batch:
            yield from self._offer(batch)
        while self._queue or any(hand.batches for hand in self._hands):
            yield from self._step()

    def _offer(self, jobs: list[Job]) -> Iterator[Event]:
        """Give a batch away; while all workers have enough, wait."""
        self._queue.append(_Batch(jobs))
        self._hand_out()
        while self._queue:
            yield from self._step()

    def _step(self) -> Iterator[Event]:
        with _signals_told():
            done, _ = self._ray.wait(list(self._trips), timeout=_TICK_S)
        self._quiet_s = 0.0 if done else self._quiet_s + _TICK_S
        if self._quiet_s >= _PATIENCE_S and not any(hand.ready for hand in self._hands):
            self._quiet_s = 0.0
            yield Note("waiting for the Ray cluster to start a worker")
        for reference in done:
            if reference in self._trips:  # not one of a worker that has died meanwhile
                yield from self._settle(reference)
        self._hand_out()

    def _end(self, hand: _Hand) -> None:
        with suppress(Exception):
            self._ray.kill(hand.actor)

    def _start_hand(self) -> None:
        hand = _Hand(self._pool.worker.remote(*self._for_a_worker))
        self._hands.append(hand)
        self._trips[hand.actor.prepare.remote(__version__)] = "start", hand, None

    def _hand_out(self) -> None:
        """Give waiting batches to the workers that have the fewest."""
        for count in range(_AT_A_WORKER):
            for hand in self._hands:
                if self._queue and hand.ready and len(hand.batches) == count:
                    self._send(hand, self._queue.popleft())

    def _send(self, hand: _Hand, batch: _Batch) -> None:
        hand.batches.append(batch)
        if self._overwrite:
            self._code(hand, batch)
            return
        begun = [self._manifest.is_begun(_key(job)) for job in batch.jobs]
        reference = hand.actor.look.options(concurrency_group="looks").remote(batch.jobs, begun)
        self._trips[reference] = "look", hand, batch

    def _code(self, hand: _Hand, batch: _Batch) -> None:
        batch.in_work = True
        begun = frozenset(job.target for job in batch.jobs if self._manifest.is_begun(_key(job)))
        if not self._overwrite:
            self._manifest.begin(_key(job) for job in batch.jobs)
        self._trips[hand.actor.code.remote(batch.jobs, begun)] = "code", hand, batch

    def _settle(self, reference: Any) -> Iterator[Event]:
        trip, hand, batch = self._trips.pop(reference)
        try:
            with _signals_told():
                answer = self._ray.get(reference)
        except self._deaths as error:
            yield Note("a worker died; another one does its work")
            yield from self._replace(hand, error)
            return
        if batch is None:
            if answer:
                raise DlfcError(answer)
            hand.ready = True
        elif trip == "look":
            yield from self._looked(hand, batch, answer)
        else:
            self._futile = 0
            hand.batches.remove(batch)
            for job, outcome in zip(batch.jobs, answer, strict=True):
                self._note(job, outcome)
                yield outcome

    def _looked(self, hand: _Hand, batch: _Batch, looks: list[Look]) -> Iterator[Event]:
        left: list[Job] = []
        for job, look in zip(batch.jobs, looks, strict=True):
            if look.state == "whole" or (look.state == "taken" and self._skip_existing):
                self._manifest.finish(_key(job), _names(job))
                yield Skipped(job)
            elif look.state in ("free", "broken"):
                left.append(job)
            else:
                yield self._failed(job, look.reason or f"{job.target}: already exists; use -f to overwrite it")
        batch.jobs = left
        if left:
            self._code(hand, batch)
        else:
            hand.batches.remove(batch)

    def _replace(self, hand: _Hand, error: Exception) -> Iterator[Event]:
        """Put another worker in the place of one that died, and do its work again."""
        self._futile += 1
        if self._futile > 10 + 2 * self._pool.size:
            raise DlfcError(f"workers die before they have done anything: {_first_line(error)}") from error
        self._hands.remove(hand)
        self._trips = {reference: trip for reference, trip in self._trips.items() if trip[1] is not hand}
        self._end(hand)  # it may only have been out of reach
        suspect = next((batch for batch in hand.batches if batch.in_work), None)
        for batch in reversed(hand.batches):
            batch.in_work = False
            if batch is suspect:
                yield from self._blame(batch)
            else:
                self._queue.appendleft(batch)
        self._start_hand()

    def _blame(self, batch: _Batch) -> Iterator[Event]:
        """Try a batch again that a worker died of; where that happens often, file by file, and not forever."""
        batch.deaths += 1
        if len(batch.jobs) > 1 and batch.deaths >= _BATCH_DEATHS:
            self._queue.extendleft(_Batch([job], batch.deaths) for job in reversed(batch.jobs))
        elif batch.deaths >= _FILE_DEATHS:
            for job in batch.jobs:
                yield self._failed(job, f"{job.source}: {batch.deaths} workers died while they had it in work")
        else:
            self._queue.appendleft(batch)

    def _failed(self, job: Job, reason: str) -> Outcome[Any]:
        outcome: Outcome[Any] = Outcome(job, reason=reason)
        self._note(job, outcome)
        return outcome

    def _note(self, job: Job, outcome: Outcome[Any]) -> None:
        if outcome.result is None:
            self._manifest.fail(_key(job), {"input": job.source, "error": outcome.reason})
        else:
            self._manifest.finish(_key(job), {**_names(job), "target_bytes": outcome.target_bytes})


def _key(job: Job) -> bytes:
    return key_of(job.source, job.target)


def _names(job: Job) -> dict[str, str]:
    return {"input": job.source, "output": job.target}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
