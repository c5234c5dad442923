"""The vendors' own converters as stages of `serve`, in real containers over SSH.

The programs in the containers stand in for the vendors' (tests/proving_ground/vendor_programs):
same places, command lines, files and defects, so the shipped rows of env/engines run unchanged.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet, Host
from proving_ground.image import Image

from flagdeploy.checkpoint.verify import verify

ROOT = Path(__file__).parent.parent.parent
NAME = "tiny_deepseek_r1"
MODEL = ROOT / "examples" / NAME / "checkpoint"

pytestmark = pytest.mark.fleet

GALAXY = """\
vendor: tenstorrent
chip: wormhole
engine: vllm_tt
engine_version: "0.10"
mesh_shape: [4, 8]
max_hosts: 1
container:
  image: {image}
  entrypoint: []
  workdir: /home/container_app_user/vllm
  mounts: [{mounts}]
  devices: []
  init: false
  stop_timeout: 1
model: {{source: {models}/fp8, checkpoint: {models}/bf16, weight_cache: {models}/cache}}
stages:
  checkpoint: {{converter: dequantize_hf_checkpoint}}
  weight_cache: {{converter: demo}}
readiness: {{interval: 0.2}}
"""
HOPPER = """\
vendor: nvidia
chip: H200
engine: tensorrt_llm
container:
  image: {image}
  gpus: none
  ulimits: {{memlock: 65536, stack: 8388608}}
  mounts: [{mounts}, "/etc:/root/.ssh:ro"]
  init: false
model: {{source: {models}/fp8, checkpoint: {models}/w4a8, precision: w4a8}}
parallel: {{tensor: 2}}
stages:
  shared: true
  checkpoint:
    converter: quantize_mixed_precision_moe
    args: {{act_scales: {models}/act_scales.safetensors, parts: 3}}
"""


class User:
    """Somebody at a shell, with a workspace whose deployment has stages, and an inventory."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.folder = folder
        self.workspace, self.models = folder / "workspace", folder / "models"
        for name in ("env", "examples", "hostfiles"):
            shutil.copytree(ROOT / name, self.workspace / name)
        shutil.copytree(MODEL, self.models / "fp8")
        self.fleet = fleet
        (folder / "home").mkdir()
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "FLAGDEPLOY_HOME": str(self.workspace),
            "FLAGDEPLOY_SSH_KEY": str(fleet.key_path),
            "FLAGDEPLOY_KNOWN_HOSTS": str(fleet.known_hosts_path),
        }

    def deploys(self, variant: str, image: Image, slots: int = 1) -> None:
        (self.folder / "hosts.txt").write_text(self.fleet.hostfile(slots))
        mounts = ", ".join(f'"{mount}"' for mount in image.mounts)
        text = variant.format(image=image.tag, mounts=mounts, models=self.models)
        (self.workspace / "examples" / NAME / "serve" / "vendor.yaml").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        hosts = ["--hosts", str(self.folder / "hosts.txt")]
        more = hosts if arguments[0] in ("serve", "plan") else []
        return [sys.executable, "-m", "flagdeploy", *arguments, *more]

    def starts(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=self.workspace,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def runs(self, *arguments: str, exit_code: int = 0) -> "Output":
        """Run `flagdeploy` and expect `exit_code`."""
        process = self.starts(*arguments)
        out, err = process.communicate()
        assert process.returncode == exit_code, out + err
        return Output(out, err)

    def serves(self, *overrides: str, exit_code: int = 0) -> "Output":
        return self.runs("serve", NAME, "vendor", *overrides, exit_code=exit_code)


class Output:
    def __init__(self, out: str, err: str) -> None:
        self.out, self.err = out, err


@pytest.fixture
def user(fleet: Fleet, tmp_path: Path) -> Iterator[User]:
    yield User(fleet, tmp_path)
    for host in fleet:
        host.remove_containers()


@pytest.fixture
def galaxy(user: User, tenstorrent_environment: Image) -> User:
    user.deploys(GALAXY, tenstorrent_environment, slots=32)
    return user


def containers(host: Host) -> list[str]:
    found = json.loads(host.engine("GET", "/containers/json?all=1"))
    return sorted(name for entry in found for name in entry["Names"])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)


def test_a_model_is_converted_cached_and_served_by_the_vendors_programs(
    galaxy: User, fleet: Fleet
) -> None:
    plan = galaxy.runs("plan", NAME, "vendor").out
    made, cache = galaxy.models / "bf16", galaxy.models / "cache"
    assert f"dequantize_hf_checkpoint makes {made} of {galaxy.models}/fp8" in plan
    assert f"mount   {made}.flagdeploy-unfinished:{made}" in plan

    served = galaxy.serves()
    assert served.out.startswith(f"{NAME} is serving")
    assert "corrected config.json" in served.err
    assert "Conversion completed" in served.err
    assert containers(fleet[0]) == [f"/flagdeploy-{NAME}-0"]
    assert sorted(path.name for path in galaxy.models.iterdir()) == ["bf16", "cache", "fp8"]
    assert "quantization_config" not in json.loads((made / "config.json").read_text())
    assert (cache / "3_layers" / "mesh_4x8" / "config.json").exists()
    record = json.loads((made / "flagdeploy.json").read_text())
    assert record["identity"]["converter"] == "dequantize_hf_checkpoint"

    again = json.loads(galaxy.serves("--json").out)
    assert again["changed"] is False
    galaxy.runs("stop", NAME)
    shutil.rmtree(galaxy.models / "fp8")  # what was converted is not needed again
    third = galaxy.serves()
    assert f"skip: {made} is there" in third.err
    assert f"skip: {cache} is there" in third.err
    galaxy.runs("stop", NAME)


def test_what_the_vendor_makes_is_what_dequant_makes(galaxy: User) -> None:
    prepared = galaxy.serves("--until", "checkpoint")
    assert prepared.out == f"{NAME}: {galaxy.models}/bf16 is made\n"
    assert not (galaxy.models / "cache").exists()
    ours = galaxy.models / "ours"
    galaxy.runs("dequant", "--ckpt", str(galaxy.models / "fp8"), "--to", "bf16", "--out", str(ours))
    assert tensors(galaxy.models / "bf16") == tensors(ours)


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = verify(folder).require()
    content = {}
    for shard, header in found.headers.items():
        data = (folder / shard).read_bytes()[header.data_start :]
        for name, tensor in header.tensors.items():
            content[name] = (tensor.dtype, tensor.shape, data[tensor.begin : tensor.end])
    return content


def test_a_converter_that_fails_is_explained_and_leaves_no_product(
    galaxy: User, fleet: Fleet
) -> None:
    failed = galaxy.serves("container.env.STANDIN=raise", exit_code=1)
    assert (
        f"{fleet[0].address}: the checkpoint stage failed (dequantize_hf_checkpoint, exit code 1)"
        in failed.err
    )
    assert "  | KeyError: \"Missing inverse-scale tensor 'model.x_scale_inv'\"" in failed.err
    assert containers(fleet[0]) == []
    assert not (galaxy.models / "bf16").exists()
    (log,) = (galaxy.workspace / "runs").glob("*/logs/checkpoint-0.log")
    assert "Flushed temporary output shard 1" in log.read_text()

    # The converter refuses a folder that is not empty: what the failure left is cleared.
    assert (galaxy.models / "bf16.flagdeploy-unfinished").exists()
    galaxy.serves("--until", "checkpoint")
    assert not (galaxy.models / "bf16.flagdeploy-unfinished").exists()


def test_ctrl_c_ends_the_converter_and_the_next_run_starts_afresh(
    galaxy: User, fleet: Fleet
) -> None:
    process = galaxy.starts("serve", NAME, "vendor", "container.env.STANDIN=hang")
    unfinished = galaxy.models / "bf16.flagdeploy-unfinished"
    eventually(lambda: (unfinished / ".tmp-model-00001.safetensors").exists())
    status = galaxy.runs("status", exit_code=1).out
    assert f"{NAME}: converting: the checkpoint stage runs" in status
    assert f"  checkpoint  {fleet[0].address}  running" in status
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "stopping the checkpoint stage" in err
    assert containers(fleet[0]) == []
    assert not (galaxy.models / "bf16").exists()
    galaxy.serves("--until", "checkpoint")
    verify(galaxy.models / "bf16").require()


def test_a_converter_that_outlived_its_command_is_stopped_by_the_next(
    galaxy: User, fleet: Fleet
) -> None:
    process = galaxy.starts("serve", NAME, "vendor", "container.env.STANDIN=hang")
    unfinished = galaxy.models / "bf16.flagdeploy-unfinished"
    eventually(lambda: (unfinished / ".tmp-model-00001.safetensors").exists())
    process.kill()
    process.communicate()
    assert containers(fleet[0]) == [f"/flagdeploy-{NAME}-checkpoint-0"]
    done = galaxy.serves("--until", "checkpoint")
    assert "stop the checkpoint stage that an earlier run left (running)" in done.err
    assert containers(fleet[0]) == []


@pytest.fixture
def small_disk(user: User, fleet: Fleet) -> Iterator[Path]:
    """A file system of the first host of 24 MiB, for what is made of 10 MB."""
    disk = user.models / "small"
    disk.mkdir()
    fleet[0].run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk)
    yield disk
    fleet[0].remove_containers()
    fleet[0].run("umount", disk)


def test_a_disk_that_is_too_small_is_told_before_the_converter_starts(
    galaxy: User, small_disk: Path, fleet: Fleet
) -> None:
    fleet[0].run("dd", "if=/dev/zero", f"of={small_disk}/ballast", "bs=1M", "count=8")
    failed = galaxy.serves(f"model.checkpoint={small_disk}/bf16", exit_code=1)
    assert (
        f"{fleet[0].address}: {small_disk}/bf16: needs up to 20.6 MB, the disk has 16.8 MB free"
        in failed.err
    )
    assert "hint: free some space on the host, or choose a folder on another disk" in failed.err
    assert containers(fleet[0]) == []


def test_a_disk_that_fills_up_meanwhile(galaxy: User, small_disk: Path, fleet: Fleet) -> None:
    path = f"model.checkpoint={small_disk}/bf16"
    failed = galaxy.serves(path, "container.env.STANDIN=fill", exit_code=1)
    assert "exit code 1): disk full" in failed.err
    assert "OSError: [Errno 28] No space left on device" in failed.err
    assert "hint: free disk space on the host" in failed.err
    galaxy.serves(path, "--until", "checkpoint")
    assert fleet[0].run("ls", small_disk) == "bf16\n"


def test_a_folder_that_the_images_user_cannot_write(galaxy: User, fleet: Fleet) -> None:
    failed = galaxy.serves("container.user='1000'", exit_code=1)
    made = f"{galaxy.models}/bf16.flagdeploy-unfinished"
    assert f"user 1000 of the image flagdeploy-test/tenstorrent:1 cannot write {made}" in failed.err
    assert f"chown 1000 {made} on the host, or set container.user" in failed.err


def test_a_variable_that_the_entrypoint_changes(galaxy: User, fleet: Fleet) -> None:
    failed = galaxy.serves("container.entrypoint=[env, MESH_DEVICE=T3K]", exit_code=1)
    assert (
        f"error: {fleet[0].address}: MESH_DEVICE=TG does not reach the converter: "
        "the image's entrypoint changes it\n\nhint: container.entrypoint=[]\n"
    ) in failed.err
    assert containers(fleet[0]) == []


def test_a_converter_that_stands_still(galaxy: User, fleet: Fleet) -> None:
    hang = ("container.env.STANDIN=hang", "readiness.stall_timeout=2")
    failed = galaxy.serves(*hang, exit_code=1)
    assert (
        f"{fleet[0].address}: dequantize_hf_checkpoint shows no sign of progress for 2 s "
        "(log, memory, disk)\n\nhint: readiness.stall_timeout allows more\n"
    ) in failed.err
    assert containers(fleet[0]) == []


def test_a_converter_that_somebody_removes(galaxy: User, fleet: Fleet) -> None:
    process = galaxy.starts("serve", NAME, "vendor", "container.env.STANDIN=hang")
    unfinished = galaxy.models / "bf16.flagdeploy-unfinished"
    eventually(lambda: (unfinished / ".tmp-model-00001.safetensors").exists())
    name = f"flagdeploy-{NAME}-checkpoint-0"
    fleet[0].docker("rm", "--force", name)
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"{fleet[0].address}: {name} is gone: somebody removed it" in err
    assert not (galaxy.models / "bf16").exists()


def test_a_product_of_other_settings_is_not_taken_and_not_touched(galaxy: User) -> None:
    galaxy.serves("--until", "checkpoint")
    before = (galaxy.models / "bf16" / "flagdeploy.json").read_bytes()
    other = galaxy.serves("stages.checkpoint.args={num-workers: 2}", exit_code=1)
    assert f"{galaxy.models}/bf16 was made with another argv" in other.err
    shard = galaxy.models / "fp8" / "model-00001-of-00005.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    other = galaxy.serves(exit_code=1)
    assert f"was made of another checkpoint than {galaxy.models}/fp8 is now" in other.err
    assert (galaxy.models / "bf16" / "flagdeploy.json").read_bytes() == before


def test_four_bit_experts_in_parts_on_a_file_system_that_two_hosts_share(
    user: User, fleet: Fleet, tensorrt_llm_environment: Image
) -> None:
    import numpy
    from safetensors.numpy import save_file

    scale = {"model.layers.1.mlp.experts.0.w1.input_scale": numpy.ones(1, "float32")}
    save_file(scale, user.models / "act_scales.safetensors")
    user.deploys(HOPPER, tensorrt_llm_environment)
    failed = user.serves("--until", "checkpoint", "container.env.STANDIN=raise 2", exit_code=1)
    assert "exit code 1): out of device memory" in failed.err

    done = user.serves("--until", "checkpoint")
    made = user.models / "w4a8"
    assert f"skip: {made} comes from {fleet[0].address}, on a shared file system" in done.err
    found = verify(made).require()
    assert found.config["num_nextn_predict_layers"] == 0
    assert found.index.shards == tuple(
        f"model-0000{part}-of-00003.safetensors" for part in range(3)
    )
    assert not any(name.startswith("model.layers.3.") for name in found.index.weight_map)
    dtypes = {name: t.dtype for h in found.headers.values() for name, t in h.tensors.items()}
    assert dtypes["model.layers.1.mlp.experts.0.down_proj.weight"] == "I8"
    assert dtypes["model.layers.0.mlp.down_proj.weight"] == "F8_E4M3"
    assert user.serves("--until", "checkpoint").out == (
        f"{NAME}: {made} was there already; nothing changed\n"
    )
