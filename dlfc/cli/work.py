"""What `dlfc encode` and `dlfc decode` do alike: many files, here or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from dlfc.cli import batch, cluster, options
from dlfc.cli.inputs import Job, make_directories, plan
from dlfc.cli.messages import Reporter
from dlfc.cli.summary import Summary


@dataclass(frozen=True)
class Work:
    """The files of a command and the options that say how it goes through them."""

    command: str  # encode or decode
    files: cluster.Files
    output: str | None
    engine: str
    jobs: int
    workers: int | None
    manifest: str | None
    device: str
    force: bool
    skip_existing: bool
    quiet: bool
    verbose: bool
    as_json: bool

    def __post_init__(self) -> None:
        """Raise UsageProblem for options that do not go together."""
        options.refuse_skipping(skip_existing=self.skip_existing, force=self.force)
        options.refuse_engine(
            self.engine,
            output=self.output,
            output_dir=self.files.output_dir,
            jobs=self.jobs,
            workers=self.workers,
            manifest=self.manifest,
        )

    def run(self, task: cluster.CommandTask) -> None:
        """Do `task` with all files. Raises typer.Exit(1) if some failed."""
        if self.engine != "local":
            self._refuse_contradictions([])
            cluster.run(task, self.files, self._spread(), self._reporter(None))
            return
        files = self.files
        planned = plan(
            files.inputs, self.output, files.output_dir, files.suffix, recursive=files.recursive, taken=files.taken
        )
        self._refuse_contradictions(planned)
        if files.output_dir is not None:
            make_directories(planned, files.output_dir)
        with self._reporter(len(planned)) as reporter:
            success = batch.run(
                planned,
                task,
                reporter,
                prepare=task.prepare,
                overwrite=self.force,
                workers=self.jobs,
                skip_existing=self.skip_existing,
            )
        if not success:
            raise typer.Exit(1)

    def _refuse_contradictions(self, planned: list[Job]) -> None:
        options.refuse_contradictions(planned, quiet=self.quiet, verbose=self.verbose, as_json=self.as_json)

    def _reporter(self, count: int | None) -> Reporter:
        doing = f"{self.command.removesuffix('e')}ing"
        return Reporter(doing, count, quiet=self.quiet, verbose=self.verbose, as_json=self.as_json, summary=Summary())

    def _spread(self) -> cluster.Spread:
        return cluster.Spread(
            self.command,
            self.workers,
            self.manifest,
            self.device,
            overwrite=self.force,
            skip_existing=self.skip_existing,
        )
