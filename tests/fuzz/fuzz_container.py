"""Properties of the container under Hypothesis, for as many files as DLFC_FUZZ_EXAMPLES says.

DLFC_FUZZ_EXAMPLES=20000 python -m pytest tests/fuzz/fuzz_container.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlfc.errors import DlfcError
from dlfc.formats import Container, pack, unpack

sys.path.insert(0, str(Path(__file__).parent.parent))

import second_decoder
from fuzz.mutate import sealed

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "formats" / "vectors").rglob("*.dlf"))]
EXAMPLES = int(os.environ.get("DLFC_FUZZ_EXAMPLES", "2000"))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A vector with some of its bytes replaced, or any bytes behind some of its own; often with a check that fits."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(start + 12, len(data))) | st.just(len(data)))
        data = data[:start] + draw(st.binary(max_size=12)) + data[end:]
    return sealed(data) if draw(st.booleans()) else data


def attempt(data: bytes, allow_partial: bool) -> Container | None:
    try:
        return unpack(data, allow_partial=allow_partial)
    except DlfcError:
        return None


@given(files())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_bytes_are_the_file_of_one_container_or_refused_by_both_readers(data: bytes) -> None:
    found, partial = attempt(data, False), attempt(data, True)
    try:
        second = second_decoder.read_container(data)
    except second_decoder.Refused:
        second = None
    assert (found is None) == (second is None)
    if found is not None and second is not None:
        assert pack(found) == data
        assert partial == found
        assert (found.semantic, found.detail, found.symbol_check) == (
            second.semantic,
            second.detail,
            second.symbol_check,
        )
        assert [(extra.kind, extra.payload) for extra in found.extras] == list(second.extras)
    if partial is not None and not partial.complete:
        assert found is None
        assert partial.semantic in data
        assert partial.detail in data
