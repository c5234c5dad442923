"""What every form of the report says, in the same words."""

from collections.abc import Iterator, Mapping
from typing import Any

Result = Mapping[str, Any]
Test = Mapping[str, Any]

COLUMNS = ("test", "verdict", "estimate", "interval", "margin", "n")
MODES = {
    "published totals": "published totals, unpaired: lower power, clustering unknown",
    "paired answers only": "paired answers only; numerical agreement was not tested",
}
MEANINGS = {
    "PASS": "the same model as the baseline, within the margins",
    "FAIL": "not the same model as the baseline",
    "DIFFERENT": "another model than the baseline; harm beyond the margins was not shown",
    "INCONCLUSIVE": "not enough evidence for either verdict",
}
SCORING = {
    "S": "by prefill, one request per sequence",
    "D": "by greedy decoding",
    "P": "by prefill, one request per position",
}
STATUSES = {
    "ok": "an answer was found",
    "length": "cut by the token limit; counts as wrong",
    "unparsed": "no answer found in the reply; counts as wrong",
    "refused": "the endpoint declined the request; counts as wrong",
    "ungraded": "no grade was given; left out, as an error",
    "error": "no reply at all; left out, and a PASS must also hold with it counted as wrong",
    "timeout": "no reply in time; as an error",
}
ORDER = ("FAIL", "DIFFERENT", "INCONCLUSIVE", "PASS", "INFO")  # the most serious first


def headline(result: Result) -> str:
    verdict = result["verdict"]
    sides = f"{result['candidate']['name']} against {result['baseline']['name']}"
    return f"{verdict}: {sides}: {MEANINGS[verdict]}"


def mode(result: Result) -> str:
    return MODES.get(result["mode"], str(result["mode"]))


def about(result: Result) -> str:
    """How the comparison was made and how to read a verdict."""
    share = result["identical"]
    same = f" {share:.1%} of all replies are identical word for word." if share is not None else ""
    looks = "".join(f" {part}" for part in (*scored(result), *looked(result)))
    return (
        f"Mode: {mode(result)}; suite {result['suite']}; started {result['started']}, took "
        f"{result['seconds']:.0f} s.{same}{looks} {rule(result)} Tests marked * are required."
    )


def rule(result: Result) -> str:
    """When a test passes."""
    if result["mode"] == "published totals":
        return (
            "A test passes when a one-sided z test at 5% shows that no more is lost than the "
            "margin; intervals have two sides, so they say a little less."
        )
    return (
        "A test passes when its interval lies within the margin, fails when it lies beyond, and "
        "is open otherwise."
    )


def scored(result: Result) -> Iterator[str]:
    """How each side scored the given tokens, where the result says so."""
    found = result.get("scoring") or {}
    if found.get("mode"):
        mine, theirs = SCORING[found["mode"]], SCORING.get(found["baseline"] or found["mode"])
        yield f"Tokens scored {mine}" + ("." if mine == theirs else f", at the baseline {theirs}.")


def looked(result: Result) -> Iterator[str]:
    """How often a run looked at its answers before all were in, and what that cost."""
    if looks := result.get("looks"):
        number, shares = looks["number"], looks["information"]
        yield (
            f"Ended at look {number} of {len(shares)}, with {shares[number - 1]:.0%} of the "
            f"answers planned; {looks['spent']:.3g} of alpha {looks['alpha']:.3g} was spent "
            f"({looks['spending']} spending)."
        )


def statement(result: Result) -> str:
    """The verdict in a sentence that can be signed."""
    candidate, baseline = result["candidate"]["name"], result["baseline"]["name"]
    harmed = [test for test in reasons(result) if is_accuracy(result, test)]
    worse = ": it answers worse than is allowed" if harmed else ""
    return {
        "PASS": f"{candidate} is the same model as {baseline}, within margins that were set before "
        "anything was asked.",
        "FAIL": f"{candidate} is not the same model as {baseline}{worse}.",
        "DIFFERENT": f"{candidate} is another model than {baseline}. That it answers worse than "
        "allowed was not shown.",
        "INCONCLUSIVE": f"Whether {candidate} is the same model as {baseline} was not decided: too "
        "little was asked to say that it is, or that it is not.",
    }[result["verdict"]]


def reasons(result: Result) -> list[Test]:
    """The tests that carry the verdict: its alarms, the required that are open, or all required."""
    verdict = result["verdict"]
    tests = [test for test in result["tests"] if test["verdict"] == verdict]
    if verdict in ("FAIL", "DIFFERENT"):
        return tests
    required = [test for test in tests if test["required"]]
    return sorted(required, key=lambda test: not test["name"].startswith("accuracy"))


def plainly(test: Test) -> str:
    """A test's finding for readers who do not know its name: of two scores what they differ by."""
    a, b, difference = test.get("baseline"), test.get("candidate"), test["estimate"]
    if a is None or b is None or difference is None or not test["interval"]:
        return str(test["sentence"])
    low, high = (number(test["interval"][edge]) for edge in ("low", "high"))
    more = f"{number(abs(difference))} points {'more' if difference > 0 else 'less'}"
    allowed = f"; {number(test['margin'])} may be lost" if test["margin"] else ""
    return (
        f"{b:.2f}% of {test['n']} questions right, {a:.2f}% at the baseline: "
        f"{more if abs(difference) >= 0.005 else 'no difference'}, with {test['level']:.0%} "
        f"confidence between {low} and {high} points{allowed}"
    )


def open_tests(result: Result) -> list[Test]:
    """Every test that did not pass, the most serious first."""
    tests = (test for test in result["tests"] if test["verdict"] in ORDER[:3])
    return sorted(tests, key=lambda test: ORDER.index(test["verdict"]))


def explained(test: Test) -> str:
    """A test's sentence with its method; how sure an alarm is; what would decide an open one."""
    parts = [f"{test['sentence']}.", *method(test), *noise(test)]
    if test["verdict"] in ("FAIL", "DIFFERENT") and test["p"] is not None:
        p = f"= {test['p']:.2g}" if test["p"] > 1e-15 else "< 1e-15"
        parts.append(f"Beyond what is allowed: p {p}, adjusted for all tests (Holm).")
    return " ".join([*parts, *decided_by(test)])


def method(test: Test) -> Iterator[str]:
    if test.get("test"):
        yield f"Test: {test['test']}."


def noise(test: Test) -> Iterator[str]:
    """How the estimate compares with what the baseline differs from itself, where that is known."""
    if ratio := test.get("ratio"):
        span = test.get("ratio_interval")
        edges = f" [{number(span['low'])}, {number(span['high'])}]" if span else ""
        yield f"{number(ratio)}{edges} times the baseline's own noise."


def decided_by(test: Test) -> Iterator[str]:
    """What it would take to decide an open test."""
    if test["needed_n"]:
        unit = "sequences" if test["name"].startswith("teacher-forced") else "questions"
        repeats = test.get("needed_repeats") or 1
        asked = f", or each asked {repeats} times with sampling," if repeats > 1 else ""
        yield f"About {test['needed_n']} {unit}{asked} would decide it (power 80%)."


def row(test: Test) -> tuple[str, ...]:
    """One test in COLUMNS."""
    unit = test["unit"]
    return (
        test["name"] + (" *" if test["required"] else ""),
        test["verdict"],
        with_unit(test["estimate"], unit),
        span(test),
        with_unit(test["margin"], unit),
        str(test["n"] or ""),
    )


def with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}".rstrip()


def span(test: Test) -> str:
    """The interval and its level, empty without one."""
    interval = test["interval"]
    if not interval:
        return ""
    return f"[{number(interval['low'])}, {number(interval['high'])}] at {test['level']:.0%}"


def number(value: float | None) -> str:
    """Two decimals, or as many as show two digits of a small value; None is unbounded."""
    if value is None:
        return "unbounded"
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"


def benchmark(test: Test) -> str:
    """The name of the questions behind an accuracy test."""
    return str(test["name"]).removeprefix("accuracy, ")


def is_accuracy(result: Result, test: Test) -> bool:
    return result["mode"] == "published totals" or str(test["name"]).startswith("accuracy")


def is_signed(test: Test) -> bool:
    """Whether the estimate is a difference with a sign, and no share or distance."""
    name = str(test["name"])
    if name in ("teacher-forced log-likelihood difference", "output length"):
        return True
    return bool(test["unit"] == "pp") and not name.startswith("teacher-forced")


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every fact of a side by its dotted key, rows of a list by their place.

    All but the noise floor of each single sequence, which is data and no fact of the side.
    """
    if prefix == "noise_floor.sequences":
        return
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        items = enumerate(value)
    if items:
        for key, inner in items:
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value and isinstance(value, list):
        yield prefix, ", ".join(map(str, value))
    elif value not in (None, "", {}, []):
        yield prefix, str(value).replace("\n", " ")
