"""Which folder is the workspace, and where a command may write."""

from pathlib import Path

import pytest

from flagdeploy.config import workspace as workspaces
from flagdeploy.config.load import load
from flagdeploy.errors import ConfigError
from flagdeploy.workflows import places, resolve, sides


@pytest.fixture
def shipped(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace, as if it had come inside the package; a user's own folder at home."""
    (workspace / "examples/r1/checkpoint").mkdir()
    (workspace / "examples/r1/config.yaml").write_text(
        "launcher: local\nengine: vllm\nvendor: nvidia\n"
        "model: {repo: examples/r1/checkpoint, source: models/r1, checkpoint: models/r1-bf16}\n"
    )
    monkeypatch.setattr(workspaces, "_SHIPPED", workspace)
    monkeypatch.delenv("FLAGDEPLOY_RUNS", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return workspace


def test_nothing_is_written_into_the_package(shipped: Path, tmp_path: Path) -> None:
    own = tmp_path / "home" / "flagdeploy"
    assert workspaces.state_folder(shipped) == own / "runs"
    assert resolve.checkpoint_of("r1", shipped) == own / "models/r1"
    assert resolve.served_checkpoint_of("r1", shipped) == own / "models/r1-bf16"
    assert load("r1", root=shipped).deployment.model.checkpoint == str(own / "models/r1-bf16")
    assert places.known_hosts_file(shipped) == own / "hostfiles/known_hosts"
    assert sides.folders(shipped) == [own / "env/baselines", shipped / "env/baselines"]


def test_what_the_package_brings_is_found_from_anywhere(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve.repository_of("r1", shipped) == (str(shipped / "examples/r1/checkpoint"), None)
    assert workspaces.absolute(shipped, "examples/r1") == shipped / "examples/r1"


def test_a_workspace_of_the_users_own_keeps_everything(workspace: Path) -> None:
    assert workspaces.writable_folder(workspace) == workspace
    assert workspaces.absolute(workspace, "models/r1") == workspace / "models/r1"
    assert sides.folders(workspace) == [workspace / "env/baselines"]


def test_the_default_deployment_must_exist(workspace: Path) -> None:
    (workspace / "examples/r2").mkdir()
    (workspace / "examples/r2/config.yaml").write_text("")
    (workspace / "env/workspace.yaml").write_text("deployment: r3\n")
    with pytest.raises(ConfigError) as error:
        workspaces.default_deployment(workspace)
    problem = "env/workspace.yaml: deployment: names `r3`, which is no folder of examples/"
    assert str(error.value) == problem
    (workspace / "env/workspace.yaml").write_text("deployment: r2\n")
    assert workspaces.default_deployment(workspace) == "r2"
