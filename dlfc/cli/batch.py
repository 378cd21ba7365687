"""Many files in one run: doing them without one failure stopping the rest, and saying what became of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from dlfc.cli.inputs import Job
from dlfc.cli.messages import Reporter, reason_of, stream_name
from dlfc.cli.pipeline import outcomes
from dlfc.cli.steps import FILE_ERRORS, Outcome, Task
from dlfc.files import STANDARD_OUTPUT, STANDARD_STREAM, check_source, check_target
from dlfc.timing import collected

T = TypeVar("T")
_ONCE = ("import", "load")  # parts of the work that are for all files, whichever of them comes first


def run(
    jobs: Sequence[Job],
    task: Task[T],
    reporter: Reporter,
    *,
    prepare: Callable[[], object],
    overwrite: bool,
    workers: int,
    skip_existing: bool = False,
) -> bool:
    """Do all jobs, save and report each, in order; return whether all went well.

    Targets are checked before anything else happens; `prepare` then runs once if any job is left, and `task` is done
    for each, with up to `workers` of them, or groups of small ones, in the network at a time. With `skip_existing`,
    jobs whose target is there are left out.
    """
    skipped = {job for job in jobs if skip_existing and _is_there(job)}
    refused = {job: reason for job in jobs if job not in skipped and (reason := _refusal(job, overwrite))}
    left = [job for job in jobs if job not in skipped and job not in refused]
    unprepared = _try_to(prepare, reporter) if left else None
    done = outcomes([] if unprepared else left, task, overwrite=overwrite, workers=min(workers, len(left) or 1))
    success = not refused and not unprepared
    with closing(done):  # a signal while something is said here must not end threads that are writing
        for job in jobs:
            if job in skipped:
                reporter.skipped(job.source, job.target)
            elif job in refused:
                reporter.failed(job.source, refused[job])
            elif outcome := next(done, None):
                success &= outcome.result is not None
                report(outcome, reporter)
    if unprepared:
        reporter.all_failed([job.source for job in left], unprepared)
    return success


def _try_to(prepare: Callable[[], object], reporter: Reporter) -> str | None:
    """Return why the preparation failed, or None."""
    with collected() as seconds:
        try:
            prepare()
        except FILE_ERRORS as error:
            return reason_of(error)
    reporter.count_time(seconds)
    return None


def _is_there(job: Job) -> bool:
    return job.target != STANDARD_STREAM and not job.problem and os.path.isfile(job.target)


def _refusal(job: Job, overwrite: bool) -> str | None:
    """Return why a job cannot end well, as far as the names tell before the work is done."""
    if job.problem:
        return job.problem
    try:
        check_source(job.source)
        if job.target != STANDARD_STREAM:
            check_target(job.target, overwrite=overwrite)
        elif sys.stdout is not None and sys.stdout.isatty() and not overwrite:
            return f"{STANDARD_OUTPUT}: is a terminal; name a file with -o, or use -f"
    except OSError as error:
        return reason_of(error)
    return None


def report(outcome: Outcome[T], reporter: Reporter) -> None:
    """Say what became of one file."""
    job, result = outcome.job, outcome.result
    reporter.count_time(outcome.seconds)
    if result is None:
        reporter.failed(job.source, outcome.reason)
        return
    source, target = stream_name(job.source, "input"), stream_name(job.target, "output")
    reporter.notes(source, result.notes, result.details)
    reporter.count_bytes(result.source_bytes, outcome.target_bytes, result.facts["bpp"])
    codec = {"model": result.codec.name, "model_id": result.codec.model_id.hex()}
    seconds = sum(spent for part, spent in outcome.seconds.items() if part not in _ONCE)
    facts = {"input": job.source, "output": job.target} | result.facts | {"seconds": round(seconds, 3)} | codec
    line = f"{source} -> {target}  {result.summary}"
    if reporter.verbose:
        line += f"  {codec['model']} ({codec['model_id']})  {seconds:.2f} s"
    reporter.done(line, facts)
