"""Routes, refusals, authorization, disconnects and signals of the real process."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import flagdeploy
from server.running_server import KEY, NAME, RunningServer
from server.tiny_checkpoint import CONTEXT, POISON

CASES = yaml.safe_load(
    (Path(__file__).parent.parent / "cases/server/bad_requests.yaml").read_text()
)
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['path']} {case['set']}"[:70])
def test_a_bad_request_says_what_is_wrong(server: RunningServer, case: dict[str, Any]) -> None:
    path = case["path"]
    status, answer = server.request("POST", path, RIGHT[path] | case["set"])
    assert answer["error"]["message"] == case["message"]
    assert status == case.get("status", 400)
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == case.get("param", next(iter(case["set"])))


@pytest.mark.parametrize("path", RIGHT)
def test_the_right_requests_are_right(server: RunningServer, path: str) -> None:
    nulls = {"model": None}
    assert server.request("POST", path, RIGHT[path] | nulls)[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "the request body is not valid JSON: Expecting property name enclosed"),
        (b"\xff", "the request body is not valid JSON: "),
        ("[1]", "the request body must be a JSON object, not a list"),
        ("[" * 100000, "the request body is not valid JSON: "),
    ],
)
def test_a_body_that_is_no_object(server: RunningServer, body: str | bytes, message: str) -> None:
    status, answer = server.request("POST", "/v1/completions", body)
    assert status == 400 and answer["error"]["message"].startswith(message)


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x"])
def test_a_wrong_key_is_refused(server: RunningServer, key: str | None) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/tokenize")):
        status, answer = server.request(method, path, {}, key)
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert server.request("GET", "/health", None, key)[0] == 200


def test_wrong_paths_methods_and_sizes(server: RunningServer) -> None:
    status, answer = server.request("GET", "/v1/nothing")
    assert (status, answer["error"]["message"]) == (404, "no such path: /v1/nothing")
    connection, response = server.connect("GET", "/v1/completions")
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    connection.close()
    status, answer = server.request("POST", "/v1/completions", "x" * (33 * 2**20))
    message = "the request body is larger than 33554432 bytes"
    assert (status, answer["error"]["message"]) == (413, message)


def test_what_the_server_says_about_itself(server: RunningServer) -> None:
    (model,) = server.request("GET", "/v1/models")[1]["data"]
    assert (model["id"], model["max_model_len"]) == (NAME, CONTEXT)
    assert server.request("GET", "/version")[1] == {"version": flagdeploy.__version__}
    before = [server.metric(f"{kind}_tokens_total") for kind in ("prompt", "generation")]
    server.complete([5, 6, 7], max_tokens=4, temperature=0, ignore_eos=True)
    after = [server.metric(f"{kind}_tokens_total") for kind in ("prompt", "generation")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [3, 4]


def test_tokenize_and_back(server: RunningServer) -> None:
    answer = server.post("/tokenize", prompt="é!", return_token_strs=True)
    assert answer == {
        "count": 4,
        "max_model_len": CONTEXT,
        "tokens": [0, 4 + 0xC3, 4 + 0xA9, 4 + ord("!")],
        "token_strs": ["<bos>", "\ufffd", "\ufffd", "!"],
    }
    assert server.post("/detokenize", tokens=answer["tokens"][1:]) == {"prompt": "é!"}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    ids = server.post("/tokenize", messages=messages)["tokens"]
    assert server.post("/detokenize", tokens=ids)["prompt"] == "<bos>[user]a[assistant]<think>\n"


def test_non_finite_logits_fail_alone(server: RunningServer) -> None:
    """A poisoned prompt gets a 500; those that ran beside it are what they are without it."""
    fields = {"max_tokens": 30, "temperature": 0}
    expected = server.complete("healthy", **fields)["choices"]
    before = server.metric("non_finite_logits_total")

    def ask(index: int) -> Any:
        prompt = f"ill {POISON}" if index % 2 else "healthy"
        extra = {"prompt_logprobs": 1} if index % 4 == 1 else {}
        body = {"prompt": prompt, **fields, **extra}
        return server.request("POST", "/v1/completions", body)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for status, answer in answers[1::2]:
        assert (status, answer["error"]["message"]) == (500, "non-finite logits")
        assert answer["error"]["type"] == "internal_error"
    assert all(answer["choices"] == expected for _, answer in answers[::2])
    assert server.metric("non_finite_logits_total") == before + 4
    body = {"prompt": POISON, "stream": True}
    assert server.request("POST", "/v1/completions", body)[0] == 500


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_row(server: RunningServer, stream: bool) -> None:
    aborted = server.metric("request_success_total")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = {"prompt": "long", "max_tokens": 500, "ignore_eos": True, "n": 3, "stream": stream}
    headers = {"Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    until(lambda: server.metric("num_requests_running") == 3)
    assert connection.sock is not None
    connection.sock.close()
    connection.close()
    until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric("request_success_total") == aborted + 3
    assert server.complete("after", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_the_log_has_one_line_per_request_and_no_contents(server: RunningServer) -> None:
    answer = server.complete("my private prompt", max_tokens=3, temperature=0, ignore_eos=True)
    until(lambda: any(answer["id"] in line for line in server.lines))
    lines = [line for line in server.lines if answer["id"] in line]
    assert len(lines) == 1 and "POST /v1/completions 200 " in lines[0]
    assert lines[0].endswith("prompt=18 generated=3 finish=length\n")
    unwanted = ("private", KEY, "Traceback", "Warning")
    assert [line for line in server.lines if any(word in line for word in unwanted)] == []
    assert KEY not in Path(f"/proc/{server.process.pid}/cmdline").read_text()


def test_sigterm_ends_running_work_and_exits_0(checkpoint: Path) -> None:
    running = RunningServer(checkpoint, "--drain-seconds", "0.1", "--max-num-seqs", "2")
    fields = {"prompt": "long", "max_tokens": 500, "ignore_eos": True, "n": 8}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.request, "POST", "/v1/completions", fields)
        until(lambda: running.metric("num_requests_running") == 2)
        running.process.send_signal(signal.SIGTERM)
        status, answer = asked.result()
    assert (status, answer["error"]["message"]) == (503, "the server is shutting down")
    assert running.stop() == 0
    assert running.lines[-1].endswith("INFO stopped\n")
    assert "Traceback" not in "".join(running.lines)


def test_sigint_while_loading_exits_0(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "flagdeploy.server", "--model", str(checkpoint), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "loading weights" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stderr.read()
