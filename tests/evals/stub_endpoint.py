"""An OpenAI-compatible endpoint that answers from a table, with faults on demand.

Its tokens are characters, its log-probabilities a function of the prefix, so that two stubs with
the same settings are the same model and one with `noise` or `wrong` is not.
"""

import asyncio
import contextlib
import json
import math
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Stub:
    """`reply` gives the text for a user's message. `faults` are used up first, one per request:
    an HTTP status or a name of `fault`; `fault_headers` go with a status. `faulty` gives the fault
    for a user's message and how often it came before. A message that contains a text of `broken`
    always gives 500. `on_request` is called with the number of requests so far. `streams`: whether
    a stream that is asked for comes; if not, the wish is passed over, or refused if `strict`.
    `unsteady` nat of noise differ each time."""

    reply: Callable[[str], str] = lambda prompt: prompt
    noise: float = 0.0
    wrong: float = 0.0
    unsteady: float = 0.0
    nan: bool = False
    bos: tuple[int, ...] = (1,)
    model: str = "stub"
    prompt_logprobs: bool = True
    strict: bool = False
    faults: list[int | str] = field(default_factory=list)
    faulty: Callable[[str, int], int | str | None] = lambda prompt, times: None
    broken: tuple[str, ...] = ()
    streams: bool = False
    on_request: Callable[[int], None] = lambda number: None
    fault_headers: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    authorization: set[str] = field(default_factory=set)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return self.get(request)
        body = await request.json()
        self.seen.append(body)
        self.authorization.add(request.headers.get("Authorization", ""))
        self.on_request(len(self.seen))
        if (fault := self.next_fault(body)) is not None:
            return await self.fault(fault, request)
        if any(text in str(body.get("messages")) for text in self.broken):
            return web.json_response({"error": "broken"}, status=500)
        if self.strict and body.keys() & {"return_token_ids", "stream"}:
            return web.json_response({"error": "unknown field"}, status=400)
        chat = request.path.endswith("/chat/completions")
        if chat and self.streams and body.get("stream"):
            return web.Response(body=self.events(body), content_type="text/event-stream")
        return web.json_response(self.chat(body) if chat else self.completion(body))

    def next_fault(self, body: dict[str, Any]) -> int | str | None:
        if self.faults:
            return self.faults.pop(0)
        same = sum(other.get("messages") == body.get("messages") for other in self.seen)
        return self.faulty(str(body.get("messages")), same - 1)

    async def fault(self, fault: int | str, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        match fault:
            case "disconnect":
                request.transport.close()
            case "reset":  # no farewell: the client reads ECONNRESET
                linger = struct.pack("ii", 1, 0)
                sock = request.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                request.transport.abort()
            case "hang":
                await asyncio.sleep(30)
            case "half":
                half = web.StreamResponse(headers={"Content-Length": "100"})
                await half.prepare(request)
                await half.write(b'{"choices": [{"message": {"content": "\\\\boxed{1')
                request.transport.close()
                return half
            case "drip":
                drip = web.StreamResponse(headers={"Content-Type": "application/json"})
                await drip.prepare(request)
                with contextlib.suppress(ConnectionError):
                    for _ in range(1500):
                        await drip.write(b" ")
                        await asyncio.sleep(0.02)
                return drip
            case "no json":
                return web.Response(text="<html>busy</html>")
            case "wrong types":
                return web.json_response({"choices": {"message": 1}})
            case "error inside":
                return web.json_response({"error": {"message": "upstream", "code": 502}})
            case _:
                headers = self.fault_headers
                return web.json_response({"error": "fault"}, status=int(fault), headers=headers)
        return web.Response()

    def get(self, request: web.Request) -> web.Response:
        if request.path == "/version":
            return web.json_response({"version": "0.0-stub"})
        card = {"id": self.model, "max_model_len": 4096}
        return web.json_response({"object": "list", "data": [card]})

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        text = "".join(f"<{m['role'][0]}>{m['content']}" for m in body["messages"])
        ids = [*self.bos, *map(ord, text)]
        reply = self.reply(body["messages"][-1]["content"])
        cut = len(reply) > body["max_tokens"]
        reply = reply[: body["max_tokens"]]
        answer: dict[str, Any] = {
            "choices": [
                {
                    "message": {"role": "assistant", "content": reply},
                    "finish_reason": "length" if cut else "stop",
                }
            ],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": len(reply)},
        }
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = ids
            answer["choices"][0]["token_ids"] = list(map(ord, reply))
        return answer

    def events(self, body: dict[str, Any]) -> bytes:
        """The reply of `chat` as a stream: the role alone, the text in two pieces, the usage."""
        whole = self.chat(body)
        text, end = whole["choices"][0]["message"]["content"], whole["choices"][0]["finish_reason"]
        deltas = [
            {"role": "assistant", "content": ""},
            {"content": text[:1]},
            {"content": text[1:]},
        ]
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": d}]} for d in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({"choices": [], "usage": whole["usage"]})
        events = [*map(json.dumps, chunks), "[DONE]"]
        return "".join(f"data: {event}\n\n" for event in events).encode()

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"text": "", "finish_reason": "length"}
        if self.prompt_logprobs and body.get("prompt_logprobs"):
            scored = [self.position(body["prompt"][: i + 1]) for i in range(len(body["prompt"]))]
            choice["prompt_logprobs"] = [None, *scored[1:]]
        return {"choices": [choice], "usage": {}}

    def position(self, ids: list[int]) -> dict[str, Any]:
        rng = random.Random(hash(tuple(ids)))
        logits = {ids[-1]: 4.0, **{token: rng.gauss(0, 1) for token in range(900, 906)}}
        own = random.Random(hash((self.noise, self.wrong, *ids)))
        if own.random() < self.wrong:
            logits[900] = 9.0
        if self.unsteady:
            own = random.Random()
        sigma = self.noise + self.unsteady
        logits = {token: value + own.gauss(0, sigma) for token, value in logits.items()}
        total = math.log(sum(map(math.exp, logits.values())))
        ranked = sorted(logits.items(), key=lambda pair: -pair[1])
        return {
            str(token): {"logprob": math.nan if self.nan else value - total, "rank": rank}
            for rank, (token, value) in enumerate(ranked, 1)
        }


async def _ended(runner: web.AppRunner) -> None:
    await runner.cleanup()
    hanging = asyncio.all_tasks() - {asyncio.current_task()}
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve `stub` from a thread on a free port of 127.0.0.1; its `url` says where."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    stub.url = f"http://127.0.0.1:{loop.run_until_complete(start())}/v1"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield stub
    finally:
        asyncio.run_coroutine_threadsafe(_ended(runner), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
