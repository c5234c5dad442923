"""Is an endpoint ready? Only a generated token answers that; `/health` may lie (design, 5)."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from flagdeploy.config.secret import Secret
from flagdeploy.errors import HostError
from flagdeploy.launchers.base import Launcher

CONNECT_TIMEOUT_S = 10.0
# The first token of a big model can wait for kernels to be compiled.
ANSWER_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Answer:
    """``ready``: it generated a token. ``waiting``: nothing listens, or it says "not yet".
    ``refused``: it answers, and will not with these settings. ``locked``: it wants its key."""

    state: Literal["ready", "waiting", "refused", "locked"]
    detail: str = ""


def ask(
    launcher: Launcher,
    address: str,
    port: int,
    model: str,
    api_key: Secret | None = None,
    timeout: float = ANSWER_TIMEOUT_S,
) -> Answer:
    """Ask for one token on ``/v1/completions``, through the host's own connection."""
    body = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    try:
        return _judge(*post(launcher, address, port, "/v1/completions", body, api_key, timeout))
    except (OSError, EOFError, http.client.HTTPException, HostError) as error:
        return Answer("waiting", str(error) or type(error).__name__)


def post(
    launcher: Launcher,
    address: str,
    port: int,
    path: str,
    body: Mapping[str, Any],
    api_key: Secret | None = None,
    timeout: float = ANSWER_TIMEOUT_S,
) -> tuple[int, bytes]:
    """POST JSON through the host's own connection: (status, body of the answer).

    Raises OSError, EOFError, HTTPException or HostError when there is no answer.
    """
    connection = http.client.HTTPConnection(address, port)
    try:
        stream = launcher.connect(address, port, CONNECT_TIMEOUT_S)
        stream.settimeout(timeout)
        connection.sock = cast(Any, stream)
        headers = {"Content-Type": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key.reveal()}"
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _judge(status: int, body: bytes) -> Answer:
    text = body.decode(errors="replace").strip()[:500]
    if status == 200:
        try:
            generated = json.loads(body)["choices"]
        except (ValueError, KeyError, TypeError):
            return Answer("refused", f"no completion in its answer: {text}")
        return Answer("ready") if generated else Answer("waiting", "no choice in its answer")
    if status in (401, 403):
        return Answer("locked", f"HTTP {status}: {text}")
    if status in (408, 425, 429) or status > 500:  # 500 is a fault, which waiting does not mend
        return Answer("waiting", f"HTTP {status}: {text}")
    return Answer("refused", f"HTTP {status}: {text}")
