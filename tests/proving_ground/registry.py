"""A container registry on a machine of its own, so that pull and push are real."""

import hashlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proving_ground.hosts import Fleet, Host
from proving_ground.image import image_archive, root_layer
from proving_ground.leftovers import end_processes
from proving_ground.network import Node, program

NUMBER = 250
PORT = 5000
LAYERED = "flagdeploy-test/layered:1"
LAYER_BYTES = 2_000_000


@dataclass(frozen=True)
class Registry:
    node: Node
    address: str
    """host:port, the first part of the name of an image in it."""

    @property
    def layered_image(self) -> str:
        """An image of four layers which lies in the registry and on no host."""
        return f"{self.address}/{LAYERED}"


@contextmanager
def registry(fleet: Fleet) -> Iterator[Registry]:
    """Run a registry beside the hosts; it holds `layered_image`."""
    node = Node(fleet.network, "registry", NUMBER)
    try:
        _start(node)
        running = Registry(node, f"{node.address}:{PORT}")
        _push_layered_image(running, fleet[0])
        yield running
    finally:
        end_processes(node.namespace)
        node.reap()


def _start(node: Node) -> None:
    config = node.folder / "config.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {node.folder}/storage}}}}\n"
        f"http: {{addr: '{node.address}:{PORT}'}}\n"
    )
    process = node.start(program("docker-registry"), "serve", config)
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection((node.address, PORT), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    log = node.log("docker-registry").read_text()[-2000:]
    raise RuntimeError(f"the registry did not start:\n{log}")


def _push_layered_image(registry: Registry, host: Host) -> None:
    layers = [root_layer()] + [
        {f"data/layer-{number}": _noise(number, LAYER_BYTES)} for number in range(1, 4)
    ]
    host.engine("POST", "/images/load?quiet=1", image_archive(registry.layered_image, layers, {}))
    host.docker("push", "--quiet", registry.layered_image)
    host.docker("rmi", registry.layered_image)


def _noise(seed: int, size: int) -> bytes:
    """The same incompressible bytes each time, so that a layer takes its size to transfer."""
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(size)
