"""The pytorch engine's profiles: off by default, and a whole trace of the model's own thread."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagdeploy.errors import EngineError
from flagdeploy.operators.attribution import Evidence
from flagdeploy.operators.coverage import measure
from flagdeploy.operators.coverage_text import text
from flagdeploy.operators.trace import read_traces
from flagdeploy.server.profiling import Profiler
from server.running_server import RunningServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles") / "new"


@pytest.fixture(scope="module")
def profiled(checkpoint: Path, folder: Path) -> Iterator[RunningServer]:
    running = RunningServer(checkpoint, "--profile-dir", str(folder))
    yield running
    assert running.stop() == 0


def test_without_a_folder_there_is_no_such_path(server: RunningServer) -> None:
    status, answer = server.request("POST", "/start_profile", {})
    assert (status, answer["error"]["message"]) == (404, "no such path: /start_profile")


def test_it_wants_the_key_and_a_post(profiled: RunningServer) -> None:
    assert profiled.request("POST", "/start_profile", {}, key=None)[0] == 401
    assert profiled.request("POST", "/stop_profile", {}, key="wrong")[0] == 401
    assert profiled.request("GET", "/start_profile")[0] == 405


def test_it_starts_once_and_stops_once(profiled: RunningServer, folder: Path) -> None:
    status, answer = profiled.request("POST", "/stop_profile")
    assert (status, answer["error"]["message"][:19]) == (400, "no profile runs: PO")
    before = set(folder.iterdir())
    assert profiled.request("POST", "/start_profile")[0] == 200
    assert profiled.request("POST", "/start_profile")[0] == 400
    assert profiled.request("POST", "/stop_profile")[0] == 200
    assert len(set(folder.iterdir()) - before) == 1


def test_the_trace_holds_the_operators_of_real_requests(
    profiled: RunningServer, folder: Path
) -> None:
    before = set(folder.iterdir())
    profiled.request("POST", "/start_profile", {})
    profiled.chat("2 + 2 =", max_tokens=4)
    assert profiled.request("POST", "/stop_profile", {}) == (200, "")
    profiled.chat("it serves on", max_tokens=2)
    (path,) = set(folder.iterdir()) - before
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    operators = [event["name"] for event in events if event.get("cat") == "cpu_op"]
    # Four forward passes at least, each with several products.
    assert operators.count("aten::mm") + operators.count("aten::addmm") >= 4 * 2
    coverage = measure(read_traces([path]), Evidence())
    assert coverage.empty
    assert coverage.trace.operators_seen == len(operators)
    assert "no device kernels in the trace" in text(coverage, 5)
    assert "%" not in text(coverage, 5)
    assert coverage.to_dict()["sources"]["triton"]["share"] == {
        "operators": None,
        "launches": None,
        "time_us": None,
    }


def test_a_folder_that_cannot_be_made_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="--profile-dir .*file/inner: Not a directory"):
        Profiler(tmp_path / "file" / "inner")
