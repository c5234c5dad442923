"""The patch sets that ship with the sources."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from flagdeploy.config.patch_set import folders, read
from flagdeploy.patching.trees import patches_of

ROOT = Path(__file__).parents[2]
SHIPPED = {name: folder for name, folder in folders(ROOT).items() if ROOT in folder.parents}
FLAGGEMS = "nvidia/vllm@01425553bdbe"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_set_is_as_recorded_and_readable(name: str) -> None:
    assert all(patch.changes for patch in patches_of(read(SHIPPED[name])))


@pytest.fixture
def enable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The function that the patch adds to vLLM."""
    (patch,) = SHIPPED[FLAGGEMS].glob("*.patch")
    include = "--include=vllm/plugins/flaggems.py"
    subprocess.run(["git", "apply", include, str(patch)], cwd=tmp_path, check=True)
    path = tmp_path / "vllm/plugins/flaggems.py"
    spec = importlib.util.spec_from_file_location("flaggems", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for variable in ("USE_FLAGGEMS", "FLAGGEMS_INCLUDE", "FLAGGEMS_EXCLUDE", "FLAGGEMS_LOG_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return module.enable_if_asked


class Gems(ModuleType):
    """FlagGems' two entry points; keeps how they were called."""

    def __init__(self) -> None:
        super().__init__("flag_gems")
        self.calls: list[tuple[str, dict[str, object]]] = []

    def enable(self, **options: object) -> None:
        self.calls.append(("enable", options))

    def only_enable(self, **options: object) -> None:
        self.calls.append(("only_enable", options))


@pytest.mark.parametrize(
    ("environment", "call"),
    [
        ({}, None),
        ({"USE_FLAGGEMS": "0"}, None),
        ({"USE_FLAGGEMS": "1"}, ("enable", {"unused": []})),
        (
            {"USE_FLAGGEMS": "true", "FLAGGEMS_EXCLUDE": "mm, softmax"},
            ("enable", {"unused": ["mm", "softmax"]}),
        ),
        (
            {"USE_FLAGGEMS": "yes", "FLAGGEMS_INCLUDE": "mm"},
            ("only_enable", {"include": ["mm"]}),
        ),
    ],
)
def test_flaggems_is_enabled_when_asked_for(
    enable: Callable[[], None],
    environment: dict[str, str],
    call: tuple[str, dict[str, object]] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gems = Gems()
    monkeypatch.setitem(sys.modules, "flag_gems", gems)
    for name, value in {**environment, "FLAGGEMS_LOG_PATH": "/logs/ops"}.items():
        monkeypatch.setenv(name, value)
    enable()
    record = {"record": True, "once": True, "path": f"/logs/ops.{os.getpid()}.log"}
    assert gems.calls == ([(call[0], {**call[1], **record})] if call else [])


def test_flaggems_asked_for_and_missing_is_no_native_run(
    enable: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flag_gems", None)
    monkeypatch.setenv("USE_FLAGGEMS", "1")
    with pytest.raises(ImportError):
        enable()
