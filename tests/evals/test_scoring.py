"""Scoring given tokens over every dialect: the modes found, what they give, what they cost."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from evals.dialects import SAME_TEXT, Dialect, Model, drawn, greedy
from evals.stub_endpoint import serving
from flagdeploy.errors import UsageError
from flagdeploy.evals import scoring
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.scoring import LONGEST, POSITIONS, forced, pair
from flagdeploy.evals.teacher_forcing import Passage, Position, difference
from flagdeploy.records.events import silent

T = TypeVar("T")
MODEL = drawn()
PROMPTS = [(7, 8, number) for number in range(4)]
LENGTH = 24

#           mode S by          D and P by          modes
ABLE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vllm": ("prompt_logprobs", "completions", ("S", "D", "P")),
    "echo": ("echo", "completions", ("S", "D", "P")),
    "sglang": ("generate", "generate", ("S", "D", "P")),
    "trtllm": ("", "detokenize", ("D", "P")),
    "single": ("", "completions", ("P",)),
    "text": ("", "", ()),
}


def passages(model: Model = MODEL) -> list[Passage]:
    return [Passage(str(p), "t", p, greedy(model, p, LENGTH), ()) for p in PROMPTS]


def asked(stub: Dialect, work: Callable[[Client, Capabilities], Awaitable[T]]) -> T:
    async def inside() -> T:
        async with Client(Endpoint(stub.url), 4, Patience(attempts=1)) as client:
            capabilities = await probe(client)
            stub.seen.clear()
            stub.refused = 0
            return await work(client, capabilities)

    with serving(stub):
        return run(inside())


def scored(stub: Dialect, mode: str, k: int = 20) -> dict[str, tuple[Position, ...]]:
    async def work(client: Client, capabilities: Capabilities) -> dict[str, tuple[Position, ...]]:
        return await scoring.score(client, capabilities, passages(), k, silent, mode)

    return asked(stub, work)


def found(dialect: str, **changes: Any) -> Capabilities:
    async def work(client: Client, capabilities: Capabilities) -> Capabilities:
        return capabilities

    return asked(Dialect(dialect=dialect, **changes), work)


@pytest.mark.parametrize("dialect", ABLE)
def test_the_modes_of_a_server_are_found_by_asking(dialect: str) -> None:
    capabilities = found(dialect)
    known = (capabilities.scoring, capabilities.decoding, capabilities.modes)
    assert known == ABLE[dialect]
    assert capabilities.prompt_logprobs == (20 if capabilities.scoring else 0)
    assert capabilities.ignore_eos == (dialect not in ("single", "text"))


def test_a_server_that_gives_fewer_alternatives() -> None:
    capabilities = found("vllm", cap=5)
    assert (capabilities.prompt_logprobs, capabilities.logprobs) == (5, 5)


PAIRS = [(dialect, mode) for dialect, (_, _, modes) in ABLE.items() for mode in modes]


@pytest.mark.parametrize(("dialect", "mode"), PAIRS)
def test_every_way_gives_what_the_model_says(dialect: str, mode: str) -> None:
    stub = Dialect(dialect=dialect)
    own_ids = dialect == "trtllm"
    answers = scored(stub, mode)
    for passage in passages():
        positions = answers[passage.key]
        assert len(positions) == LENGTH
        for at, (token, position) in enumerate(zip(passage.continuation, positions, strict=True)):
            if not position.top:  # an end token, where it cannot be passed, is not shown
                assert (dialect, token) == ("single", 0)
                continue
            truth = MODEL((*passage.prompt, *passage.continuation[:at]))
            assert position.logprob == pytest.approx(truth[token])
            assert all(truth[id_] == pytest.approx(x) for id_, x in position.top.items())
            best = sorted(truth, key=lambda id_: -truth[id_])[: 1 if own_ids else 20]
            assert set(position.top) == set(best)
    assert stub.refused == 0  # nothing was sent that a strict server does not know


def test_ids_that_decode_alike_stay_apart() -> None:
    together = [
        set(SAME_TEXT) <= position.top.keys()
        for positions in scored(Dialect(dialect="echo"), "S").values()
        for position in positions
    ]
    assert any(together)


def test_decoding_takes_one_request_and_one_more_per_mismatch() -> None:
    same, other = Dialect(), Dialect(tokens=drawn(noise=0.3))
    scored(same, "D")
    assert len(same.seen) == len(PROMPTS)
    theirs = scored(other, "D")
    missed = sum(
        max(position.top, key=lambda token: position.top[token]) != token
        for passage in passages()
        for token, position in zip(passage.continuation, theirs[passage.key], strict=True)
    )
    assert 4 <= missed <= 40
    assert len(other.seen) <= len(PROMPTS) + missed + len(PROMPTS)  # and a chunk that was too short
    assert all(body["max_tokens"] <= LENGTH for body in other.seen)


def test_after_a_mismatch_decoding_goes_on_from_the_right_token() -> None:
    stub = Dialect(tokens=drawn(noise=1.0))
    prefill, decoding = scored(stub, "S"), scored(stub, "D")
    for key, positions in prefill.items():
        for one, other in zip(positions, decoding[key], strict=True):
            assert {id_: other.top[id_] for id_ in other.top} == pytest.approx(
                {id_: one.top[id_] for id_ in other.top}
            )


def test_a_token_that_is_not_listed_is_bounded_and_not_nan() -> None:
    answers = scored(Dialect(tokens=drawn(seed=1)), "D", k=5)
    for passage in passages():
        for token, position in zip(passage.continuation, answers[passage.key], strict=True):
            assert math.isfinite(position.logprob)
            if token not in position.top:
                assert position.logprob <= min(position.top.values())


def test_sequences_are_kept_short_enough_for_the_logits_of_a_prompt() -> None:
    long = Passage("k", "t", tuple(range(2000)), tuple(range(600)), ())
    assert len(forced(long, POSITIONS)) == LONGEST - 2000
    assert len(forced(replace(long, prompt=(1,)), POSITIONS)) == POSITIONS
    assert len(forced(long)) == 600  # someone else's reference is scored whole
    recorded = replace(long, positions=(Position(0.0, {1: 0.0}),) * 7)
    assert forced(recorded) == forced(recorded, 3) == tuple(range(7))


def test_generated_tokens_alone_still_measure_logit_noise() -> None:
    # without ids of the alternatives the KL divergence is that of one token and all the others
    def noise(noisy: Model, only_one: bool) -> float:
        sequences = []
        for number in range(40):
            prompt = (number,)
            tokens = greedy(MODEL, prompt, 30)
            ours, theirs = [], []
            for at, token in enumerate(tokens):
                a, b = (m((*prompt, *tokens[:at])) for m in (MODEL, noisy))
                best = max(b, key=lambda id_: b[id_])
                ours.append(Position(a[token], a))
                theirs.append(Position(b[token], {best: b[best]} if only_one else b))
            sequences.append(difference(str(number), ours, theirs))
        kl = math.fsum(2 * d.kl * d.length for d in sequences)
        return math.sqrt(kl / math.fsum(d.impurity * d.length for d in sequences))

    assert noise(drawn(noise=0.1), False) == pytest.approx(0.1, rel=0.1)
    assert noise(drawn(noise=0.1), True) == pytest.approx(0.1, rel=0.15)


# --- which modes are compared --------------------------------------------------------------------

ONE = (Position(-0.1, {1: -0.1}),)


def able(*modes: str) -> Capabilities:
    return Capabilities(
        "m",
        None,
        True,
        20 * ("S" in modes),
        False,
        None,
        scoring="prompt_logprobs" if "S" in modes else "",
        decoding="completions" if "P" in modes else "",
        decodes="D" in modes,
    )


def recorded(mode: str, decoded: bool = False) -> list[Passage]:
    return [Passage("k", "t", (1,), (1,), ONE, mode, ONE if decoded else ())]


@pytest.mark.parametrize(
    ("baseline", "candidate", "label"),
    [
        (recorded("S", decoded=True), able("S", "D", "P"), "S"),
        (recorded("S", decoded=True), able("D", "P"), "D"),
        (recorded("S", decoded=True), able("P"), "P against S, both by prefill"),
        (recorded("S"), able("D", "P"), "P against S, both by prefill"),
        (recorded("D"), able("S", "D", "P"), "D"),
        (recorded("P"), able("S", "D", "P"), "S against P, both by prefill"),
    ],
)
def test_prefill_is_compared_with_prefill_and_decoding_with_decoding(
    baseline: list[Passage], candidate: Capabilities, label: str
) -> None:
    found = pair(baseline, candidate)
    assert found.label == label
    assert [passage.mode for passage in found.passages] == [found.baseline]
    assert found.to_json() == {"mode": found.mode, "baseline": found.baseline, "why": label}


def test_what_has_no_counterpart_is_not_scored_and_that_is_said() -> None:
    found = pair(recorded("D"), able("P"))
    assert (found.mode, found.passages) == ("", ())
    assert found.reason == (
        "the baseline was scored in mode D, the candidate can P, "
        "and prefill and decoding are not compared with each other"
    )
    forced_to = pair(recorded("S"), able("S", "D", "P"), "D")
    assert "the baseline was scored in mode S, the candidate can D" in forced_to.reason
    assert pair(recorded("S"), able()).reason.startswith("the candidate gives no log-prob")
    assert pair([], able("S")).reason == "the baseline has no log-probabilities"


def test_a_mode_that_the_endpoint_cannot_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        pair(recorded("S"), able("D", "P"), "S")
    assert (str(error.value), error.value.hint) == ("m cannot be scored in mode S", "it can: D, P")
    with pytest.raises(UsageError) as error:
        pair(recorded("S"), able("S"), "X")
    assert str(error.value) == "unknown scoring mode `X`"
