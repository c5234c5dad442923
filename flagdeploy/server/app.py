"""The routes: from a request's body to sequences in the batch and an answer."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

import flagdeploy
from flagdeploy.config.secret import Secret
from flagdeploy.server import protocol, render
from flagdeploy.server.answer import Answer, ChatAnswer, CompletionAnswer
from flagdeploy.server.api_fields import Prompt
from flagdeploy.server.batch import Batch
from flagdeploy.server.metrics import Metrics
from flagdeploy.server.middleware import (
    LOG_DETAILS,
    MAX_BODY,
    authorize,
    errors_as_json,
    log_requests,
)
from flagdeploy.server.model import LoadedModel
from flagdeploy.server.profiling import Profiler
from flagdeploy.server.protocol import ChatPrompt, Sampling, Shape
from flagdeploy.server.reasoning import starts_answering
from flagdeploy.server.refusal import Refusal
from flagdeploy.server.respond import Job, respond_stream, respond_whole
from flagdeploy.server.sequence import Delta, Sequence


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the routes need. `name` is the model's name in the API; `reasoning` splits thoughts;
    without `profiler` there are no paths for it."""

    name: str
    loaded: LoadedModel
    batch: Batch
    metrics: Metrics
    max_logprobs: int
    reasoning: bool = False
    api_key: Secret | None = None
    profiler: Profiler | None = None


def make_app(service: Service) -> web.Application:
    routes = Routes(service)
    app = web.Application(
        middlewares=[log_requests, errors_as_json, authorize(service.api_key)],
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
    if service.profiler:
        app.router.add_post("/start_profile", routes.start_profile)
        app.router.add_post("/stop_profile", routes.stop_profile)
    return app


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

    async def start_profile(self, request: web.Request) -> web.Response:
        assert self._service.profiler is not None
        await self._service.batch.between_steps(self._service.profiler.start)
        return web.Response()

    async def stop_profile(self, request: web.Request) -> web.Response:
        """Answers when the trace is written."""
        assert self._service.profiler is not None
        await self._service.batch.between_steps(self._service.profiler.stop)
        return web.Response()

    def _require_model(self, model: str | None) -> None:
        if model not in (None, self._service.name):
            message = (
                f"the model {model!r} does not exist; this server serves {self._service.name!r}"
            )
            raise Refusal(message, status=404, param="model", code="model_not_found")

    def _prompt_ids(self, prompt: Prompt, add_special_tokens: bool) -> tuple[int, ...]:
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
        LOG_DETAILS.get().update(id=header.id, prompt=prompt_tokens)
        async with self._running(sequences):
            respond = respond_stream if shape.stream else respond_whole
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


async def _json(request: web.Request) -> Any:
    body = await request.read()
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the request body is not valid JSON: {error}") from error
