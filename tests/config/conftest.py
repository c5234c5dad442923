"""A small workspace: one vendor with two chips, two engines, one model."""

from pathlib import Path

import pytest

FILES = {
    "env/vendors/nvidia.yaml": """\
vendor:
  chips: {}
defaults:
  container:
    ipc: host
    ulimits:
      memlock: -1
""",
    "env/vendors/cambricon.yaml": "vendor: {}\ndefaults:\n  container:\n    pid: host\n",
    "env/engines/vllm.yaml": "arguments: {}\ndefaults:\n  engine_version: '0.33'\n",
    "env/engines/sglang.yaml": "arguments: {}\ndefaults:\n  engine_version: '0.5.23'\n",
    "examples/r1/config.yaml": """\
vendor: nvidia
engine: vllm
variant: fp8
hostfile: hostfiles/two.txt
model:
  repo: deepseek-ai/DeepSeek-R1
  checkpoint: /models/DeepSeek-R1
container:
  env:
    NCCL_SOCKET_IFNAME: "eth0"
""",
    "examples/r1/serve/fp8.yaml": """\
parallel:
  tensor: 16
limits:
  context_length: 32768
container:
  mounts: ["/models:/models:ro"]
""",
    "hostfiles/two.txt": "192.0.2.1 slots=8\n192.0.2.2 slots=8\n",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path
