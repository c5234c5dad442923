"""The real server in a child process, and a plain HTTP client for it."""

import http.client
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY = "sk-canary"
NAME = "tiny"


class RunningServer:
    def __init__(self, model: Path, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flagdeploy.server", "--model", str(model), "--port", "0"]
            + ["--served-model-name", NAME, "--threads", "1", *arguments],
            env={**os.environ, "FLAGDEPLOY_API_KEY": KEY},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ports: queue.Queue[int | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        port = self._ports.get(timeout=120)
        assert port is not None, "".join(self.lines)
        self.port = port

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if match := re.search(r"serving on http://127\.0\.0\.1:(\d+) ", line):
                self._ports.put(int(match[1]))
        self._ports.put(None)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def connect(
        self, method: str, path: str, body: Any = None, key: str | None = KEY
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        payload = body if isinstance(body, str | bytes | None) else json.dumps(body)
        connection.request(method, path, payload, headers)
        return connection, connection.getresponse()

    def request(
        self, method: str, path: str, body: Any = None, key: str | None = KEY
    ) -> tuple[int, Any]:
        """Status and decoded body (text where it is not JSON)."""
        connection, response = self.connect(method, path, body, key)
        content = response.read().decode()
        connection.close()
        is_json = "json" in response.headers.get("Content-Type", "")
        return response.status, json.loads(content) if is_json else content

    def post(self, path: str, **body: Any) -> Any:
        status, answer = self.request("POST", path, body)
        assert status == 200, answer
        return answer

    def complete(self, prompt: Any, **fields: Any) -> Any:
        return self.post("/v1/completions", prompt=prompt, **fields)

    def chat(self, content: str, **fields: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", messages=messages, **fields)

    def stream(self, path: str, **body: Any) -> Iterator[Any]:
        connection, response = self.connect("POST", path, {**body, "stream": True})
        assert response.status == 200, response.read()
        events = response.read().decode().split("\n\n")
        connection.close()
        assert events[-2:] == ["data: [DONE]", ""]
        return (json.loads(event.removeprefix("data: ")) for event in events[:-2])

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        _, text = self.request("GET", "/metrics")
        samples = re.findall(rf"^flagdeploy:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
        assert samples, text
        return sum(map(float, samples))
