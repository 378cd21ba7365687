"""Sizes asked for: the file is never larger, and no better one that fits is missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from networks import install, photo
from torch import Tensor

import dlfc
from dlfc import api
from dlfc.codec import Codec
from dlfc.errors import LimitError
from dlfc.formats import unpack
from dlfc.model.dlf import DLF
from dlfc.target import largest_within, limit_of
from dlfc.zoo.registry import MODELS_DIR_VARIABLE


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny")
    return Codec.load("tiny", device="cpu", models_dir=folder)


def coder(sizes: list[int], asked: list[int] | None = None) -> Callable[[int], bytes]:
    """Makes files of given sizes, one for each of the 201 steps; the step stands in their first byte."""

    def code(step: int) -> bytes:
        if asked is not None:
            asked.append(step)
        return bytes([step]) + bytes(sizes[step] - 1)

    return code


RISING = [round(100 * 1.02**step) for step in range(201)]


@pytest.mark.parametrize("limit", [100, 101, 102, 103, 399, 720, 721, 5146, 5147, 5250, 5251, 10**6])
def test_the_highest_step_that_fits_is_found(limit: int) -> None:
    expected = max(step for step in range(201) if RISING[step] <= limit)
    assert largest_within(coder(RISING), limit)[0] == expected


def test_dents_hide_nothing_and_the_result_always_fits() -> None:
    sizes = [size + (3 if step % 7 == 0 else 0) for step, size in enumerate(RISING)]
    for limit in range(103, 900, 3):
        found = largest_within(coder(sizes), limit)
        assert len(found) <= limit
        assert found[0] == max(step for step in range(201) if sizes[step] <= limit)


def test_the_first_step_need_not_be_the_smallest_file() -> None:
    sizes = [105, 104, 102, *[200] * 198]
    assert largest_within(coder(sizes), 103)[0] == 2


def test_sizes_that_jump_wildly_never_give_a_file_above_the_limit() -> None:
    sizes = [90 + (step * 7919) % 500 for step in range(201)]
    for limit in range(90, 600, 17):
        assert len(largest_within(coder(sizes), limit)) <= limit


def test_a_file_that_is_smaller_than_those_of_the_lowest_qualities_is_found() -> None:
    sizes = [200 - step for step in range(50)] + [150 + step for step in range(151)]
    assert len(largest_within(coder(sizes), 190)) == 190


def test_few_files_are_made_and_none_twice() -> None:
    for limit in (101, 300, 1000, 5000):
        asked: list[int] = []
        largest_within(coder(RISING, asked), limit)
        assert len(asked) == len(set(asked)) <= 16


def test_a_size_that_cannot_be_reached_is_refused_with_the_smallest_that_can() -> None:
    with pytest.raises(LimitError, match=r"at most 99 bytes; the smallest possible has 100"):
        largest_within(coder(RISING), 99)


def test_a_rate_allows_whole_bytes_and_is_taken_as_written() -> None:
    assert limit_of(400 * 400, None, 0.03) == 600  # in binary, 0.03 is a little less
    assert limit_of(100, None, 0.15) == 1
    assert limit_of(768 * 512, 2000, None) == 2000
    assert limit_of(768 * 512, None, None) == 0


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["target_size", "target_bpp"])
def test_a_target_that_is_no_number_above_0_is_a_value_error(codec: Codec, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        codec.encode(photo(9, 9), **{name: value})  # type: ignore[arg-type]


def test_a_real_file_is_the_best_that_fits_and_the_network_looks_once(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(70, 50)
    sizes = [len(data) for data in (codec.encode(image, quality=step / 2) for step in range(0, 201, 10))]
    looked: list[int] = []
    original = DLF.analyse_tokens

    def watched(self: DLF, x: Tensor) -> tuple[Tensor, Tensor]:
        looked.append(len(x))
        return original(self, x)

    monkeypatch.setattr(DLF, "analyse_tokens", watched)
    for limit in (sizes[0], sizes[7], sizes[7] + 5, sizes[-1]):
        looked.clear()
        data = codec.encode(image, target_size=limit)
        assert len(data) <= limit
        at_least = max(10 * at for at, size in enumerate(sizes) if size <= limit)
        assert 2 * unpack(data).quality >= at_least
        assert len(looked) == 1
        assert codec.encode(image, quality=unpack(data).quality) == data


def test_a_rate_is_never_exceeded(codec: Codec) -> None:
    for bpp in (0.3, 0.5, 1.0):
        assert 8 * len(codec.encode(photo(120, 90), target_bpp=bpp)) / (120 * 90) <= bpp


def test_a_picture_that_cannot_be_that_small_says_how_small_it_can_be(codec: Codec) -> None:
    smallest = min(len(codec.encode(photo(70, 50), quality=step / 2)) for step in range(0, 201, 4))
    with pytest.raises(LimitError, match=f"the smallest possible has {smallest}$"):
        codec.encode(photo(70, 50), target_size=20)


def test_quality_and_targets_exclude_each_other(codec: Codec) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        codec.encode(photo(9, 9), quality=50, target_size=100)
    with pytest.raises(ValueError, match="exclude each other"):
        codec.encode(photo(9, 9), target_bpp=1, target_size=100)


def test_the_function_of_the_package_takes_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "tiny")
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(tmp_path))
    api._codec.cache_clear()
    assert len(dlfc.encode(photo(50, 40), target_size=150, model="tiny", device="cpu")) <= 150
    assert len(dlfc.encode(photo(50, 40), target_bpp=0.7, model="tiny", device="cpu")) <= 175
    api._codec.cache_clear()
