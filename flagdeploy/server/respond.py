"""Driving an answer over HTTP: in one piece, or as server-sent events while it is generated."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from flagdeploy.server import render
from flagdeploy.server.answer import Answer
from flagdeploy.server.middleware import LOG_DETAILS
from flagdeploy.server.protocol import Shape
from flagdeploy.server.refusal import Refusal
from flagdeploy.server.sequence import Delta, Sequence


@dataclass(frozen=True)
class Job:
    """One request on its way: its sequences, and the queue their deltas arrive in."""

    header: render.Header
    answer: Answer
    shape: Shape
    sequences: list[Sequence]
    deltas: asyncio.Queue[Delta]
    prompt_tokens: int


async def respond_whole(request: web.Request, job: Job) -> web.Response:
    deltas = [await _next(job) for _ in job.sequences]
    deltas.sort(key=lambda delta: delta.index)
    choices = [job.answer.choice(delta) for delta in deltas]
    completion_tokens = _count(job)
    body = job.header.wrap(
        job.answer.kind,
        choices,
        usage=render.usage(job.prompt_tokens, completion_tokens),
        **job.answer.extras(deltas),
    )
    return web.json_response(body)


async def respond_stream(request: web.Request, job: Job) -> web.StreamResponse:
    """Server-sent events. The first delta is awaited first: its error still has its own status."""
    delta = await _next(job)
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    if opening := job.answer.opening():
        extras = job.answer.extras([])
        await _event(response, job.header.wrap(job.answer.chunk_kind, opening, **extras))
    unfinished = len(job.sequences)
    try:
        while True:
            choice = job.answer.choice(delta)
            await _event(response, job.header.wrap(job.answer.chunk_kind, [choice]))
            unfinished -= delta.last
            if not unfinished:
                break
            delta = await _next(job)
    except Refusal as error:
        await _event(response, error.body())
    completion_tokens = _count(job)
    if job.shape.include_usage:
        counts = render.usage(job.prompt_tokens, completion_tokens)
        await _event(response, job.header.wrap(job.answer.chunk_kind, [], usage=counts))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _event(response: web.StreamResponse, body: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(body)}\n\n".encode())


async def _next(job: Job) -> Delta:
    delta = await job.deltas.get()
    if delta.error is not None:
        raise delta.error
    return delta


def _count(job: Job) -> int:
    reasons = ",".join(sorted({entry.finish_reason or "error" for entry in job.sequences}))
    generated = sum(len(entry.tokens) for entry in job.sequences)
    LOG_DETAILS.get().update(generated=generated, finish=reasons)
    return generated
