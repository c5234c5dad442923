"""The whole way on real parts: vLLM with tensor parallelism over two hosts, in containers over SSH.

dequant > serve > compare with the GPU's baseline > serve again > kill a rank > stop, in the words
that a user types; then nothing may be left, and no secret may have been seen.
"""

import json

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image

from .user import API_KEY, CANARY, User, command_lines, containers, files_with

NAME = "tiny_deepseek_r1"
OVERRIDES = [
    "container.env.HF_TOKEN=${env:HF_TOKEN}",
    "endpoint.api_key=${env:FLAGDEPLOY_API_KEY}",
]

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(1800)]


def assert_unseen(user: User, fleet: Fleet) -> None:
    """Neither secret stands in a command line, a label, a file of ours or anything printed."""
    listing = command_lines()
    for secret in (CANARY, API_KEY):
        assert secret not in listing
        assert secret not in user.output
        assert not files_with(secret, user.workspace.parent)
        for host in fleet:
            labels = [container["Labels"] for container in containers(host)]
            assert secret not in json.dumps(labels)
            assert not files_with(secret, host.home)


def test_vllm_over_two_hosts(user: User, fleet: Fleet, vllm_environment: Image) -> None:
    checkpoint = user.workspace / "models" / f"{NAME}-bf16"
    folder = user.workspace / "examples" / NAME / "checkpoint"
    user.runs("pull", NAME, "--ckpt", str(folder))
    user.runs("dequant", NAME, "--to", "bf16")
    mounts = ",".join([*vllm_environment.mounts, f"{checkpoint}:{checkpoint}:ro"])
    serve = [
        *("serve", NAME, "vllm_cpu", *OVERRIDES),
        f"container.image={vllm_environment.tag}",
        f"container.mounts=[{mounts}]",
        "container.init=false",  # its program would lie under the mounted /usr
        f"model.checkpoint={checkpoint}",
        *("--hosts", user.hosts),
    ]

    plan = user.runs(*serve, "--dry-run")
    assert "--nnodes 2" in plan
    assert "HF_TOKEN=***" in plan
    user.runs(*serve)
    assert [len(containers(host)) for host in fleet] == [1, 1]
    assert_unseen(user, fleet)

    # two ranks that spin while they wait for each other share two cores with other tests
    verdict = user.runs("compare", NAME, "--baseline", "h200", "--early")
    print(verdict)
    assert verdict.startswith("PASS")

    started = [containers(host)[0]["Id"] for host in fleet]
    again = json.loads(user.runs(*serve, "--json"))
    assert again["changed"] is False
    assert [containers(host)[0]["Id"] for host in fleet] == started

    fleet[1].docker("kill", f"flagdeploy-{NAME}-1")
    assert f"rank 1  {fleet[1].address}  exited" in user.runs("status", NAME, exit_code=1)
    assert f"[rank 1 {fleet[1].address}]" in user.runs("logs", NAME, "--tail", "5")

    user.runs("stop", NAME)
    assert user.runs("stop", NAME) == "nothing is running\n"
    assert [containers(host) for host in fleet] == [[], []]
    assert "vllm serve" not in command_lines()
    assert_unseen(user, fleet)
