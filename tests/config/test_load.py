"""Layers, provenance, secrets, and the whole text of every configuration error."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flagdeploy.config.load import load
from flagdeploy.config.secret import Secret
from flagdeploy.errors import ConfigError

CASES = yaml.safe_load((Path(__file__).parent.parent / "cases/errors/config.yaml").read_text())


@pytest.mark.parametrize("case", CASES["cases"].values(), ids=CASES["cases"])
def test_error_text(case: dict[str, Any], workspace: Path) -> None:
    if "variant" in case:
        (workspace / "examples/r1/serve/fp8.yaml").write_text(case["variant"])
    with pytest.raises(ConfigError) as caught:
        load("r1", None, case.get("overrides", []), root=workspace, environ={"FLAGDEPLOY_X": "x"})
    assert str(caught.value) == case["error"]
    assert caught.value.hint == case.get("hint")
    assert caught.value.exit_code == 2


def test_later_layers_win_and_are_remembered(workspace: Path) -> None:
    loaded = load("r1", "fp8", ["parallel.tensor=8", "container.ulimits.stack=1"], root=workspace)
    assert loaded.deployment.parallel.tensor == 8
    assert loaded.deployment.container.ulimits == {"memlock": -1, "stack": 1}
    assert loaded.deployment.engine_version == "0.33"
    assert [(s.where, s.value) for s in loaded.history("parallel.tensor")] == [
        ("defaults", 1),
        ("examples/r1/serve/fp8.yaml:2", 16),
        ("command line", 8),
    ]
    assert loaded.where("container.ulimits.memlock") == "env/vendors/nvidia.yaml:7"
    assert loaded.where("limits.max_num_seqs") == "examples/r1/serve/fp8.yaml:3"
    assert loaded.where("kv_cache.dtype") == "defaults"


def test_lists_are_replaced_unless_appended(workspace: Path) -> None:
    replaced = load("r1", None, ["container.mounts=[/a:/a]"], root=workspace).deployment
    appended = load("r1", None, ["container.mounts+=[/a:/a]"], root=workspace).deployment
    assert replaced.container.mounts == ["/a:/a"]
    assert appended.container.mounts == ["/models:/models:ro", "/a:/a"]


def test_secrets_are_wrapped_and_masked(workspace: Path) -> None:
    override = "container.env.HF_TOKEN=${env:HF_TOKEN}"
    environ = {"HF_TOKEN": "hf_canary"}
    deployment = load("r1", None, [override], root=workspace, environ=environ).deployment
    token = deployment.container.env["HF_TOKEN"]
    assert token == Secret("hf_canary")
    assert token.reveal() == "hf_canary"
    assert "hf_canary" not in repr(deployment)
    assert deployment.container.env["NCCL_SOCKET_IFNAME"] == "eth0"


def test_interpolation_and_derived_defaults(workspace: Path) -> None:
    deployment = load("r1", None, ["reasoning_parser=${name}"], root=workspace).deployment
    assert deployment.reasoning_parser == "r1"
    assert deployment.model.served_name == "deepseek-ai/DeepSeek-R1"
    assert deployment.model.source == "/models/DeepSeek-R1"


def test_environment_is_not_reachable_by_omegaconf(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="oc.env"):
        load("r1", None, ["model.repo=${oc.env:HOME}"], root=workspace)


def test_hosts_option_wins_over_the_hostfile(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "one.txt"
    other.write_text("192.0.2.9 slots=4 user=me port=2222\n")
    loaded = load("r1", root=workspace, hosts=str(other))
    assert [(h.address, h.slots, h.user, h.port) for h in loaded.hosts] == [
        ("192.0.2.9", 4, "me", 2222)
    ]


def test_unknown_deployment_and_variant(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="unknown deployment `rr1`") as caught:
        load("rr1", root=workspace)
    assert caught.value.hint == "did you mean `r1`?"
    with pytest.raises(ConfigError, match="r1 has no variant `fp9`") as caught:
        load("r1", "fp9", root=workspace)
    assert caught.value.hint == "did you mean `fp8`?"


def test_a_home_for_anchors(workspace: Path) -> None:
    text = "x-common: &limits {max_num_seqs: 4}\nlimits: *limits\n"
    (workspace / "examples/r1/serve/fp8.yaml").write_text(text)
    assert load("r1", root=workspace).deployment.limits.max_num_seqs == 4
