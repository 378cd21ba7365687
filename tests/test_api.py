"""The functions for programs, with the default model; the examples in their documentation run."""

from __future__ import annotations

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import dlfc
from dlfc.formats import Kind, unpack

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["dlfc.api", "dlfc.info", "dlfc.pillow"])
def test_the_examples_in_the_documentation_are_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted >= 3
    assert outcome.failed == 0


def test_the_python_of_the_readme_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Image.open(ROOT / "tests" / "data" / "photo.png") as photo:
        photo.convert("RGB").crop((128, 128, 384, 384)).save("photo.jpg")
    programs = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert programs
    for program in programs:
        exec(program, {})
    assert "(256, 256) RGB" in capsys.readouterr().out


def test_everything_that_is_public_is_there_and_documented() -> None:
    for name in dlfc.__all__:
        found = getattr(dlfc, name)
        assert name == "__version__" or inspect.getdoc(found)
    assert all(parameter.annotation is not parameter.empty for parameter in _parameters(dlfc.encode, dlfc.decode))
    with pytest.raises(AttributeError, match="no attribute 'encoder'"):
        dlfc.encoder  # noqa: B018


def _parameters(*functions: object) -> list[inspect.Parameter]:
    return [parameter for function in functions for parameter in inspect.signature(function).parameters.values()]  # type: ignore[arg-type]


def test_gray_and_transparency_survive_the_default_model() -> None:
    source = Image.radial_gradient("L")
    source.putalpha(Image.linear_gradient("L"))
    data = dlfc.encode(source, quality=0)
    found = dlfc.decode(data)
    assert (found.mode, found.size) == ("LA", (256, 256))
    assert found.getchannel("A").tobytes() == source.getchannel("A").tobytes()
    assert [section.name for section in dlfc.read_info(data).sections] == ["semantic", "detail", "gray", "alpha"]


def test_a_target_counts_everything_in_the_file() -> None:
    source = Image.radial_gradient("L")
    source.info["xmp"] = bytes(range(256))
    data = dlfc.encode(source, target_size=440, keep="xmp")
    assert len(data) <= 440
    assert [extra.kind for extra in unpack(data).extras] == [Kind.XMP, Kind.GRAY]
    with pytest.raises(dlfc.LimitError, match="smallest possible"):
        dlfc.encode(source, target_size=256, keep="xmp")


def test_wrong_arguments_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="neither all nor none"):
        dlfc.encode(Image.new("L", (8, 8)), keep="icc exif")
    with pytest.raises(dlfc.LimitError):
        dlfc.encode(Image.new("L", (8, 8)), max_pixels=63)
    with pytest.raises(dlfc.FormatError):
        dlfc.decode(b"")


def test_names_of_files_and_empty_pictures_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match="takes a picture of PIL"):
        dlfc.encode("photo.jpg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no pixels"):
        dlfc.encode(Image.new("RGB", (0, 0)))
    with pytest.raises(TypeError, match="takes the bytes of a file, not str"):
        dlfc.decode("photo.dlf")  # type: ignore[arg-type]
