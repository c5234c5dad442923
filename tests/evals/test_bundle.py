import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from flagdeploy.config.secret import Secret
from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.bundle import Bundle, fingerprint, read_bundle, write_bundle
from flagdeploy.evals.items import Item
from flagdeploy.evals.parity import Prompt
from flagdeploy.evals.teacher_forcing import Passage, Position

MESSAGES = ({"role": "user", "content": "1+1?"},)
BUNDLE = Bundle(
    name="h200",
    manifest={
        "benchmarks": [{"name": "t", "margin_pp": 3.0}],
        "format": "flagdeploy-baseline/2",
        "noise_floor": {"top1": 0.001},
    },
    prompts=(Prompt("one", MESSAGES, 4, (1, 2, 3, 4)), Prompt("two", MESSAGES, error="HTTP 400")),
    items=(Item("key", "t", "gsm8k", MESSAGES, "2", "key", 9),),
    answers=(Answer("r", "key", "t", "ok", "2", "2", 1.0, "2", "stop", 4, 1, 200, 1, 0.0, 1.0),),
    passages=(Passage("key", "t", (1, 2), (3,), (Position(-0.5, {3: 0.0, 9: -9999.0}),)),),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "h200.jsonl.gz"
    write_bundle(path, BUNDLE)
    assert read_bundle(path) == BUNDLE
    assert read_bundle(path).margins_pp == {"t": 3.0}
    assert read_bundle(path).noise_floor == {"top1": 0.001}
    assert list(path.parent.iterdir()) == [path]


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_bundle(tmp_path / name, BUNDLE)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_secret_in_the_deployment_is_masked(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl.gz"
    deployment = {"env": {"HF_TOKEN": Secret("canary")}}
    write_bundle(path, replace(BUNDLE, manifest={**BUNDLE.manifest, "deployment": deployment}))
    assert b"canary" not in gzip.decompress(path.read_bytes())
    assert read_bundle(path).manifest["deployment"] == {"env": {"HF_TOKEN": "***"}}


def test_a_torn_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl.gz"
    write_bundle(path, BUNDLE)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvalError, match="not a readable baseline bundle"):
        read_bundle(path)


def test_a_bundle_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"format": "flagdeploy-baseline/3"}).encode()))
    with pytest.raises(EvalError) as error:
        read_bundle(path)
    assert str(error.value) == (
        f"{path}: expected a bundle of format flagdeploy-baseline/2, found flagdeploy-baseline/3"
    )


def test_a_fingerprint_changes_with_one_byte_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\0" * 100)
    before = fingerprint(tmp_path)
    weights.write_bytes(b"\0" * 99 + b"\1")
    after = fingerprint(tmp_path)
    assert before["whole"]
    assert before["sha256"] != after["sha256"]
    assert before["files"]["config.json"] == after["files"]["config.json"]
