"""Which files a command works on, and where each result goes: names, folders, clashes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dlfc.cli.messages import UsageProblem, reason_of
from dlfc.files import STANDARD_STREAM, is_hidden, make_directory


@dataclass(frozen=True)
class Job:
    """One input and the output that it becomes; `-` is standard input or output.

    A job with a `problem` cannot be done; it is there to be reported in its place.
    """

    source: str
    target: str
    problem: str = ""


def plan(
    inputs: Sequence[str],
    output: str | None,
    output_dir: str | None,
    suffix: str,
    *,
    recursive: bool = False,
    taken: Sequence[str] = (),
) -> list[Job]:
    """Return the output of each input, in order. Raises UsageProblem where that cannot be meant.

    With `recursive`, folders stand for the files in them, at any depth, whose suffix is one of `taken`, in small
    letters; below `output_dir` the results then keep their places. Of files in folders that would have one result, the
    first is done and the others have a problem.
    """
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
    if recursive and output is not None and os.path.isdir(inputs[0]):
        raise UsageProblem(f"-o names one file, but {inputs[0]} is a folder; use --output-dir")
    if output is not None:
        jobs = [Job(inputs[0], output)]
    else:
        jobs = [job for name in inputs for job in _jobs_of(name, output_dir, suffix, recursive, taken)]
    return list(_without_clashes(jobs, recursive))


def refuse_overwriting(inputs: Sequence[str], output: str) -> None:
    """Raise UsageProblem where a command with one result of its own would write it over an input."""
    if output != STANDARD_STREAM and os.path.realpath(output) in map(os.path.realpath, inputs):
        raise UsageProblem(f"{output} is an input and would be overwritten; choose another name with -o")


def make_directories(jobs: Sequence[Job], output_dir: str) -> None:
    """Make `output_dir` and the folders below it that results go to. Raises OSError if `output_dir` cannot be made.

    Where a folder below it cannot, its jobs fail later.
    """
    make_directory(output_dir)
    for folder in dict.fromkeys(os.path.dirname(job.target) for job in jobs if not job.problem):
        with suppress(OSError):
            make_directory(folder)


def _jobs_of(name: str, output_dir: str | None, suffix: str, recursive: bool, taken: Sequence[str]) -> Iterator[Job]:
    if name == STANDARD_STREAM or not os.path.isdir(name):
        yield Job(name, _target(name, output_dir, suffix))
    elif not recursive:
        yield Job(name, "", f"{name}: is a folder; use --recursive to take the files in it")
    else:
        yield from of_folder(name, _jobs_below(name, output_dir, suffix, taken))


def of_folder(name: str, jobs: Iterator[Job]) -> Iterator[Job]:
    """`jobs`, which the folder `name` stands for, or one that says that there are none."""
    first = next(jobs, None)
    yield first or Job(name, "", f"{name}: has no files in it to take")
    yield from jobs


def _jobs_below(folder: str, output_dir: str | None, suffix: str, taken: Sequence[str]) -> Iterator[Job]:
    problems: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=problems.append):
        folders[:] = sorted(folder for folder in folders if not is_hidden(folder))
        below = os.path.relpath(parent, folder)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if is_taken(name, taken) and is_regular(path):
                place = None if output_dir is None else os.path.normpath(os.path.join(output_dir, below))
                yield Job(path, _target(path, place, suffix))
        yield from told(problems)
    yield from told(problems)


def is_taken(name: str, taken: Sequence[str]) -> bool:
    """Whether a file of this name in a folder is meant where the folder is named: it has one of the suffixes."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in taken


def told(problems: list[OSError]) -> Iterator[Job]:
    """What could not be looked into, as jobs that cannot be done; `problems` is empty then."""
    while problems:
        error = problems.pop()
        yield Job(str(error.filename), "", reason_of(error))


def is_regular(path: str) -> bool:
    """Whether it is a file or a link to one, or a link that leads nowhere and is worth a message."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _target(source: str, output_dir: str | None, suffix: str) -> str:
    if source == STANDARD_STREAM:
        return STANDARD_STREAM
    folder = os.path.dirname(source) if output_dir is None else output_dir
    return os.path.join(folder, Path(source).stem + suffix)  # keeps ./ before a name that begins with a dash


def _without_clashes(jobs: Sequence[Job], recursive: bool) -> Iterator[Job]:
    sources = {os.path.realpath(job.source) for job in jobs if not job.problem and job.source != STANDARD_STREAM}
    targets: dict[str, Job] = {}
    for job in jobs:
        if job.problem or job.target == STANDARD_STREAM:
            yield job
            continue
        path = os.path.realpath(job.target)
        if path in sources:
            raise UsageProblem(f"{job.target} is an input and would be overwritten; choose another name with -o")
        other = targets.setdefault(path, job)
        if other is not job and not recursive:
            raise UsageProblem(
                f"{other.source} and {job.source} would both become {other.target}; do one of them by itself, with -o"
            )
        yield job if other is job else clashing(job, other.source)


def clashing(job: Job, other: str) -> Job:
    """`job`, whose result would be that of the input `other`, as one that cannot be done."""
    return replace(job, problem=f"{job.source}: would become {job.target}, as {other} does")
