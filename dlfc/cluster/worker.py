"""What happens on a machine of the cluster: a process with one loaded model, which is given batches of files."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Literal, Protocol

from dlfc import __version__
from dlfc.cli.inputs import Job
from dlfc.cli.messages import reason_of
from dlfc.cli.pipeline import outcomes
from dlfc.cli.steps import FILE_ERRORS, Outcome, Task
from dlfc.cluster import places
from dlfc.errors import DlfcError
from dlfc.formats import unpack

State = Literal["free", "taken", "whole", "broken", "unknown"]
_MAX_RESULT_BYTES = 2**32
_ANY_PIXELS = 2**62


class PortableTask(Task[Any], Protocol):
    """What is done to each file, as it can be sent to another machine."""

    def prepare(self) -> None:
        """Load what every file needs."""


@dataclass(frozen=True)
class ModelName:
    """Which model made a result, for messages."""

    name: str
    model_id: bytes


@dataclass(frozen=True)
class Look:
    """What is there under the name of a result, before the work; the reason if that cannot be known."""

    state: State
    reason: str = ""


class Worker:
    """Does a task; `folder` is where relative names begin, or None if there are none."""

    def __init__(self, task: PortableTask, folder: str | None, overwrite: bool) -> None:
        self._task, self._folder, self._overwrite = task, folder, overwrite

    def prepare(self, version: str) -> str:
        """Get ready for a driver of that version of dlfc; return why not, or nothing."""
        if version != __version__:
            return f"a worker has dlfc {__version__}, this is {version}; install one version on all machines"
        try:
            if self._folder is not None:
                os.chdir(self._folder)
            self._task.prepare()
        except FILE_ERRORS as error:
            return f"a worker on {os.uname().nodename} cannot start: {reason_of(error)}"
        return ""

    def look(self, jobs: Sequence[Job], begun: Sequence[bool]) -> list[Look]:
        """What is there of each result; those that were begun are looked into."""
        return [_look(job.target, mine) for job, mine in zip(jobs, begun, strict=True)]

    def code(self, jobs: Sequence[Job], begun: Collection[str]) -> list[Outcome[Any]]:
        """Do the jobs; results in `begun` are this run's own and may be replaced."""

        def save(name: str, data: bytes, *, overwrite: bool) -> None:
            places.save(name, data, overwrite=overwrite or name in begun)

        found = outcomes(jobs, self._task, overwrite=self._overwrite, workers=1, store=save)
        return [_portable(outcome) for outcome in found]


def _look(target: str, begun: bool) -> Look:
    try:
        if not places.exists(target):
            return Look("free")
        if not begun:
            return Look("taken")
        return Look("whole" if _is_whole(target) else "broken")
    except FILE_ERRORS as error:
        return Look("unknown", reason_of(error, file=target))


def _is_whole(target: str) -> bool:
    """Whether a result can be read to its end."""
    from PIL import Image

    data = places.load(target, max_bytes=_MAX_RESULT_BYTES)
    try:
        if target.endswith(".dlf"):
            unpack(data, max_pixels=_ANY_PIXELS)
        else:
            Image.open(BytesIO(data)).verify()
    except (DlfcError, OSError, SyntaxError):  # the last is what Pillow says of a damaged PNG
        return False
    return True


def _portable(outcome: Outcome[Any]) -> Outcome[Any]:
    """Leave the model where it is."""
    if outcome.result is not None:
        model = ModelName(outcome.result.codec.name, outcome.result.codec.model_id)
        outcome.result = replace(outcome.result, codec=model)
    outcome.item = outcome.extent = None
    return outcome
