from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.running_server import RunningServer
from server.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to be worth two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-deepseek-v3"
    write_tiny_checkpoint(directory)
    return directory


@pytest.fixture(scope="session")
def server(checkpoint: Path) -> Iterator[RunningServer]:
    running = RunningServer(checkpoint, "--max-logprobs", "5", "--reasoning-parser", "deepseek_r1")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Any:
    """The same weights in transformers alone, float32: no cache, no batch, no code of ours."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32")
