#!/usr/bin/env python3
"""Stands in for vLLM and for Ray: keeps the bytes it was started with, and answers completions."""

import http.server
import json
import signal
import socket
import sys
from pathlib import Path

program, words = Path(sys.argv[0]).name, sys.argv[1:]
for name in ("cmdline", "environ"):
    record = Path("/record", f"{socket.gethostname()}-{program}-{name}")
    part = record.with_name(f"{record.name}.part")
    part.write_bytes(Path("/proc/self", name).read_bytes())
    part.replace(record)
print(f"{program} on {socket.gethostname()}", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"text": words[words.index("--served-model-name") + 1]}]})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


if program == "ray" and "--head" in words:
    sys.exit(0)
if program == "ray" or "--headless" in words:
    signal.pause()
place = words[words.index("--host") + 1], int(words[words.index("--port") + 1])
http.server.ThreadingHTTPServer(place, Handler).serve_forever()
