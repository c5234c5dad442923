"""Somebody at a shell, and what can be seen of them: on the hosts, in command lines, in files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from proving_ground.hosts import Fleet, Host

ROOT = Path(__file__).parent.parent.parent
CANARY = "hf_canaryQ7w8E9r0T1y2U3i4O5p6"
API_KEY = "sk-canary-A1b2C3d4E5f6"


class User:
    """Somebody at a shell, with a workspace, an inventory, a key and two secrets."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self.output = ""
        for name in ("env", "examples", "hostfiles"):
            shutil.copytree(ROOT / name, self.workspace / name)
        (folder / "hosts.txt").write_text(fleet.hostfile())
        self.hosts = str(folder / "hosts.txt")
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "FLAGDEPLOY_HOME": str(self.workspace),
            "FLAGDEPLOY_SSH_KEY": str(fleet.key_path),
            "FLAGDEPLOY_KNOWN_HOSTS": str(fleet.known_hosts_path),
            "HF_TOKEN": CANARY,
            "FLAGDEPLOY_API_KEY": API_KEY,
        }
        (folder / "home").mkdir()

    def start(self, *arguments: str, folder: Path | None = None) -> "subprocess.Popen[str]":
        """Start `flagdeploy` in `folder`, by default the workspace."""
        return subprocess.Popen(
            [sys.executable, "-m", "flagdeploy", *arguments],
            env=self.environment,
            cwd=folder or self.workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def runs(self, *arguments: str, exit_code: int = 0, folder: Path | None = None) -> str:
        """Run `flagdeploy`, expect `exit_code`, return stdout."""
        return self.ends(self.start(*arguments, folder=folder), exit_code)[0]

    def refused(self, *arguments: str, exit_code: int = 1) -> str:
        """Run `flagdeploy`, expect that it fails with `exit_code`, return stderr."""
        return self.ends(self.start(*arguments), exit_code)[1]

    def ends(self, process: "subprocess.Popen[str]", exit_code: int) -> tuple[str, str]:
        """Wait for a process, expect `exit_code` and no traceback, return both of its outputs."""
        stdout, stderr = process.communicate()
        self.output += stdout + stderr
        assert process.returncode == exit_code, stdout + stderr
        assert "Traceback" not in stderr, stderr
        return stdout, stderr


def containers(host: Host) -> list[dict[str, object]]:
    """Every container on the host, in any state."""
    return json.loads(host.engine("GET", "/containers/json?all=1"))


def command_lines() -> str:
    """The command line of every process of this machine, the hosts' included."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def files_with(secret: str, folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]
