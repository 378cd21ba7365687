"""Which files a run works on, and where each result goes, one after another: there may be more than fit in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dlfc.cli.inputs import Job, clashing, is_regular, is_taken, of_folder, told
from dlfc.cli.messages import UsageProblem, reason_of
from dlfc.cluster import places
from dlfc.cluster.manifest import key_of
from dlfc.files import STANDARD_STREAM


@dataclass(frozen=True)
class Plan:
    """Inputs and the rule for the names of their results, as `dlfc.cli.inputs.plan` has it, also for URLs."""

    inputs: Sequence[str]
    output_dir: str | None
    suffix: str
    recursive: bool
    taken: Sequence[str]

    def __post_init__(self) -> None:
        """Raise UsageProblem for names that cannot be meant."""
        if "" in self.inputs or self.output_dir == "":
            raise UsageProblem("a file name is empty")
        if STANDARD_STREAM in self.inputs:
            raise UsageProblem("standard input (-) does not go with --engine ray")

    def jobs(self) -> Iterator[Job]:
        """Each file with its result, always in the same order; those that cannot be done with their problem.

        No two have one result, and none has an input that was named.
        """
        several = len(self.inputs) > 1
        named = {places.absolute(name) for name in self.inputs}
        results: dict[bytes, str] = {}  # of several inputs; one folder has its own check, which forgets
        for name in self.inputs:
            for job in self._jobs_of(name):
                if not job.problem and places.absolute(job.target) in named:
                    job = replace(job, problem=f"{job.target}: is an input and would be overwritten")
                elif not job.problem and several:
                    other = results.setdefault(key_of("", job.target), job.source)
                    if other != job.source:
                        job = clashing(job, other)
                yield job

    def _jobs_of(self, name: str) -> Iterator[Job]:
        try:
            is_folder = self.recursive and places.is_folder(name)
        except OSError as error:
            yield Job(name, "", reason_of(error))
            return
        if not is_folder and not places.is_url(name) and os.path.isdir(name):
            yield Job(name, "", f"{name}: is a folder; use --recursive to take the files in it")
        elif not is_folder:
            folder = places.parent(name) if self.output_dir is None else self.output_dir
            yield Job(name, self._target(folder, name))
        else:
            yield from of_folder(name, self._jobs_below(name))

    def _jobs_below(self, folder: str) -> Iterator[Job]:
        problems: list[OSError] = []
        for below, names in places.walk(folder, problems.append):
            place = places.join(folder if self.output_dir is None else self.output_dir, below)
            results: dict[str, str] = {}
            for name in names:
                source = places.join(folder, below, name)
                if is_taken(name, self.taken) and (places.is_url(source) or is_regular(source)):
                    job = Job(source, self._target(place, name))
                    other = results.setdefault(job.target, source)
                    yield job if other == source else clashing(job, other)
            yield from told(problems)
        yield from told(problems)

    def _target(self, folder: str, name: str) -> str:
        stem = os.path.splitext(name.rpartition("/")[2] if places.is_url(name) else os.path.basename(name))[0]
        return places.join(folder, stem + self.suffix)
