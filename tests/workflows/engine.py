"""An engine for tests: a real process that serves, fails or hangs as its arguments say.

engine.py PORT serve          answers completions after a moment
engine.py PORT loading        listens at once, answers 503 for a moment, then completions
engine.py PORT refuse         answers 404 to every completion
engine.py PORT healthy        answers /health and never a completion
engine.py PORT hang           loads for ever, and warns about it again and again
engine.py PORT die TEXT CODE  prints TEXT and exits with CODE
engine.py PORT follow         a rank without endpoint
"""

import http.server
import json
import signal
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    behaviour = "serve"
    started = time.monotonic()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        loading = self.behaviour == "loading" and time.monotonic() - self.started < 0.5
        if loading or self.behaviour == "healthy":
            self.answer(503, {"error": "loading"})
        elif self.behaviour == "refuse":
            self.answer(404, {"error": f"no model {asked['model']}"})
        elif self.headers.get("Authorization") != "Bearer key-of-the-endpoint":
            self.answer(401, {"error": "who are you"})
        else:
            assert asked["max_tokens"] == 1
            self.answer(200, {"choices": [{"text": "2"}]})

    def answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def main(port: str, behaviour: str, *rest: str) -> None:
    print(f"Loading safetensors checkpoint shards ({behaviour})", flush=True)
    if behaviour == "die":
        time.sleep(0.2)
        print(rest[0], flush=True)
        sys.exit(int(rest[1]))
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while behaviour in ("hang", "follow", "stubborn"):
        time.sleep(0.1)
        if behaviour == "hang":
            print(time.strftime("WARN %H:%M:%S still waiting for rank 7 after 60 s"), flush=True)
    Handler.behaviour = behaviour
    print("Application startup complete", flush=True)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


main(*sys.argv[1:])
