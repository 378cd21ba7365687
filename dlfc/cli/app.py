"""The program `dlfc`: its commands, and what becomes of errors and signals that reach the top."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Annotated, cast

import typer

from dlfc import __version__
from dlfc.cli.help import HelpfulCommand, HelpfulGroup
from dlfc.cli.messages import UsageProblem, reason_of, say
from dlfc.errors import DlfcError
from dlfc.files import print_to_stdout

PROGRAM = "dlfc"
EXIT_FAILURE = 1
EXIT_USAGE = 2

# click's UsageError. Newer versions of Typer carry their own copy of click, so it is reached through a public name.
_ParserError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])

# Commands in the order of the help, and what each runs in the module of its name: a function, or a group of commands.
COMMANDS = {
    "encode": "encode",
    "decode": "decode",
    "info": "info",
    "compare": "compare",
    "eval": "evaluate",
    "models": "app",
    "thumbnail": "thumbnail",
    "train": "train",
}


EPILOG = """\b
Examples:
  dlfc encode photo.jpg            writes photo.dlf
  dlfc decode photo.dlf            writes photo.png
  dlfc info photo.dlf              says what is in the file

Every command has its own --help, and its own manual page: man dlfc-encode.

\b
Exit status:
  0  everything was done
  1  some file failed, the others were done
  2  the command line was wrong, nothing was done"""


def _print_version(wanted: bool) -> None:
    if wanted:
        print_to_stdout(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Turn a photograph into a .dlf file of a few hundred bytes, and back.

    A .dlf file holds what is in the picture and where; a neural network paints the detail anew when it is decoded.
    The result looks like the photograph, but it is not evidence of anything: not for documents, legal or medical
    pictures.
    """


def program(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The program with these commands; loading only the one that is asked for saves a third of the start."""
    app = typer.Typer(
        cls=HelpfulGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog=EPILOG)(_root)
    for name in names:
        module = import_module(f"dlfc.cli.{name}")
        runs = getattr(module, COMMANDS[name])
        if isinstance(runs, typer.Typer):
            app.add_typer(runs, name=name, cls=HelpfulGroup)
        else:
            app.command(name, cls=HelpfulCommand, epilog=module.EPILOG)(runs)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, by default that of the process, and return its exit status.

    An error that dlfc or the system reports becomes one line on standard error; any other exception is a bug and
    passes through.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _signals_as_exceptions():
            wanted = [name for name in COMMANDS if name in arguments[:1]] or COMMANDS
            command = typer.main.get_command(program(wanted))
            status = command.main(arguments, prog_name=PROGRAM, standalone_mode=False)
            print_to_stdout("")  # errors of what is still in the buffer appear here and not after the end
        return status if isinstance(status, int) else 0
    except _ParserError as error:
        return _usage(arguments, _in_our_words(error.format_message()))
    except UsageProblem as error:
        return _usage(arguments, str(error))
    except _Terminated as error:
        return _leave(128 + error.number)
    except BrokenPipeError:
        return EXIT_FAILURE  # whoever read our output has seen enough
    except (DlfcError, OSError, MemoryError) as error:
        say(f"{PROGRAM}: {reason_of(error)}")
        return EXIT_FAILURE


def _in_our_words(problem: str) -> str:
    """A sentence of the parser, written like all other messages."""
    problem = problem[:1].lower() + problem[1:].rstrip(".").replace(". Did you mean", "; did you mean")
    return re.sub(r" \(Possible options: (.*)\)$", r"; did you mean \1?", problem)


def _usage(arguments: list[str], problem: str) -> int:
    name = PROGRAM
    known: typer.Typer | None = program()
    for word in arguments[:2]:
        groups = {group.name: group.typer_instance for group in known.registered_groups} if known else {}
        if known is None or word not in groups.keys() | {command.name for command in known.registered_commands}:
            break
        name = f"{name} {word}"
        known = groups.get(word)
    say(f"{name}: {problem}{'' if problem.endswith('?') else ';'} try '{name} --help'")
    return EXIT_USAGE


class _Terminated(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let the signals that ask a program to end unwind the stack, so that temporary files are removed.

    Typer has an answer of its own to KeyboardInterrupt, which would keep us from leaving at once.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    usual = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number in numbers if usual[number] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in changed:  # all but those that, for one, nohup lets us ignore
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, usual[number])


def _leave(status: int) -> int:
    """Return the exit status after a signal; while threads still work, end the process instead.

    Python would wait for pictures that nobody wants any more.
    """
    if threading.active_count() > 1:
        os._exit(status)
    return status
