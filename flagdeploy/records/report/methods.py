"""Where the numbers come from: every method a result used, with its source."""

from collections.abc import Iterator
from typing import NamedTuple

from flagdeploy.records.report.wording import Result, Test


class Method(NamedTuple):
    """`words` of a test's name or method that show it was used; none: always."""

    words: tuple[str, ...]
    what: str
    source: str


METHODS = (
    Method(
        (),
        "Margins are fixed before the run. PASS: the interval lies within the margin (two "
        "one-sided tests). An alarm: the difference is shown to lie beyond. “No significant "
        "difference” is never a PASS.",
        "D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 657 (1987)",
    ),
    Method(
        (),
        "Alarms are adjusted for the number of tests (Holm); a PASS needs every required test, "
        "which needs no adjustment (intersection-union).",
        "S. Holm, Scand. J. Statist. 6, 65 (1979); R. L. Berger, Technometrics 24, 295 (1982)",
    ),
    Method(
        ("accuracy", "z test"),
        "Where no margin is given, at least 99% of the baseline's score is to be kept.",
        "MLPerf Inference's accuracy rule, made a test",
    ),
    Method(
        ("Tango",),
        "Interval of the difference of paired answers; it does not shrink to a point when no "
        "answer differs.",
        "T. Tango, Statistics in Medicine 17, 891 (1998)",
    ),
    Method(
        ("McNemar",),
        "Exact test of whether answers changed more one way than the other.",
        "Q. McNemar, Psychometrika 12, 153 (1947)",
    ),
    Method(
        ("sign-flip",),
        "Permutation of the signs of each subject's difference; p is never 0: (1 + k)/(1 + B).",
        "B. Phipson and G. K. Smyth, Stat. Appl. Genet. Mol. Biol. 9, 39 (2010)",
    ),
    Method(
        ("clustered",),
        "Tokens of one sequence share their prefix, so sequences are counted, not tokens.",
        "E. Miller, arXiv 2411.00640 (2024)",
    ),
    Method(
        ("bootstrap",),
        "Bias-corrected and accelerated bootstrap for skew figures.",
        "B. Efron, J. Am. Stat. Assoc. 82, 171 (1987)",
    ),
    Method(
        ("logit noise", "KL divergence"),
        "KL divergence over the tokens both sides list, all others lumped into one: a lower "
        "bound. Logit noise is the random error on every logit that explains it.",
        "T. M. Cover and J. A. Thomas, Elements of Information Theory, theorem 2.7.1; Fisher "
        "information of a softmax",
    ),
    Method(
        ("teacher-forced", "greedy"),
        "Near the baseline a divergence of probabilities says that a model is another one, not "
        "that it is worse: alone it is DIFFERENT, never FAIL.",
        "arXiv 2606.19558",
    ),
    Method(
        ("greedy",),
        "Share of greedy replies still equal after so many tokens; a reply that never parts is "
        "censored at its end.",
        "E. L. Kaplan and P. Meier, J. Am. Stat. Assoc. 53, 457 (1958)",
    ),
    Method(
        ("answer flips",),
        "Equal scores can hide many answers that changed, so they are counted and shown.",
        "arXiv 2407.09141",
    ),
    Method(
        ("Newcombe",),
        "Interval of the difference of two independent proportions.",
        "R. G. Newcombe, Statistics in Medicine 17, 873 (1998)",
    ),
    Method(
        ("Fisher",),
        "Exact test of two independent proportions.",
        "R. A. Fisher, J. R. Stat. Soc. 85, 87 (1922)",
    ),
)


LOOKS = Method(
    (),
    "A run that looks before all answers are in spends its alpha over the looks, so that looking "
    "raises no more alarms.",
    "K. K. G. Lan and D. L. DeMets, Biometrika 70, 659 (1983)",
)


def used(result: Result) -> Iterator[Method]:
    """The methods of METHODS that this result rests on."""
    said = " ".join(_said(test) for test in result["tests"])
    for method in METHODS:
        if not method.words or any(word in said for word in method.words):
            yield method
    if result.get("looks"):
        yield LOOKS


def _said(test: Test) -> str:
    return f"{test['name']} {test.get('test') or ''} {test['sentence']}"
