from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.errors import EngineError, FlagdeployError, UsageError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.run import Run
from flagdeploy.workflows.execute import execute
from flagdeploy.workflows.logs import logs_of, whole_lines

from .conftest import HERE, MakePlan, start

Launchers = Mapping[str, Launcher]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40), st.integers(1, 5)
)
def test_lines_are_whole_wherever_the_pieces_end(line: str, size: int) -> None:
    stream = f"{line}\n\n{line}".encode()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert list(whole_lines(pieces)) == [line, "", line][: 3 if line else 2]


def test_ranks_are_merged_with_their_names(launchers: Launchers, port: int, tmp_path: Path) -> None:
    for rank, words in enumerate((("die", "one", "1"), ("die", "two", "1"))):
        launchers[HERE].start(start(rank, 2, words, port).spec)
    lines = [str(line) for line in logs_of(launchers, "tiny", tmp_path, follow=True)]
    assert sorted(lines) == [
        "[rank 0 127.0.0.1] Loading safetensors checkpoint shards (die)",
        "[rank 0 127.0.0.1] one",
        "[rank 1 127.0.0.1] Loading safetensors checkpoint shards (die)",
        "[rank 1 127.0.0.1] two",
    ]
    only = logs_of(launchers, "tiny", tmp_path, rank=1, tail=1)
    assert [str(line) for line in only] == ["[rank 1 127.0.0.1] two"]
    with pytest.raises(UsageError, match="there is no rank 2") as error:
        list(logs_of(launchers, "tiny", tmp_path, rank=2))
    assert error.value.hint == "there are: 0, 1"


def test_after_a_failed_start_the_kept_logs_are_read(
    make_plan: MakePlan, launchers: Launchers, run: Run
) -> None:
    with pytest.raises(EngineError):
        execute(make_plan(("die", "the last word", "1")), launchers, run)
    lines = logs_of(launchers, "tiny", run.folder.parent, tail=1)
    assert [str(line) for line in lines] == ["[rank 0] the last word"]
    with pytest.raises(UsageError, match="no log of rank 1 was kept"):
        list(logs_of(launchers, "tiny", run.folder.parent, rank=1))


def test_nothing_runs_and_nothing_was_kept(launchers: Launchers, tmp_path: Path) -> None:
    with pytest.raises(FlagdeployError) as raised:
        list(logs_of(launchers, "tiny", tmp_path))
    assert str(raised.value) == "tiny: nothing is running, and no log was kept"
