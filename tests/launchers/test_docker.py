"""Containers on a real host: SSH, a tunnel to its Docker engine, the Engine API."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image
from proving_ground.registry import Registry

from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_RANK,
    LABEL_RUN,
    LABEL_SPEC,
    ContainerSpec,
    File,
    Host,
    Mount,
    Running,
    UntrustedSpec,
)
from flagdeploy.config.secret import Secret
from flagdeploy.errors import HostError
from flagdeploy.launchers.ssh import SshLauncher
from flagdeploy.records.events import Event, silent

pytestmark = pytest.mark.fleet

CANARY = "hf_canary_0123456789"


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.05)


@pytest.fixture
def make(python_environment: Image) -> Callable[..., ContainerSpec]:
    """A rank that runs a shell script."""
    mounts = [mount.split(":") for mount in python_environment.mounts]

    def make(script: str, **changes: object) -> ContainerSpec:
        labels = {LABEL_DEPLOYMENT: "tiny", LABEL_RANK: "0", LABEL_RUN: "r", LABEL_SPEC: "s"}
        spec = ContainerSpec(
            name="tiny-0",
            image=python_environment.tag,
            argv=("sh", "-c", script),
            env={},
            labels=labels,
            mounts=tuple(Mount(source, target, True) for source, target, _ in mounts),
            init=False,
        )
        return dataclasses.replace(spec, **changes)

    return make


def only(launcher: SshLauncher) -> Running:
    (rank,) = launcher.running("tiny")
    return rank


def output(launcher: SshLauncher, id: str) -> str:
    return b"".join(launcher.logs(id)).decode()


def test_a_rank_from_start_to_stop(
    launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    id = launcher.start(make("echo out; echo err >&2; sleep 300"))
    # Two pipes: their order is the engine's.
    eventually(lambda: sorted(output(launcher, id).split()) == ["err", "out"])
    rank = only(launcher)
    assert (rank.id, rank.name, rank.rank, rank.state) == (id, "tiny-0", 0, "running")
    assert rank.exit_code is None
    assert rank.started_at and not rank.finished_at
    assert launcher.running("other") == ()
    launcher.stop(id, timeout=0)
    assert launcher.running() == ()
    launcher.stop(id, timeout=0)


def test_stop_asks_first(launcher: SshLauncher, make: Callable[..., ContainerSpec]) -> None:
    id = launcher.start(
        make("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    )
    eventually(lambda: output(launcher, id) == "up\n")
    logs = launcher.logs(id, follow=True)
    assert next(logs) == b"up\n"
    launcher.stop(id, timeout=20)
    assert b"".join(logs) == b"asked\n"


def test_no_seconds_to_stop_are_no_seconds(
    launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    id = launcher.start(make("trap '' TERM; while :; do sleep 0.1; done", stop_timeout=0))
    began = time.monotonic()
    launcher.stop(id)
    assert time.monotonic() - began < 15  # unset would be 30


def test_the_exit_code_is_kept(launcher: SshLauncher, make: Callable[..., ContainerSpec]) -> None:
    launcher.start(make("exit 7"))
    eventually(lambda: only(launcher).state == "exited")
    assert only(launcher).exit_code == 7
    assert only(launcher).finished_at


def test_environment_and_files_arrive(
    launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    path = "/etc/engine/deep/extra.yaml"
    files = (File(path, "a: ü\n"),)
    script = f'echo "$PLAIN ${{#HF_TOKEN}}"; cat {path}; stat -c %a%u {path}'
    env = {"PLAIN": "$(reboot) 'x'", "HF_TOKEN": Secret(CANARY)}
    id = launcher.start(make(script, files=files, env=env))
    eventually(lambda: only(launcher).state == "exited")
    assert output(launcher, id) == f"$(reboot) 'x' {len(CANARY)}\na: ü\n4440\n"


def test_a_secret_is_nowhere_but_in_the_environment(
    fleet: Fleet, launcher: SshLauncher, make: Callable[..., ContainerSpec], ssh_home: Path
) -> None:
    import json

    id = launcher.start(make("sleep 300", env={"HF_TOKEN": Secret(CANARY)}))
    found = json.loads(fleet[0].engine("GET", f"/containers/{id}/json"))
    assert found["Config"].pop("Env").count(f"HF_TOKEN={CANARY}") == 1
    assert CANARY not in json.dumps(found)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert CANARY.encode() not in command.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    for path in [*ssh_home.rglob("*"), *fleet[0].folder.glob("*.log")]:
        assert not path.is_file() or CANARY not in path.read_text(errors="replace")


def test_starting_twice_creates_once(
    fleet: Fleet, launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    first = launcher.start(make("sleep 300"))
    assert launcher.start(make("sleep 300")) == first
    assert len(launcher.running()) == 1


def test_a_name_that_belongs_to_somebody_else(
    fleet: Fleet, launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    foreign = launcher.start(make("sleep 300", labels={}))
    with pytest.raises(HostError) as raised:
        launcher.start(make("true"))
    assert str(raised.value) == (
        f"{fleet[0].address}: the name tiny-0 belongs to a container that flagdeploy did not "
        f"start ({foreign[:12]}, image flagdeploy-test/python:1)"
    )
    assert raised.value.hint == "rename it (docker rename tiny-0 NEW) or remove it yourself"
    with pytest.raises(HostError, match=f"container {foreign[:12]} is not flagdeploy's"):
        launcher.stop(foreign, timeout=0)
    assert fleet[0].docker("ps", "--quiet", "--no-trunc") == foreign
    assert launcher.running() == ()


def test_a_name_that_belongs_to_an_older_run(
    fleet: Fleet, launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    spec = make("sleep 300")
    launcher.start(spec)
    with pytest.raises(HostError) as raised:
        launcher.start(dataclasses.replace(spec, labels=spec.labels | {LABEL_RUN: "newer"}))
    assert str(raised.value) == f"{fleet[0].address}: tiny-0 exists from another run of tiny"
    assert raised.value.hint == "flagdeploy stop tiny"


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"mounts": (Mount("/no/such/model", "/model"),)},
            "bind source path does not exist: /no/such/model",
            "create that path on the host, or correct container.mounts",
        ),
        (
            {"devices": ("/dev/no-such-chip0",)},
            "/dev/no-such-chip0",
            "is the driver loaded? see container.devices",
        ),
        (
            {"gpus": True},
            "could not select device driver",
            "install the NVIDIA container toolkit on the host",
        ),
        (
            {"runtime": "nvidia"},
            "nvidia",
            "install the vendor's container runtime, or set container.runtime",
        ),
        (
            {"image": "no-such:1"},
            "o such image: no-such:1",
            "flagdeploy pull --image fetches it on every host",
        ),
    ],
)
def test_what_the_host_lacks_is_named_and_leaves_nothing(
    fleet: Fleet,
    launcher: SshLauncher,
    make: Callable[..., ContainerSpec],
    changes: dict[str, object],
    message: str,
    hint: str,
) -> None:
    with pytest.raises(HostError) as raised:
        launcher.start(make("true", **changes))
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{fleet[0].address}: ")
    assert raised.value.hint == hint
    assert fleet[0].docker("ps", "--all", "--quiet") == ""


def test_probe(fleet: Fleet, launcher: SshLauncher, make: Callable[..., ContainerSpec]) -> None:
    id = launcher.start(make("sleep 300"))
    facts = launcher.probe("tiny", ["/dev/nul[l]", "/dev/no*"], [fleet[0].port, 9])
    assert "flagdeploy-test/python:1" in facts.images
    assert [rank.id for rank in facts.running] == [id]
    assert facts.device_nodes == ("/dev/null",)
    assert facts.ports_in_use == {fleet[0].port}
    assert launcher.engine_version().startswith("Docker ")


def test_logs_follow_while_other_requests_go_on(
    launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    id = launcher.start(make("echo one; sleep 1; echo two; exit 1"))
    heard: list[bytes] = []
    listener = threading.Thread(target=lambda: heard.extend(launcher.logs(id, follow=True)))
    listener.start()
    eventually(lambda: b"".join(heard) == b"one\n")
    assert only(launcher).state == "running"
    listener.join(timeout=30)
    assert b"".join(heard) == b"one\ntwo\n"
    assert b"".join(launcher.logs(id, tail=1)) == b"two\n"


def test_progress_shows_the_last_line(
    launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    id = launcher.start(make("echo loading 1/2; sleep 300"))
    eventually(lambda: launcher.progress(id)[0] == b"loading 1/2")
    assert launcher.progress(id) == launcher.progress(id)


def test_pull_tells_bytes_per_layer(
    fleet: Fleet, launcher: SshLauncher, registry: Registry
) -> None:
    image = registry.layered_image
    events: list[Event] = []
    launcher.pull(image, events.append)
    assert image in launcher.engine.images()
    layers = {event.message.split(": ")[1] for event in events if event.total}
    assert len(layers) >= 2
    assert {event.host for event in events} == {fleet[0].address}
    fleet[0].docker("image", "rm", image)


def test_an_image_that_no_registry_has(launcher: SshLauncher, registry: Registry) -> None:
    image = f"{registry.address}/no-such:1"
    with pytest.raises(HostError, match="no-such") as raised:
        launcher.pull(image, silent)
    assert raised.value.hint == "check the tag in the registry"


def test_without_tunnels_docker_itself_carries_the_api(
    restricted_key: None, launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    id = launcher.start(make("echo hello; sleep 300"))
    eventually(lambda: output(launcher, id) == "hello\n")
    assert launcher.connection.open_unix(launcher.socket.removeprefix("unix://")) is None
    launcher.stop(id, timeout=0)
    assert launcher.running() == ()


def test_no_engine_at_the_socket(fleet: Fleet, launcher: SshLauncher) -> None:
    node = fleet[0]
    host = Host(node.address, user="root", port=node.port, docker="unix:///no/such.sock")
    lost = SshLauncher(host, fleet.known_hosts_path)
    with pytest.raises(HostError) as raised:
        lost.running()
    lost.close()
    assert str(raised.value) == (
        f"{node.address}: no Docker engine at unix:///no/such.sock: Cannot connect to the Docker "
        "daemon at unix:///no/such.sock. Is the docker daemon running?"
    )


def test_an_engine_that_died_is_named_and_works_again_after(
    fleet: Fleet, launcher: SshLauncher
) -> None:
    assert launcher.running() == ()
    fleet[0].kill_dockerd()
    try:
        with pytest.raises(HostError, match=f"^{fleet[0].address}: "):
            launcher.running()
    finally:
        fleet[0].restart_dockerd()
    assert launcher.running() == ()


def test_files_are_put_into_a_mounted_folder_of_a_container_that_has_ended(
    launcher: SshLauncher, make: Callable[..., ContainerSpec], tmp_path: Path
) -> None:
    """As root of the host, whoever the SSH user is: what a container made is root's as well."""
    spec = make("echo old > /made/index.json")
    spec = dataclasses.replace(spec, mounts=(*spec.mounts, Mount(str(tmp_path), "/made")))
    id = launcher.start(spec)
    eventually(lambda: launcher.running("tiny")[0].state == "exited")
    launcher.put(id, [File("/made/index.json", "new"), File("/made/flagdeploy.json", "{}")])
    assert (tmp_path / "index.json").read_text() == "new"
    assert (tmp_path / "flagdeploy.json").stat().st_mode & 0o777 == 0o444


def test_a_container_that_is_removed_twice_at_once(
    launcher: SshLauncher, make: Callable[..., ContainerSpec]
) -> None:
    id = launcher.start(make("sleep 60"))
    failures: list[HostError] = []
    left: list[str] = []

    def stop() -> None:
        try:
            launcher.stop(id, 0)
            # Whoever removed it: its name is free, and nothing of it is in sight.
            left.extend(one["State"] for one in launcher.engine.client.containers(all=True))
        except HostError as error:
            failures.append(error)

    threads = [threading.Thread(target=stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, left) == ([], [])
    assert launcher.running("tiny") == ()


def test_an_engine_that_cannot_confine_runs_nothing(
    launcher: SshLauncher,
    make: Callable[..., ContainerSpec],
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = make("touch /tmp/ran; sleep 300")
    spec = UntrustedSpec(plain.name, plain.image, plain.argv, {}, plain.labels, mounts=plain.mounts)
    client = launcher.engine.client
    create = client.create_container_from_config
    warning = "Your kernel does not support memory limit capabilities. Limitation discarded."
    monkeypatch.setattr(
        client,
        "create_container_from_config",
        lambda *given: {**create(*given), "Warnings": [warning]},
    )
    with pytest.raises(HostError) as raised:
        launcher.start(spec)
    assert str(raised.value).endswith(f"create tiny-0: not every limit can be enforced: {warning}")
    assert raised.value.hint == "choose a host whose kernel has the memory, pids and cpu cgroups"
    assert fleet[0].docker("ps", "--all", "--quiet") == ""
    monkeypatch.undo()
    id = launcher.start(spec)
    assert only(launcher).id == id


def test_a_command_beside_a_rank(launcher: SshLauncher, make: Callable[..., ContainerSpec]) -> None:
    id = launcher.start(make("echo made >/tmp/by-the-rank; sleep 300", env={"SWITCH": "a 'b'\n"}))
    eventually(lambda: launcher.inside(id, ["cat", "/tmp/by-the-rank"]).stdout == b"made\n")
    words = ["", "two words", "$(reboot)", "'\"\\", "ü"]
    script = 'printf "%s\\n" "$SWITCH" "$@"; echo err >&2; exit 3'
    result = launcher.inside(id, ["sh", "-c", script, "sh", *words])
    assert result.stdout.decode() == "\n".join(["a 'b'\n", *words, ""])
    assert (result.stderr, result.exit_code) == (b"err\n", 3)
    flood = launcher.inside(id, ["head", "-c", "3000000", "/dev/zero"])
    assert len(flood.stdout) == 3_000_000
    assert launcher.inside(id, ["no-such-program"]).exit_code in (126, 127)
    with pytest.raises(HostError, match="`sleep` in"):
        launcher.inside(id, ["sleep", "60"], timeout=1)
    launcher.stop(id, timeout=0)
    with pytest.raises(HostError, match="No such container"):
        launcher.inside(id, ["true"])
