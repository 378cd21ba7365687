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


class UsageProblem(Exception):
    """The command line asks for something that cannot be meant; nothing has been done."""


def say(line: str) -> None:
    """Print one line on standard error, whatever characters a name in it has.

    Where nobody can be told, because standard error is closed or full, the work goes on all the same.
    """
    if sys.stderr is not None:  # None when the program was started with it closed
        with suppress(OSError):
            print(display_name(line), file=sys.stderr, flush=True)


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

    `quiet` leaves out the lines about finished files, the notes and the bar; failures are always said. `as_json`
    moves the facts of finished files to standard output, and adds failures to them.
    """

    def __init__(self, title: str, total: int, *, quiet: bool, verbose: bool, as_json: bool) -> None:
        self._people = not quiet
        self.verbose = verbose
        self._as_json = as_json
        self._bar = _progress_bar(title, total) if self._people and total > 1 and _is_terminal(sys.stderr) else None

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, line: str, facts: dict[str, Any]) -> None:
        """Report a finished file: `line` for people, `facts` for scripts."""
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

    def failed(self, source: str, reason: str, *, key: str = "input") -> None:
        """Report a file that failed; `reason` is what `reason_of` returns, and `key` names the file in JSON."""
        if self._as_json:
            text = reason.removeprefix(f"{stream_name(source, 'input')}: ")
            print_json({key: source, "error": text})
        self._say(f"dlfc: {reason}")
        self._advance()

    def all_failed(self, sources: Sequence[str], reason: str) -> None:
        """Report that several files failed for one reason, which is said once."""
        if self._as_json:
            for source in sources:
                print_json({"input": source, "error": reason})
        self._say(f"dlfc: {reason}")

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


def _progress_bar(title: str, total: int) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(title, total=total)
    return bar
