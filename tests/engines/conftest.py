"""Every engine, and a deployment that fits it."""

from dataclasses import replace
from pathlib import Path

import pytest
from config.models import DEEPSEEK_R1

from flagdeploy import engines
from flagdeploy.config.launch import Host
from flagdeploy.config.schema import Container, Deployment, Model, Parallel

WORKSPACE = Path(__file__).parents[2]
ONE = (Host("192.0.2.1", 8),)
TWO = (Host("192.0.2.1", 8), Host("192.0.2.2", 8))
R1 = Deployment(
    name="r1",
    vendor="nvidia",
    model=Model(
        repo="deepseek-ai/DeepSeek-R1",
        checkpoint="/models/DeepSeek-R1",
        precision="fp8",
        architecture=DEEPSEEK_R1,
    ),
    parallel=Parallel(tensor=8),
    container=Container(image="image:1"),
)


def arguments(command) -> str:
    return " ".join(command.argv)


@pytest.fixture
def vllm():
    return engines.load("vllm", WORKSPACE)


@pytest.fixture
def sglang():
    return engines.load("sglang", WORKSPACE)


@pytest.fixture
def tensorrt_llm():
    return engines.load("tensorrt_llm", WORKSPACE)


@pytest.fixture
def vllm_tt():
    return engines.load("vllm_tt", WORKSPACE)


@pytest.fixture
def pytorch():
    return engines.load("pytorch", WORKSPACE)


def of(deployment: Deployment, **changes) -> Deployment:
    return replace(deployment, **changes)
