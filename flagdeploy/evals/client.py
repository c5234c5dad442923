"""Raw HTTP to an OpenAI-compatible endpoint: bounded, patient, and never raising for one request.

Raw because the SDKs normalise what must be seen as it is. A request ends as a `Reply` whatever
happens to it, so that failures are counted instead of dropped.
"""

import asyncio
import json
import random
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flagdeploy.config.secret import Secret
from flagdeploy.errors import EvalError
from flagdeploy.evals.shape import ANSWER, misfit

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
RETRIED = {408, 425, 429, 500, 502, 503, 504}
GIVE_UP_AFTER = 12  # requests in a row that failed for good: the endpoint is gone


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers: `url` ends in /v1, `model` is the served name (None: ask)."""

    url: str
    model: str | None = None
    api_key: Secret | None = None
    name: str = ""


@dataclass(frozen=True)
class Reply:
    """How one request ended. Times are seconds since the epoch.

    `status` is ``ok`` (JSON in `body`), ``refused`` (4xx, not tried again), ``error`` or
    ``timeout`` (after the last attempt); `error` then says what happened.
    """

    status: str
    http: int | None
    body: dict[str, Any] | None
    error: str | None
    attempts: int
    sent: float
    ended: float


@dataclass(frozen=True)
class Patience:
    """How long a client waits: seconds, and attempts per request with doubling pauses between."""

    attempts: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0
    connect_s: float = 10.0
    idle_s: float = 600.0
    total_s: float = 3600.0


class Client:
    """Posts JSON with at most `concurrency` requests in flight; use as an async context manager."""

    def __init__(
        self, endpoint: Endpoint, concurrency: int = 16, patience: Patience | None = None
    ) -> None:
        self.endpoint = endpoint
        self.base = base_url(endpoint.url)
        self.patience = patience or Patience()
        self.concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._failed_in_a_row = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        key = self.endpoint.api_key
        patience = self.patience
        self._session = aiohttp.ClientSession(
            # The semaphore bounds requests; a second bound in the pool would only hide waiting.
            connector=aiohttp.TCPConnector(limit=0),
            # A proxy or netrc look-up per request costs more than the request (and leaks it).
            trust_env=False,
            headers={"Authorization": f"Bearer {key.reveal()}"} if key else {},
            timeout=aiohttp.ClientTimeout(
                total=patience.total_s, sock_connect=patience.connect_s, sock_read=patience.idle_s
            ),
            read_bufsize=4 * 2**20,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Reply:
        """A GET is the first thing asked: who does not answer at once is not there."""
        return await self._request("GET", self.base + path, None)

    async def get_beside(self, path: str) -> Reply:
        """A path that lies beside /v1, such as ``/version``."""
        return await self._request("GET", self.base.removesuffix("/v1") + path, None)

    async def post(self, path: str, payload: dict[str, Any]) -> Reply:
        return await self._request("POST", self.base + path, payload)

    async def _request(self, method: str, url: str, payload: dict[str, Any] | None) -> Reply:
        async with self._slots:
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                raise EvalError(
                    f"{self.base}: {GIVE_UP_AFTER} requests in a row failed, the last after "
                    f"{self.patience.attempts} attempts",
                    hint="look at `flagdeploy status` and `flagdeploy logs`; "
                    "answers already recorded are kept and the same command goes on from there",
                )
            attempts = self.patience.attempts if payload else min(2, self.patience.attempts)
            reply = await self._attempts(method, url, payload, attempts)
            alive = reply.status in ("ok", "refused")
            self._failed_in_a_row = 0 if alive else self._failed_in_a_row + 1
            return reply

    async def _attempts(
        self, method: str, url: str, payload: dict[str, Any] | None, attempts: int
    ) -> Reply:
        sent = time.time()
        pause = self.patience.first_pause_s
        for attempt in range(1, attempts + 1):
            status, http, body, error, retry_after = await self._once(method, url, payload)
            if status in ("ok", "refused") or attempt == attempts:
                break
            await asyncio.sleep(retry_after or pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, self.patience.longest_pause_s)
        return Reply(status, http, body, error, attempt, sent, time.time())

    async def _once(
        self, method: str, url: str, payload: dict[str, Any] | None
    ) -> tuple[str, int | None, dict[str, Any] | None, str | None, float | None]:
        import aiohttp

        assert self._session is not None, "use `async with Client(...)`"
        try:
            async with self._session.request(method, url, json=payload) as response:
                text = await response.text()
                if response.status == 200:
                    body = _parsed(text)
                    if body is None:
                        return "error", 200, None, f"HTTP 200 without JSON: {text[:300]}", None
                    if odd := misfit(body, ANSWER if payload else {}):
                        return "error", 200, None, f"HTTP 200, but {odd} has the wrong type", None
                    return "ok", 200, body, None, None
                status = "error" if response.status in RETRIED else "refused"
                error = f"HTTP {response.status}: {text[:300]}"
                return status, response.status, None, error, _retry_after(response, self.patience)
        except TimeoutError as error:  # aiohttp's timeouts are TimeoutErrors too
            return "timeout", None, None, f"timed out: {error}", None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return "error", None, None, f"{type(error).__name__}: {error}", None


def _parsed(text: str) -> Any:
    """`text` as JSON, None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _retry_after(response: "aiohttp.ClientResponse", patience: Patience) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 10.2.3; its date form is ignored), bounded."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), patience.longest_pause_s) if value.isdecimal() else None


def base_url(url: str) -> str:
    """``http://h:1``, ``.../v1/`` and ``.../v1/chat/completions`` all give ``http://h:1/v1``."""
    base = url.rstrip("/")
    for suffix in ("/chat/completions", "/completions"):
        base = base.removesuffix(suffix)
    return base if base.endswith("/v1") else base + "/v1"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, also where a loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
