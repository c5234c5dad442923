"""A real vLLM with the code of this project's patch set, which switches an operator library on.

The base commit of the set is another than the installed version's, so its module is loaded as one
of vLLM's general plug-ins, whose loader the patch calls it from. The library is a stand-in, since
FlagGems has no operators for a CPU; what it replaces, and what that changes, is real.
"""

import re
import subprocess
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image

from .user import ROOT, User, containers

PATCH = ROOT / "patches/nvidia/vllm@01425553bdbe/0001-honour-use-flaggems-or-fail.patch"
NAME = "tiny_deepseek_r1"
STAND_IN = ROOT / "tests" / "operators" / "flag_gems.py"

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(900)]


@pytest.fixture
def user(user: User, fleet: Fleet, tmp_path: Path) -> User:
    """On one host, with a vendor for whose chips the library has a backend."""
    (tmp_path / "hosts.txt").write_text(fleet.hostfile().splitlines()[0] + "\n")
    vendor = "vendor: {operator_libraries: [flaggems]}\n"
    (user.workspace / "env" / "vendors" / "standin.yaml").write_text(vendor)
    return user


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH: the patch's new module, as a plug-in, and the library."""
    site = tmp_path / "site"
    about = site / "flaggems_switch-1.dist-info"
    about.mkdir(parents=True)
    apply = ["git", "apply", "--include", "vllm/plugins/flaggems.py", "-p3", str(PATCH)]
    subprocess.run(["git", "init", "--quiet"], cwd=site, check=True)
    subprocess.run([*apply[:3], "flaggems.py", *apply[4:]], cwd=site, check=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flaggems-switch\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nflaggems = flaggems:enable_if_asked\n"
    )
    (site / "flag_gems.py").symlink_to(STAND_IN)
    return site


def test_vllm_with_an_operator_library(
    user: User, fleet: Fleet, vllm_environment: Image, site: Path
) -> None:
    checkpoint = user.workspace / "models" / f"{NAME}-bf16"
    user.runs("pull", NAME, "--ckpt", str(user.workspace / "examples" / NAME / "checkpoint"))
    user.runs("dequant", NAME, "--to", "bf16")
    mounts = [*vllm_environment.mounts, f"{checkpoint}:{checkpoint}:ro", f"{site}:{site}:ro"]
    mounts.append(f"{STAND_IN}:{STAND_IN}:ro")
    serve = [
        *("serve", NAME, "vllm_cpu"),
        *("vendor=standin", "parallel.tensor=1", "container.init=false"),
        f"container.image={vllm_environment.tag}",
        f"container.mounts=[{','.join(mounts)}]",
        f"container.env.PYTHONPATH={site}",
        f"model.checkpoint={checkpoint}",
        "operators={library: flaggems, build: flagdeploy, include: [cos, sin]}",
        "operators.compare_native=false",  # another start of vLLM
        *("--hosts", user.hosts),
    ]
    served = user.runs(*serve)
    print(served)
    proof = re.search(r"USE_FLAGGEMS=1 in (\d+) process\(es\), (\d+) wrote over their", served)
    assert proof and int(proof[1]) >= 1 and int(proof[2]) >= 1
    assert "2 operators called: cos, sin" in served
    user.runs("stop", NAME)

    # not installed: no endpoint, and no native one either
    (site / "flag_gems.py").unlink()
    refused = user.refused(*serve)
    assert "failed (exit code 1): operator library" in refused
    assert "No module named 'flag_gems'" in refused
    assert [containers(host) for host in fleet] == [[], []]
