"""What is observed of an honest endpoint, and of one that is not."""

from functools import cache
from typing import Any

from evals.honest_endpoint import STORY, Honest
from evals.stub_endpoint import Stub, serving
from flagdeploy.evals.answers import AnswerLog, ask
from flagdeploy.evals.capabilities import probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.items import Item
from flagdeploy.evals.parameters import Facts, asked, observe
from flagdeploy.records.events import silent

ITEMS = [
    Item(f"k{i}", "t", "gsm8k", ({"role": "user", "content": f"q{i}"},), "1", f"k{i}", 90)
    for i in range(6)
]


def reply(prompt: str) -> str:
    return f"The answer to {prompt} is one." if prompt.startswith("q") else STORY


def facts(stub: Stub, prompts: list[dict[str, Any]] | None = None) -> Facts:
    async def work() -> Facts:
        async with Client(Endpoint(stub.url), patience=Patience(attempts=1)) as client:
            capabilities = await probe(client)
            if prompts is not None:
                return await observe(client, capabilities, prompts)
            answers = await ask(
                client, capabilities, ITEMS, log=AnswerLog(None), report=silent, stage="a"
            )
            return await observe(client, capabilities, asked(ITEMS, answers))

    with serving(stub):
        return run(work())


@cache
def baseline() -> Facts:
    return facts(Honest(reply))
