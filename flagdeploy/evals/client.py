"""Raw HTTP to an OpenAI-compatible endpoint: bounded, patient, and never raising for one request.

Raw because the SDKs normalise what must be seen as it is. A request ends as a `Reply` whatever
happens to it, so that failures are counted instead of dropped.
"""

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flagdeploy.config.secret import Secret
from flagdeploy.evals.address import authorization, base_url, secrets
from flagdeploy.evals.breaker import Breaker
from flagdeploy.evals.shape import ANSWER, misfit
from flagdeploy.evals.stream import ASKED, read_stream
from flagdeploy.records.mask import Mask

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
RETRIED = (408, 425, 429)  # and every 5xx
LONGEST_ERROR = 320  # characters kept of what an endpoint says that failed
TIMEOUTS = 2  # attempts that may time out: what was too slow twice is so the third time


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
    ``timeout`` (after the last attempt); `error` then says what happened. `first` is when the
    first text of a streamed reply came.
    """

    status: str
    http: int | None
    body: dict[str, Any] | None
    error: str | None
    attempts: int
    sent: float
    ended: float
    first: float | None = None

    @property
    def answered(self) -> bool:
        return self.status in ("ok", "refused")


@dataclass(frozen=True)
class Patience:
    """How long a client waits, in seconds, and how often it tries.

    Between the attempts of a request it pauses for a random part of `first_pause_s`, doubled each
    time up to `longest_pause_s`; a Retry-After counts up to `retry_after_s`. `idle_s` is how long
    no byte may come; a reply that is not streamed comes all at its end and may take `token_s`
    longer for every token of its limit. `total_s` is what one attempt may take.
    """

    attempts: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0
    retry_after_s: float = 600.0
    connect_s: float = 10.0
    idle_s: float = 600.0
    token_s: float = 0.1
    total_s: float = 3600.0


@dataclass(frozen=True)
class _Attempt:
    """`again` says whether another may end better, `wait_s` what the endpoint asked to wait."""

    status: str
    http: int | None = None
    body: dict[str, Any] | None = None
    error: str | None = None
    again: bool = False
    wait_s: float = 0.0
    first: float | None = None


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
        self._breaker = Breaker(self.base, self.patience.longest_pause_s)
        self._mask = Mask(secrets(endpoint.url, endpoint.api_key))
        self._streams = True  # until it refuses to
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            # The semaphore bounds requests; a second bound in the pool would only hide waiting.
            connector=aiohttp.TCPConnector(limit=0),
            # A proxy or netrc look-up per request costs more than the request (and leaks it).
            trust_env=False,
            headers=authorization(self.endpoint.url, self.endpoint.api_key),
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
        return await self._get(self.base + path)

    async def get_beside(self, path: str) -> Reply:
        """A path that lies beside /v1, such as ``/version``."""
        return await self._get(self.base.removesuffix("/v1") + path)

    async def post(self, path: str, payload: dict[str, Any], *, stream: bool = False) -> Reply:
        """With `stream` a chat completion comes piece by piece if the endpoint can do that.

        The body is the same; token ids are no part of it. Raises EvalError when the endpoint was
        given up (see Breaker).
        """
        return await self._post(self.base + path, payload, stream)

    async def post_beside(self, path: str, payload: dict[str, Any]) -> Reply:
        """`post` to a path that lies beside /v1, such as ``/generate``."""
        return await self._post(self.base.removesuffix("/v1") + path, payload)

    async def _post(self, url: str, payload: dict[str, Any], stream: bool = False) -> Reply:
        attempts = self.patience.attempts
        async with self._slots:
            return await self._breaker.run(
                lambda: self._attempts("POST", url, payload, stream, attempts)
            )

    async def _get(self, url: str) -> Reply:
        async with self._slots:
            return await self._attempts("GET", url, None, False, min(2, self.patience.attempts))

    async def _attempts(
        self, method: str, url: str, payload: dict[str, Any] | None, stream: bool, attempts: int
    ) -> Reply:
        sent = time.time()
        pause, timeouts = self.patience.first_pause_s, 0
        for number in range(1, attempts + 1):
            tried = await self._attempt(method, url, payload, stream)
            timeouts += tried.status == "timeout"
            if not tried.again or number == attempts or timeouts == TIMEOUTS:
                break
            # Full jitter, so that those who failed together do not all come back together.
            await asyncio.sleep(tried.wait_s + random.uniform(0, pause))
            pause = min(2 * pause, self.patience.longest_pause_s)
        return Reply(
            tried.status,
            tried.http,
            tried.body,
            self._mask(tried.error)[:LONGEST_ERROR] if tried.error else None,
            number,
            sent,
            time.time(),
            tried.first,
        )

    async def _attempt(
        self, method: str, url: str, payload: dict[str, Any] | None, stream: bool
    ) -> _Attempt:
        if not (payload and stream and self._streams):
            return await self._once(method, url, payload)
        streamed = await self._once(method, url, {**payload, **ASKED})
        if streamed.status != "refused":
            return streamed
        whole = await self._once(method, url, payload)
        if whole.status == "ok":  # so it was the streaming that was refused
            self._streams = False
        return whole

    async def _once(self, method: str, url: str, payload: dict[str, Any] | None) -> _Attempt:
        import aiohttp

        assert self._session is not None, "use `async with Client(...)`"
        try:
            async with self._session.request(
                method, url, json=payload, timeout=self._timeout(payload or {})
            ) as response:
                if response.status != 200:
                    return _failed(
                        response.status, await response.text(), response.headers, self.patience
                    )
                if response.content_type == "text/event-stream":
                    streamed, first = await read_stream(response.content)
                    return _Attempt("ok", 200, streamed, first=first)
                return _answer(await response.text(), ANSWER if payload else {})
        except aiohttp.ConnectionTimeoutError as error:  # nothing was asked yet
            return _Attempt("error", error=f"no connection: {error}", again=True)
        except TimeoutError as error:  # aiohttp's timeouts are TimeoutErrors too
            return _Attempt("timeout", error=f"timed out: {error}", again=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _Attempt("error", error=f"{type(error).__name__}: {error}", again=True)

    def _timeout(self, payload: dict[str, Any]) -> "aiohttp.ClientTimeout":
        import aiohttp

        unstreamed = 0 if payload.get("stream") else payload.get("max_tokens", 0)
        return aiohttp.ClientTimeout(
            total=self.patience.total_s,
            sock_connect=self.patience.connect_s,
            sock_read=self.patience.idle_s + unstreamed * self.patience.token_s,
        )


def _answer(text: str, shape: Any) -> _Attempt:
    body = _parsed(text)
    if body is None:
        error = f"HTTP 200 without JSON: {text}"
    elif odd := misfit(body, shape):
        error = f"HTTP 200, but {odd} has the wrong type"
    elif body.get("error") and not body.get("choices"):  # as some gateways pass a failure on
        error = f"HTTP 200 with an error: {text}"
    else:
        return _Attempt("ok", 200, body)
    return _Attempt("error", 200, error=error, again=True)


def _failed(http: int, text: str, headers: Mapping[str, str], patience: Patience) -> _Attempt:
    error = f"HTTP {http}: {text}"
    if http in RETRIED or http >= 500:
        wait = min(_retry_after(headers), patience.retry_after_s)
        return _Attempt("error", http, None, error, again=True, wait_s=wait)
    # 403 is a key that ended or a filter on the way, so it says nothing of the model.
    status = "refused" if 400 <= http < 500 and http != 403 else "error"
    return _Attempt(status, http, error=error)


def _parsed(text: str) -> Any:
    """`text` as JSON, None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number, or a date on their clock."""
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    until, now = _date(value), _date(headers.get("Date", ""))
    return max(0.0, until - (now or time.time())) if until else 0.0


def _date(text: str) -> float | None:
    """Seconds since the epoch of an HTTP-date, None for anything else."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, also where a loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
