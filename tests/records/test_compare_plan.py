from typing import Any

from flagdeploy.records.compare_plan import text

ROW: dict[str, Any] = {
    "name": "GSM8K",
    "n": 1319,
    "margin": 0.0096,
    "discordance": 0.0283,
    "needed": 1911,
    "repeats": 2,
    "power": 0.66,
    "detectable": 0.013,
    "requests": 2638,
    "tokens": 791400,
    "minutes": 200.0,
}
PLAN = {
    "baseline": "h100",
    "power": 0.8,
    "speed": 30.0,
    "concurrency": 16,
    "rows": [ROW],
    "suites": [
        {
            "name": "quick",
            "questions": 1000,
            "repeats": [1],
            "tokens": 300000,
            "minutes": 10.5,
            "least_minutes": None,
            "sequences": 64,
            "scored_tokens": 4096,
            "own_floor": False,
        }
    ],
    "sequences": 0,
    "scored_tokens": 0,
}
TEXT = """\
To show a faithful deployment the same as h100:

benchmark  questions  margin   flips  power  needed  times  tokens  time
GSM8K      1319       0.96 pp  2.8%   66%    1911    2      791400  3.3 h

power: chance that one answer to each question decides; needed: answers for 80%,
which takes asking each question so many times, with sampling: greedy repeats are copies.
flips: share of questions expected to change between two runs of one model.
time: at 30 tokens/s per request, 16 at once.

The suites ask:

suite  questions  times  tokens  time      scored                against itself
quick  1000       1      300000  10.5 min  4096 in 64 sequences  no"""


def test_text() -> None:
    assert text(PLAN) == TEXT


def test_what_is_unknown_says_so() -> None:
    lines = text({**PLAN, "rows": [{**ROW, "tokens": None, "minutes": None}] * 2}).splitlines()
    assert lines[3].split()[-2:] == ["unknown", "unknown"]
    assert lines[-1] == "A PASS needs the pool of all benchmarks; a single one can only fail it."
