"""An OpenAI-compatible endpoint that knows the answers of GSM8K and takes no time to give them.

    python tests/benchmarks/fast_endpoint.py QUESTIONS.jsonl

Prints its URL, and at the end of its input the chat completions it served and the seconds of a
core it took for them. Bare asyncio, so that most of a core is left to who asks.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


class Connection(asyncio.Protocol):
    answers: dict[str, str] = {}
    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            _, _, length = head.partition(b"content-length: ")
            size = int(length.split(b"\r\n")[0] or 0)
            if len(self.buffer) < end + 4 + size:
                return
            body, self.buffer = self.buffer[end + 4 :][:size], self.buffer[end + 4 + size :]
            known, reply = self.reply(head, body)
            text = json.dumps(reply).encode()
            status = b"200 OK" if known else b"404 Not Found"
            self.transport.write(
                b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(text), text)
            )

    def reply(self, head: bytes, body: bytes) -> tuple[bool, dict[str, Any]]:
        if head.startswith(b"get /v1/models"):
            return True, {"object": "list", "data": [{"id": "fast", "max_model_len": 4096}]}
        if not head.startswith(b"post /v1/chat/completions"):
            return False, {"error": "not here"}
        Connection.served += 1
        question = json.loads(body)["messages"][-1]["content"]
        text = self.answers.get(question, "no idea")
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": len(question) // 4, "completion_tokens": len(text) // 4}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return True, {"id": "x", "model": "fast", "choices": [choice], "usage": usage}


async def main(questions: Path) -> None:
    rows = map(json.loads, questions.read_text(encoding="utf-8").splitlines())
    Connection.answers = {row["question"]: row["answer"] for row in rows}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    began = time.process_time()
    await loop.run_in_executor(None, sys.stdin.read)
    print(Connection.served, time.process_time() - began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
