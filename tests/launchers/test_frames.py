"""The Engine API's frames, in any pieces."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.launchers.frames import split

outputs = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=6)


def framed(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack(">BxxxL", stream, len(data)) + data for stream, data in frames)


@given(outputs, st.integers(1, 9))
def test_both_outputs_whole_and_in_order(frames: list[tuple[int, bytes]], size: int) -> None:
    raw = framed(frames)
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    wanted = tuple(b"".join(data for s, data in frames if s == stream) for stream in (1, 2))
    assert split(pieces) == wanted


@pytest.mark.parametrize("missing", [1, 3, 9])
def test_an_answer_that_ends_too_early_is_no_output(missing: int) -> None:
    with pytest.raises(EOFError):
        split([framed([(1, b"ab")])[:-missing]])
