"""Curves, delta rates, checks, tables, published points and plots, from made-up scores."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dlfc.errors import DlfcError
from dlfc.evaluate.bjontegaard import delta_rate
from dlfc.evaluate.checks import colour_lines, order_lines, report_of_checks, wins
from dlfc.evaluate.curves import model_curves, other_curves, table_of_savings
from dlfc.evaluate.evaluation import Budget, OrdinaryFiles, budget_name, budgets_of, ordinary_mean
from dlfc.evaluate.findings import Findings
from dlfc.evaluate.measures import COLOUR, MEASURES
from dlfc.evaluate.plots import plot
from dlfc.evaluate.published import PublishedPoint, add_points, file_codecs, read_points
from dlfc.evaluate.report import markdown, table_of_levels, table_of_ordinary
from dlfc.evaluate.scores import Curve, Level, Point, Score, make_curve

LPIPS, _, _, PSNR = MEASURES[:4]
PIXELS = 8000  # so that a byte is a thousandth of a bit per pixel


def _score(photo: str, size_bytes: int, lpips: float, codec: str = "small", psnr: float = 20.0) -> Score:
    values = {LPIPS.name: lpips, PSNR.name: psnr, COLOUR: 10 * lpips}
    return Score(codec, photo, f"{size_bytes}", size_bytes, PIXELS, values, 0.5, 0.25)


def _level(quality: str, *scores: tuple[int, float]) -> Level:
    return Level("small", quality, tuple(_score(f"p{k}", *score) for k, score in enumerate(scores)))


def _ordinary(
    levels: Sequence[Level], sizes: Mapping[str, Sequence[Sequence[tuple[int, float]]]]
) -> list[OrdinaryFiles]:
    """For each codec the files of each photo; those that are within a level's budget count for it."""
    budgets = budgets_of(levels, [])
    files = []
    for k, score in enumerate(levels[0].scores):
        scores = {}
        for codec, photos in sizes.items():
            own = [_score(score.photo, size, lpips, codec) for size, lpips in photos[k]]
            for budget in budgets:
                fitting = [file for file in own if file.size_bytes <= budget.limits_bytes[score.photo]]
                scores[codec, budget.name] = tuple(fitting)
        files.append(OrdinaryFiles(score.photo, scores))
    return files


def _curve(name: str, points: Sequence[tuple[float, float]]) -> Curve:
    return make_curve(name, LPIPS, [Point(*point) for point in points])


# --- curves and delta rates ---------------------------------------------------------------------------------------

_A = ((0.01, 0.62), (0.02, 0.5), (0.05, 0.41), (0.1, 0.35))
_B = ((0.02, 0.66), (0.05, 0.55), (0.1, 0.43), (0.2, 0.3))


def test_the_delta_rate_is_that_of_piecewise_monotone_cubics() -> None:
    assert delta_rate(_curve("a", _A), _curve("b", _B)) == pytest.approx(-0.6419570476257785)  # by scipy's Pchip


def test_half_the_bytes_at_every_quality_are_a_delta_rate_of_a_half() -> None:
    half = _curve("half", [(bpp / 2, value) for bpp, value in _A])
    assert delta_rate(half, _curve("a", _A)) == pytest.approx(-0.5)
    assert delta_rate(_curve("a", _A), half) == pytest.approx(1.0)
    assert delta_rate(half, half) == pytest.approx(0, abs=1e-12)


def test_curves_without_a_common_quality_or_of_one_point_have_no_delta_rate() -> None:
    assert delta_rate(_curve("a", _A), _curve("far", [(0.1, 0.2), (0.2, 0.1)])) is None
    assert delta_rate(_curve("a", _A), _curve("one", [(0.1, 0.4)])) is None
    assert delta_rate(_curve("a", _A), _curve("none", [])) is None


def test_points_worse_than_a_smaller_file_do_not_count() -> None:
    curve = _curve("a", [(0.03, 0.55), *_A])
    assert [point.bpp for point in curve.points] == [0.01, 0.02, 0.03, 0.05, 0.1]
    assert curve.envelope() == _curve("a", _A)


def test_the_curve_of_an_ordinary_codec_has_only_sizes_that_every_photo_reaches() -> None:
    levels = [_level("0", (10, 0.6), (20, 0.6)), _level("50", (40, 0.4), (50, 0.4))]
    files = _ordinary(levels, {"webp": [[(9, 0.9), (41, 0.5)], [(50, 0.7)]]})
    curves = other_curves(files, ["webp"], [budget_name(level) for level in levels], [], LPIPS)
    assert [(curve.name, curve.points) for curve in curves] == [("webp", (Point(0.0455, pytest.approx(0.6)),))]


def test_models_are_compared_with_the_ones_before_and_with_all_else() -> None:
    levels = [Level(name, "0", _level("0", (10, 0.6)).scores) for name in ("a", "b")]
    levels += [Level(name, "9", _level("9", (20, 0.4)).scores) for name in ("a", "b")]
    own = model_curves(levels, LPIPS)
    text = table_of_savings([own], [[_curve("webp", [(0.02, 0.6), (0.04, 0.4)])]])
    rows = [line.split("|")[1:3] for line in text.splitlines() if "against" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a against webp", "-50.0 %"],
        ["b against a", "+0.0 %"],
        ["b against webp", "-50.0 %"],
    ]


# --- the best ordinary files --------------------------------------------------------------------------------------


def test_ordinary_files_may_be_a_tenth_larger() -> None:
    levels = [_level("0", (100, 0.6))]
    assert budgets_of(levels, [0.5])[0].limits_bytes == {"p0": 110}
    assert budgets_of(levels, [0.5])[1].limits_bytes == {"p0": 500}


def test_each_measure_takes_its_best_file_of_all_codecs() -> None:
    levels = [_level("0", (100, 0.6), (100, 0.6))]
    files = _ordinary(levels, {"jpeg": [[(90, 0.7)], [(80, 0.5)]], "webp": [[(60, 0.65), (50, 0.66)], []]})
    found = ordinary_mean(files, ["jpeg", "webp"], "small -q 0", LPIPS)
    assert found is not None
    assert (found.photos, found.point) == (2, Point(pytest.approx(0.070), pytest.approx(0.575)))
    only_webp = ordinary_mean(files, ["webp"], "small -q 0", LPIPS)
    assert only_webp is not None
    assert (only_webp.photos, only_webp.point) == (1, Point(0.06, 0.65))


def test_a_codec_that_reaches_no_photo_is_said_not_to() -> None:
    levels = [_level("0", (100, 0.6))]
    files = _ordinary(levels, {"jpeg": [[]], "webp": [[(90, 0.7)]]})
    lines = table_of_ordinary(levels, files, ["jpeg", "webp"], [LPIPS, PSNR]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert cells == [
        ["small -q 0", "1", "0.1000", "0.600", "20.00"],
        ["jpeg", "0", "not reached", "-", "-"],
        ["webp", "1", "0.0900", "0.700", "20.00"],
        ["best of these", "1", "0.0900", "0.700", "20.00"],
    ]


# --- checks -------------------------------------------------------------------------------------------------------


def test_the_colour_of_a_photo_is_that_of_its_worst_level() -> None:
    levels = [_level("0", (10, 0.1), (10, 0.3)), _level("50", (20, 0.2), (20, 0.2))]
    assert colour_lines(levels) == ["mean colour is off by at most 3.0/255; by photo: p1 3.0, p0 2.0"]


def test_levels_in_order_on_every_photo_are_said_to_be() -> None:
    levels = [_level("100", (30, 0.2)), _level("0", (10, 0.4)), _level("50", (20, 0.3))]
    assert order_lines(levels, [LPIPS]) == [
        "size rises with -q on every photo",
        "LPIPS-alex falls with -q on every photo",
    ]


def test_levels_out_of_order_are_named_with_their_photos() -> None:
    levels = [_level("0", (10, 0.4), (10, 0.4)), _level("50", (20, 0.5), (10, 0.3))]
    assert order_lines(levels, [LPIPS]) == [
        "size rises with -q, but not on p1 -q 0 to 50 (10, 10)",
        "LPIPS-alex falls with -q, but not on p0 -q 0 to 50 (0.4000, 0.5000)",
    ]


def test_a_level_wins_on_photos_where_no_ordinary_file_of_its_size_is_as_good() -> None:
    level = _level("0", (100, 0.5), (100, 0.5), (100, 0.5), (100, 0.5))
    webp = [[(110, 0.6)], [(111, 0.1), (90, 0.51)], [(110, 0.5)], []]
    files = _ordinary([level], {"webp": webp})
    assert wins(level, files, ["webp"], [LPIPS]) == (3, 1, ["p2"])


def test_the_report_of_checks_counts_wins_for_each_level() -> None:
    levels = [_level("0", (100, 0.5), (100, 0.5)), _level("50", (200, 0.4), (200, 0.4))]
    files = _ordinary(levels, {"webp": [[(150, 0.45)], [(150, 0.3)]]})
    lines = report_of_checks(levels, files, ["webp"], [LPIPS, PSNR]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["-q", "bpp", "LPIPS-alex", "no rival", "not on"]
    assert rows[2:] == [["0", "0.1000", "2 of 2", "2", "-"], ["50", "0.2000", "1 of 2", "0", "p1"]]


# --- tables, files and plots --------------------------------------------------------------------------------------


def test_a_table_lines_up() -> None:
    assert markdown(["a", "value"], [["long name", "1"]]) == (
        "| a         | value |\n| --------- | ----: |\n| long name |     1 |\n"
    )


def test_the_table_of_levels_has_the_means_of_each_model() -> None:
    levels = [_level("0", (10, 0.4), (20, 0.2)), _level("50", (30, 0.1), (30, 0.1))]
    assert table_of_levels(levels, [LPIPS, PSNR]) == (
        "### small, means of 2 photos\n\n"
        "| -q  |    bpp | LPIPS-alex | PSNR dB |\n"
        "| --- | -----: | ---------: | ------: |\n"
        "| 0   | 0.0150 |      0.300 |   20.00 |\n"
        "| 50  | 0.0300 |      0.100 |   20.00 |\n"
    )


def _findings() -> Findings:
    levels = [_level("0", (100, 0.5), (100, 0.5)), _level("50", (200, 0.4), (200, 0.4))]
    files = _ordinary(levels, {"webp": [[(90, 0.6), (150, 0.45)], [(90, 0.6), (150, 0.5)]]})
    published = [PublishedPoint("other", 0.1, {LPIPS.name: 0.3}), PublishedPoint("other", 0.2, {LPIPS.name: 0.2})]
    return Findings((LPIPS, PSNR), levels, files, ["webp"], [budget_name(level) for level in levels], published)


def test_findings_are_written_as_report_tables_and_plots(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("of an earlier run")
    _findings().write(tmp_path, "text\n", "two photos")
    assert (tmp_path / "report.md").read_text() == "text\n"
    files = list(csv.DictReader(StringIO((tmp_path / "files.csv").read_text())))
    assert len(files) == 4 + 4
    first = {"codec": "small", "setting": "100", "photo": "p0", "bytes": "100", "bpp": "0.100000"}
    assert files[0] == first | {LPIPS.name: "0.5", "PSNR": "20", "colour": "5", "encode_s": "0.5", "decode_s": "0.25"}
    means = list(csv.DictReader(StringIO((tmp_path / "means.csv").read_text())))
    row = {"codec": "webp", "setting": "within small -q 50", "photos": "2", "bpp": "0.150000"}
    assert row | {"measure": LPIPS.name, "mean": "0.475"} in means
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.format == "PNG"
    assert "<svg" in (tmp_path / "rates.svg").read_text()


def test_equal_findings_give_equal_plots() -> None:
    own, others = _findings().curves()
    panels = [[*a, *b] for a, b in zip(own, others, strict=True)]
    assert plot(panels, ["small"], "title")[1] == plot(panels, ["small"], "title")[1]


def test_without_matplotlib_the_tables_are_written_and_the_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DlfcError, match=r"plots need matplotlib; install it with: pip install 'dlfc\[train\]'"):
        _findings().write(tmp_path, "text\n", "two photos")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files.csv", "means.csv", "report.md"]


# --- published points ---------------------------------------------------------------------------------------------


def _points_file(folder: Path, content: Any) -> Path:
    path = folder / "points.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_points_of_sets_are_curves_and_points_of_photos_are_files(tmp_path: Path) -> None:
    content = {
        "mean": [{"bpp": 0.2, "LPIPS-alex": 0.2}, {"bpp": 0.1, "LPIPS-alex": 0.3}],
        "file": [{"photo": "p0", "bpp": 0.11, "LPIPS-alex": 0.4}, {"photo": "p0", "bpp": 0.12, "LPIPS-alex": 0.1}],
    }
    points = read_points(_points_file(tmp_path, content))
    levels = [_level("0", (100, 0.5))]
    budgets = budgets_of(levels, [])
    files = add_points([OrdinaryFiles("p0", {})], points, budgets, levels[0])
    assert file_codecs(points) == ["file"]
    assert [score.size_bytes for score in files[0].scores["file", budgets[0].name]] == [110]
    curves = other_curves(files, ["file"], [budgets[0].name], points, LPIPS)
    assert curves == [_curve("file", [(0.11, 0.4)]), _curve("mean", [(0.1, 0.3), (0.2, 0.2)])]


@pytest.mark.parametrize(
    ("limit_bytes", "size_bytes", "value"), [(99, None, None), (100, 100, 0.6), (200, 200, 0.5), (500, 400, 0.4)]
)
def test_files_of_a_photo_are_interpolated_up_to_the_largest(
    limit_bytes: int, size_bytes: int | None, value: float | None
) -> None:
    points = [PublishedPoint("file", bpp, {LPIPS.name: lpips}, "p0") for bpp, lpips in ((0.4, 0.4), (0.1, 0.6))]
    budget = Budget("b", {"p0": limit_bytes})
    files = add_points([OrdinaryFiles("p0", {})], points, [budget], _level("0", (100, 0.5)))
    found = [(score.size_bytes, score.values[LPIPS.name]) for score in files[0].scores["file", "b"]]
    assert found == ([] if size_bytes is None else [(size_bytes, pytest.approx(value))])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ([], "must be an object"),
        ({"a": {}}, "'a' must have a list of points"),
        ({"a": [1]}, "'a' must have a list of points"),
        ({"a": [{"LPIPS-alex": 0.1}]}, "a point of 'a' has no bpp above 0"),
        ({"a": [{"bpp": 0}]}, "a point of 'a' has no bpp above 0"),
        ({"a": [{"bpp": "0.1"}]}, "'a' has bpp '0.1', which is not a number"),
        ({"a": [{"bpp": 0.1, "PSNR": True}]}, "'a' has PSNR True, which is not a number"),
        ({"a": [{"bpp": 0.1, "lpips": 0.1}]}, "'a' has 'lpips'; fields are bpp, photo, DISTS-I"),
        ({"a": [{"bpp": 0.1, "photo": 3}]}, "'a' has photo 3, which is not a name"),
    ],
)
def test_a_file_of_points_that_says_something_else_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(DlfcError) as caught:
        read_points(_points_file(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'points.json'}: {reason}")
