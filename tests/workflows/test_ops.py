"""ops bisect on a real tiny model, with a stand-in library whose operators fail in known ways."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from soak.operators_gpu_model import write

from flagdeploy.errors import UsageError
from flagdeploy.workflows.ops import _groups, bisect

STAND_IN = Path(__file__).parent.parent / "operators"


def test_the_culprits_of_a_library_are_found_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "model")
    monkeypatch.syspath_prepend(str(STAND_IN))
    paths = [str(STAND_IN), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    only = ["softmax", "silu", "cos", "argmax", "logsumexp"]
    found = bisect(
        tmp_path / "model", tmp_path / "out", only=only, device="cpu", dtype="float32", jobs=3
    )
    evidence = {culprit.excluded: outcome for culprit, outcome in found.culprits}
    assert evidence.keys() == {"softmax", "silu", "argmax", "logsumexp"}
    assert evidence["softmax"].kind == "corrupt"
    assert evidence["softmax"].evidence.startswith("NaN or infinite at 314 of 314 positions: 0, 1,")
    assert evidence["argmax"].evidence == ("314 of 314 tokens chosen are not the most likely ones")
    assert evidence["logsumexp"].evidence.startswith("log-probabilities are off by up to ")
    assert evidence["silu"].kind == "crashed"
    assert evidence["silu"].evidence.endswith("in silu")
    assert found.passing == ("cos",)
    assert found.final.passed
    assert found.final.figures["recorded"] == ["cos"]
    written = yaml.safe_load(found.file.read_text())
    left_out = [
        *("argmax", "asinh", "embedding", "logsumexp", "mm", "silu", "sin", "softmax", "topk")
    ]
    assert written == {"operators": {"library": "flaggems", "exclude": left_out}}


def test_operators_that_the_model_calls_come_first() -> None:
    library = {"add": ["add.Tensor"], "asinh": ["asinh"], "sum_dim": ["sum.dim_IntList"]}
    assert _groups(library, ["add", "sum", "mul"], []) == (["add", "sum_dim"], ["asinh"])
    with pytest.raises(UsageError, match="--only ad: flag_gems has no such operator"):
        _groups(library, ["add"], ["ad"])


def test_without_the_library(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flag_gems is not installed"):
        bisect(tmp_path, tmp_path / "out")
