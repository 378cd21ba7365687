"""`dlfc eval`: how much models save, and at what quality, beside ordinary codecs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlfc.cli import options, values
from dlfc.cli.completion import model_names
from dlfc.cli.messages import UsageProblem, say
from dlfc.effort import PLAIN
from dlfc.errors import DlfcError
from dlfc.files import make_directory, print_to_stdout

if TYPE_CHECKING:
    from dlfc.evaluate.evaluation import OrdinaryFiles
    from dlfc.evaluate.measures import Judge

WHAT = "What is compared"
NONE = "none"

EPILOG = """\b
Examples:
  dlfc eval photos --metrics weights --against none
  dlfc eval photos --metrics weights --out report --checks
  dlfc eval photos --metrics weights -m small -m mine.safetensors -q 0,50,100
  dlfc eval photos --metrics weights --points published.json --out report

\b
Exit status:
  0  everything was done
  1  something is missing or failed
  2  the command line was wrong, nothing was done"""


def _parse_rates(text: str) -> str:
    for name in _split(text):
        try:
            rate = float(name)
        except ValueError:
            rate = math.nan
        if not 0 < rate <= 24:
            raise typer.BadParameter(f"{name!r} is not a rate in bits per pixel")
    return text


def evaluate(
    photos: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of photos.", show_default=False)],
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with weights of the measures; without it there are only MS-SSIM and PSNR.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=model_names,
            help="Name of a model, or a .safetensors file; can be given several times.  [default: the one dlfc comes "
            "with]",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    qualities: Annotated[
        str,
        typer.Option(
            "-q",
            "--qualities",
            metavar="LIST",
            parser=values.parse_qualities,
            help="Qualities to encode with.",
            rich_help_panel=WHAT,
        ),
    ] = "0,25,50,75,100",
    against: Annotated[
        str,
        typer.Option(metavar="LIST", help="Ordinary codecs: jpeg, webp, avif; or none.", rich_help_panel=WHAT),
    ] = "jpeg,webp,avif",
    rates: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            parser=_parse_rates,
            help="Rates in bpp at which ordinary codecs are measured too, for their curves; or none.",
            rich_help_panel=WHAT,
        ),
    ] = "0.05,0.1,0.2,0.4",
    points: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file with points of other codecs; man dlfc-eval describes it.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Measures to use, such as lpips-alex,psnr.  [default: all that the weights allow]",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    checks: Annotated[
        bool,
        typer.Option("--checks", help="Also report what must hold for each photo.", rich_help_panel=options.OUTPUT),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write report, CSV and plots there, and keep what is found out about ordinary codecs.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep the .dlf files and decoded pictures in that folder too.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    effort: options.Effort = PLAIN,
    device: options.Device = "auto",
    jobs: options.Jobs = 1,
    quiet: options.Quiet = False,
) -> None:
    """Measure rate and quality of models over the photos of a folder.

    Every photo is encoded and decoded by two processes; sizes are those of whole files. For each quality a table
    gives mean rate and quality; a second one puts beside them the best JPEG, WebP and AVIF files of about that size.

    Tables go to standard output as Markdown. With --out they are also written to report.md, with one line per file in
    files.csv, the means in means.csv, and plots in rates.png and rates.svg; older ones there are replaced.
    """
    from dlfc.evaluate.checks import report_of_checks
    from dlfc.evaluate.curves import table_of_savings
    from dlfc.evaluate.evaluation import budgets_of, measure_models, measure_ordinary
    from dlfc.evaluate.findings import Findings
    from dlfc.evaluate.photos import find_photos
    from dlfc.evaluate.programs import Program
    from dlfc.evaluate.published import add_points, file_codecs, read_points
    from dlfc.evaluate.report import table_of_levels, table_of_ordinary

    if keep and out is None:
        raise UsageProblem("--keep needs a folder; name it with --out")
    tell = _tell_nobody if quiet else say
    codecs = _codecs(against, tell)
    found = find_photos(photos)
    published = [] if points is None else read_points(points)
    judge = _judge(metrics, measures, device, tell)
    if out is not None:
        make_directory(str(out))
    report: list[str] = []

    def publish(text: str) -> None:
        report.append(text)
        print_to_stdout(f"{text}\n")

    with _folder_for_files(out if keep else None) as folder:
        program = Program(device, jobs, effort)
        levels = measure_models(found, models or [None], qualities.split(","), judge, program, folder, tell)
    publish(table_of_levels(levels, judge.measures))
    budgets = budgets_of(levels, [float(rate) for rate in _split(rates)])
    rivals = [*codecs, *file_codecs(published)]
    ordinary: list[OrdinaryFiles] = []
    if rivals:
        cache = None if out is None else out / "ordinary"
        ordinary = measure_ordinary(found, budgets, codecs, judge, metrics, cache, jobs, tell)
        ordinary = add_points(ordinary, published, budgets, levels[0])
        publish(table_of_ordinary(levels, ordinary, rivals, judge.measures))
    names = [budget.name for budget in budgets]
    findings = Findings(judge.measures, levels, ordinary, rivals, names, published)
    if savings := table_of_savings(*findings.curves()):
        publish(savings)
    if checks:
        publish(report_of_checks(levels, ordinary, rivals, judge.measures))
    if out is not None:
        findings.write(out, "\n".join(report), title=f"{photos.absolute().name}, {len(found)} photos")


def _judge(metrics: Path | None, measures: str | None, device: str, tell: Callable[[str], None]) -> Judge:
    """What measures the pictures; says what has no weights."""
    import torch

    from dlfc.evaluate.measures import Judge

    if metrics is not None and not metrics.is_dir():
        raise DlfcError(f"{metrics}: no such folder")
    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    judge = Judge(metrics, None if measures is None else _split(measures), "cuda" if gpu else "cpu")
    if judge.left_out:
        files = ", ".join(sorted({str(measure.weights) for measure in judge.left_out}))
        tell(f"dlfc: left out {', '.join(measure.name for measure in judge.left_out)}: no {files} to measure with")
    return judge


def _codecs(against: str, tell: Callable[[str], None]) -> list[str]:
    """The ordinary codecs to compare with; says which of those asked for cannot be had."""
    from dlfc.evaluate.ordinary import ORDINARY

    asked = _split(against)
    for name in asked:
        if name not in ORDINARY:
            raise UsageProblem(f"--against has {name!r}, which is none of {', '.join(ORDINARY)}; or say {NONE}")
        if not ORDINARY[name].available():
            tell(f"dlfc: left out {name}: Pillow here cannot write it")
    return [name for name in asked if ORDINARY[name].available()]


@contextmanager
def _folder_for_files(kept: Path | None) -> Iterator[Path]:
    """Where .dlf files and pictures go: a folder that stays, or one that is removed."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="dlfc-") as folder:
        yield Path(folder)


def _split(text: str) -> list[str]:
    """The parts of a list with commas; `none` has none."""
    names = [name.strip() for name in text.split(",")]
    return [] if names == [NONE] else names


def _tell_nobody(line: str) -> None:
    """Progress is not wanted."""
