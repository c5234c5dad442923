from collections.abc import Mapping
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet
from proving_ground.registry import Registry

from flagdeploy.config.launch import Host
from flagdeploy.errors import FlagdeployError, HostError, UsageError
from flagdeploy.launchers import open_launchers
from flagdeploy.launchers.base import Launcher
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.records.events import Event, Report
from flagdeploy.workflows.images import pull_image, pull_on


class Moved(LocalLauncher):
    """A host that gets another image under the same tag."""

    def __init__(self, image_id: str) -> None:
        self._id = image_id

    def pull(self, image: str, report: Report) -> str:
        return self._id


@pytest.mark.fleet
def test_an_image_comes_to_every_host_layer_by_layer(
    fleet: Fleet, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    monkeypatch.setenv("FLAGDEPLOY_KNOWN_HOSTS", str(fleet.known_hosts_path))
    inventory = tmp_path / "hosts.txt"
    inventory.write_text(fleet.hostfile())
    events: list[Event] = []
    image = registry.layered_image
    pulled = pull_image(image, hosts=str(inventory), report=events.append)
    addresses = [node.address for node in fleet]
    assert pulled.text() == f"{image} ({pulled.id}) is on {', '.join(addresses)}"
    for node in fleet:
        assert node.docker("image", "inspect", "--format", "{{.Id}}", image) == pulled.id
        counted = {e.message for e in events if e.host == node.address and e.total}
        assert len({message.split(": ")[1] for message in counted}) >= 2
        node.docker("image", "rm", image)


@pytest.mark.fleet
def test_an_image_that_is_nowhere_is_named_for_every_host(
    fleet: Fleet, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    hosts = [Host(node.address, user="root", port=node.port) for node in fleet]
    known = fleet.known_hosts_path
    with (
        open_launchers("ssh", hosts, known_hosts=known, state=tmp_path) as launchers,
        pytest.raises(HostError) as raised,
    ):
        pull_on(launchers, f"{registry.address}/no-such:1")
    assert raised.value.host == f"{fleet[0].address}, {fleet[1].address}"


def test_one_tag_has_to_be_one_image() -> None:
    launchers: Mapping[str, Launcher] = {"a": Moved("sha256:1"), "b": Moved("sha256:2")}
    with pytest.raises(FlagdeployError) as raised:
        pull_on(launchers, "engine:latest")
    assert str(raised.value) == (
        "engine:latest is not the same image on every host:\na: sha256:1\nb: sha256:2"
    )


def test_without_hosts_there_is_nothing_to_do() -> None:
    with pytest.raises(UsageError, match=r"^on which hosts shall engine:1 be\?$"):
        pull_on({}, "engine:1")
