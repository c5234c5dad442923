"""FlagScale's two layouts, as its tools write them, become patch sets that apply."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flagdeploy.cli.app import app
from flagdeploy.config.patch_set import read
from flagdeploy.patching.git import Git, Here
from flagdeploy.patching.trees import patched, patches_of
from patching.generated import Repository, git

CASES = yaml.safe_load((Path(__file__).parents[1] / "cases/errors/patch_import.yaml").read_text())
OUTSIDE = """\
diff --git a/../../etc/cron.d/x b/../../etc/cron.d/x
new file mode 100644
--- /dev/null
+++ b/../../etc/cron.d/x
@@ -0,0 +1 @@
+x
"""


# By device: what its diff.yaml holds in another form than FlagScale's tool writes it.
MALFORMED: dict[str, dict[str, Any]] = {
    "A_Versions": {"backends_version": ["0.8.3"]},
    "A_Commits": {"backends_commit": "296c6572"},
    "A_Base": {"backends_commit": {"vllm": "z" * 40}},
    "A_Task": {"task": "inference"},
    "A_Models": {"models": 7},
}
HISTORY = {
    "A_List": ["a"],
    "A_Text": {"inference": "a"},
    "A_Commit": {"inference": {"vllm": "abc"}},
}


class FlagScale:
    """A clone with what its tools leave in hardware/."""

    def __init__(self, folder: Path) -> None:
        self.vllm = Repository(folder / "vllm", range(1))
        self.folder = folder / "FlagScale"
        self.folder.mkdir()
        git(self.folder, "init", "-q", "-b", "main")
        self.write(".gitmodules", '[submodule "third_party/vllm"]\n\turl = https://git.example/v\n')
        self.write("README.md", "first\n")
        self.first = self.commit()
        self.old_layout()
        self.new_layout()
        self.complete = self.commit()
        history = {"Cambricon_MLU": {"inference": {"vllm": ["0" * 40, self.complete]}}}
        self.write("hardware/patch_history.yaml", yaml.safe_dump({**history, **HISTORY}))
        # Later work on the same device, which the history does not name.
        self.write("hardware/Cambricon_MLU/vllm/half.py.patch", "half written\n")
        self.commit()

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self) -> str:
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-qm", "more")
        return git(self.folder, "rev-parse", "HEAD").decode().strip()

    def old_layout(self) -> None:
        """As `patch.py --device-type cambricon_MLU --base-commit-id FIRST`."""
        self.write("vllm_mlu/env.sh", "export MLU=1\n")
        self.write("README.md", "first\nruns on MLU\n")
        vendor = self.commit()
        mail = git(self.folder, "format-patch", "--stdout", f"{self.first}..{vendor}")
        git(self.folder, "checkout", "-q", "-B", "main", self.first)
        short = self.first[:8]
        self.write(f"hardware/cambricon_MLU/{short}/{short}.patch", mail)
        self.write("hardware/cambricon_MLU/00000000/00000000.patch", mail)
        self.write(f"hardware/bi_V150/{short}/{short}.patch.encrypted", b"\0\1\2")

    def new_layout(self) -> None:
        """As `patch.py --backend vllm --device-type D --task inference --commit C`."""
        base, last = self.vllm.base(0), self.vllm.commits["set0-1"]
        text = git(self.vllm.folder, "diff", "--binary", "--no-renames", base, last)
        parts = text.split(b"diff --git ")[1:]
        for number, part in enumerate(parts):
            patch = b"diff --git " + part + b"\n"
            self.write(f"hardware/Cambricon_MLU/vllm/sub/{number}.patch", patch)
        self.parts = len(parts)
        devices = ("Cambricon_MLU", "BI_V150", "MUSA_S5000", "Metax_C550", *MALFORMED)
        for device in devices:
            facts: dict[str, Any] = {
                "backends_commit": {"vllm": base} if device != "Metax_C550" else {},
                "backends_version": {"vllm": "0.9.1"},
                "commit": self.first,
                "contact": "''",
                "device_type": device,
                "models": ["qwen3"],
                "task": ["inference"],
            }
            facts |= MALFORMED.get(device, {})
            self.write(f"hardware/{device}/vllm/diff.yaml", yaml.safe_dump(facts))
        self.write("hardware/BI_V150/vllm/a.py.patch.encrypted", b"\0\1")
        self.write("hardware/BI_V150/vllm/b.py.patch.encrypted", b"\0\1")
        self.write("hardware/MUSA_S5000/vllm/diff.patch", OUTSIDE)
        self.write("hardware/Metax_C550/vllm/diff.patch", OUTSIDE)


@pytest.fixture(scope="module")
def flagscale(tmp_path_factory: pytest.TempPathFactory) -> FlagScale:
    return FlagScale(tmp_path_factory.mktemp("flagscale"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in ("env", "examples"):
        (tmp_path / name).mkdir()
    return tmp_path


def imported(checkout: Path, workspace: Path, *words: str) -> list[dict[str, Any]]:
    command = ["patch", "import", str(checkout), *words, "--workspace", str(workspace), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_patch_for_each_commit(flagscale: FlagScale, workspace: Path) -> None:
    words = ["--device", "cambricon_MLU", "--commit", flagscale.first[:8]]
    (done,) = imported(flagscale.folder, workspace, *words)
    assert done["name"] == f"cambricon/FlagScale@{flagscale.first[:12]}"
    chosen = read(workspace / "patches" / done["name"])
    assert chosen.base == flagscale.first
    assert chosen.repository == "https://github.com/flagos-ai/FlagScale"
    result = patched(Git(Here(), str(flagscale.folder)), chosen, patches_of(chosen))
    assert result.files == 2


def test_a_patch_for_each_file_as_of_the_history(flagscale: FlagScale, workspace: Path) -> None:
    words = ["--device", "Cambricon_MLU", "--task", "inference", "--backend", "vLLM"]
    (done,) = imported(flagscale.folder, workspace, *words)
    chosen = read(workspace / "patches" / done["name"])
    assert (chosen.base, chosen.version) == (flagscale.vllm.base(0), "0.9.1")
    assert (chosen.tasks, chosen.models, chosen.contact) == (("inference",), ("qwen3",), "")
    assert chosen.repository == "https://git.example/v"
    assert chosen.origin == f"FlagScale {flagscale.complete}, hardware/Cambricon_MLU/vllm"
    assert len(chosen.patches) == flagscale.parts
    result = patched(Git(Here(), str(flagscale.vllm.folder)), chosen, patches_of(chosen))
    assert result.tree == flagscale.vllm.trees["set0-1"]


def test_what_is_there_is_not_overwritten(flagscale: FlagScale, workspace: Path) -> None:
    words = ["--device", "cambricon_MLU", "--commit", flagscale.first[:8]]
    (done,) = imported(flagscale.folder, workspace, *words)
    command = ["patch", "import", str(flagscale.folder), *words, "--workspace", str(workspace)]
    result = CliRunner().invoke(app, command)
    assert result.stderr == (
        f"error: {done['folder']} is there already\n\nhint: remove it to import it again\n"
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(case: dict[str, Any], flagscale: FlagScale, workspace: Path) -> None:
    names = {
        "FLAGSCALE": str(flagscale.folder),
        "WORKSPACE": str(workspace),
        "OLD": flagscale.first[:8],
    }

    def named(text: str) -> str:
        for word, real in names.items():
            text = text.replace(word, real)
        return text

    words = [case.get("checkout", "FLAGSCALE"), *case["arguments"], "--workspace", "WORKSPACE"]
    result = CliRunner().invoke(app, ["patch", "import", *map(named, words)])
    assert result.stderr == f"error: {named(case['error'])}\n"
    assert result.exit_code == case.get("exit_code", 1)
    assert not (workspace / "patches").exists()


def test_a_clone_without_the_content_of_a_patch(
    flagscale: FlagScale, workspace: Path, tmp_path: Path
) -> None:
    """As `git clone --filter=blob:none` leaves it, without a way to the rest."""
    clone, name = tmp_path / "clone", "hardware/Cambricon_MLU/vllm/sub/0.patch"
    shutil.copytree(flagscale.folder, clone)
    blob = git(clone, "rev-parse", f"{flagscale.complete}:{name}").decode().strip()
    (clone / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    words = ["--device", "Cambricon_MLU", "--task", "inference", "--backend", "vllm"]
    command = ["patch", "import", str(clone), *words, "--workspace", str(workspace)]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {clone} lacks {name} of commit {flagscale.complete}\n\n"
        "hint: use a clone without --filter, or one that can fetch\n"
    )


def test_a_task_that_some_of_the_components_are_for(workspace: Path, tmp_path: Path) -> None:
    for backend, task in (("vllm", "inference"), ("FlagScale", "train"), ("sglang", "inference")):
        facts = tmp_path / "FlagScale" / "hardware" / "A_B" / backend / "diff.yaml"
        facts.parent.mkdir(parents=True)
        facts.write_text(f"task: [{task}]\n")
    words = ["import", str(tmp_path / "FlagScale"), "--device", "A_B", "--task", "inference"]
    result = CliRunner().invoke(app, ["patch", *words, "--workspace", str(workspace)])
    assert result.exit_code == 2
    assert result.stderr == (
        "error: A_B has patches for `inference` of sglang, vllm only\n\n"
        "hint: --backend sglang --backend vllm\n"
    )
