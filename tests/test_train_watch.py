"""What runs leave to look at."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from dlfc.train import watch


def test_rows_are_appended_and_new_columns_join_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    watch.append(path, {"step": 1, "mse": 0.5})
    watch.append(path, {"step": 2, "mse": 0.25})
    watch.append(path, {"step": 3, "mse": 0.2, "vgg": 1.5})
    watch.append(path, {"mse": 0.1, "step": 4})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["vgg"] for row in rows] == ["", "", "1.5", ""]
    assert [row["mse"] for row in rows] == ["0.5", "0.25", "0.2", "0.1"]


def test_even_use_of_codes_has_as_much_perplexity_as_codes() -> None:
    even = watch.token_statistics(torch.full((16,), 3))
    assert even["tokens"] == 48
    assert even["perplexity"] == pytest.approx(16)
    assert even["dead_codes"] == 0
    one = watch.token_statistics(torch.tensor([0, 7, 0, 0]))
    assert (one["perplexity"], one["dead_codes"]) == (pytest.approx(1), 3)


def test_a_contact_sheet_shows_the_middles_of_pictures_side_by_side(tmp_path: Path) -> None:
    large, small = torch.zeros(3, 500, 600), torch.ones(3, 100, 50)
    large[:, 250, 300] = 1.0
    watch.sheet(tmp_path / "sheet.jpg", [[large, 1 - large], [small, small]], ["photo", "level 0"])
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (2 * 384, 14 + 384 + 100)
        gray = sheet.convert("L")
    assert gray.getpixel((10, 200)) < 10
    assert gray.getpixel((384 + 10, 200)) > 245
    assert gray.getpixel((192, 14 + 192)) > 100


def test_curves_are_drawn_from_logs_with_empty_cells(tmp_path: Path) -> None:
    for step in range(1, 900):
        watch.append(tmp_path / "log.csv", {"step": step, "total": 1 / step, "lpips": "" if step < 3 else 0.5})
    for level in (0, 1):
        watch.append(tmp_path / "validation.csv", {"step": 5, "level": level, "bpp": 0.01 * level, "psnr": 20})
    watch.curves(tmp_path)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_psnr_of_equal_pictures_is_large_and_finite() -> None:
    assert watch.psnr(0.01) == pytest.approx(20)
    assert math.isfinite(watch.psnr(0.0))
