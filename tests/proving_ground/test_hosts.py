"""The proving ground keeps its promises: hosts are separate, and nothing outlives them."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proving_ground import hosts as ground
from proving_ground.hosts import Fleet, Host
from proving_ground.image import Image, python_image
from proving_ground.leftovers import CGROUPS, cgroup_parent, mounts_under, processes_in
from proving_ground.network import OWNER, command, process_start
from proving_ground.registry import Registry

pytestmark = pytest.mark.fleet


def ssh(fleet: Fleet, host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    config = fleet.network.folder / "ssh_config"
    config.write_text(fleet.ssh_config())
    return subprocess.run(
        ["ssh", "-F", str(config), "-o", "BatchMode=yes", host.name, *words],
        capture_output=True,
        text=True,
    )


def reachable(host: Host) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host.address, host.port), timeout=1).close()
        return True
    return False


def volumes(image: Image) -> list[str]:
    return [f"--volume={mount}" for mount in image.mounts]


def run(host: Host, image: Image, *arguments: str, options: tuple[str, ...] = ()) -> str:
    return host.docker("run", "--network=host", *options, *volumes(image), image.tag, *arguments)


def traces(folder: Path, bridge: str, processes: dict[int, int | None]) -> list[str]:
    """What is left of a network: its folder, processes, mounts, cgroups and links."""
    left = [str(folder)] if folder.exists() else []
    left += [f"process {pid}" for pid, start in processes.items() if process_start(pid) == start]
    left += mounts_under(folder)
    left += [str(path) for path in CGROUPS.rglob(cgroup_parent(folder))]
    return left + [line for line in command("ip", "-o", "link").splitlines() if bridge in line]


def members(host: Host) -> dict[int, int | None]:
    return {pid: process_start(pid) for pid in processes_in(host.namespace)}


def test_ssh_reaches_each_host_under_its_own_key(fleet: Fleet) -> None:
    for host in fleet:
        assert ssh(fleet, host, "hostname; echo $DOCKER_HOST $HOME").stdout.split() == [
            *(host.name, host.docker_host, str(host.home))
        ]


def test_ssh_refuses_a_host_with_another_key(fleet: Fleet) -> None:
    first, second = (host.known_hosts_name for host in fleet)
    known = fleet.known_hosts_path.read_text()
    try:
        swapped = known.replace(first, "X").replace(second, first).replace("X", second)
        fleet.known_hosts_path.write_text(swapped)
        refused = ssh(fleet, fleet[0], "true")
    finally:
        fleet.known_hosts_path.write_text(known)
    assert refused.returncode == 255
    assert "Host key verification failed." in refused.stderr


def test_an_image_loaded_on_one_host_is_absent_on_the_other(fleet: Fleet) -> None:
    image = python_image("flagdeploy-test/one-host-only:1")
    image.load(fleet[0])
    present, absent = (host.docker("images", "--quiet", image.tag) for host in fleet)
    fleet[0].docker("rmi", image.tag)
    assert present
    assert absent == ""


def test_an_image_has_the_same_id_on_every_host(fleet: Fleet, python_environment: Image) -> None:
    ids = {host.docker("images", "--quiet", python_environment.tag) for host in fleet}
    assert len(ids) == 1
    assert ids != {""}


def test_host_network_is_that_hosts_network(fleet: Fleet, python_environment: Image) -> None:
    for host in fleet:
        shown = json.loads(
            run(host, python_environment, "ip", "-json", "-4", "address", options=("--rm",))
        )
        addresses = [entry["local"] for link in shown for entry in link["addr_info"]]
        assert addresses == ["127.0.0.1", host.address]


def test_host_ipc_is_that_hosts_shared_memory(fleet: Fleet, python_environment: Image) -> None:
    options = ("--rm", "--ipc=host")
    run(fleet[0], python_environment, "touch", "/dev/shm/segment", options=options)
    here, there = (run(h, python_environment, "ls", "/dev/shm", options=options) for h in fleet)
    fleet[0].run("rm", "/dev/shm/segment")
    # A killed engine leaves segments of its own behind, as on any host.
    assert "segment" in here.split()
    assert "segment" not in there.split()


def test_hosts_reach_each_other_by_name_and_nothing_else(fleet: Fleet) -> None:
    fetch = f"timeout 5 bash -c 'head -c4 </dev/tcp/{fleet[1].name}/{fleet[1].port}'"
    assert ssh(fleet, fleet[0], fetch).stdout == "SSH-"
    assert fleet[0].run("ip", "route", "show", "default") == ""


def test_a_pulled_cable_makes_a_host_unreachable(fleet: Fleet) -> None:
    fleet[1].down()
    try:
        assert [reachable(host) for host in fleet] == [True, False]
    finally:
        fleet[1].up()
    # A bridge port forwards, and neighbours are found again, some moments after its cable is back.
    assert any(reachable(fleet[1]) for _ in range(10))


def test_containers_outlive_their_engines_crash(fleet: Fleet, python_environment: Image) -> None:
    host = fleet[0]
    options = ("--detach", "--name=outlives", "--stop-signal=SIGKILL")
    run(host, python_environment, "sleep", "60", options=options)
    process = int(host.docker("inspect", "--format={{.State.Pid}}", "outlives"))
    start = process_start(process)
    host.kill_dockerd()
    try:
        assert process_start(process) == start
        with pytest.raises(OSError):
            host.engine("GET", "/_ping")
    finally:
        host.restart_dockerd()
        host.docker("rm", "--force", "outlives")
    assert process_start(process) is None


def test_a_pull_from_the_registry_brings_every_layer(fleet: Fleet, registry: Registry) -> None:
    assert [h.docker("images", "--quiet", registry.layered_image) for h in fleet] == ["", ""]
    progress = fleet[1].docker("pull", registry.layered_image)
    layers = fleet[1].docker("inspect", "--format={{len .RootFS.Layers}}", registry.layered_image)
    fleet[1].docker("rmi", registry.layered_image)
    assert progress.count("Pull complete") == 4
    assert layers == "4"


def test_a_fleet_that_ends_in_an_exception_leaves_nothing(fleet: Fleet) -> None:
    image = python_image()
    with pytest.raises(KeyboardInterrupt), ground.fleet(1) as (host,):
        image.load(host)
        run(host, image, "sleep", "600", options=("--detach", "--ipc=host"))
        host.docker("run", "--detach", "--network=none", *volumes(image), image.tag, "sleep", "600")
        session = subprocess.Popen(
            ["ssh", "-F", "none", "-i", str(host.key_path), "-p", str(host.port)]
            + ["-o", f"UserKnownHostsFile={host.known_hosts_path}", f"root@{host.address}"]
            + ["setsid sleep 600"],
            stderr=subprocess.DEVNULL,
        )
        network, processes = host.network, members(host)
        assert len(processes) > 5
        assert traces(network.folder, network.name, processes)
        raise KeyboardInterrupt
    session.wait(timeout=30)
    assert traces(network.folder, network.name, processes) == []
    assert all(reachable(other) for other in fleet)


KILLED_RUN = """
import json, os, signal
from proving_ground.hosts import fleet
from proving_ground.image import python_image
from proving_ground.leftovers import processes_in
from proving_ground.network import process_start
with fleet(1) as (host,):
    image = python_image()
    image.load(host)
    volumes = [f"--volume={m}" for m in image.mounts]
    host.docker("run", "--detach", "--network=none", *volumes, image.tag, "sleep", "600")
    processes = {pid: process_start(pid) for pid in processes_in(host.namespace)}
    print(json.dumps([str(host.network.folder), host.network.name, processes]), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_runs_leftovers_go_at_the_next_start(fleet: Fleet) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN],
        cwd=Path(ground.__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    name, bridge, recorded = json.loads(killed.stdout)
    folder, processes = Path(name), {int(pid): start for pid, start in recorded.items()}
    assert (folder / OWNER).exists()
    with ground.fleet(0):
        assert traces(folder, bridge, processes) == []
    assert all(reachable(host) for host in fleet)
