"""JPEG, WebP and AVIF through Pillow, each at its best within a number of bytes.

To get very small, people make a picture smaller before they save it. So each codec is tried on the photo, at half and
at quarter size, and what it gives is scaled back up with Lanczos.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, features

from dlfc.errors import DlfcError
from dlfc.evaluate.measures import MEASURES, Judge, Sight
from dlfc.evaluate.scores import Score
from dlfc.files import save

FACTORS = (1, 2, 4)


@dataclass(frozen=True)
class OrdinaryCodec:
    """A codec of Pillow: its range of quality settings, and what is saved with besides the quality."""

    name: str
    lowest: int
    highest: int
    variants: tuple[Mapping[str, Any], ...]  # the smallest file of these is taken
    feature: str

    def available(self) -> bool:
        """Whether Pillow here can write it."""
        return bool(features.check(self.feature))

    def version(self) -> str:
        """Versions of what makes the files."""
        library = {"jpg": "libjpeg_turbo"}.get(self.feature, self.feature)
        return f"Pillow {PIL.__version__}, {self.feature} {features.version(library)}"

    def save(self, image: Image.Image, quality: int) -> bytes:
        """The file of `image` at a quality setting."""
        files = []
        for options in self.variants:
            buffer = BytesIO()
            image.save(buffer, self.name, quality=quality, **options)
            files.append(buffer.getvalue())
        return min(files, key=len)


# Baseline JPEG is the smaller one at the lowest qualities, progressive at the others. Speeds below 6 make AVIF no
# smaller at these rates and take several times as long.
ORDINARY = {
    "jpeg": OrdinaryCodec("jpeg", 1, 95, ({"optimize": True}, {"optimize": True, "progressive": True}), "jpg"),
    "webp": OrdinaryCodec("webp", 0, 100, ({"method": 6},), "webp"),
    "avif": OrdinaryCodec("avif", 0, 100, ({"speed": 6},), "avif"),
}


class Cache:
    """Sizes and values of ordinary files, kept in a folder with one JSON file for each photo.

    They count only for the pixels, codec versions and weights that they were found with.
    """

    def __init__(self, folder: Path | None, name: str, identity: str) -> None:
        self._path = None if folder is None else folder / f"{name}.json"
        self._identity = identity
        self._files: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.is_file():
            try:
                stored = json.loads(self._path.read_text())
                if stored["identity"] == identity:
                    self._files = stored["files"]
            except (ValueError, KeyError, TypeError) as error:
                raise DlfcError(f"{self._path}: damaged; delete it to measure anew") from error

    def entry(self, key: str) -> dict[str, Any]:
        """What is known of one file, which may be added to."""
        return self._files.setdefault(key, {})

    def save(self) -> None:
        """Write what is known now."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"identity": self._identity, "files": self._files}, indent=1, sort_keys=True)
            save(str(self._path), f"{text}\n".encode(), overwrite=True)


class PhotoInOrdinaryFiles:
    """One photo as files of ordinary codecs: finds the settings that fit, and measures what they give."""

    def __init__(self, name: str, image: Image.Image, judge: Judge, folder: Path | None, weights: str) -> None:
        self._name = name
        self._image = image
        self._judge = judge
        self._photo: Sight | None = None
        versions = ", ".join(codec.version() for codec in ORDINARY.values() if codec.available())
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        self._cache = Cache(folder, name, f"{pixels} {image.size}; {versions}; weights {weights}")
        self._scaled = cache(partial(reduced, image))

    def best_within(self, codec: OrdinaryCodec, limit_bytes: int) -> list[Score]:
        """The largest file of at most `limit_bytes` for each factor that allows one, decoded and measured."""
        found = []
        for factor in FACTORS:
            size_of = partial(self._size, codec, factor)
            quality = largest_fitting(size_of, codec.lowest, codec.highest, limit_bytes)
            if quality is not None:
                found.append(self._score(codec, factor, quality))
        return found

    def save(self) -> None:
        """Keep what was found for another run."""
        self._cache.save()

    def _size(self, codec: OrdinaryCodec, factor: int, quality: int) -> int:
        entry = self._cache.entry(_key(codec, factor, quality))
        if "bytes" not in entry:
            entry["bytes"] = len(codec.save(self._scaled(factor), quality))
        return entry["bytes"]

    def _score(self, codec: OrdinaryCodec, factor: int, quality: int) -> Score:
        entry = self._cache.entry(_key(codec, factor, quality))
        wanted = {measure.name for measure in self._judge.of_pictures}
        asked = set(entry.get("measured", ()))  # a measure may give no value for a small photo
        if not wanted <= asked:
            with Image.open(BytesIO(codec.save(self._scaled(factor), quality))) as file:
                picture = enlarged(file, self._image.size)
            if self._photo is None:
                self._photo = self._judge.look(self._image)
            entry["values"] = entry.get("values", {}) | self._judge.compare(self._judge.look(picture), self._photo)
            entry["measured"] = sorted(asked | wanted)
        pixels = self._image.width * self._image.height
        return Score(codec.name, self._name, _key(codec, factor, quality), entry["bytes"], pixels, entry["values"])


def reduced(image: Image.Image, factor: int) -> Image.Image:
    """`image` with both sides divided by `factor`; itself if that is 1."""
    width_px, height_px = (max(1, round(side / factor)) for side in image.size)
    return image if factor == 1 else image.resize((width_px, height_px), Image.Resampling.LANCZOS)


def enlarged(image: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """What `reduced` made smaller, at its width and height before, in RGB."""
    return image.convert("RGB").resize(size_px, Image.Resampling.LANCZOS)


def largest_fitting(size_of: Callable[[int], int], lowest: int, highest: int, limit_bytes: int) -> int | None:
    """The highest setting whose size is within the limit, None if not even the lowest is; sizes rise with settings."""
    if size_of(lowest) > limit_bytes:
        return None
    while lowest < highest:
        middle = (lowest + highest + 1) // 2
        if size_of(middle) <= limit_bytes:
            lowest = middle
        else:
            highest = middle - 1
    return lowest


def digest_of_weights(folder: Path | None) -> str:
    """What tells one folder of measuring weights from another."""
    total = hashlib.sha256()
    for name in sorted({measure.weights for measure in MEASURES if measure.weights}):
        if folder is not None and (folder / name).is_file():
            total.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()[:16]


def _key(codec: OrdinaryCodec, factor: int, quality: int) -> str:
    return f"{codec.name} 1/{factor} q{quality}"
