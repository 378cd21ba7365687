"""`dlfc models`: which models there are, and bringing in others."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from dlfc.cli.completion import model_names
from dlfc.cli.help import HelpfulCommand, HelpfulGroup
from dlfc.cli.messages import UsageProblem, print_json, reason_of, say
from dlfc.errors import DlfcError, ModelError
from dlfc.files import check_source, display_name, make_directory, print_to_stdout
from dlfc.zoo import registry
from dlfc.zoo.registry import ModelEntry

EPILOG = """\b
Examples:
  dlfc models list
  dlfc models import dlf_qp0.ckpt --name paper
  dlfc encode -m paper photo.png

\b
Exit status:
  0  everything was done
  1  a model is missing or damaged, or the checkpoint cannot be read
  2  the command line was wrong, nothing was done"""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"

app = typer.Typer(
    cls=HelpfulGroup, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, epilog=EPILOG
)

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models-dir",
        metavar="DIR",
        help="The folder of models other than those that dlfc comes with.  "
        f"[env var: {registry.MODELS_DIR_VARIABLE}; default: dlfc/models in the user's data folder]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per model and line on standard output.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=model_names, show_default=False)]


@app.callback()
def _models() -> None:
    """List, import, check and remove models.

    A model is what turns pictures into .dlf files and back; a file can only be decoded with the model that made it.
    dlfc comes with one. Others, such as the published DLF checkpoints, are imported once and then lie in the user's
    model folder.
    """


@app.command("list", cls=HelpfulCommand)
def list_models(models_dir: ModelsDir = None, json: Json = False) -> None:
    """List all models: bundled ones and those in the model folder."""
    entries, problems = registry.scan(models_dir)
    if json:
        for entry in entries:
            print_json(_facts(entry))
    else:
        rows = [(e.name, e.model_id.hex(), f"{e.parameters:,}", str(e.levels), _size(e), _place(e)) for e in entries]
        _print_table(("model", "id", "parameters", "levels", "size", "where"), rows)
    for error in problems.values():
        say(f"dlfc: {reason_of(error)}")
    if problems:
        raise typer.Exit(1)


@app.command("show", cls=HelpfulCommand)
def show(names: Names, models_dir: ModelsDir = None, json: Json = False) -> None:
    """Say what a model is, with the sizes of its network.

    NAME is the name of a model, or a .safetensors file with its weights.
    """
    from dlfc.zoo.weights_file import read_header

    def one(name: str) -> None:
        entry = registry.find(name, models_dir)
        config = read_header(entry.weights).config
        if json:
            print_json(_facts(entry) | {"config": config})
            return
        facts = {
            "id": entry.model_id.hex(),
            "fingerprint": entry.fingerprint,
            "parameters": f"{entry.parameters:,}",
            "rate levels": entry.levels,
            "size": _size(entry),
            "weights": entry.weights,
        }
        print_to_stdout(f"{entry.name}\n")
        _print_table((), [(f"  {key}", str(value)) for key, value in facts.items()])
        print_to_stdout("  configuration\n")
        _print_table((), [(f"    {_plain(key)}", _plain(value)) for key, value in config.items()])

    _each(names, one)


@app.command("import", cls=HelpfulCommand)
def import_model(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model's name.  [default: that of the file]", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Published configuration in JSON, for a checkpoint whose shapes do not tell it.",
            show_default=False,
        ),
    ] = None,
    models_dir: ModelsDir = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a model of the same name.")] = False,
    json: Json = False,
) -> None:
    """Make a model of a published checkpoint.

    CHECKPOINT is a published DLF checkpoint (.ckpt), a state dict saved by torch, or a safetensors file with
    published names, or a weights file that dlfc wrote. It is read as data; nothing in it is run. The entropy model is
    rounded to integers, so that files decode alike on every machine, and the same checkpoint becomes the same model
    everywhere.
    """
    chosen = checkpoint.stem if name is None else name
    if not re.fullmatch(_NAME, chosen) or chosen.endswith(".safetensors"):
        hint = "; choose a name with --name" if name is None else ""
        raise UsageProblem(f"{chosen!r} cannot be the name of a model: letters, digits, and . _ + - inside{hint}")
    folder = models_dir or registry.user_models_dir()
    target = folder / f"{chosen}.safetensors"
    if any(entry.bundled and entry.name == chosen for entry in registry.entries(models_dir)):
        raise ModelError(f"dlfc comes with a model {chosen!r}; choose another name with --name")
    if not force and (target.exists() or target.with_suffix(".json").exists()):
        raise ModelError(f"there is a model {chosen!r} already; choose another name with --name, or use -f")
    for path in (checkpoint, config):
        if path is not None:
            check_source(str(path))
    make_directory(str(folder))
    from dlfc.zoo.importing import import_checkpoint

    entry = import_checkpoint(checkpoint, target, config)
    if json:
        print_json(_facts(entry))
        return
    levels = "1 rate level" if entry.levels == 1 else f"{entry.levels} rate levels"
    print_to_stdout(f"{entry.name}: {entry.parameters:,} parameters, {levels}, fingerprint {entry.fingerprint}\n")


@app.command("verify", cls=HelpfulCommand)
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", autocompletion=model_names, show_default=False)
    ] = None,
    models_dir: ModelsDir = None,
    json: Json = False,
) -> None:
    """Check that the weights of models are whole.

    Every byte of the weights is read and compared with what was written when the model was made. Without NAME, all
    models are checked.
    """
    from dlfc.zoo.weights_file import check, read_header

    def one(name: str) -> None:
        try:
            entry = registry.find(name, models_dir)
            check(entry, read_header(entry.weights))
        except (DlfcError, OSError) as error:
            if json:
                print_json({"name": name, "whole": False, "error": reason_of(error)})
            raise
        if json:
            print_json({"name": name, "whole": True})
        else:
            print_to_stdout(f"{name}: whole\n")

    entries, problems = registry.scan(models_dir)
    _each(names or [*(entry.name for entry in entries), *problems], one)


@app.command("remove", cls=HelpfulCommand)
def remove(names: Names, models_dir: ModelsDir = None) -> None:
    """Delete models from the model folder.

    Files that were made with them cannot be decoded until they are imported again.
    """

    def one(name: str) -> None:
        entries, problems = registry.scan(models_dir)
        if any(entry.bundled and entry.name == name for entry in entries):
            raise ModelError(f"dlfc comes with model {name!r}, which cannot be removed")
        known = {entry.name: entry.weights for entry in entries}
        if name in problems:  # what cannot be read can still be deleted
            known[name] = (models_dir or registry.user_models_dir()) / f"{name}.safetensors"
        if name not in known:
            raise ModelError(f"no model {name!r} in {models_dir or registry.user_models_dir()}")
        for path in (known[name].with_suffix(".json"), known[name]):
            path.unlink(missing_ok=True)
        say(f"{name}: removed")

    _each(names, one)


def _each(names: Sequence[str], do: Any) -> None:
    """Do all, say what failed, and then end with status 1 if anything did."""
    failed = False
    for name in names:
        try:
            do(name)
        except (DlfcError, OSError) as error:
            say(f"dlfc: {reason_of(error)}")
            failed = True
    if failed:
        raise typer.Exit(1)


def _facts(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "model_id": entry.model_id.hex(),
        "fingerprint": entry.fingerprint,
        "parameters": entry.parameters,
        "levels": entry.levels,
        "file_bytes": _bytes(entry),
        "bundled": entry.bundled,
        "weights": str(entry.weights),
    }


def _bytes(entry: ModelEntry) -> int | None:
    try:
        return entry.weights.stat().st_size
    except OSError:
        return None


def _size(entry: ModelEntry) -> str:
    count = _bytes(entry)
    return "missing" if count is None else f"{count / 1e6:,.1f} MB"


def _place(entry: ModelEntry) -> str:
    return "comes with dlfc" if entry.bundled else str(entry.weights.parent)


def _plain(value: Any) -> str:
    return display_name(" ".join(map(str, value)) if isinstance(value, list) else str(value))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(header), header_style="dim")
    for at, title in enumerate(header or rows[0]):
        number = bool(header) and title in ("parameters", "levels", "size")
        table.add_column(title, justify="right" if number else "left", style="" if header or at else "dim")
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    Console(file=text, force_terminal=terminal, width=1000, highlight=False, markup=False, emoji=False).print(table)
    print_to_stdout("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))
