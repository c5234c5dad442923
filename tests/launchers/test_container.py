"""The body of the create request, golden: every option a vendor can ask for is in it."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from flagdeploy.config.launch import ContainerSpec, File, Mount, UntrustedSpec
from flagdeploy.config.secret import Secret
from flagdeploy.launchers.container import archive, byte_count, create_body

CASES = Path(__file__).parents[1] / "cases" / "launchers"

PLAIN = ContainerSpec("r1-0", "engine:1", ("serve", "/m"), {"A": "1"}, {"flagdeploy.rank": "0"})
EVERYTHING = ContainerSpec(
    name="r1-1",
    image="registry.example/engine@sha256:" + "0" * 64,
    argv=("serve", "/m", "--flag=a b"),
    env={"HF_TOKEN": Secret("hf_canary", "HF_TOKEN"), "B": "$HOME"},
    labels={"flagdeploy.rank": "1"},
    files=(File("/etc/engine/extra.yaml", "a: 1\n"),),
    mounts=(Mount("/models", "/models", read_only=True), Mount("/cache", "/root/.cache")),
    devices=("/dev/cambricon_dev0", "/dev/a:/dev/b", "/dev/c:/dev/c:r"),
    gpus=True,
    runtime="nvidia",
    network="bridge",
    ipc="private",
    pid="host",
    privileged=True,
    shm_size="10.5g",
    ulimits={"memlock": -1, "stack": 67108864},
    cap_add=("SYS_PTRACE",),
    security_opt=("seccomp=unconfined",),
    group_add=("44",),
    entrypoint=("/bin/tini", "--"),
    user="1000",
    workdir="/work",
    init=False,
    stop_timeout=60,
)
UNTRUSTED = UntrustedSpec(
    name="grading-0",
    image="python:3.12-slim",
    argv=("python3", "/inbox/run.py"),
    env={},
    labels={"flagdeploy.rank": "0"},
    files=(File("/inbox/run.py", "print(1)\n"),),
    mounts=(Mount("/usr", "/usr", read_only=True),),
    ulimits={"cpu": 60},
)
SPECS = {"plain": PLAIN, "everything": EVERYTHING, "untrusted": UNTRUSTED}


@pytest.mark.parametrize(("name", "spec"), SPECS.items())
def test_create_body(name: str, spec: ContainerSpec, request: pytest.FixtureRequest) -> None:
    golden = CASES / f"create_{name}.json"
    body = json.dumps(create_body(spec), indent=2) + "\n"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(body)
    assert body == golden.read_text()


def test_files_are_readable_by_everybody_and_belong_to_root() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(EVERYTHING.files))) as tar:
        (member,) = tar.getmembers()
        content = tar.extractfile(member)
        assert content is not None
        assert (member.name, member.mode, member.uid) == ("etc/engine/extra.yaml", 0o444, 0)
        assert content.read() == b"a: 1\n"


def test_files_below_a_folder_are_packed_for_that_folder() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(UNTRUSTED.files, "/inbox"))) as tar:
        assert tar.getnames() == ["run.py"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64m", 64 << 20), ("1024", 1024), ("2G", 2 << 30), ("1.5gb", 3 << 29), ("8GiB", 8 << 30)],
)
def test_sizes_are_powers_of_1024(text: str, expected: int) -> None:
    assert byte_count(text) == expected


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'much' is not a size such as 16g"):
        byte_count("much")
