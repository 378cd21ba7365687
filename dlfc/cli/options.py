"""Arguments and options that several commands share; the help text of each stands here once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dlfc.cli import values
from dlfc.cli.completion import model_names
from dlfc.cli.inputs import Job
from dlfc.cli.messages import UsageProblem
from dlfc.files import STANDARD_STREAM

OUTPUT = "Where the result goes"
MODEL = "How it is made"
LIMITS = "Limits"
MACHINES = "Many machines"
MESSAGES = "What is said"

EXIT_STATUS = """\b
Exit status:
  0  everything was done
  1  some file failed, the others were done
  2  the command line was wrong, nothing was done"""

Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write to FILE, for one INPUT; - is standard output.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
OutputDir = Annotated[
    str | None,
    typer.Option(
        "--output-dir",
        metavar="DIR",
        help="Write one file per INPUT into DIR, which is made if missing.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "-f",
        "--force",
        help="Replace files that exist, and write to standard output even if that is a terminal.",
        rich_help_panel=OUTPUT,
    ),
]
Recursive = Annotated[
    bool,
    typer.Option(
        "--recursive",
        help="Take the files in folders too; --output-dir keeps their tree.",
        rich_help_panel=OUTPUT,
    ),
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Leave out inputs whose result is there, to go on where a run stopped.",
        rich_help_panel=OUTPUT,
    ),
]
Quality = Annotated[
    float | None,
    typer.Option(
        "-q",
        "--quality",
        metavar="0..100",
        parser=values.parse_quality,
        help="How true to the picture, in steps of 0.5; more is larger.  [default: 50]",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
TargetSize = Annotated[
    int | None,
    typer.Option(
        "--target-size",
        metavar="SIZE",
        parser=values.parse_size,
        help="Find the highest quality whose file is not above SIZE, such as 800, 2KB or 2KiB.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
TargetBpp = Annotated[
    float | None,
    typer.Option(
        "--target-bpp",
        metavar="BPP",
        parser=values.parse_bpp,
        help="Find the highest quality whose file is not above BPP bits per pixel.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Effort = Annotated[
    int,
    typer.Option(
        "--effort",
        metavar="1..9",
        parser=values.parse_effort,
        help="How much time to spend on making more of the same size; above 1 the decoder is tried again and again.",
        rich_help_panel=MODEL,
        show_default=True,
    ),
]
KeepNames = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="NAMES",
        parser=values.parse_keep,
        help="Metadata to keep: icc, exif, xmp, several with commas between them, all, or none.  "
        "[default: a well-known colour profile, as one byte]",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
NoAlpha = Annotated[
    bool,
    typer.Option(
        "--no-alpha", help="Lay transparent parts over white; otherwise they are kept.", rich_help_panel=MODEL
    ),
]
NoGrain = Annotated[
    bool,
    typer.Option(
        "--no-grain",
        help="Leave film grain out; otherwise its strength is measured and decoders make such grain anew.",
        rich_help_panel=MODEL,
    ),
]


def _model_option(default: str) -> Any:
    return typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        autocompletion=model_names,
        help=f"Name of a model, or a .safetensors file with its weights.  [default: {default}]",
        rich_help_panel=MODEL,
        show_default=False,
    )


Model = Annotated[str | None, _model_option("the one dlfc comes with")]
ModelOfFile = Annotated[str | None, _model_option("the one the file names")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="|".join(values.DEVICES),
        parser=values.parse_device,
        autocompletion=values.complete_device,
        help="What the network runs on; auto takes a GPU where there is one.",
        rich_help_panel=MODEL,
        show_default=True,
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N",
        parser=values.parse_count,
        help="Work on N files, or groups of small ones, at a time.",
        rich_help_panel=MODEL,
        show_default=True,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="|".join(values.ENGINES),
        parser=values.parse_engine,
        autocompletion=values.complete_engine,
        help="Where the work is done; ray spreads it over a Ray cluster, and takes URLs such as s3://bucket/folder.",
        rich_help_panel=MACHINES,
        show_default=True,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        parser=values.parse_count,
        help="Processes on the cluster, each with a model.  [default: one per GPU, or one per core]",
        rich_help_panel=MACHINES,
        show_default=False,
    ),
]
Manifest = Annotated[
    str | None,
    typer.Option(
        "--manifest",
        metavar="FOLDER",
        help="Where the run notes what is done, so that it can go on after a stop.  [default: a folder in DIR]",
        rich_help_panel=MACHINES,
        show_default=False,
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        metavar="N",
        parser=values.parse_count,
        envvar="DLFC_MAX_PIXELS",
        show_envvar=True,
        help="Refuse pictures of more than N pixels.",
        rich_help_panel=LIMITS,
        show_default=True,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Say nothing but errors; no progress bar.", rich_help_panel=MESSAGES)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Say more about each file, and where the time went.", rich_help_panel=MESSAGES
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object per file and line on standard output.", rich_help_panel=MESSAGES
    ),
]


def refuse_contradictions(jobs: Sequence[Job], *, quiet: bool, verbose: bool, as_json: bool) -> None:
    """Raise UsageProblem for options that cannot both be obeyed."""
    if quiet and verbose:
        raise UsageProblem("--quiet and -v exclude each other")
    if as_json and any(job.target == STANDARD_STREAM for job in jobs):
        raise UsageProblem("--json and the result cannot both go to standard output; use -o")


def refuse_skipping(*, skip_existing: bool, force: bool) -> None:
    """Raise UsageProblem where existing files would have to be both kept and replaced."""
    if skip_existing and force:
        raise UsageProblem("--skip-existing and -f exclude each other")


def refuse_engine(
    engine: str, *, output: str | None, output_dir: str | None, jobs: int, workers: int | None, manifest: str | None
) -> None:
    """Raise UsageProblem for options that do not go with the engine."""
    if engine == "local":
        for option, value in {"--workers": workers, "--manifest": manifest}.items():
            if value is not None:
                raise UsageProblem(f"{option} is for --engine ray")
        return
    if output is not None:
        raise UsageProblem(f"-o does not go with --engine {engine}; use --output-dir")
    if jobs > 1:
        raise UsageProblem(f"-j does not go with --engine {engine}; use --workers")
    if output_dir is None and manifest is None:
        raise UsageProblem(f"--engine {engine} needs --output-dir, or --manifest for its notes")
    if manifest == "":
        raise UsageProblem("the name of the manifest is empty")


def refuse_targets(quality: float | None, target_size: int | None, target_bpp: float | None) -> None:
    """Raise UsageProblem where more than one option says how large files become."""
    given = {"-q": quality, "--target-size": target_size, "--target-bpp": target_bpp}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageProblem(f"{names[0]} and {names[1]} exclude each other")
