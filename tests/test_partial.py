"""Files that were cut: every byte of detail that is left makes the picture better, and nothing is guessed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from networks import install, photo
from PIL import Image

from dlfc.codec import Codec
from dlfc.entropy.coder import Decoder
from dlfc.entropy.sections import CutStream
from dlfc.errors import FormatError
from dlfc.formats import unpack

PHOTO = Path(__file__).parent / "data" / "photo.png"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("models")
    install(folder, "tiny")
    return Codec.load("tiny", device="cpu", models_dir=folder)


def cut_symbols(codec: Codec, data: bytes) -> tuple[list[int], list[int]]:
    """The detail symbols that a cut file gives, zeros included, and those that are certain, taken one by one."""
    fields = unpack(data, allow_partial=True)
    reader, one_by_one = CutStream(fields.detail, codec.model.detail_tables), Decoder(fields.detail)
    read: list[int] = []
    certain: list[int] = []
    ended = False
    passes = codec.symbols.passes(fields.quality, fields.width_px, fields.height_px)
    for indices in passes:
        symbols = reader.get(indices)
        passes.accept(symbols)
        read += symbols.tolist()
        for i in range(len(indices)):
            if ended:
                break
            try:
                symbol = one_by_one.get(indices[i : i + 1], codec.model.detail_tables)
            except FormatError:
                ended = True
                break
            ended = one_by_one.overrun
            if not ended:
                certain += symbol.tolist()
    return read, certain


def test_every_certain_symbol_is_taken_and_no_other(tiny: Codec) -> None:
    data = tiny.encode(photo(200, 130), quality=60)
    whole, _ = cut_symbols(tiny, data)
    sizes = []
    for end in range(len(data) - len(unpack(data).detail), len(data), 23):
        read, certain = cut_symbols(tiny, data[:end])
        assert read == certain + [0] * (len(read) - len(certain))
        assert certain == whole[: len(certain)]
        sizes.append(len(certain))
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert sizes[-1] > 0.9 * len(whole)


def test_the_more_detail_is_left_the_better_the_picture() -> None:
    codec = Codec.load(device="cpu")
    with Image.open(PHOTO) as image:
        data = codec.encode(image.convert("RGB").crop((200, 100, 456, 356)), quality=100)
    detail = len(unpack(data).detail)
    assert detail > 200
    whole = np.asarray(codec.decode(data)).astype(float)
    found = []
    for sixths in range(6):
        left = data[: len(data) - detail + detail * sixths // 6]
        picture = np.asarray(codec.decode(left, allow_partial=True)).astype(float)
        found.append(10 * math.log10(255**2 / np.square(picture - whole).mean()))
    assert found == sorted(found)
    assert found[-1] > found[0] + 3


def test_the_bytes_of_a_stream_that_was_cut_are_worth_symbols_of_every_pass(tiny: Codec) -> None:
    data = tiny.encode(photo(200, 130), quality=60)
    fields = unpack(data)
    read, certain = cut_symbols(tiny, data[:-1])
    assert len(certain) > len(read) - 40  # a byte is worth a few symbols, not a whole batch
    assert fields.complete
