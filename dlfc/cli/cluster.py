"""`--engine ray`: many files on many machines, with the options, lines and exit status of one machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import typer

from dlfc.cli import batch
from dlfc.cli.messages import Reporter
from dlfc.cli.steps import Load, Task
from dlfc.errors import DlfcError

if TYPE_CHECKING:
    from dlfc.cluster.driver import Event


class CommandTask(Task[Any], Protocol):
    """What is done to each file, as it can be sent to another machine: a dataclass with a field `load`."""

    @property
    def load(self) -> Load:
        """What reads a file."""

    def prepare(self) -> None:
        """Load what every file needs."""

    def settings(self) -> dict[str, Any]:
        """What decides the results."""


@dataclass(frozen=True)
class Files:
    """Which files, and where their results go: as for `dlfc.cli.inputs.plan`."""

    inputs: Sequence[str]
    output_dir: str | None
    suffix: str
    taken: Sequence[str]
    recursive: bool


@dataclass(frozen=True)
class Spread:
    """How the work of a command is spread."""

    command: str
    workers: int | None
    manifest: str | None
    device: str
    overwrite: bool
    skip_existing: bool


def run(task: CommandTask, files: Files, spread: Spread, reporter: Reporter) -> None:
    """Do all files on the cluster and report each. Raises typer.Exit(1) if some failed, DlfcError if all must."""
    _need_extra()
    from dlfc.cluster import places
    from dlfc.cluster.connection import cluster
    from dlfc.cluster.driver import Driver
    from dlfc.cluster.inputs import Plan
    from dlfc.cluster.lock import held
    from dlfc.cluster.manifest import Manifest

    plan = Plan(files.inputs, files.output_dir, files.suffix, files.recursive, files.taken)
    notes = spread.manifest or places.join(files.output_dir or "", f"dlfc-{spread.command}-manifest")
    for name in {*files.inputs, notes, files.output_dir or notes}:
        places.check(name)
    settings = {"command": spread.command, **task.settings()}
    gpu = {"cpu": False, "cuda": True}.get(spread.device)
    portable: Any = replace(task, load=places.load)  # type: ignore[type-var]
    relative = any(
        not places.is_url(name) and not os.path.isabs(name) for name in (*files.inputs, files.output_dir or notes)
    )
    with held(notes), Manifest(notes, settings) as manifest, cluster(spread.workers, gpu=gpu) as pool, reporter:
        driver = Driver(
            pool,
            portable,
            manifest,
            folder=os.getcwd() if relative else None,
            overwrite=spread.overwrite,
            skip_existing=spread.skip_existing,
        )
        success = _report(driver.run(plan.jobs()), reporter)
    if not success:
        raise typer.Exit(1)


def _report(events: Iterable[Event], reporter: Reporter) -> bool:
    """Say what becomes of each file; return whether all went well."""
    from dlfc.cluster.driver import Note, Skipped

    success = True
    for event in events:
        if isinstance(event, Note):
            reporter.remark(event.text)
        elif isinstance(event, Skipped):
            reporter.skipped(event.job.source, event.job.target)
        else:
            success &= event.result is not None
            batch.report(event, reporter)
    return success


def _need_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("ray", "fsspec") if find_spec(name) is None]
    if missing:
        raise DlfcError(f"--engine ray needs {' and '.join(missing)}; install with: pip install 'dlfc[ray]'")
