"""Many files in one run: which output belongs to which input, and doing them without one failure stopping the rest."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlfc.cli.messages import Reporter, UsageProblem, reason_of, stream_name
from dlfc.errors import DlfcError
from dlfc.files import STANDARD_OUTPUT, STANDARD_STREAM, check_source, check_target, save, save_to_stdout

if TYPE_CHECKING:
    from dlfc.codec import Codec

_FILE_ERRORS = (DlfcError, OSError, MemoryError)


@dataclass(frozen=True)
class Job:
    """One input and the output that it becomes; `-` is standard input or output."""

    source: str
    target: str


@dataclass(frozen=True)
class Result:
    """The bytes to write, with what there is to say about them: for people, for scripts, and about the conversion."""

    data: bytes
    summary: str
    facts: dict[str, Any]
    codec: Codec
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Outcome:
    job: Job
    result: Result | None = None
    seconds: float = 0.0
    reason: str = ""


def plan(inputs: Sequence[str], output: str | None, output_dir: str | None, suffix: str) -> list[Job]:
    """Return the output of each input, in order. Raises UsageProblem where that cannot be meant."""
    if output is not None and output_dir is not None:
        raise UsageProblem("-o and --output-dir exclude each other")
    if "" in inputs or output == "" or output_dir == "":
        raise UsageProblem("a file name is empty")
    if len(inputs) > 1 and output is not None:
        raise UsageProblem(f"-o names one file, but there are {len(inputs)} inputs; use --output-dir")
    if len(inputs) > 1 and STANDARD_STREAM in inputs:
        raise UsageProblem("standard input (-) cannot stand among other inputs")
    if STANDARD_STREAM in inputs and output_dir is not None:
        raise UsageProblem("standard input (-) has no name to use in --output-dir; use -o")
    if output is not None:
        jobs = [Job(inputs[0], output)]
    else:
        jobs = [Job(name, _default_target(name, output_dir, suffix)) for name in inputs]
    _refuse_clashes(jobs)
    return jobs


def run(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    reporter: Reporter,
    *,
    prepare: Callable[[], object],
    overwrite: bool,
    threads: int,
) -> bool:
    """Do all jobs, save and report each, in order; return whether all went well.

    Targets are checked before anything else happens; `prepare` then runs once if any job is left, and `work`
    runs for up to `threads` jobs at a time. Errors of dlfc and the system end one job, any other ends the run.
    """
    refused = {job: reason for job in jobs if (reason := _refusal(job, overwrite))}
    left = [job for job in jobs if job not in refused]
    unprepared = _try_to(prepare) if left else None
    done = iter(()) if unprepared else _outcomes(left, work, overwrite=overwrite, threads=min(threads, len(left)))
    success = not refused and not unprepared
    for job in jobs:
        if job in refused:
            reporter.failed(job.source, refused[job])
        elif outcome := next(done, None):
            success &= outcome.result is not None
            _report(outcome, reporter)
    if unprepared:
        reporter.all_failed([job.source for job in left], unprepared)
    return success


def _try_to(prepare: Callable[[], object]) -> str | None:
    """Return why the preparation failed, or None."""
    try:
        prepare()
    except _FILE_ERRORS as error:
        return reason_of(error)
    return None


def _default_target(source: str, output_dir: str | None, suffix: str) -> str:
    if source == STANDARD_STREAM:
        return STANDARD_STREAM
    path = Path(source)
    name = path.stem + suffix
    return str(path.parent / name if output_dir is None else Path(output_dir) / name)


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    sources = {os.path.realpath(job.source): job.source for job in jobs if job.source != STANDARD_STREAM}
    targets: dict[str, Job] = {}
    for job in jobs:
        if job.target == STANDARD_STREAM:
            continue
        path = os.path.realpath(job.target)
        if path in sources:
            raise UsageProblem(f"{job.target} is an input and would be overwritten; choose another name with -o")
        if path in targets:
            raise UsageProblem(f"{targets[path].source} and {job.source} would both become {job.target}")
        targets[path] = job


def _refusal(job: Job, overwrite: bool) -> str | None:
    """Return why a job cannot end well, as far as the names tell before the work is done."""
    try:
        check_source(job.source)
        if job.target != STANDARD_STREAM:
            check_target(job.target, overwrite=overwrite)
        elif sys.stdout is not None and sys.stdout.isatty() and not overwrite:
            return f"{STANDARD_OUTPUT}: is a terminal; name a file with -o, or use -f"
    except OSError as error:
        return reason_of(error)
    return None


def _outcomes(
    jobs: Sequence[Job], work: Callable[[Job], Result], *, overwrite: bool, threads: int
) -> Iterator[_Outcome]:
    """Yield what becomes of each job, in order, while up to `threads` of them are worked on."""
    stopped = threading.Event()
    saving = threading.Lock()

    def attempt(job: Job) -> _Outcome:
        start = time.perf_counter()
        try:
            result = work(job)
            with saving:
                if not stopped.is_set():
                    _save(job, result.data, overwrite)
        except _FILE_ERRORS as error:
            if isinstance(error, BrokenPipeError) and job.target == STANDARD_STREAM:
                raise
            return _Outcome(job, reason=reason_of(error, file=stream_name(job.source, "input")))
        return _Outcome(job, result, time.perf_counter() - start)

    if threads <= 1:
        yield from map(attempt, jobs)
        return
    pool = ThreadPoolExecutor(threads, initializer=_share_of_torch_threads(threads))
    futures = [pool.submit(attempt, job) for job in jobs]
    try:
        for future in futures:
            yield future.result()
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        with saving:  # a file that is being written is finished, pictures still being worked on are given up
            pass


def _share_of_torch_threads(workers: int) -> Callable[[], None]:
    """Return what each of several workers calls first, so that together they use as many cores as one would."""
    import torch

    share = max(1, torch.get_num_threads() // workers)

    def limit() -> None:
        torch.set_num_threads(share)

    return limit


def _save(job: Job, data: bytes, overwrite: bool) -> None:
    if job.target == STANDARD_STREAM:
        save_to_stdout(data)
    else:
        save(job.target, data, overwrite=overwrite)


def _report(outcome: _Outcome, reporter: Reporter) -> None:
    job, result = outcome.job, outcome.result
    if result is None:
        reporter.failed(job.source, outcome.reason)
        return
    source, target = stream_name(job.source, "input"), stream_name(job.target, "output")
    reporter.notes(source, result.notes, result.details)
    codec = {"model": result.codec.name, "model_id": result.codec.model_id.hex()}
    facts = {"input": job.source, "output": job.target} | result.facts | {"seconds": round(outcome.seconds, 3)} | codec
    line = f"{source} -> {target}  {result.summary}"
    if reporter.verbose:
        line += f"  {codec['model']} ({codec['model_id']})  {outcome.seconds:.2f} s"
    reporter.done(line, facts)
