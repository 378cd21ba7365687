"""What several test modules share: pictures, the program in a real process, and a codec without a network.

`FakeCodec` keeps the promises of `dlfc.codec.Codec` that the command line relies on, in milliseconds. It stands in
where a test is about files, messages and exit statuses; test_cli_roundtrip.py runs the real one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from dlfc.cli import main
from dlfc.companions import Finish
from dlfc.errors import FormatError, LimitError, ModelError
from dlfc.formats import DEFAULT_MAX_PIXELS, Container, pack, unpack

FAKE_MODEL_ID = b"FAKE"
SLOW_PIXEL = (1, 2, 3)  # a picture that starts with it takes a minute to encode

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

_RUN_WITH_FAKE_CODEC = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest
conftest.install_fake_codec()
from dlfc.cli import main
sys.exit(main())
"""


class FakeCodec:
    """Stores a picture of 16 pixels for the rest.

    `loads` counts how often a model was loaded, `groups` has the sizes of what went through it together.
    """

    name = "fake"
    model_id = FAKE_MODEL_ID
    loads = 0
    at_a_time = 1
    groups: ClassVar[list[list[tuple[int, int]]]] = []

    @classmethod
    def load(
        cls,
        model: str | bytes | None = None,
        *,
        device: str = "auto",
        models_dir: Path | None = None,
        purpose: str = "both",
        precision: str | None = None,
    ) -> Any:
        if model not in (None, "fake", FAKE_MODEL_ID):
            shown = model.hex() if isinstance(model, bytes) else model
            raise ModelError(f"model {shown} is not known; see dlfc models list")
        cls.loads += 1
        return cls()

    @property
    def tiling(self) -> FakeCodec:
        return self

    def padded_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        return -(-width_px // 8) * 8, -(-height_px // 8) * 8

    def together(self, width_px: int, height_px: int) -> int:
        return self.at_a_time

    def encode_many(self, images: Sequence[Image.Image], *, extras: Any = None, **options: Any) -> list[bytes]:
        self.groups.append([image.size for image in images])
        extras = extras or [()] * len(images)
        return [self.encode(image, extras=mine, **options) for image, mine in zip(images, extras, strict=True)]

    def decode_many(self, files: Sequence[bytes], **options: Any) -> list[Image.Image]:
        images = [self.decode(data, **options) for data in files]
        self.groups.append([image.size for image in images])
        return images

    def encode(
        self,
        image: Image.Image,
        *,
        quality: float | None = None,
        target_size: int | None = None,
        target_bpp: float | None = None,
        effort: int = 1,
        extras: Any = (),
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> bytes:
        assert image.mode == "RGB"
        if target_bpp is not None:
            target_size = int(target_bpp * image.width * image.height / 8)
        if target_size is not None:
            quality = 12.5
            if target_size < 50:
                raise LimitError(f"no file of this picture has at most {target_size} bytes")
        if image.getpixel((0, 0)) == SLOW_PIXEL:
            time.sleep(60)
        small = zlib.compress(image.resize((4, 4)).tobytes())
        check = zlib.crc32(small) & 0xFFFF
        return pack(
            Container(
                self.model_id, *image.size, 50.0 if quality is None else quality, check, small, b"detail", tuple(extras)
            )
        )

    def decode(
        self, data: bytes, *, allow_partial: bool = False, grain: bool = True, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> Image.Image:
        container = unpack(data, max_pixels=max_pixels, allow_partial=allow_partial)
        try:
            small = Image.frombytes("RGB", (4, 4), zlib.decompress(container.semantic))
        except (zlib.error, ValueError) as error:
            raise FormatError("damaged: symbol check fails") from error
        return Finish.of(container, grain=grain).apply(small.resize((container.width_px, container.height_px)))


def install_fake_codec() -> None:
    """Let everything in this process that asks for `dlfc.codec` find FakeCodec."""
    module = types.ModuleType("dlfc.codec")
    module.Codec = FakeCodec  # type: ignore[attr-defined]
    sys.modules["dlfc.codec"] = module


@dataclass(frozen=True)
class Finished:
    """What a run of the program left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def fake_codec(monkeypatch: pytest.MonkeyPatch) -> type[FakeCodec]:
    """Replace the codec within this process."""
    monkeypatch.setitem(sys.modules, "dlfc.codec", sys.modules.get("dlfc.codec"))  # puts back what was there
    install_fake_codec()
    monkeypatch.setattr(FakeCodec, "loads", 0)
    monkeypatch.setattr(FakeCodec, "groups", [])
    return FakeCodec


@pytest.fixture
def dlfc(
    fake_codec: type[FakeCodec], capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    """Run a command line within this process, in an empty directory, with FakeCodec."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DLFC_MAX_PIXELS", raising=False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the program sets it, for its process

    def run(*arguments: str | Path) -> Finished:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Finished(status, *capfd.readouterr())

    return run


def fake_command(*arguments: str | Path) -> list[str]:
    """Return the command of a process that runs the program with FakeCodec."""
    return [sys.executable, "-c", _RUN_WITH_FAKE_CODEC, *map(str, arguments)]


def real_command(*arguments: str | Path) -> list[str]:
    """Return the command of a process that runs the installed program."""
    return [str(Path(sys.executable).with_name("dlfc")), *map(str, arguments)]


def run_process(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, without what the environment of the tests would change in it."""
    hidden = {"DLFC_MAX_PIXELS", "FORCE_COLOR", "PYTHONWARNINGS"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    options.setdefault("env", environment)
    if "stdout" not in options and "stderr" not in options:
        options["capture_output"] = True
    return subprocess.run(command, timeout=120, check=False, **options)


def run_shared(script: str, count: int, folder: Path, *arguments: Path) -> None:
    """Run `script` in `count` processes that share its work; it can import the tests, and is written to `folder`."""
    (folder / "worker.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += map(str, [folder / "worker.py", *arguments])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert run.returncode == 0, run.stderr


def picture(width_px: int = 24, height_px: int = 16) -> Image.Image:
    """Return a small RGB picture whose corners differ."""
    red = Image.linear_gradient("L").resize((width_px, height_px))
    green = Image.radial_gradient("L").resize((width_px, height_px))
    blue = red.transpose(Image.Transpose.ROTATE_180)
    return Image.merge("RGB", (red, green, blue))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A PNG file named photo.png in the directory where the test runs."""
    path = tmp_path / "photo.png"
    picture().save(path)
    return path
