"""Traces are read event by event; what is no whole trace says so."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.errors import UsageError
from flagdeploy.operators import chrome_trace
from flagdeploy.operators.chrome_trace import ChromeTrace

EVENTS = [{"ph": "X", "name": f'kernel {i} é \\ " {"x" * i}', "ts": i / 7} for i in range(200)]
WHOLE = {"schemaVersion": 1, "traceEvents": EVENTS, "traceName": "a"}


def read(path: Path) -> tuple[list[Any], dict[str, Any]]:
    trace = ChromeTrace(path)
    return list(trace.events()), trace.header


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_event_comes_however_the_pieces_fall(
    piece: int, ascii_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chrome_trace, "PIECE", piece)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(WHOLE, ensure_ascii=ascii_only), encoding="utf-8")
    assert read(path) == (EVENTS, {"schemaVersion": 1, "traceName": "a"})


def test_gzip_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(gzip.compress(json.dumps(WHOLE).encode()))
    assert read(path)[0] == EVENTS


FORMS = {
    "a bare array": (json.dumps(EVENTS[:2]), EVENTS[:2]),
    "a comma at the end": ('{"traceEvents": [{"a": 1},\n ]}', [{"a": 1}]),
    "no events": ('{"traceEvents": []}', []),
    "control characters in a name": ('[{"name": "a\tb\x01"}]', [{"name": "a\tb\x01"}]),
    "a number at the end of the header": ('{"n": 12, "traceEvents": []}', []),
}


@pytest.mark.parametrize("text, events", FORMS.values(), ids=FORMS)
def test_forms(text: str, events: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert read(path)[0] == events


REFUSED = {
    "an empty file": ("", "is no trace"),
    "text": ("hello", "is no trace"),
    "an object without events": ('{"a": [1, 2]}', "is no trace: it has no `traceEvents`"),
    "events that are no array": ('{"traceEvents": 3}', "is no trace"),
    "an event that is a number": ("[1]", "not JSON at character 2: an event that is no object"),
    "a missing comma": ('[{"a": 1} {"b": 2}]', "not JSON at character 10: '{' where , belongs"),
    "a syntax error": ('[{"a" 1, "b": 12345678}]', "not JSON at character 6: Expecting ':'"),
    "nesting without end": ("[" + '{"a":' * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("text, error", REFUSED.values(), ids=REFUSED)
def test_what_is_no_trace_is_refused_with_its_place(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert error in str(caught.value)


@given(cut=st.integers(1, len(json.dumps(WHOLE)) - 1))
def test_a_file_that_ends_anywhere_is_cut_short(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.json"
    path.write_text(json.dumps(WHOLE)[:cut])
    with pytest.raises(UsageError, match=r"a\.json: ends in the middle"):
        read(path)


def test_a_gzip_file_that_ends_early_or_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    packed = gzip.compress(json.dumps(WHOLE).encode())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UsageError, match="ends in the middle"):
        read(path)
    path.write_bytes(packed[:100] + bytes(100) + packed[200:])
    with pytest.raises(UsageError, match=r"damaged gzip file|not JSON|is no trace"):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.json: cannot be read: No such file"):
        read(tmp_path / "a.json")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    event = json.dumps({"ph": "X", "cat": "python_function", "name": "f" * 400, "ts": 1})
    path = tmp_path / "a.json"
    path.write_text('{"traceEvents": [' + ",\n".join([event] * 40_000) + "]}")
    assert path.stat().st_size > 16 * chrome_trace.PIECE
    tracemalloc.start()
    assert sum(1 for _ in ChromeTrace(path).events()) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * chrome_trace.PIECE
