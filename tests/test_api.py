"""The Python API: the verbs of the command line as functions, on real files."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import deepseek, dequantized
from safetensors.torch import load_file

import flagdeploy
from flagdeploy.errors import ConfigError, FlagdeployError

ROOT = Path(__file__).parent.parent
VERBS = [
    "calibrate",
    "compare",
    "dequant",
    "evaluate",
    "logs",
    "plan",
    "pull",
    "serve",
    "status",
    "stop",
    "verify",
]


def test_the_package_offers_the_verbs() -> None:
    assert flagdeploy.__all__ == VERBS
    assert set(VERBS) <= set(dir(flagdeploy))
    for name in VERBS:
        verb = getattr(flagdeploy, name)
        assert inspect.getdoc(verb)
        parameters = inspect.signature(verb, eval_str=True)
        assert inspect.Signature.empty not in [
            parameters.return_annotation,
            *(p.annotation for p in parameters.parameters.values()),
        ]
    with pytest.raises(AttributeError, match="no attribute 'bench'"):
        _ = flagdeploy.bench


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    program = "import flagdeploy, sys; print(*(m for m in sys.modules if m.startswith('flagd')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "flagdeploy\n"


def test_plan() -> None:
    plan = flagdeploy.plan(
        "deepseek_r1", "sglang_mtp_h200", ["limits.max_num_seqs=32"], workspace=str(ROOT)
    )
    assert plan.deployment == "deepseek_r1"
    assert [step.stage for step in plan.steps] == ["check", "pull", "start-0", "wait"]
    assert "--speculative-algorithm NEXTN" in str(plan)
    assert "--max-running-requests 32" in str(plan)


def test_pull_and_dequant(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    layout = deepseek()
    pulled = flagdeploy.pull(layout.write(tmp_path / "hub"), to=tmp_path / "R1")
    done = flagdeploy.dequant(pulled.folder, "bf16")
    assert done.outcome == "converted"
    expected = dequantized(layout)
    found: dict[str, torch.Tensor] = {}
    for shard in layout.shards:
        found |= load_file(done.folder / shard)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert flagdeploy.dequant(pulled.folder, "bf16").outcome == "already done"
    assert capfd.readouterr() == ("", "")


def test_compare_two_published_tables() -> None:
    result = flagdeploy.compare("mlu590", "h100", workspace=str(ROOT))
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    verdicts = {test["name"]: test["verdict"] for test in result.to_json()["tests"]}
    assert [name for name, verdict in verdicts.items() if verdict == "PASS"] == ["MMLU"]


def test_serve_status_logs_and_stop_of_what_does_not_run(tmp_path: Path) -> None:
    for folder in ("env", "examples", "hostfiles"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    workspace = str(tmp_path)
    with pytest.raises(ConfigError, match=r"^command line: limits.port: unknown key"):
        flagdeploy.serve("tiny_deepseek_r1", overrides=["limits.port=1"], workspace=workspace)
    assert flagdeploy.status("tiny_deepseek_r1", workspace=workspace).deployments == ()
    with pytest.raises(FlagdeployError, match="nothing is running, and no log was kept"):
        list(flagdeploy.logs("tiny_deepseek_r1", workspace=workspace))
    assert flagdeploy.stop("tiny_deepseek_r1", workspace=workspace).ranks == ()
