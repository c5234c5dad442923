"""Each way not to do what a request asks is found, and each honest difference is let through."""

import pytest

from evals.honest_endpoint import STORY, Honest
from evals.observed import baseline, facts, reply
from evals.stub_endpoint import Stub
from flagdeploy.evals.conformance import compared
from flagdeploy.evals.verdict import Finding


def against(stub: Stub) -> list[Finding]:
    return compared(baseline(), facts(stub, baseline()["asked"]))


FAULTS = {
    "always greedy": (
        Honest(reply, always=0.0),
        "temperature is ignored: 3 prompts, each asked 4 times at 1.5, always get the same reply",
    ),
    "always sampled": (
        Honest(reply, always=1.0),
        " tokens are not the most likely ones: sampled, or drafts accepted unchecked",
    ),
    "always sampled, no log-probabilities": (
        Honest(reply, always=1.0, offers=frozenset()),
        "at temperature 0 3 of 3 prompts get another reply when asked again",
    ),
    "top_p ignored": (
        Honest(reply, ignores=frozenset({"top_p"})),
        "top_p is ignored: with one that leaves a single token replies are not the greedy",
    ),
    "stop ignored": (
        Honest(reply, ignores=frozenset({"stop"})),
        "stop strings are ignored; the baseline cuts before them",
    ),
    "stop kept": (
        Honest(reply, keeps_stop=True),
        "stop strings are kept in the reply; the baseline cuts before them",
    ),
    "another reason to stop": (
        Honest(reply, stop_reason="length"),
        "a reply cut by a stop string ends as length, stop at the baseline",
    ),
    "max_tokens ignored": (
        Honest(reply, ignores=frozenset({"max_tokens"})),
        f"max_tokens 5 gives {len(STORY)} tokens; a reply cut by max_tokens ends as stop",
    ),
    "a gateway cuts max_tokens": (
        Honest(reply, most_tokens=20),
        "a reply is cut after 20 tokens, max_tokens is 32",
    ),
    "wrong end token": (
        Honest(reply, end="late"),
        "6 of 6 replies that begin alike go on past their end: another end token?",
    ),
    "ends too early": (
        Honest(reply, end="early"),
        "6 of 6 replies that begin alike stop early: another end token?",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_parameter_that_is_not_honoured_fails(fault: str) -> None:
    stub, sentence = FAULTS[fault]
    finding = against(stub)[0]
    assert finding.verdict == "FAIL"
    assert finding.required
    assert sentence in finding.sentence


DIFFERENT = {
    "a prompt longer than the context is served, so it is cut silently": Honest(
        reply, truncates=True
    ),
    "a context of 64 tokens cannot hold the 90 that the baseline's questions ask": Honest(
        reply, context=64
    ),
}


@pytest.mark.parametrize("sentence", DIFFERENT)
def test_a_context_that_is_cut_is_another_deployment(sentence: str) -> None:
    ours = {**baseline(), "longest": 90}
    finding = compared(ours, facts(DIFFERENT[sentence], baseline()["asked"]))[0]
    assert (finding.verdict, finding.sentence) == ("DIFFERENT", sentence)


def test_an_engine_that_offers_less_passes_and_that_is_listed() -> None:
    judged, listed = against(Honest(reply, offers=frozenset(), context=2048, model="other"))
    assert judged.verdict == "PASS"
    assert listed.verdict == "INFO"
    assert listed.sentence == (
        "offered otherwise: n 0 (baseline 2), seed refused (baseline repeats), "
        "top_logprobs 0 (baseline 20), model other (baseline stub), "
        "max_model_len 2048 (baseline 4096)"
    )


def test_the_same_endpoint_passes_again_and_again() -> None:
    for _ in range(5):
        assert [f.verdict for f in against(Honest(reply))] == ["PASS"]


def test_one_reply_that_rounding_ended_elsewhere_is_no_other_end_token() -> None:
    found = facts(Honest(reply), baseline()["asked"])
    row = found["greedy"][3]
    longer = {**row, "text": row["text"] + " Truly."}
    other = {**found, "greedy": [*found["greedy"][:3], longer, *found["greedy"][4:]]}
    assert compared(baseline(), other)[0].verdict == "PASS"


def test_rounding_that_changes_greedy_replies_is_no_sampling_where_logprobs_tell() -> None:
    found = facts(Honest(reply), baseline()["asked"])
    assert compared(baseline(), {**found, "repeated": [False] * 3})[0].verdict == "PASS"
