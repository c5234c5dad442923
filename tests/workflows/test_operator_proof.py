"""A proof of a swap without containers: what the endpoint answers, and what a look shows."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flagdeploy.config.launch import Host
from flagdeploy.errors import EngineError
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.plans.steps import CompareNative, RecordNative, WaitReady
from flagdeploy.workflows.operators import compare_native, record_native

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


def record(ready: WaitReady, folder: Path) -> str:
    step = RecordNative("localhost", "native-record", "", ready, "key")
    return record_native(step, LocalLauncher(Host("localhost"), folder), folder)


def compare(ready: WaitReady, folder: Path, *, required: bool = False) -> str:
    step = CompareNative("localhost", "prove-outputs", "", ready, "key", required)
    return compare_native(step, LocalLauncher(Host("localhost"), folder), folder)


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
