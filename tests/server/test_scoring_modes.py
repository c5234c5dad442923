"""The server's own answers in every mode of scoring that a comparison knows."""

import pytest

from flagdeploy.config.secret import Secret
from flagdeploy.evals import scoring
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, run
from flagdeploy.evals.teacher_forcing import Passage, Position, difference
from flagdeploy.records.events import silent
from server.running_server import KEY, NAME, RunningServer

Scores = dict[str, tuple[Position, ...]]


def test_prefill_decoding_and_single_requests_agree(server: RunningServer) -> None:
    passages = []
    for number in range(4):
        prompt = (5, 6, 7 + number)
        choice = server.complete(
            list(prompt), model=NAME, max_tokens=12, temperature=0, return_token_ids=True,
            ignore_eos=True,
        )["choices"][0]  # fmt: skip
        tokens = (*choice["token_ids"][:6], 9, *choice["token_ids"][6:])  # one it would not say
        passages.append(Passage(str(number), "t", prompt, tokens, ()))

    async def work() -> tuple[Capabilities, dict[str, Scores]]:
        endpoint = Endpoint(f"http://127.0.0.1:{server.port}", api_key=Secret(KEY, "KEY"))
        async with Client(endpoint, 4) as client:
            able = await probe(client)
            return able, {
                mode: await scoring.score(client, able, passages, 5, silent, mode)
                for mode in scoring.MODES
            }

    able, found = run(work())
    assert able.modes == ("S", "D", "P")
    assert (able.scoring, able.decoding, able.ignore_eos) == (
        "prompt_logprobs",
        "completions",
        True,
    )
    for key, positions in found["S"].items():
        assert len(positions) == 13
        for mode in ("D", "P"):
            apart = difference(key, positions, found[mode][key])
            assert apart.top1 == 1.0
            assert apart.kl == pytest.approx(0.0, abs=1e-6)
