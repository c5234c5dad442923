"""ops bisect on a real tiny model, with a stand-in library whose operators fail in known ways."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from soak.operators_gpu_model import write

from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.workflows.ops import _groups, bisect
from flagdeploy.workflows.ops_refusals import require_known

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
    assert _groups(library, ["add", "sum", "mul"], library) == (["add", "sum_dim"], ["asinh"])
    assert _groups(library, ["add"], ["asinh", "asinh"]) == ([], ["asinh"])


@pytest.mark.parametrize(
    "only, hint",
    [(["ad"], "did you mean `add`?"), (["qqq"], "/out/library.json lists those that it has")],
)
def test_an_operator_that_the_library_does_not_have(only: list[str], hint: str) -> None:
    with pytest.raises(UsageError, match=f"--only {only[0]}: flag_gems has no such op") as caught:
        require_known(only, "flag_gems", {"add": [], "asinh": []}, Path("/out"))
    assert caught.value.hint == hint


def test_without_the_library(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="flag_gems is not installed"):
        bisect(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_said_before_what_is_not_installed(
    tmp_path: Path,
) -> None:
    with pytest.raises(CheckpointError, match="nowhere: is no folder of a checkpoint"):
        bisect(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"only": []}, "--only names no operator"),
        ({"max_kl": -1.0}, "--max-kl -1: is no bound"),
        ({"max_kl": math.nan}, "--max-kl nan: is no bound"),
        ({"max_slowdown": -2.0}, "--max-slowdown -2: is no bound"),
        ({"silent_s": 0.0}, "--silent 0: is no time"),
        ({"timeout_s": -1.0}, "--timeout -1: is no time"),
        ({"timeout_s": math.nan}, "--timeout nan: is no time"),
    ],
)
def test_bounds_and_times_that_make_no_sense(
    tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        bisect(tmp_path, tmp_path / "out", **asked)


def test_a_checkpoint_that_changed_in_its_place_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(STAND_IN))
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    requests = []

    def made(folder: Path, request: dict[str, Any], **options: Any) -> None:
        requests.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("flagdeploy.workflows.ops.Trials", made)
    for content in ("old", "old", "new"):
        weights.write_text(content)
        with pytest.raises(KeyboardInterrupt):
            bisect(tmp_path / "model", tmp_path / "out")
    assert requests[0] == requests[1]
    assert requests[1] != requests[2]
