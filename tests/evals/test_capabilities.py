from dataclasses import dataclass

import pytest
from aiohttp import web

from evals.stub_endpoint import Stub, serving
from flagdeploy.errors import EvalError
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run


def probed(stub: Stub, model: str | None = None) -> Capabilities:
    async def work() -> Capabilities:
        async with Client(Endpoint(stub.url, model), patience=Patience(attempts=1)) as client:
            return await probe(client)

    with serving(stub):
        return run(work())


def test_an_endpoint_that_can_everything() -> None:
    found = probed(Stub())
    assert found == Capabilities("stub", 4096, True, 20, False, "0.0-stub", "prompt_logprobs")
    assert found.modes == ("S",)


def test_an_endpoint_without_prompt_logprobs() -> None:
    assert probed(Stub(prompt_logprobs=False)).prompt_logprobs == 0


def test_a_server_that_refuses_fields_it_does_not_know() -> None:
    assert not probed(Stub(strict=True)).return_token_ids


def test_a_stale_server() -> None:
    with pytest.raises(EvalError, match=r"/v1 serves stub, not deepseek_r1$"):
        probed(Stub(), model="deepseek_r1")


def test_no_server() -> None:
    stub = Stub()
    with serving(stub):
        pass

    async def work() -> Capabilities:
        async with Client(Endpoint(stub.url), patience=Patience(attempts=1)) as client:
            return await probe(client)

    with pytest.raises(EvalError, match="/v1/models does not answer: ClientConnectorError"):
        run(work())


@dataclass
class Other(Stub):
    """A server of another kind: `status` and `text` for every GET."""

    status: int = 200
    text: str = ""

    def get(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status, text=self.text)


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (200, "<html>\nhello</html>", "/models answers HTTP 200 without JSON: <html>"),
        (200, "[1]", "/models answers HTTP 200, but answer has the wrong type"),
        (200, '{"data": [1, {}]}', " serves no model, not any"),
        (200, '{"data": 3}', " serves no model, not any"),
        (404, "<html>\nnot here", "/models answers HTTP 404: <html>"),
        (401, "who?", "/models answers HTTP 401: who?"),
    ],
)
def test_a_server_of_another_kind(status: int, text: str, message: str) -> None:
    stub = Other(status=status, text=text)
    with pytest.raises(EvalError) as error:
        probed(stub)
    base = stub.url.removesuffix("/v1")
    assert str(error.value) == f"{base}/v1{message}"
    assert error.value.hint
