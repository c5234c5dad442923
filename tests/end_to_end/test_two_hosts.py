"""The whole way on real parts: vLLM with tensor parallelism over two hosts, in containers over SSH.

dequant > serve > compare with the GPU's baseline > serve again > kill a rank > stop, in the words
that a user types; then nothing may be left, and no secret may have been seen.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet, Host
from proving_ground.image import Image

ROOT = Path(__file__).parent.parent.parent
CANARY = "hf_canaryQ7w8E9r0T1y2U3i4O5p6"
API_KEY = "sk-canary-A1b2C3d4E5f6"
NAME = "tiny_deepseek_r1"
OVERRIDES = [
    "container.env.HF_TOKEN=${env:HF_TOKEN}",
    "endpoint.api_key=${env:FLAGDEPLOY_API_KEY}",
]

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]


class User:
    """Somebody at a shell, with a workspace, an inventory, a key and two secrets."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self.output = ""
        for name in ("env", "examples", "hostfiles"):
            shutil.copytree(ROOT / name, self.workspace / name)
        (folder / "hosts.txt").write_text(fleet.hostfile())
        self.hosts = str(folder / "hosts.txt")
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "FLAGDEPLOY_HOME": str(self.workspace),
            "FLAGDEPLOY_SSH_KEY": str(fleet.key_path),
            "FLAGDEPLOY_KNOWN_HOSTS": str(fleet.known_hosts_path),
            "HF_TOKEN": CANARY,
            "FLAGDEPLOY_API_KEY": API_KEY,
        }
        (folder / "home").mkdir()

    def runs(self, *arguments: str, exit_code: int = 0) -> str:
        """Run `flagdeploy`, expect `exit_code`, return stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "flagdeploy", *arguments],
            env=self.environment,
            cwd=self.workspace,
            capture_output=True,
            text=True,
        )
        self.output += done.stdout + done.stderr
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def user(fleet: Fleet, tmp_path: Path) -> Iterator[User]:
    yield User(fleet, tmp_path)
    for host in fleet:
        host.remove_containers()


def containers(host: Host) -> list[dict[str, object]]:
    """Every container on the host, in any state."""
    return json.loads(host.engine("GET", "/containers/json?all=1"))


def command_lines() -> str:
    """The command line of every process of this machine, the hosts' included."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def files_with(secret: str, folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]


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

    verdict = user.runs("compare", NAME, "--baseline", "h200")
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
