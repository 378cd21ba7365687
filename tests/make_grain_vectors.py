"""Writes the frozen files of formats/vectors/grain: noise that decoders make anew.

Run once, with a new folder; the files are never written anew. The numbers come from tests/second_decoder.py.

    python tests/make_grain_vectors.py formats/vectors
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import second_decoder
from make_companion_vectors import with_sections
from second_decoder import COLOUR_SPACE, GRAIN, GRAY, grain_at

from dlfc.formats import unpack

PLACES = [(0, 0), (0, 1), (1, 0), (2, 3), (149, 199), (511, 767), (65535, 65536), (2**20 - 1, 2**20 - 1)]
STRENGTHS = (1, 2, 5, 10, 37, 255)
GOOD = {
    "strength-10": {GRAIN: b"\x0a"},
    "strength-255": {GRAIN: b"\xff"},
    "strength-0": {GRAIN: b"\0"},
    "gray": {GRAY: b"", GRAIN: b"\x0a"},
    "display-p3": {COLOUR_SPACE: b"\1", GRAIN: b"\x04"},
}
BAD = {"of-no-bytes": {GRAIN: b""}, "of-two-bytes": {GRAIN: b"\x0a\x0a"}}


def main(folder: Path) -> None:
    """Write files and manifest."""
    plain = unpack((folder / "good" / "31x33-q62.5.dlf").read_bytes())
    target = folder / "grain"
    manifest: dict[str, object] = {"format_version": 1}
    for kind, files in (("good", GOOD), ("bad", BAD)):
        (target / kind).mkdir(parents=True, exist_ok=True)
        found = {}
        for name, sections in files.items():
            data = with_sections(plain, sections)
            (target / kind / f"{name}.dlf").write_bytes(data)
            found[name] = {"sha256": hashlib.sha256(data).hexdigest()}
            if kind == "good":
                read = second_decoder.read_companions(second_decoder.read_container(data))
                found[name] |= {"grain": read.grain, "gray": read.gray}
        manifest[kind] = found
    manifest["offsets"] = [
        {"strength": strength, "row": row, "column": column, "offset": grain_at(row, column, strength)}
        for strength in STRENGTHS
        for row, column in PLACES
    ]
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
