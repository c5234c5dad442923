"""Ways to fool oneself with a comparison, each of which some published tool falls for."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evals.test_noise_floor import noisy
from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.agreement import teacher_forced
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.comparison import paired, recordings
from flagdeploy.evals.divergence import Parting, divergence
from flagdeploy.evals.items import Item
from flagdeploy.evals.lengths import output_length, truncation
from flagdeploy.evals.noise_floor import distance, largest
from flagdeploy.evals.resampling import sign_flip_p
from flagdeploy.evals.tables import Row, Score
from flagdeploy.evals.teacher_forcing import Passage, Position
from flagdeploy.evals.totals import aggregates
from flagdeploy.evals.verdict import ALPHA, EXIT_CODES, Finding, Verdict, judged, overall

RUNS = 200


def answer(item: str, **changes: Any) -> Answer:
    known: dict[str, Any] = {
        "request": item,
        "item": item,
        "task": "t",
        "status": "ok",
        "prediction": "1",
        "gold": "1",
        "score": 1.0,
        "content": "1",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 50,
        "http": 200,
        "attempts": 1,
        "sent": 0.0,
        "ended": 1.0,
    }
    return Answer(**{**known, **changes})


def bundle(keys: list[str], temperature: float = 0, **changes: Any) -> Bundle:
    items = tuple(Item(key, "t", "gsm8k", (), "1", key, 100) for key in keys)
    manifest = {"benchmarks": [{"name": "t"}], "sampling": {"temperature": temperature}}
    answers = tuple(answer(key) for key in keys)
    return replace(Bundle("b", manifest, (), items, answers, ()), **changes)


def named(findings: tuple[Finding, ...] | list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_no_difference_at_all_in_thirty_questions_is_no_pass() -> None:
    pairs = [Pair(str(i), "AIME", float(i < 23), float(i < 23)) for i in range(30)]
    (finding,) = judged(accuracy(pairs, {}))[:1]
    assert finding.verdict is Verdict.INCONCLUSIVE
    # nor with a ratio, a wide margin of five points, or every question asked 64 times alike
    repeated = [replace(pair, repeats=64) for pair in pairs]
    assert overall(judged(accuracy(repeated, {"AIME": 5.0}))) is Verdict.INCONCLUSIVE


def test_a_permutation_never_gives_p_of_nothing() -> None:
    assert sign_flip_p([1.0] * 500) == 1 / 2000


def test_questions_pair_by_content_and_missing_ones_are_reported() -> None:
    keys = [f"k{i}" for i in range(100)]
    a = bundle(keys)
    shuffled = random.Random(0).sample(keys, 80)
    b = bundle(shuffled)
    found = named(recordings(a, b).findings, "accuracy, t")
    assert (found.n, found.estimate) == (80, 0.0)
    lost = [answer(key, score=None, status="error") if key < "k2" else answer(key) for key in keys]
    partial = paired(a, {"name": "b"}, [], a.answers, lost, "m")
    assert "12 without an answer" in named(partial.findings, "accuracy, t").sentence


def test_a_cut_reply_is_not_just_a_wrong_one() -> None:
    a = bundle([f"k{i}" for i in range(200)])
    cut = [
        answer(x.item, status="length", score=0.0) if i % 5 == 0 else x
        for i, x in enumerate(a.answers)
    ]
    result = paired(a, {"name": "b"}, [], a.answers, cut, "m")
    assert named(result.findings, "truncated replies").sentence.startswith(
        "0 of 200 replies are cut at the baseline, 40 here"
    )
    assert named(result.findings, "truncated replies").verdict is Verdict.DIFFERENT
    assert result.answers["candidate"]["length"] == 40


def test_greedy_repeats_are_copies_and_not_samples() -> None:
    once = [Pair(str(i), "t", float(i % 9 != 0), float(i % 9 != 1)) for i in range(90)]
    sixteen = [replace(pair, repeats=16) for pair in once]
    (one, _), (many, _) = accuracy(once, {"t": 3.0}), accuracy(sixteen, {"t": 3.0})
    assert (one.interval, one.p) == (many.interval, many.p)


def test_questions_of_one_subject_are_not_independent() -> None:
    # 57 subjects of 20 questions; the candidate lost one subject whole and gained another
    pairs = [
        Pair(f"{s} {i}", "MMLU", float(s != 7), float(s != 3), f"subject {s}")
        for s in range(57)
        for i in range(20)
    ]
    clustered = accuracy(pairs, {"MMLU": 3.0})
    naive = accuracy([replace(pair, cluster="") for pair in pairs], {"MMLU": 3.0})
    assert clustered[0].clusters == 57
    assert "1140 questions in 57 subjects" in clustered[0].sentence
    assert (naive[0].verdict, clustered[0].verdict) == ("PASS", "INCONCLUSIVE")


def test_nothing_is_rounded_before_it_is_judged() -> None:
    # 94.995% would round to 95.00%, a loss of exactly the margin
    def shared(right: int) -> Finding:
        pairs = [Pair(str(i), "t", 1.0, float(i < right)) for i in range(20_000)]
        return judged(accuracy(pairs, {"t": 5.0}))[0]

    assert shared(19_070).verdict is Verdict.PASS
    assert shared(18_930).verdict is Verdict.FAIL
    assert shared(18_999).verdict is Verdict.INCONCLUSIVE
    assert shared(18_999).estimate == pytest.approx(-5.005)


def test_published_rows_of_thirty_questions_stay_open() -> None:
    rows = [
        Row("AIME 2025", Score(23 / 30, 30), Score(22 / 30, 30)),  # a "pass at 95%" and a "fail"
        Row("AIME 2025", Score(23 / 30, 30), Score(23 / 30, 30)),
        Row("AIME 2025", Score(23 / 30, 30), Score(24 / 30, 30)),
    ]
    for row in rows:
        assert [f.verdict for f in judged(aggregates([row]))] == ["INCONCLUSIVE"]


def simulated(seed: int, psi: float = 0.04, sigma: float = 0.05) -> list[Finding]:
    """Every test of one report, for a baseline compared with itself."""
    rng = random.Random(seed)
    floor = largest([distance([(1.0, 1.0)], noisy(sigma, 10_000 + seed), [])])
    pairs = []
    for task, n in (("gsm8k", 200), ("mmlu", 200), ("aime", 100)):
        for index in range(n):
            a = float(rng.random() < 0.85)
            flip = rng.random() < (psi / 2 / 0.85 if a else psi / 2 / 0.15)
            subject = f"{index % 40}" if task == "mmlu" else ""
            pairs.append(Pair(f"{task} {index}", task, a, 1 - a if flip else a, subject))
    lengths = [(n, max(1, n + rng.randint(-20, 20))) for n in (rng.randint(40, 160) for _ in pairs)]
    cut = [(rng.random() < 0.02, rng.random() < 0.02) for _ in pairs]
    partings = [
        Parting(str(i), rng.randint(1, 99), rng.random() < 0.3, rng.expovariate(20))
        for i in range(64)
    ]
    margins = {"gsm8k": 5.0, "mmlu": 5.0, "aime": 5.0}
    return judged(
        [
            *teacher_forced(noisy(sigma, seed), 0, floor),
            *accuracy(pairs, margins, psi),
            output_length(lengths),
            truncation(cut),
            divergence(partings, 0.005),
        ]
    )


def alarms(report: Callable[[int], list[Finding]]) -> tuple[int, int]:
    """How many of RUNS simulated comparisons alarm, and how many pass."""
    verdicts = [overall(report(seed)) for seed in range(RUNS)]
    bad = verdicts.count(Verdict.FAIL) + verdicts.count(Verdict.DIFFERENT)
    return bad, verdicts.count(Verdict.PASS)


def test_a_baseline_against_itself_alarms_no_more_often_than_alpha() -> None:
    bad, passed = alarms(simulated)
    assert bad <= ALPHA * RUNS
    assert passed >= 0.95 * RUNS


def test_a_noisy_baseline_against_itself_neither() -> None:
    # more than twice the margin of logit noise, on both sides: only its own floor can excuse it
    def report(seed: int) -> list[Finding]:
        floor = largest([distance([(1.0, 1.0)], noisy(0.3, 10_000 + seed), [])])
        return judged(teacher_forced(noisy(0.3, seed), 0, floor))

    bad, passed = alarms(report)
    assert bad <= ALPHA * RUNS
    assert passed >= 0.95 * RUNS


def test_small_benchmarks_against_themselves_neither() -> None:
    # margins of one point at 30 to 200 questions: where point thresholds fail the same model
    def report(seed: int) -> list[Finding]:
        rng = random.Random(seed)
        pairs = [
            Pair(f"{task} {i}", task, float(rng.random() < 0.7), float(rng.random() < 0.7))
            for task, n in (("aime", 30), ("gpqa", 198), ("math", 100))
            for i in range(n)
        ]
        return judged(accuracy(pairs, {}))

    bad, passed = alarms(report)
    assert bad <= ALPHA * RUNS
    assert passed < 0.15 * RUNS  # nor is it shown to be the same


@pytest.mark.parametrize(
    ("verdict", "code"), [("PASS", 0), ("FAIL", 1), ("DIFFERENT", 1), ("INCONCLUSIVE", 3)]
)
def test_an_open_result_has_its_own_exit_code(verdict: str, code: int) -> None:
    assert EXIT_CODES[Verdict(verdict)] == code


def test_sampled_texts_are_never_compared_token_by_token() -> None:
    keys = [f"k{i}" for i in range(64)]
    passages = tuple(
        Passage(key, "t", (1,), (2, 3), (Position(0.0, {2: 0.0}), Position(0.0, {3: 0.0})))
        for key in keys
    )
    other = [answer(key, token_ids=[4, 5]) for key in keys]
    greedy, sampled = (
        paired(a, {"name": "b"}, [], a.answers, other, "m")
        for a in (bundle(keys, 0, passages=passages), bundle(keys, 0.6, passages=passages))
    )
    assert named(greedy.findings, "greedy divergence").sentence.startswith("64 of 64 greedy")
    assert "greedy divergence" not in [finding.name for finding in sampled.findings]
