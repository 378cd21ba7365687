"""Large pictures that are never whole in memory: the same results as of small ones, complete or not at all."""

from __future__ import annotations

import gc
import json
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import install, photo
from PIL import Image

from dlfc import files, image
from dlfc.cli import decode as decoding
from dlfc.cli import encode as encoding
from dlfc.cli import main
from dlfc.codec import Codec
from dlfc.companions import Prepared, prepare
from dlfc.errors import FormatError, LimitError
from dlfc.keep import parse_keep
from dlfc.zoo.registry import MODELS_DIR_VARIABLE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny", seed=0)
    return folder


@pytest.fixture(scope="module")
def codec(models_dir: Path) -> Codec:
    """A codec that paints 16 rows at a time."""
    codec = Codec.load("tiny", device="cpu", models_dir=models_dir)
    generator = codec.model.network.generator
    generator.in_bands = partial(generator.in_bands, band_px=1)  # type: ignore[method-assign]
    return codec


def with_companions() -> dict[str, tuple[Image.Image, str]]:
    """Pictures of each mode that files can hold, with what is kept of them."""
    colours, alpha = photo(90, 150), photo(90, 150, seed=1).convert("L").point(lambda value: 0 if value < 99 else 255)
    gray, both = colours.convert("L"), colours.copy()
    both.putalpha(alpha)
    both.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    both.info["xmp"] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    gray_with_alpha = gray.copy()
    gray_with_alpha.putalpha(alpha)
    return {"RGB": (colours, "none"), "L": (gray, "none"), "LA": (gray_with_alpha, "none"), "RGBA": (both, "all")}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_strips_are_the_picture_with_all_that_was_kept(codec: Codec, mode: str) -> None:
    picture, keep = with_companions()[mode]
    prepared = prepare(picture, parse_keep(keep))
    data = codec.encode(prepared.image, extras=prepared.extras)
    whole, strips = codec.decode(data), codec.decode_strips(data)
    assert (strips.size, strips.mode, strips.info) == (whole.size, whole.mode, whole.info)
    held = list(strips.images)
    assert len(held) > 5
    assert np.array_equal(np.concatenate([np.asarray(strip) for strip in held]), np.asarray(whole))
    pieces = image.png_pieces(codec.decode_strips(data))
    with Image.open(BytesIO(b"".join(pieces))) as found, Image.open(BytesIO(image.save_image(whole, "PNG"))) as usual:
        assert (found.mode, found.info) == (usual.mode, usual.info)
        assert found.mode == mode
        assert found.tobytes() == usual.tobytes()


def test_pictures_of_different_heights_share_bands(codec: Codec) -> None:
    pictures = [photo(60, 40), photo(64, 20, seed=1), photo(50, 64, seed=2)]
    files = codec.encode_many(pictures)
    for together, data in zip(codec.decode_many(files), files, strict=True):
        alone = codec.decode(data)
        assert together.size == alone.size
        assert np.abs(np.asarray(together, int) - np.asarray(alone, int)).max() <= 1


def test_a_damaged_file_is_refused_before_any_strip(codec: Codec) -> None:
    data = bytearray(codec.encode(photo(90, 150)))
    data[-1] ^= 0x10
    with pytest.raises(FormatError):
        codec.decode_strips(bytes(data))
    with pytest.raises(LimitError):
        codec.decode_strips(codec.encode(photo(90, 150)), max_pixels=1000)


def test_a_picture_that_was_taken_becomes_the_same_file(codec: Codec) -> None:
    picture = photo(90, 150)
    assert codec.encode_many([codec.take(picture)]) == [codec.encode(picture)]
    with pytest.raises(LimitError, match="90x150 pixels are more than the limit"):
        codec.take(picture, max_pixels=1000)


# --- files in pieces ----------------------------------------------------------------------------------------------


def test_pieces_make_a_file_and_a_failure_among_them_makes_none(tmp_path: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield b"a part"
        raise LimitError("not enough memory")

    target = tmp_path / "a"
    with pytest.raises(LimitError):
        files.save(str(target), failing(), overwrite=False)
    assert os.listdir(tmp_path) == []
    assert files.save(str(target), iter([b"one", b"", b"two"]), overwrite=False) == 6
    with pytest.raises(LimitError):
        files.save(str(target), failing(), overwrite=True)
    assert target.read_bytes() == b"onetwo"
    assert os.listdir(tmp_path) == ["a"]


def test_pieces_go_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert files.save_to_stdout(iter([b"one", b"two"])) == 6
    assert capfdbinary.readouterr().out == b"onetwo"


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in an empty directory, with the tiny model and every picture taken for large."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(models_dir))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for module in (decoding, encoding):
        monkeypatch.setattr(module, "LARGE_PX", 0)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        return main(list(arguments)), *capfd.readouterr()

    return run


def test_large_pictures_are_written_as_small_ones_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, (picture, _) in with_companions().items():
        picture.save(f"{mode}.png")
    names = ["L", "LA", "RGB", "RGBA"]
    for jobs in ("1", "2"):
        assert run("encode", *(f"{name}.png" for name in names), "-m", "tiny", "-j", jobs, "-f")[0] == 0
        assert run("decode", *(f"{name}.dlf" for name in names), "--output-dir", jobs, "-j", jobs)[0] == 0
    assert run("decode", "RGBA.dlf", "-o", "alone.png")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "LARGE_PX", 10**9)
        assert run("decode", *(f"{name}.dlf" for name in names), "--output-dir", "usual")[0] == 0
    for name in names:
        with Image.open(f"usual/{name}.png") as usual:
            for folder in ("1", "2"):
                with Image.open(f"{folder}/{name}.png") as found:
                    assert (found.mode, found.tobytes()) == (usual.mode, usual.tobytes())
    assert Path("alone.png").read_bytes() == Path("1/RGBA.png").read_bytes()
    assert not [name for folder in (".", "1", "2") for name in os.listdir(folder) if name.endswith(".tmp")]


def test_facts_and_bytes_are_counted_of_large_pictures_too(run: Run) -> None:
    photo(90, 150).save("a.png")
    assert run("encode", "a.png", "-m", "tiny")[0] == 0
    status, out, err = run("decode", "a.dlf", "-o", "b.png", "--json")
    facts = json.loads(out)
    assert (status, err, facts["width"], facts["height"]) == (0, "", 90, 150)
    status, out, err = run("decode", "a.dlf", "-f", "-v", "-o", "b.png")
    assert (status, out) == (0, "")
    assert "a.dlf -> b.png  90x150 pixels" in err


@pytest.mark.parametrize("inputs", [["a.dlf"], ["a.dlf", "b.dlf"]])
def test_memory_that_ends_half_way_is_one_line_and_no_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, inputs: list[str]
) -> None:
    for name in ("a", "b"):
        photo(90, 150).save(f"{name}.png")
    assert run("encode", "a.png", "b.png", "-m", "tiny")[0] == 0
    plain = decoding._Decoding.work

    def work(task: Any, items: Sequence[Any]) -> Any:
        network = items[0].codec.model.network

        def bands(*arguments: Any) -> Iterator[Any]:
            yield next(type(network).reconstruct_bands(network, *arguments))[:, :, :32]
            raise MemoryError

        network.reconstruct_bands = bands
        return plain(task, items)

    monkeypatch.setattr(decoding._Decoding, "work", work)
    status, _, err = run("decode", *inputs, "--output-dir", "out")
    assert status == 1
    assert err == "".join(f"dlfc: {name}: not enough memory for a picture of 90x150 pixels\n" for name in inputs)
    assert os.listdir("out") == []


def test_the_picture_is_let_go_before_the_network_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(90, 150).save("a.png")
    pictures: list[weakref.ref[Image.Image]] = []
    load_image, analyse = image.load_image, Codec.analyse

    def watched(*arguments: Any, **options: Any) -> Prepared:
        prepared = load_image(*arguments, **options)
        pictures.append(weakref.ref(prepared.image))
        return prepared

    def checked(codec: Codec, images: Sequence[Any]) -> Any:
        gc.collect()
        assert [one() for one in pictures] == [None]
        return analyse(codec, images)

    monkeypatch.setattr(image, "load_image", watched)
    monkeypatch.setattr(Codec, "analyse", checked)
    assert run("encode", "a.png", "-m", "tiny")[0] == 0
