"""Which benchmark gets which reader: the first key that its name contains, as MLPerf has it."""

import re
from functools import partial

from flagdeploy.evals.grading.lenient import letters, mathematics, numbers
from flagdeploy.evals.grading.mlperf.harmony import read_code
from flagdeploy.evals.grading.rule import Rule

_OF_FOUR = Rule(partial(letters.read_letter, last_option="D"), letters.same_letter)
_OF_TEN = Rule(partial(letters.read_letter, last_option="J"), letters.same_letter)
_NUMBER = Rule(numbers.read_number, numbers.same_number)
_CODE = Rule(read_code, None)

RULES = {
    "gsm8k": _NUMBER,
    "mgsm": _NUMBER,
    "aime": _NUMBER,
    "math500": Rule(mathematics.read_mathematics, "math-verify"),
    "gpqa": _OF_FOUR,
    "mmlupro": _OF_TEN,
    "mmlu": _OF_FOUR,
    "ceval": _OF_FOUR,
    "livecodebench": _CODE,
    "humaneval": _CODE,
}


def find_rule(benchmark: str) -> Rule | None:
    """The rule for a name in any spelling: ``C-Eval``, ``MATH-500``, ``gpqa_diamond``."""
    name = re.sub(r"[^a-z0-9]", "", benchmark.lower())
    return next((rule for key, rule in RULES.items() if key in name), None)
