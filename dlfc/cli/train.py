"""`dlfc train`: from photographs to the weights of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlfc.cli import values
from dlfc.cli.messages import UsageProblem, say

EPILOG = """\b
Examples:
  dlfc train small.toml --data photos --metrics metrics --out run
  dlfc train small.toml --data photos --metrics metrics --out run --minutes 25
  dlfc train small.toml --data photos --metrics metrics --out run --export small.safetensors
  torchrun --nproc-per-node 4 -m dlfc.cli train small.toml --data photos --metrics metrics --out run

A run that was stopped goes on where it last saved. The recipe of the model that dlfc comes with is small.toml in the
folder dlfc/train of the source.

\b
Exit status:
  0  the run has reached its end, or was stopped in good order
  1  something is missing or does not fit
  2  the command line was wrong"""


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="TOML file with the network and its training.", show_default=False)
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of photos, or of tar shards of photos.", show_default=False)
    ],
    metrics: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder with lpips_alex.safetensors (a loss), lpips_squeeze.safetensors (to judge by) and what else "
            "the recipe asks for.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the run: its state and its logs.", show_default=False)
    ],
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of photos to measure during the run.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="M", help="Save and stop in good order after M minutes.", show_default=False),
    ] = None,
    start_from: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="START",
            help="Begin with the weights of another run's state.pt, or of a model: its name or .safetensors file. "
            "Given more than once, with the mean of them.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[int, typer.Option(min=1, metavar="N", help="Begin a fresh run at this stage.")] = 1,
    save_every: Annotated[float, typer.Option(min=0.0, metavar="M", help="Minutes from one save to the next.")] = 5.0,
    evaluate_every: Annotated[
        float, typer.Option(min=0.0, metavar="M", help="Minutes from one evaluation to the next.")
    ] = 15.0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only say where the time of a step goes, and save nothing.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="At the end write the model to FILE.safetensors, with its tables calibrated, and its description.",
            show_default=False,
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            parser=values.parse_levels,
            help="Qualities of the run that become the rate levels of the model: its -q 0, then evenly up to 100.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a model on photographs, and pack it for coding."""
    from dlfc.errors import ModelError
    from dlfc.files import print_to_stdout
    from dlfc.train.export import export as write
    from dlfc.train.export import load_run, place_levels
    from dlfc.train.loop import Trainer
    from dlfc.train.recipe import load_recipe

    if export is not None and export.suffix != ".safetensors":
        raise ModelError(f"{export}: the name of a weights file ends in .safetensors")
    if levels is not None and export is None:
        raise UsageProblem("--levels goes with --export: it says what is written")
    plan = load_recipe(recipe)
    places = sorted(map(float, levels.split(","))) if levels else []
    if places and len(places) != plan.model.levels:
        raise UsageProblem(f"--levels has {len(places)} qualities, but {recipe} has {plan.model.levels} levels")
    trainer = Trainer(plan, data, metrics, out, validation, start_from=start_from or (), stage=stage - 1)
    if profile:
        table = trainer.profiled()
        if trainer.workers.leads:
            print_to_stdout(f"{table}\n")
    else:
        trainer.run(minutes=minutes, save_seconds=60 * save_every, validate_seconds=60 * evaluate_every)
    trainer.workers.close()
    if export is not None and not profile and trainer.workers.leads:
        network = load_run(out / "state.pt", plan.model)
        if places:
            place_levels(network, places)
        entry = write(network, trainer.crops, export)
        say(f"{entry.weights}: model {entry.name}, {entry.parameters} parameters, fingerprint {entry.fingerprint[:8]}")
