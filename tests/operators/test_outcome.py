"""A verdict becomes pass or fail, with the evidence a reader needs."""

import pytest

from flagdeploy.operators.outcome import Bounds, crash, judge

FINE = {
    "positions": 512,
    "not_finite": 0,
    "not_finite_at": [],
    "identical": False,
    "kl": 2e-4,
    "top1": 0.99,
    "seconds": 0.2,
}
BOUNDS = Bounds(kl=1e-3, slowdown=3)


@pytest.mark.parametrize(
    "change, kind, evidence",
    [
        ({}, "passed", "KL 0.0002 nats, 2.0 times the native time"),
        ({"identical": True}, "passed", "bit-identical, 2.0 times the native time"),
        ({"kl": 0.5}, "diverged", "KL 0.5 nats, bound 0.001; top-1 99.0%"),
        (
            {"unscored": 512},
            "corrupt",
            "no log-probability from finite logits at 512 of 512 positions",
        ),
        ({"wrong_tokens": 3}, "corrupt", "3 of 512 tokens chosen are not the most likely ones"),
        (
            {"logprob_error": 0.25},
            "corrupt",
            "log-probabilities are off by up to 0.25 nats on the same logits",
        ),
        (
            {"logprob_error": 2e-6, "wrong_tokens": 0},
            "passed",
            "KL 0.0002 nats, 2.0 times the native time",
        ),
        ({"seconds": 0.4}, "slow", "4.0 times the native time, bound 3"),
        (
            {"not_finite": 2, "not_finite_at": [7, 9], "kl": None},
            "corrupt",
            "NaN or infinite at 2 of 512 positions: 7, 9",
        ),
    ],
)
def test_judgement(change: dict[str, object], kind: str, evidence: str) -> None:
    outcome = judge({**FINE, **change}, 0.1, BOUNDS)
    assert (outcome.kind, outcome.evidence) == (kind, evidence)


def test_without_a_bound_nothing_is_slow() -> None:
    assert judge({**FINE, "seconds": 99.0}, 0.1, Bounds(1e-3, 0)).passed


CRASHES = {
    "an exception": (
        1,
        ["Traceback (most recent call last):", "AssertionError: strides must be 16-byte aligned"],
        "exit 1 in pass 1 of 3; AssertionError: strides must be 16-byte aligned",
    ),
    "a device-side assert": (
        1,
        [
            "ScatterGatherKernel.cu:144: block: [0,0,0] Assertion `idx < size` failed.",
            "torch.AcceleratorError: CUDA error: device-side assert triggered",
            "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
        ],
        "exit 1 in pass 1 of 3; torch.AcceleratorError: CUDA error: device-side assert triggered; "
        "ScatterGatherKernel.cu:144: block: [0,0,0] Assertion `idx < size` failed.",
    ),
    "a signal": (
        -6,
        [
            "Fatal Python error: Aborted",
            "Thread 0x00007f (most recent call first):",
            '  File "operator_trial.py", line 56 in _run',
            "Current thread 0x00008f (most recent call first):",
            '  File "silu.py", line 3 in silu',
            '  File "model.py", line 9 in forward',
            "Extension modules: a",
        ],
        'SIGABRT in pass 1 of 3; File "silu.py", line 3 in silu',
    ),
    "silence": (-9, [], "SIGKILL in pass 1 of 3"),
}


@pytest.mark.parametrize("status, stderr, evidence", CRASHES.values(), ids=CRASHES)
def test_a_crash_is_told_by_its_signal_and_its_line(
    status: int, stderr: list[str], evidence: str
) -> None:
    outcome = crash(status, stderr, "pass 1 of 3")
    assert (outcome.kind, outcome.evidence) == ("crashed", evidence)
