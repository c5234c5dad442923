"""The HTTP side: routes, authorization, errors in OpenAI's shape, streams, disconnects."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

import flagdeploy
from flagdeploy.config.secret import Secret
from flagdeploy.server import protocol, render
from flagdeploy.server.answer import Answer, ChatAnswer, CompletionAnswer
from flagdeploy.server.batch import Batch
from flagdeploy.server.metrics import Metrics
from flagdeploy.server.model import LoadedModel
from flagdeploy.server.protocol import ChatPrompt, Sampling, Shape
from flagdeploy.server.reasoning import starts_answering
from flagdeploy.server.refusal import Refusal
from flagdeploy.server.sequence import Delta, Sequence

log = logging.getLogger(__name__)

MAX_BODY = 32 * 2**20  # bytes
OPEN_PATHS = ("/health", "/metrics", "/version")  # without an API key

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes need. `name` is the model's name in the API; `reasoning` splits thoughts."""

    name: str
    loaded: LoadedModel
    batch: Batch
    metrics: Metrics
    max_logprobs: int
    reasoning: bool = False
    api_key: Secret | None = None


def make_app(service: Service) -> web.Application:
    routes = Routes(service)
    app = web.Application(
        middlewares=[_log_requests, _errors_as_json, _authorize(service.api_key)],
        client_max_size=MAX_BODY,
    )
    app.router.add_get("/health", routes.health)
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/version", routes.version)
    app.router.add_get("/v1/models", routes.models)
    app.router.add_post("/v1/completions", routes.completions)
    app.router.add_post("/v1/chat/completions", routes.chat_completions)
    app.router.add_post("/tokenize", routes.tokenize)
    app.router.add_post("/detokenize", routes.detokenize)
    return app


@dataclass(frozen=True)
class Job:
    """One request on its way: its sequences, and the queue their deltas arrive in."""

    header: render.Header
    answer: Answer
    shape: Shape
    sequences: list[Sequence]
    deltas: asyncio.Queue[Delta]
    prompt_tokens: int


class Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._tokens = service.loaded.tokens
        self._created = int(time.time())

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._service.batch.alive else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        text = self._service.metrics.render(self._service.name)
        return web.Response(
            body=text.encode(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": flagdeploy.__version__})

    async def models(self, request: web.Request) -> web.Response:
        model = {
            "id": self._service.name,
            "object": "model",
            "created": self._created,
            "owned_by": "flagdeploy",
            "max_model_len": self._service.loaded.max_model_len,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = protocol.completion_request(await _json(request), self._service.max_logprobs)
        self._require_model(asked.model)
        prompts = [self._prompt_ids(prompt, asked.add_special_tokens) for prompt in asked.prompts]
        echo_texts = [
            prompt if isinstance(prompt, str) else self._echo(prompt) for prompt in asked.prompts
        ]
        answer = CompletionAnswer(
            asked.shape, asked.sampling.logprobs, prompts, echo_texts, self._tokens
        )
        return await self._serve(request, "cmpl", answer, prompts, asked.sampling, asked.shape)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        asked = protocol.chat_request(await _json(request), self._service.max_logprobs)
        self._require_model(asked.model)
        text = self._tokens.chat(asked.prompt)
        prompt = self._tokens.encode(text, add_special_tokens=asked.prompt.add_special_tokens)
        answer = ChatAnswer(
            asked.shape,
            asked.sampling.logprobs,
            prompt,
            self._tokens,
            reasoning=self._service.reasoning,
            answering=starts_answering(text, continued=asked.prompt.continue_final_message),
        )
        return await self._serve(request, "chatcmpl", answer, [prompt], asked.sampling, asked.shape)

    async def tokenize(self, request: web.Request) -> web.Response:
        asked = protocol.tokenize_request(await _json(request))
        self._require_model(asked.model)
        prompt = asked.prompt
        text = self._tokens.chat(prompt) if isinstance(prompt, ChatPrompt) else prompt
        ids = self._tokens.encode(text, add_special_tokens=asked.add_special_tokens)
        body: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": self._service.loaded.max_model_len,
            "tokens": list(ids),
        }
        if asked.return_token_strs:
            body["token_strs"] = [self._tokens.text_of(token) for token in ids]
        return web.json_response(body)

    async def detokenize(self, request: web.Request) -> web.Response:
        asked = protocol.detokenize_request(await _json(request))
        self._require_model(asked.model)
        self._tokens.check(asked.tokens, "tokens")
        return web.json_response({"prompt": self._echo(asked.tokens)})

    def _require_model(self, model: str | None) -> None:
        if model not in (None, self._service.name):
            message = (
                f"the model {model!r} does not exist; this server serves {self._service.name!r}"
            )
            raise Refusal(message, status=404, param="model", code="model_not_found")

    def _prompt_ids(self, prompt: protocol.Prompt, add_special_tokens: bool) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._tokens.encode(prompt, add_special_tokens=add_special_tokens)
        self._tokens.check(prompt, "prompt")
        return prompt

    def _echo(self, ids: tuple[int, ...]) -> str:
        return self._tokens.decode(ids, skip_special_tokens=False)

    async def _serve(
        self,
        request: web.Request,
        prefix: str,
        answer: Answer,
        prompts: list[tuple[int, ...]],
        sampling: Sampling,
        shape: Shape,
    ) -> web.StreamResponse:
        deltas: asyncio.Queue[Delta] = asyncio.Queue()
        sequences = [
            self._sequence(i * shape.n + j, prompt, sampling, j, shape.stream, deltas.put_nowait)
            for i, prompt in enumerate(prompts)
            for j in range(shape.n)
        ]
        header = render.Header(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self._service.name)
        prompt_tokens = sum(map(len, prompts))
        job = Job(header, answer, shape, sequences, deltas, prompt_tokens)
        request["log"] = {"id": header.id, "prompt": prompt_tokens}
        async with self._running(sequences):
            respond = _respond_stream if shape.stream else _respond_whole
            return await respond(request, job)

    @asynccontextmanager
    async def _running(self, sequences: list[Sequence]) -> AsyncIterator[None]:
        """Submit, and whatever happens (the client hangs up, too) leave nothing running."""
        self._service.batch.submit(sequences)
        try:
            yield
        finally:
            if not all(sequence.finished for sequence in sequences):
                self._service.batch.cancel(sequences)

    def _sequence(
        self,
        index: int,
        prompt: tuple[int, ...],
        sampling: Sampling,
        nth: int,
        stream: bool,
        deliver: Callable[[Delta], None],
    ) -> Sequence:
        if sampling.seed is not None:  # as vLLM: the n sequences of a request differ
            sampling = replace(sampling, seed=sampling.seed + nth)
        return Sequence(
            index,
            prompt,
            sampling,
            max_tokens=self._max_tokens(prompt, sampling),
            eos=self._service.loaded.eos,
            decoder=self._tokens,
            stream=stream,
            deliver=deliver,
        )

    def _max_tokens(self, prompt: tuple[int, ...], sampling: Sampling) -> int:
        limit, length = self._service.loaded.max_model_len, len(prompt)
        if not prompt:
            raise Refusal("the prompt is empty: it has no tokens")
        self._tokens.check(sampling.stop_token_ids, "stop_token_ids")
        least = sampling.max_tokens if sampling.max_tokens is not None else 1
        if length + least > limit:
            message = (
                f"the prompt has {length} tokens and max_tokens asks for {least} more: "
                f"{length + least} together, but the model's context length is {limit}"
            )
            raise Refusal(message, code="context_length_exceeded")
        return sampling.max_tokens if sampling.max_tokens is not None else limit - length


async def _respond_whole(request: web.Request, job: Job) -> web.Response:
    deltas = [await _next(job) for _ in job.sequences]
    deltas.sort(key=lambda delta: delta.index)
    choices = [job.answer.choice(delta) for delta in deltas]
    completion_tokens = _count(request, job)
    body = job.header.wrap(
        job.answer.kind,
        choices,
        usage=render.usage(job.prompt_tokens, completion_tokens),
        **job.answer.extras(deltas),
    )
    return web.json_response(body)


async def _respond_stream(request: web.Request, job: Job) -> web.StreamResponse:
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
    completion_tokens = _count(request, job)
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


def _count(request: web.Request, job: Job) -> int:
    reasons = ",".join(sorted({entry.finish_reason or "error" for entry in job.sequences}))
    generated = sum(len(entry.tokens) for entry in job.sequences)
    request["log"] |= {"generated": generated, "finish": reasons}
    return generated


async def _json(request: web.Request) -> Any:
    body = await request.read()
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the request body is not valid JSON: {error}") from error


@web.middleware
async def _log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line per request: no prompt, no output, no header."""
    start, status = time.monotonic(), "disconnected"
    try:
        response = await handler(request)
        status = str(response.status)
        return response
    finally:
        details = " ".join(f"{key}={value}" for key, value in request.get("log", {}).items())
        level = logging.DEBUG if request.path in OPEN_PATHS else logging.INFO
        seconds = time.monotonic() - start
        line = f"{request.method} {request.path} {status} {seconds:.3f}s {details}"
        log.log(level, line.rstrip())


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    headers = {}
    try:
        return await handler(request)
    except Refusal as error:
        refusal = error
    except web.HTTPRequestEntityTooLarge:
        refusal = Refusal(f"the request body is larger than {MAX_BODY} bytes", status=413)
    except web.HTTPMethodNotAllowed as error:
        headers["Allow"] = allowed = error.headers["Allow"]
        refusal = Refusal(f"{request.path} takes {allowed}, not {error.method}", status=405)
    except web.HTTPNotFound:
        refusal = Refusal(f"no such path: {request.path}", status=404)
    except ConnectionError:  # the client hung up in the middle of a stream
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        refusal = Refusal("internal error; see the server's log", status=500, kind="internal_error")
    return web.json_response(refusal.body(), status=refusal.status, headers=headers)


def _authorize(api_key: Secret | None) -> Any:
    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is not None and request.path not in OPEN_PATHS:
            expected = f"Bearer {api_key.reveal()}".encode()
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(expected, given):
                message = "the API key is missing or wrong (Authorization: Bearer KEY)"
                raise Refusal(message, status=401, code="invalid_api_key")
        return await handler(request)

    return authorize
