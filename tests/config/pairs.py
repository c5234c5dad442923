"""FlagScale pairs made for tests."""

from pathlib import Path
from typing import Any

from flagdeploy.config import yaml_file


def write(folder: Path, experiment: dict[str, Any], item: dict[str, Any], hosts: str = "") -> Path:
    """A pair with a task `serve` and one engine item."""
    pair = {
        "defaults": ["_self_", {"serve": "task"}],
        "experiment": {"exp_name": "made", "task": {"type": "serve"}, **experiment},
    }
    (folder / "conf" / "serve").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "serve.yaml").write_text(yaml_file.dump(pair))
    task = [{"serve_id": "vllm_model", "engine": "vllm", **item}]
    (folder / "conf" / "serve" / "task.yaml").write_text(yaml_file.dump(task))
    if hosts:
        (folder / "conf" / "hosts.txt").write_text(hosts)
    return folder
