"""The frozen files of formats/vectors/companions: optional sections as every reader must find them.

As for the other vectors, nothing here may be made to pass by writing them anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import second_decoder
from make_companion_vectors import facts
from make_vectors import NAME
from test_vectors import FROZEN, VECTORS

from dlfc import errors
from dlfc.codec import Codec
from dlfc.companions import Finish
from dlfc.formats import unpack, unpack_companions
from dlfc.info import read_info

FOLDER = VECTORS / "companions"
MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text())
GOOD: dict[str, Any] = MANIFEST["good"]
BAD: dict[str, Any] = MANIFEST["bad"]
MANIFEST_SHA256 = "4924086c949228f59a4208915ea7b523ac74be1ccba2796bf5b9ab28fc1f38ef"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(str(VECTORS / "model" / f"{NAME}.safetensors"), device="cpu")


def read(kind: str, name: str) -> bytes:
    return (FOLDER / kind / f"{name}.dlf").read_bytes()


def digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def test_the_files_are_those_that_were_frozen() -> None:
    assert hashlib.sha256((FOLDER / "manifest.json").read_bytes()).hexdigest() == MANIFEST_SHA256, FROZEN
    for kind in ("good", "bad"):
        assert {path.stem for path in (FOLDER / kind).iterdir()} == MANIFEST[kind].keys(), FROZEN
        for name, file in MANIFEST[kind].items():
            assert digest(read(kind, name)) == file["sha256"], f"{name}: {FROZEN}"


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_holds_what_was_frozen(name: str) -> None:
    container = unpack(read("good", name))
    found, alpha = unpack_companions(container.extras), Finish.of(container).alpha
    assert {
        "sha256": GOOD[name]["sha256"],
        "gray": found.gray,
        "colour_space": found.colour_space,
        "icc_sha256": digest(found.icc),
        "exif_sha256": digest(found.exif),
        "xmp_sha256": digest(found.xmp),
        "alpha_sha256": digest(None if alpha is None else alpha.tobytes()),
    } == GOOD[name], FROZEN


@pytest.mark.parametrize("name", GOOD)
def test_the_second_decoder_finds_the_same(name: str) -> None:
    found = second_decoder.read_companions(second_decoder.read_container(read("good", name)))
    assert {"sha256": GOOD[name]["sha256"], **facts(found)} == GOOD[name]


def test_the_picture_is_that_of_the_plain_file(codec: Codec) -> None:
    plain = codec.decode((VECTORS / "good" / "31x33-q62.5.dlf").read_bytes())
    everything = codec.decode(read("good", "all-of-them"))
    assert (everything.mode, everything.info.keys()) == ("RGBA", {"icc_profile", "exif", "xmp"})
    assert np.array_equal(np.asarray(everything)[..., :3], np.asarray(plain))
    gray = codec.decode(read("good", "gray-with-alpha"))
    assert gray.mode == "LA"
    assert gray.getchannel("L").tobytes() == plain.convert("L").tobytes()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_all_readers(codec: Codec, name: str) -> None:
    expected = BAD[name]
    with pytest.raises(errors.DlfcError) as caught:
        codec.decode(read("bad", name))
    assert type(caught.value).__name__ == expected["error"]
    assert expected["message"] in str(caught.value)
    with pytest.raises(second_decoder.Refused) as refused:
        second_decoder.read_companions(second_decoder.read_container(read("bad", name)))
    assert refused.value.rule == expected["rule"]


def test_info_refuses_what_it_can_see_without_the_plane() -> None:
    for name in BAD:
        if not name.startswith("alpha-"):
            with pytest.raises(errors.FormatError):
                read_info(read("bad", name))
