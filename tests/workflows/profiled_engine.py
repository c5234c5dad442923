"""An engine for tests that offers profiles, as vLLM does.

profiled_engine.py PORT FOLDER HOW. Each request launches kernels; a profile holds those of the
requests that it saw, one trace for it and an empty one for the front end. HOW is ``good``,
``silent`` (writes nothing), ``fails`` (refuses requests while it profiles), ``late`` (begins, but
says so only when nobody listens any more) or ``off``.
"""

import gzip
import http.server
import json
import sys
import time
from pathlib import Path
from typing import Any

KERNELS = [("aten::add", "add_kernel", 30.0), ("aten::mm", "void cutlass::Kernel2<gemm>()", 10.0)]


class Handler(http.server.BaseHTTPRequestHandler):
    folder = Path()
    how = "good"
    events: list[dict[str, Any]] | None = None
    asked: list[str] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/start_profile" and self.how != "off":
            assert body == {"with_stack": False}
            Handler.events = []
            if self.how == "late":
                self.connection.recv(1)  # until the other side closes it
                return
            self.answer(200, b"")
        elif self.path == "/stop_profile" and self.how != "off":
            self.write()
            self.answer(200, b"Stop profiling.\n")
        elif self.path == "/v1/chat/completions":
            self.chat(body)
        else:
            self.answer(404, b"{}")

    def chat(self, body: dict[str, Any]) -> None:
        with (self.folder.parent / "asked.jsonl").open("a") as file:
            file.write(json.dumps({**body, "profiled": self.events is not None}) + "\n")
        if self.how == "fails" and self.events is not None:
            self.answer(400, b'{"error": {"message": "too long"}}')
            return
        self.launch()
        message = {"role": "assistant", "content": "4"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        self.answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())

    def launch(self) -> None:
        for operator, kernel, us in KERNELS if self.events is not None else ():
            n = 10 * len(self.events) + 1
            where = {"ph": "X", "pid": 1, "tid": 1, "ts": n}
            self.events += [
                {**where, "cat": "cpu_op", "name": operator, "dur": 5},
                {**where, "cat": "cuda_runtime", "name": "cudaLaunchKernel", "dur": 1}
                | {"args": {"correlation": n}},
                {**where, "cat": "kernel", "name": kernel, "dur": us, "args": {"correlation": n}},
            ]

    def write(self) -> None:
        assert self.events is not None
        if self.how != "silent":
            stamp = time.time_ns()
            for name, events in {"llm/rank0": self.events, "llm-rank0": []}.items():
                trace = {"deviceProperties": [{"name": "Test device"}], "traceEvents": events}
                path = self.folder / f"{name}.{stamp}.pt.trace.json.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(gzip.compress(json.dumps(trace).encode()))
        Handler.events = None

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def main(port: str, folder: str, how: str) -> None:
    Handler.folder, Handler.how = Path(folder), how
    http.server.HTTPServer(("", int(port)), Handler).serve_forever()


main(*sys.argv[1:])
