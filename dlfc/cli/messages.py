"""What the program says: one line per fact on standard error, JSON on standard output, one progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dlfc.files import STANDARD_STREAM, display_name, print_to_stdout

if TYPE_CHECKING:
    from rich.progress import Progress

    from dlfc.cli.summary import Summary


class UsageProblem(Exception):
    """The command line asks for something that cannot be meant; nothing has been done."""


def say(line: str) -> None:
    """Print one line on standard error, whatever characters a name in it has."""
    _print_to_stderr(display_name(line))


def _print_to_stderr(text: str) -> None:
    """Where nobody can be told, because standard error is closed or full, the work goes on all the same."""
    if sys.stderr is not None:  # None when the program was started with it closed
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def reason_of(error: BaseException, *, file: str | None = None) -> str:
    """Return `FILE: reason` in one line for an error of dlfc or of the system.

    The file is the one that the system's error names, or else `file`.
    """
    reason = str(error)
    if isinstance(error, OSError):
        reason = error.strerror or reason
        file = error.filename if isinstance(error.filename, str) else file
    elif isinstance(error, MemoryError):
        reason = "not enough memory for this picture"
    reason = " ".join(reason.split()) or type(error).__name__
    return reason if file is None else f"{file}: {reason}"


class Reporter:
    """Tells people and scripts what becomes of each file; a context manager, since it may hold a progress bar.

    `total` is the number of files, None if it is not known yet.
    `quiet` leaves out the lines about finished files, the notes, the bar and the summary; failures are always said.
    `as_json` moves the facts of finished files to standard output, and adds failures to them. With a `summary`, a run
    of several files ends in a table on a terminal or if `verbose`.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        quiet: bool,
        verbose: bool,
        as_json: bool,
        summary: Summary | None = None,
    ) -> None:
        self._people = not quiet
        self.verbose = verbose
        self._as_json = as_json
        self._summary = summary
        self._several = total is None or total > 1
        self._bar = _progress_bar(title, total) if self._people and self._several and _is_terminal(sys.stderr) else None

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None and self._people and self._summary is not None:
            self._summarise(self._summary)

    def done(self, line: str, facts: dict[str, Any]) -> None:
        """Report a finished file: `line` for people, `facts` for scripts."""
        if self._summary is not None:
            self._summary.done += 1
        if self._as_json:
            print_json(facts)
        if self._people and (self.verbose or not self._as_json):
            self._say(line)
        self._advance()

    def notes(self, file: str, notes: Sequence[str], details: Sequence[str]) -> None:
        """Report in one line what happened to a file on the way; `details` only to those who want to know more."""
        told = [*notes, *(details if self.verbose else ())]
        if self._people and told:
            self._say(f"dlfc: {file}: note: {', '.join(told)}")

    def remark(self, text: str) -> None:
        """Say something about the run as a whole."""
        if self._people:
            self._say(f"dlfc: {text}")

    def failed(self, source: str, reason: str, *, key: str = "input") -> None:
        """Report a file that failed; `reason` is what `reason_of` returns, and `key` names the file in JSON."""
        if self._summary is not None:
            self._summary.failed += 1
        if self._as_json:
            text = reason.removeprefix(f"{stream_name(source, 'input')}: ")
            print_json({key: source, "error": text})
        self._say(f"dlfc: {reason}")
        self._advance()

    def skipped(self, source: str, target: str) -> None:
        """Report a file that was left out because its result is there."""
        if self._summary is not None:
            self._summary.skipped += 1
        if self._as_json:
            print_json({"input": source, "output": target, "skipped": True})
        if self._people and self.verbose:
            self._say(f"{source} -> {target}  exists, skipped")
        if self._bar is not None:  # does not count for the rate
            self._bar.update(self._bar.task_ids[0], total=(self._bar.tasks[0].total or 1) - 1)

    def count_bytes(self, bytes_in: int, bytes_out: int, bpp: float) -> None:
        """Let the sizes of a finished file count in the summary."""
        if self._summary is not None:
            self._summary.bytes_in += bytes_in
            self._summary.bytes_out += bytes_out
            self._summary.bpp += bpp

    def count_time(self, seconds: dict[str, float]) -> None:
        """Let the seconds of each part of the work count in the summary."""
        if self._summary is not None:
            self._summary.add_time(seconds)

    def all_failed(self, sources: Sequence[str], reason: str) -> None:
        """Report that several files failed for one reason, which is said once."""
        if self._summary is not None:
            self._summary.failed += len(sources)
        if self._as_json:
            for source in sources:
                print_json({"input": source, "error": reason})
        self._say(f"dlfc: {reason}")

    def _summarise(self, summary: Summary) -> None:
        if self._several and (self.verbose or _is_terminal(sys.stderr)):
            _print_to_stderr("\n".join(summary.table(styled=_is_terminal(sys.stderr))))
        elif summary.skipped:
            say(f"dlfc: {summary.skipped} skipped, for their results exist")
        if self.verbose and summary.seconds:
            say(summary.time_line())

    def _say(self, line: str) -> None:
        if self._bar is None:
            say(line)
        else:
            self._bar.console.print(display_name(line), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])


def print_json(facts: dict[str, Any]) -> None:
    """Print one JSON object as one line on standard output."""
    print_to_stdout(json.dumps(facts) + "\n")


def stream_name(name: str, direction: str) -> str:
    """Return the name of a file as messages show it, and `standard input` or `standard output` for `-`."""
    return f"standard {direction}" if name == STANDARD_STREAM else name


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _progress_bar(title: str, total: int | None) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} files/s", style="dim")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(title, total=total)
    return bar
