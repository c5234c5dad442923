"""Deployments of a test engine on this machine, by the local launcher."""

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_RUN,
    LABEL_SPEC,
    Host,
    ProcessSpec,
)
from flagdeploy.config.secret import Secret
from flagdeploy.launchers import open_launchers
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import Plan, Start, WaitReady
from flagdeploy.records.run import Run

ENGINE = Path(__file__).with_name("engine.py")
HERE = "127.0.0.1"
KEY = Secret("key-of-the-endpoint", "KEY")
CANARY = Secret("hf_canary_0123456789", "HF_TOKEN")

MakePlan = Callable[..., Plan]


@pytest.fixture
def port() -> int:
    with socket.create_server((HERE, 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def launchers(tmp_path: Path) -> Iterator[Mapping[str, Launcher]]:
    with open_launchers("local", [Host(HERE)], state=tmp_path / "local") as opened:
        yield opened
        for rank in opened[HERE].running():
            opened[HERE].stop(rank.id, 0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "tiny", [KEY, CANARY])


@pytest.fixture
def make_plan(port: int) -> MakePlan:
    """The plan that starts one rank for each behaviour and waits for a token."""

    def make(*behaviours: tuple[str, ...], stall_timeout: float = 60) -> Plan:
        starts = [
            start(rank, len(behaviours), words, port) for rank, words in enumerate(behaviours)
        ]
        ready = WaitReady(
            HERE, "wait", "wait for a token", HERE, port, "tiny", KEY, stall_timeout, 0.1
        )  # fmt: skip
        return Plan("tiny", (*starts, ready))

    return make


def start(rank: int, ranks: int, behaviour: tuple[str, ...], port: int) -> Start:
    labels = {
        LABEL_DEPLOYMENT: "tiny",
        LABEL_RANK: str(rank),
        LABEL_RANKS: str(ranks),
        LABEL_ENDPOINT: f"http://{HERE}:{port}",
        LABEL_MODEL: "tiny",
        LABEL_SPEC: " ".join(behaviour),
        LABEL_RUN: "planned",
    }
    argv = (sys.executable, "-I", str(ENGINE), str(port), *behaviour)
    spec = ProcessSpec(f"flagdeploy-tiny-{rank}", argv, {"HF_TOKEN": CANARY}, labels, 5)
    return Start(HERE, f"start-{rank}", f"start rank {rank} of {ranks}", rank, spec)
