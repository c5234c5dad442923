"""A proof of a swap without containers: what the endpoint answers, and what a look shows."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flagdeploy.config.launch import Running
from flagdeploy.errors import EngineError
from flagdeploy.launchers.base import Result
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.plans.steps import CompareNative, ProveSwap, RecordNative, WaitReady
from flagdeploy.workflows.native import compare_native, record_native, recorded
from flagdeploy.workflows.operators import prove

Answer = tuple[int, object] | None
GOOD = (200, {"choices": [{"logprobs": {"tokens": ["4"], "token_logprobs": [-0.5]}}]})
Ends = Callable[[Answer], WaitReady]


@pytest.fixture
def endpoint() -> Iterator[Ends]:
    """An endpoint that gives every request the same answer; None hangs up instead."""
    servers = []

    def start(answer: Answer) -> WaitReady:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if answer is None:
                    self.close_connection = True
                    return
                content = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        port = server.server_address[1]
        return WaitReady("localhost", "wait", "", "127.0.0.1", port, "m", None, 60, 0.1)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def record(ready: WaitReady, folder: Path, image: str = "id") -> str:
    step = RecordNative("localhost", "native-record", "", ready, "key", checkpoint(folder))
    return record_native(step, Shown(image=image), "d", folder)


def compare(ready: WaitReady, folder: Path, *, required: bool = False, image: str = "id") -> str:
    place = checkpoint(folder)
    step = CompareNative("localhost", "prove-outputs", "", ready, "key", place, required)
    return compare_native(step, Shown(image=image), "d", folder)


def checkpoint(folder: Path) -> str:
    place = folder / "checkpoint"
    if not place.exists():
        place.mkdir()
        (place / "config.json").write_text("{}")
    return str(place)


@pytest.mark.parametrize(
    "answer, what",
    [
        (None, "localhost: the endpoint did not answer '1': "),
        ((500, {"error": "strides"}), "localhost: the endpoint fails on '1': HTTP 500: .*strides"),
    ],
)
def test_an_endpoint_that_breaks_is_no_proof(
    endpoint: Ends, tmp_path: Path, answer: Answer, what: str
) -> None:
    with pytest.raises(EngineError, match=what):
        record(endpoint(answer), tmp_path)
    record(endpoint(GOOD), tmp_path)
    with pytest.raises(EngineError, match=what):
        compare(endpoint(answer), tmp_path)


def test_an_endpoint_without_log_probabilities_is_served_where_a_log_shows_the_swap(
    endpoint: Ends, tmp_path: Path
) -> None:
    refusing = endpoint((400, {"error": "logprobs are not supported"}))
    assert "gives no log-probabilities: HTTP 400" in record(refusing, tmp_path)
    assert "no native run is on record" in compare(refusing, tmp_path)
    with pytest.raises(EngineError, match="nothing shows that the operator library is on"):
        compare(refusing, tmp_path, required=True)


@pytest.mark.parametrize("changed", ["image", "checkpoint"])
def test_native_outputs_of_something_else_are_not_compared_with(
    endpoint: Ends, tmp_path: Path, changed: str
) -> None:
    ready = endpoint(GOOD)
    record(ready, tmp_path)
    assert "to the last bit" in compare(ready, tmp_path)
    if changed == "checkpoint":
        (tmp_path / "checkpoint" / "config.json").write_text('{"other": 1}')
    image = "rebuilt" if changed == "image" else "id"
    what = "the native run on record had another image or checkpoint"
    assert compare(ready, tmp_path, image=image) == what
    with pytest.raises(EngineError, match=what) as raised:
        compare(ready, tmp_path, required=True, image=image)
    assert raised.value.hint == "flagdeploy stop d, then serve it: records one"


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, endpoint: Ends) -> None:
    record(endpoint(GOOD), tmp_path)
    assert recorded(tmp_path)["key"].startswith("id ")
    (tmp_path / "key.json").write_text('{"answers')
    assert recorded(tmp_path) == {"key": ""}
    assert compare(endpoint(GOOD), tmp_path) == "no native run is on record"


class Shown(LocalLauncher):
    """One rank, started at 12:00 on the first day of 2026, and what a look into it prints."""

    def __init__(self, printed: str = "", state: str = "running", image: str = "") -> None:
        labels = {"flagdeploy.rank": "0"}
        moment = "2026-01-01T12:00:00+00:00"
        self._rank = Running("h", "id", "r", state, labels, None, moment, image=image)
        self._printed = printed

    def running(self, name: str | None = None) -> tuple[Running, ...]:
        return (self._rank,)

    def inside(self, id: str, argv: object, timeout: float = 20) -> Result:
        return Result(0, self._printed.encode(), b"")


NOON = 1767268800
ON = ProveSwap("h", "prove", "", 0, "flaggems", {"USE_FLAGGEMS": "1"}, "/l/*.log", "", (), ())
PROCESS = "P 1 sh\nV USE_FLAGGEMS=1\n"
OLD = f"L {NOON - 60} 9 /l/1.log\nO flag_gems.ops.mm.mm\n"


def test_operators_in_the_log_of_an_earlier_run_prove_nothing() -> None:
    with pytest.raises(EngineError, match=r"/l/2.log names no operator"):
        prove(ON, Shown(f"{PROCESS}{OLD}L {NOON} 0 /l/2.log\n"), "d")
    new = f"L {NOON} 9 /l/2.log\nO flag_gems.ops.add.add\n"
    assert prove(ON, Shown(PROCESS + OLD + new), "d").endswith("1 operators called: add")


def test_a_rank_that_ended_is_no_proof() -> None:
    new = f"{PROCESS}L {NOON} 9 /l/2.log\nO flag_gems.ops.add.add\n"
    with pytest.raises(EngineError, match="h: rank 0 ended before it could be looked into"):
        prove(ON, Shown(new, state="exited"), "d")
