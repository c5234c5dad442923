"""What surrounds every route: the request log, errors in OpenAI's shape, the API key."""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import web

from flagdeploy.config.secret import Secret
from flagdeploy.server.refusal import Refusal

log = logging.getLogger(__name__)

MAX_BODY = 32 * 2**20  # bytes
OPEN_PATHS = ("/health", "/metrics", "/version")  # without an API key

LOG_DETAILS: ContextVar[dict[str, object]] = ContextVar("log_details")  # of the request in hand

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line per request: no prompt, no output, no header."""
    start, status = time.monotonic(), "disconnected"
    said: dict[str, object] = {}
    LOG_DETAILS.set(said)
    try:
        response = await handler(request)
        status = str(response.status)
        return response
    finally:
        details = " ".join(f"{key}={value}" for key, value in said.items())
        level = logging.DEBUG if request.path in OPEN_PATHS else logging.INFO
        seconds = time.monotonic() - start
        line = f"{request.method} {request.path} {status} {seconds:.3f}s {details}"
        log.log(level, line.rstrip())


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
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
    except ConnectionError:  # a write met a closed connection before aiohttp cancelled the handler
        raise asyncio.CancelledError from None
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        refusal = Refusal("internal error; see the server's log", status=500, kind="internal_error")
    return web.json_response(refusal.body(), status=refusal.status, headers=headers)


def authorize(api_key: Secret | None) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is not None and request.path not in OPEN_PATHS:
            expected = f"Bearer {api_key.reveal()}".encode()
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(expected, given):
                message = "the API key is missing or wrong (Authorization: Bearer KEY)"
                raise Refusal(message, status=401, code="invalid_api_key")
        return await handler(request)

    return check
