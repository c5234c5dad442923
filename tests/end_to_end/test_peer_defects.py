"""Defects that were reproduced in the nearest peer, a launcher that writes one shell script for all
hosts: here none of them happens, on real hosts, in the words that a user types.

The numbers are those of the list of defects. What needs no host has its tests elsewhere: ports
(3) in cli/test_serve.py, mistakes that are told before anything happens (8) in cases/errors/, false
and nested arguments (10) in engines/test_values.py; secrets with a real engine (9) and the log of a
dead rank (11) in test_two_hosts.py.
"""

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from config.pairs import write
from proving_ground.hosts import Fleet, Host
from proving_ground.image import Image
from proving_ground.network import command

from flagdeploy.config.escapes import escaped

from .user import API_KEY, CANARY, ROOT, User, command_lines, containers, files_with

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(300)]

TEXT = " a b 'c' \"d\" $PATH ${HOME} \\${X} \\\\${Y} $(id) `id` \\ * ~ ;&|<> # ü 日本\n\tend \n"
PRELUDE = "export FIRST='it'\"'\"'s $PATH' # ü\nexport SECOND=\"$TEXT\""


class Site:
    """A user's folders, in which the engines of both hosts leave what they were started with."""

    def __init__(self, user: User, fleet: Fleet, image: Image) -> None:
        self.user, self.fleet, self.image = user, fleet, image
        self.weights = user.workspace / "models"
        self.weights.mkdir()

    def records(self, name: str) -> Path:
        folder = self.user.workspace / "records" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def container(self, name: str) -> dict[str, Any]:
        mounts = [*self.image.mounts, f"{self.records(name)}:/record"]
        # The program behind container.init would lie under the mounted /usr.
        own = {"image": self.image.tag, "mounts": mounts, "init": False, "stop_timeout": 5}
        return {**own, "privileged": False, "pid": "private"}

    def deployment(self, name: str, **more: Any) -> None:
        """A deployment of ours, as a user writes it."""
        data = {
            "vendor": "cpu",
            "engine": "vllm",
            "weights": "random",
            "model": {"checkpoint": str(self.weights)},
            "parallel": {"tensor": len(self.fleet)},
            **more,
            "container": {**self.container(name), **more.get("container", {})},
        }
        folder = self.user.workspace / "examples" / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(data))

    def settings(self, name: str) -> list[str]:
        """What FlagScale does not say of containers, for the command line."""
        return [f"container.{key}={json.dumps(v)}" for key, v in self.container(name).items()]

    def recorded(self, name: str, file: str) -> bytes:
        """What a program left; `serve` waits for the endpoint, not for what starts beside it."""
        path = self.records(name) / file
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, f"no {path}"
            time.sleep(0.05)
        return path.read_bytes()

    def argv(self, name: str, host: Host, program: str = "vllm") -> list[str]:
        """The arguments that arrived, without the interpreter and the program."""
        recorded = self.recorded(name, f"{host.name}-{program}-cmdline")
        return [word.decode() for word in recorded.split(b"\0")[2:-1]]

    def environment(self, name: str, host: Host, program: str = "vllm") -> dict[str, str]:
        recorded = self.recorded(name, f"{host.name}-{program}-environ")
        pairs = (line.decode().partition("=") for line in recorded.split(b"\0")[:-1])
        return {key: value for key, _, value in pairs}

    def answer(self, host: Host, port: int) -> str:
        """Which deployment answers on a port of a host: the stand-in says its model's name."""
        request = [
            *("curl", "--silent", "--max-time", "5", "--data", "{}"),
            f"http://{host.address}:{port}/v1/completions",
        ]
        done = subprocess.run(request, capture_output=True, text=True)
        return str(json.loads(done.stdout)["choices"][0]["text"]) if done.stdout else "nobody"


@pytest.fixture
def site(user: User, fleet: Fleet, recording_environment: Image) -> Site:
    return Site(user, fleet, recording_environment)


def nested(text: str) -> dict[str, Any]:
    return {"rope": {"factor": 2, "on": False, "text": text}}


def after(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_1_an_unreachable_host_is_a_failure_that_names_it(site: Site) -> None:
    """There every command ends with success, whatever SSH said."""
    site.deployment("one")
    site.deployment("two")
    user, dead = site.user, site.fleet[1]
    dead.down()
    command("ip", "neigh", "flush", "to", dead.address)  # or the kernel would try for ten seconds
    try:
        commands = {
            "serve": ("serve", "two", "--hosts", user.hosts),
            "status": ("status", "one", "--hosts", user.hosts),
            "stop": ("stop", "one", "--hosts", user.hosts),
            "logs": ("logs", "one", "--hosts", user.hosts),
            "check": ("hosts", "check", "--hosts", user.hosts),
            "command": ("hosts", "check", "--hosts", user.hosts, "--", "true"),
        }
        running = {name: user.start(*words) for name, words in commands.items()}
        said = {name: user.ends(process, 1) for name, process in running.items()}
    finally:
        dead.up()
    for name, outputs in said.items():
        lines = "".join(outputs).splitlines()
        assert any(f"no SSH connection to {dead.address}" in line for line in lines), name
        assert not any(line.startswith(f"error: {site.fleet[0].address}") for line in lines)
    assert [containers(host) for host in site.fleet] == [[], []]


@pytest.mark.parametrize(
    ("source", "prelude"), [("ours", ""), ("flagscale", PRELUDE)], ids=["ours", "flagscale"]
)
def test_2_values_arrive_byte_for_byte(source: str, prelude: str, site: Site) -> None:
    """There environment and arguments stand unquoted in lines of a shell, which the first host
    expands before the others see them."""
    args: dict[str, Any] = {"chat-template": escaped(TEXT), "many": [escaped(TEXT), "b"]}
    args |= {"hf-overrides": nested(escaped(TEXT)), "enable-log-requests": False}
    env = {"TEXT": escaped(TEXT), "EMPTY": "", "NCCL_IB_HCA": "=mlx5_0 mlx5_1"}
    if source == "ours":
        own = {
            "env": {**env, "HF_TOKEN": "${env:HF_TOKEN}"},
            "rank_env": {"1": {"ONE": env["TEXT"]}},
        }
        site.deployment("bytes", engine_args=args, container={**own, "prelude": escaped(prelude)})
        words = ["serve", "bytes", "--hosts", site.user.hosts]
    else:
        nodes = {site.fleet[1].address: {"ONE": env["TEXT"]}}
        token = {"HF_TOKEN": "${oc.env:HF_TOKEN}", "nodes_envs": nodes}
        experiment = {"exp_name": "bytes", "runner": {"hostfile": "hosts.txt"}}
        experiment |= {"envs": {**env, **token}, "cmds": {"before_start": escaped(prelude)}}
        args |= {"model": str(site.weights), "load_format": "dummy", "tensor_parallel_size": 2}
        folder = site.user.workspace.parent / "a pair"
        pair = write(folder, experiment, {"engine_args": args}, site.fleet.hostfile())
        words = ["serve", "--from-flagscale", str(pair), "vendor=cpu", *site.settings("bytes")]
    plan = json.loads(site.user.runs(*words, "--dry-run", "--json"))
    planned = [step["spec"] for step in plan["steps"] if step["step"] == "Start"]
    site.user.runs(*words)
    for rank, host in enumerate(site.fleet):
        argv, environment = site.argv("bytes", host), site.environment("bytes", host)
        assert argv == planned[rank]["argv"][-len(argv) :]
        assert after(argv, "--chat-template") == TEXT
        assert argv[argv.index("--many") :][1:3] == [TEXT, "b"]
        assert json.loads(after(argv, "--hf-overrides")) == nested(TEXT)
        assert "--no-enable-log-requests" in argv
        assert {name: environment[name] for name in env} == {**env, "TEXT": TEXT}
        assert environment["HF_TOKEN"] == CANARY
        assert environment.get("ONE") == (TEXT if rank else None)
        if prelude:
            assert (environment["FIRST"], environment["SECOND"]) == ("it's $PATH", TEXT)
    assert CANARY not in command_lines() + site.user.output
    own_files = files_with(CANARY, site.user.workspace.parent)
    assert {path.parent for path in own_files} == {site.records("bytes")}
    # The logs of ranks above 0, which there go nowhere (defect 11).
    assert site.user.runs("logs", "bytes", "--rank", "1") == (
        f"[rank 1 {site.fleet[1].address}] vllm on {site.fleet[1].name}\n"
    )
    site.user.runs("stop", "bytes")


def test_2_a_device_type_of_its_own_keeps_its_quoting(site: Site) -> None:
    """There `type=mlu` with containers gives Ray the resource ``{mlu:`` and a stray word."""
    hosts = site.fleet.hostfile(8).replace("slots=8", "slots=8 type=mlu")
    args = {"model": str(site.weights), "load_format": "dummy", "tensor_parallel_size": 16}
    experiment = {"exp_name": "mlu", "runner": {"hostfile": "hosts.txt", "docker": "running"}}
    folder = site.user.workspace.parent / "mlu"
    pair = write(folder, experiment, {"engine_args": args}, hosts)
    words = [*site.settings("mlu"), "engine_version='0.8.5'"]
    site.user.runs("serve", "--from-flagscale", str(pair), *words)
    head, worker = site.fleet
    address, port = site.argv("mlu", head, "ray"), site.argv("mlu", worker, "ray")
    assert '--resources={"MLU":8}' in address
    assert port[-1] == '--resources={"MLU":8}'
    assert f"--node-ip-address={worker.address}" in port
    assert after(site.argv("mlu", head), "--tensor-parallel-size") == "16"
    site.user.runs("stop", "mlu")


def test_4_every_file_can_be_read_by_the_oldest_python(tmp_path: Path) -> None:
    """There the default mode is a syntax error before Python 3.12."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    interpreter = shutil.which(f"python{oldest}") or sys.executable
    code = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    runs = subprocess.run([interpreter, "-c", code], capture_output=True, text=True).stdout.strip()
    if runs != oldest:
        pytest.skip(f"Python {oldest}, the oldest that is supported, is not installed")
    folders = [ROOT / name for name in ("flagdeploy", "examples")]
    compiling = [interpreter, "-W", "error", "-m", "compileall", "-q", "-f", *folders]
    done = subprocess.run(
        compiling, capture_output=True, text=True, env={"PYTHONPYCACHEPREFIX": str(tmp_path)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_5_nothing_depends_on_the_current_folder(site: Site) -> None:
    """There hostfiles and tables are looked for below the current folder."""
    user, above = site.user, site.user.workspace.parent
    experiment = {"runner": {"hostfile": "hosts.txt"}, "exp_name": "made"}
    write(
        above / "pair", experiment, {"engine_args": {"model": "/m", "tp": 2}}, site.fleet.hostfile()
    )
    site.deployment("here")
    below = user.workspace / "examples" / "here"
    plans: dict[str, set[str]] = {"ours": set(), "pair": set()}
    for folder, up in ((Path("/"), str(above)), (below, "../../.."), (above, ".")):
        ours = ("plan", "here", "--hosts", f"{up}/hosts.txt")
        pair = ("plan", "--from-flagscale", f"{up}/pair", "vendor=cpu", "container.image=i")
        plans["ours"].add(user.runs(*ours, folder=folder))
        # Notes name the file as it was given.
        plans["pair"].add(re.sub(r"note: \S*pair/", "note: ", user.runs(*pair, folder=folder)))
    assert [len(found) for found in plans.values()] == [1, 1]


def test_6_what_a_failed_command_said_is_not_lost(site: Site) -> None:
    """There the error is raised before its output is looked at."""
    words = ("hosts", "check", "--hosts", site.user.hosts, "--")
    done = site.user.ends(site.user.start(*words, "sh", "-c", "echo why not >&2; exit 3"), 1)
    assert "why not" in "".join(done)


@pytest.fixture
def foreign(site: Site) -> Iterator[list[str]]:
    """Somebody else's: a container on the host, and a process with the engine's command line."""
    host = site.fleet[0]
    mounts = [word for mount in site.image.mounts for word in ("--volume", mount)]
    words = ["run", "--detach", "--network=host", *mounts, site.image.tag, "sleep", "300"]
    container = host.docker(*words)
    code = "import time; time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", code, "vllm serve", "ray", "python"])
    yield [container]
    assert host.docker("inspect", "--format", "{{.State.Running}}", container) == "true"
    assert process.poll() is None
    process.kill()
    process.wait()


def test_7_two_deployments_share_a_host(site: Site, foreign: list[str]) -> None:
    """There starting or stopping one ends every process of the engine's name, on every host."""
    user, first = site.user, site.fleet[0]
    for name, port in (("a", 8101), ("b", 8102), ("c", 8102)):
        ports = {"port": port, "master_port": port + 1000}
        site.deployment(name, endpoint=ports)
    for name in ("a", "b"):
        user.runs("serve", name, "--hosts", user.hosts)
    started = {c["Id"] for host in site.fleet for c in containers(host)}
    assert len(started) == 4 + len(foreign)

    taken = f"error: {first.address}: port 8102 is taken by another program\n\nhint: choose another"
    assert taken in user.refused("serve", "c", "--hosts", user.hosts)
    # What runs and should move to that port stays as it is.
    assert taken in user.refused("serve", "a", "endpoint.port=8102", "--hosts", user.hosts)
    assert {c["Id"] for host in site.fleet for c in containers(host)} == started
    assert (site.answer(first, 8101), site.answer(first, 8102)) == ("a", "b")

    user.runs("stop", "a")
    assert (site.answer(first, 8101), site.answer(first, 8102)) == ("nobody", "b")
    assert user.runs("status", "b").startswith("b: ready")
    user.runs("stop", "--all")
    assert [len(containers(host)) for host in site.fleet] == [len(foreign), 0]


def test_7_a_stop_without_state_is_a_clear_message(site: Site) -> None:
    """There a missing pid file is a traceback, and everything goes on running."""
    user = site.user
    site.deployment("here", launcher="local", container={})
    assert not (user.workspace / "runs").exists()
    assert user.runs("stop", "here") == "nothing is running\n"
    assert user.runs("stop", "--all") == "nothing is running\n"
    assert user.refused("stop", "hree", exit_code=2) == (
        f"error: command line: NAME: unknown deployment `hree` in {user.workspace}/examples\n\n"
        "hint: did you mean `here`?\n"
    )
    # With its records lost, a deployment is found by its labels.
    site.deployment("lost", hostfile=user.hosts)
    user.runs("serve", "lost")
    for path in (user.workspace / "runs").iterdir():
        path.rename(path.with_name(f".{path.name}"))
    before = time.monotonic()
    assert len(user.runs("stop", "lost").splitlines()) == 2
    assert time.monotonic() - before < 60
    assert [containers(host) for host in site.fleet] == [[], []]
    assert API_KEY not in user.output
