"""Which rule a data set gets, and how the scores of a run become one (eval_accuracy.py).

A data set takes the first key that its name in lower case contains.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from flagdeploy.errors import EvalError, did_you_mean
from flagdeploy.evals.grading.mlperf import boxed, choice, code, harmony, integer
from flagdeploy.evals.grading.rule import Rule

DEEPSEEK_R1 = {
    "gpqa": Rule(partial(choice.read_choice, last_option="D"), choice.same_choice),
    "mmlu_pro": Rule(partial(choice.read_choice, last_option="J"), choice.same_choice),
    "math500": Rule(boxed.read_boxed, "prm800k"),
    "aime": Rule(integer.read_integer, integer.same_integer),
    "livecodebench": Rule(code.read_code, None),
}
_TEN_OPTIONS = Rule(partial(harmony.read_choice, last_option="J"), choice.same_choice)
GPT_OSS = {
    "gpqa": Rule(partial(harmony.read_choice, last_option="D"), choice.same_choice),
    "mmlu_pro": _TEN_OPTIONS,
    "math500": DEEPSEEK_R1["math500"],
    "aime": DEEPSEEK_R1["aime"],
    "livecodebench": Rule(harmony.read_code, None),
    "mmlu": _TEN_OPTIONS,
}
REFERENCES: dict[str, dict[str, Rule]] = {"deepseek-r1": DEEPSEEK_R1, "gpt-oss-120b": GPT_OSS}

# gpt-oss-120b asks each question this often, as rows of its own (eval_mlperf_accuracy.py).
REPEATS = {"aime25": 8, "gpqa_diamond": 5, "livecodebench_v6": 3}


def find_rule(dataset: str, reference: str = "deepseek-r1") -> Rule | None:
    """The rule of `reference` for `dataset`; None when that reference does not grade it."""
    if reference not in REFERENCES:
        raise EvalError(
            f"MLPerf has no reference `{reference}` here",
            hint=did_you_mean(reference, list(REFERENCES)),
        )
    rules = REFERENCES[reference]
    return next((rule for key, rule in rules.items() if key in dataset.lower()), None)


def exact_match(scores: Iterable[float]) -> float:
    """DeepSeek-R1: the mean over all rows in per cent; what found no answer counts as 0."""
    rows = list(scores)
    return 100.0 * sum(rows) / len(rows) if rows else 0.0


def weighted_score(scores: Mapping[str, Iterable[float]]) -> float:
    """gpt-oss-120b, in per cent: rights and totals per data set over its repeats, then summed.

    ``sum(right / repeats) / sum(total / repeats)``; the full set has 30 + 198 + 1055 questions.
    Raises EvalError for a data set without a number of repeats.
    """
    unknown = [name for name in scores if name not in REPEATS]
    if unknown:
        raise EvalError(
            f"gpt-oss-120b has no data set `{unknown[0]}`",
            hint=did_you_mean(unknown[0], list(REPEATS)),
        )
    rows = {name: list(values) for name, values in scores.items()}
    total = sum(len(values) / REPEATS[name] for name, values in rows.items())
    right = sum(sum(values) / REPEATS[name] for name, values in rows.items())
    return 100.0 * right / total if total else 0.0
