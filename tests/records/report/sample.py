"""Results to report: a small one written out, and a real one."""

import json
from pathlib import Path
from typing import Any

CASES = Path(__file__).parents[2] / "cases" / "report"

TESTS: list[dict[str, Any]] = [
    {
        "name": "parity",
        "verdict": "PASS",
        "sentence": "all 12 prompts become the same tokens",
        "required": True,
        "unit": "",
        "estimate": None,
        "interval": None,
        "level": None,
        "n": 12,
        "clusters": None,
        "margin": None,
        "p": None,
        "needed_n": None,
    },
    {
        "name": "accuracy, a|b",
        "verdict": "INCONCLUSIVE",
        "sentence": "80.00% at the baseline, 79.00% here on 100 questions",
        "required": True,
        "unit": "pp",
        "estimate": -1.0,
        "interval": {"low": -4.126, "high": 2.0},
        "level": 0.9,
        "n": 100,
        "clusters": 100,
        "margin": 0.8,
        "p": 0.4,
        "needed_n": 3864,
    },
]
COUNTS = {"ok": 99, "length": 1, "unparsed": 0, "refused": 0, "error": 0, "timeout": 0}
SIDE = {"prediction": "4", "score": 1.0, "status": "ok", "content": "so\n# 4"}
RESULT: dict[str, Any] = {
    "format": "flagdeploy-compare/1",
    "verdict": "INCONCLUSIVE",
    "mode": "paired with teacher forcing",
    "suite": "quick",
    "tests": TESTS,
    "answers": {"baseline": COUNTS, "candidate": COUNTS},
    "identical": 0.9,
    "flip_count": 3,
    "flips": [
        {
            "item": "k1",
            "task": "t",
            "gold": "4",
            "baseline": SIDE,
            "candidate": {**SIDE, "prediction": None, "score": 0.0, "content": ""},
        }
    ],
    "baseline": {"name": "h200", "endpoint": {"version": "1"}, "benchmarks": [{"name": "t"}]},
    "candidate": {"name": "here", "endpoint": {"version": "2"}},
    "differences": [{"key": "endpoint.version", "baseline": "1", "candidate": "2"}],
    "started": "2026-01-01T00:00:00Z",
    "seconds": 61.2,
}


def real() -> dict[str, Any]:
    """The model in the box with one expert damaged, against its baseline; shortened."""
    loaded: dict[str, Any] = json.loads((CASES / "one_damaged_expert.json").read_text())
    return loaded
