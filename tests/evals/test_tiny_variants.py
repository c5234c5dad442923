"""Harmless and damaged variants of the small DeepSeek-R1, as they were measured.

tests/benchmarks/tiny_variants.py writes the figures; the baseline is the H200's recording.
"""

import json
from pathlib import Path

import pytest

from flagdeploy.evals.agreement import NLL_MARGIN, TOP1_MARGIN, teacher_forced
from flagdeploy.evals.teacher_forcing import Difference
from flagdeploy.evals.verdict import Finding, Verdict, judged, overall

DATA = json.loads((Path(__file__).parents[1] / "cases/compare/tiny_variants.json").read_text())
SEQUENCES = {key: (length, impurity) for key, (length, impurity) in DATA["sequences"].items()}
HARMLESS = {"FP32 on a CPU", "BF16", "BF16 activations", "8 bit per row", "FP8 latent cache"}
# as recorded: the H200's repeats are equal to the bit
FLOOR = {"top1": 0.0, "delta_nll": 0.0, "kl": 0.0}


def differences(variant: str) -> list[Difference]:
    rows = zip(SEQUENCES.items(), DATA["variants"][variant], strict=True)
    return [
        Difference(key, length, top1, top5, kl, nll, 0, impurity, near, far)
        for (key, (length, impurity)), (top1, top5, kl, nll, near, far) in rows
    ]


def findings(variant: str) -> list[Finding]:
    return judged(teacher_forced(differences(variant), 0, FLOOR))


@pytest.mark.parametrize("variant", DATA["variants"])
def test_the_verdict_of_teacher_forcing_alone(variant: str) -> None:
    expected = Verdict.PASS if variant in HARMLESS else Verdict.DIFFERENT
    if variant == "6 bit per row":  # at the margin, as 5 to 6 bit are for larger models
        expected = Verdict.INCONCLUSIVE
    assert overall(findings(variant)) is expected


def test_means_of_tokens_alone_would_pass_a_model_of_four_bits() -> None:
    # Nearly every token of this model is certain, so its means hide what rounding did to the rest.
    top1, nll, noise, *_ = findings("4 bit per row")
    assert top1.interval is not None
    assert nll.interval is not None
    assert top1.interval.high < 100 * TOP1_MARGIN
    assert nll.interval.high < NLL_MARGIN
    assert (top1.verdict, nll.verdict, noise.verdict) == ("PASS", "PASS", "DIFFERENT")
    assert noise.estimate == pytest.approx(0.61, abs=0.01)


def test_rounding_parts_near_ties_and_damage_parts_certainties() -> None:
    assert sum(d.far for variant in HARMLESS for d in differences(variant)) == 0
    assert sum(d.far > 0 for d in differences("one expert negated")) > 20
