"""Ordinary codecs at a given size: the settings that fit, scaling, and what is kept for another run."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from networks import photo
from PIL import Image, features

from dlfc.errors import DlfcError
from dlfc.evaluate.measures import Judge, psnr
from dlfc.evaluate.ordinary import ORDINARY, OrdinaryCodec, PhotoInOrdinaryFiles, largest_fitting

JPEG = ORDINARY["jpeg"]
JUDGE = Judge(None, ["psnr"])


def _photo_in_files(folder: Path | None, seed: int = 0, weights: str = "") -> PhotoInOrdinaryFiles:
    return PhotoInOrdinaryFiles("photo", photo(96, 80, seed), JUDGE, folder, weights)


@pytest.mark.parametrize(("limit", "expected"), [(9, None), (10, 1), (19, 1), (20, 2), (94, 9), (95, 9), (10**9, 10)])
def test_the_highest_setting_within_the_limit_is_found(limit: int, expected: int | None) -> None:
    assert largest_fitting(lambda quality: 10 * quality, 1, 10, limit) == expected


def test_each_factor_gives_the_largest_file_that_fits() -> None:
    scores = _photo_in_files(None).best_within(JPEG, 1200)
    settings = [score.setting.split() for score in scores]
    assert [(codec, factor) for codec, factor, _ in settings] == [("jpeg", f"1/{k}") for k in (1, 2, 4)]
    for score, factor in zip(scores, (1, 2, 4), strict=True):
        quality = int(score.setting.rpartition("q")[2])
        small = photo(96, 80).resize((96 // factor, 80 // factor), Image.Resampling.LANCZOS)
        assert score.size_bytes == len(JPEG.save(small, quality)) <= 1200
        assert quality == JPEG.highest or len(JPEG.save(small, quality + 1)) > 1200
        assert score.bpp == 8 * score.size_bytes / (96 * 80)


def test_what_is_measured_is_the_decoded_file_at_the_size_of_the_photo() -> None:
    image = photo(96, 80)
    score = _photo_in_files(None).best_within(JPEG, 800)[-1]
    quality = int(score.setting.rpartition("q")[2])
    file = JPEG.save(image.resize((24, 20), Image.Resampling.LANCZOS), quality)
    picture = Image.open(BytesIO(file)).convert("RGB").resize((96, 80), Image.Resampling.LANCZOS)
    assert score.values["PSNR"] == psnr(JUDGE.look(picture).pixels, JUDGE.look(image).pixels)


def test_a_limit_that_no_setting_reaches_gives_no_files() -> None:
    assert _photo_in_files(None).best_within(JPEG, 100) == []


@pytest.mark.parametrize("codec", ORDINARY.values(), ids=lambda codec: codec.name)
def test_every_codec_writes_files_that_pillow_reads(codec: OrdinaryCodec) -> None:
    if not codec.available():
        pytest.skip(f"Pillow here has no {codec.name}")
    sizes = []
    for quality in (codec.lowest, codec.highest):
        file = codec.save(photo(96, 80), quality)
        with Image.open(BytesIO(file)) as picture:
            assert (picture.format, picture.size) == (codec.name.upper(), (96, 80))
        sizes.append(len(file))
    assert sizes[0] < sizes[1]


def test_a_codec_that_pillow_lacks_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    assert [name for name, codec in ORDINARY.items() if codec.available()] == ["jpeg", "webp"]


def test_a_second_run_reads_what_the_first_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _photo_in_files(tmp_path)
    scores = first.best_within(JPEG, 900)
    first.save()
    monkeypatch.setattr(OrdinaryCodec, "save", _never)
    assert _photo_in_files(tmp_path).best_within(JPEG, 900) == scores


@pytest.mark.parametrize("change", [{"seed": 1}, {"weights": "others"}])
def test_what_another_photo_or_other_weights_gave_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    first = _photo_in_files(tmp_path)
    first.best_within(JPEG, 900)
    first.save()
    monkeypatch.setattr(OrdinaryCodec, "save", _never)
    with pytest.raises(AssertionError, match="made anew"):
        _photo_in_files(tmp_path, **change).best_within(JPEG, 900)  # type: ignore[arg-type]


def test_a_measure_that_is_new_is_added_to_what_is_known(tmp_path: Path) -> None:
    first = _photo_in_files(tmp_path)
    first.best_within(JPEG, 900)
    first.save()
    image = photo(96, 80)
    both = PhotoInOrdinaryFiles("photo", image, Judge(None, ["psnr", "ms-ssim"]), tmp_path, "")
    score = both.best_within(JPEG, 900)[0]
    both.save()
    known = json.loads((tmp_path / "photo.json").read_text())["files"][score.setting]
    assert known["measured"] == ["MS-SSIM", "PSNR"]
    assert "MS-SSIM" not in score.values  # the photo is too small for it, which is known now


def test_a_damaged_file_of_an_earlier_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.json").write_text("{")
    with pytest.raises(DlfcError, match=r"photo\.json: damaged; delete it"):
        _photo_in_files(tmp_path)


def _never(*arguments: object) -> bytes:
    raise AssertionError("the file is made anew")
