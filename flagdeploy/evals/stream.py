"""A streamed chat completion, put together to the body that it would have been unstreamed.

Wire format: server-sent events (WHATWG HTML, 9.2) of `chat.completion.chunk` objects, the last
``data: [DONE]`` (OpenAI API reference, chat streaming). Long replies are streamed because proxies
close connections that are silent for a minute.
"""

import json
import time
from collections.abc import AsyncIterable
from typing import Any

from flagdeploy.evals.shape import ANSWER, misfit

ASKED = {"stream": True, "stream_options": {"include_usage": True}}
_DELTA = {"content": str, "reasoning": str, "reasoning_content": str}
_CHUNK = {"usage": ANSWER["usage"], "choices": [{"delta": _DELTA, "finish_reason": str}]}


async def read_stream(lines: AsyncIterable[bytes]) -> tuple[dict[str, Any], float | None]:
    """Body and time of the first text (seconds since the epoch) of one streamed reply.

    Raises ValueError when the stream holds an error, something that is no chunk, or ends before
    the reply did: half an answer is none.
    """
    texts: dict[str, list[str]] = {"content": [], "reasoning": []}
    choice: dict[str, Any] = {"finish_reason": None}
    body: dict[str, Any] = {"choices": [choice]}
    first, done = None, False
    async for line in lines:
        data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        done = done or data == b"[DONE]"
        if done or not data:
            continue
        chunk = _parsed(data)
        body["usage"] = chunk.get("usage") or body.get("usage")
        for part in chunk.get("choices") or ():  # the chunk that carries the usage has none
            delta = part.get("delta") or {}
            said = {
                "content": delta.get("content"),
                "reasoning": delta.get("reasoning") or delta.get("reasoning_content"),
            }
            for field, text in said.items():
                texts[field].append(text or "")
            # The first chunk often holds the role alone, which the model did not have to think of.
            if first is None and any(said.values()):
                first = time.time()
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    if not (done or choice["finish_reason"]):
        raise ValueError("the stream ended before the reply did")
    choice["message"] = {field: "".join(parts) for field, parts in texts.items()}
    return body, first


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"no JSON in the stream: {data[:300]!r}") from None
    if odd := misfit(chunk, _CHUNK, "chunk"):
        raise ValueError(f"in the stream, {odd} has the wrong type")
    if not isinstance(chunk, dict) or chunk.get("error"):
        raise ValueError(f"an error in the stream: {data[:300].decode(errors='replace')}")
    return chunk
