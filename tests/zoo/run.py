"""Print what `flagdeploy compare --suite quick` says of deployments with known faults.

    python tests/zoo/run.py --device cuda --jobs 8 --json zoo-h200.jsonl
    python tests/zoo/run.py --device cpu --jobs 1 --only fp32 int4-rtn --json zoo-cpu.jsonl
    python tests/zoo/run.py --table zoo-h200.jsonl zoo-cpu.jsonl > zoo.md

Every row is served over HTTP by a process of its own and compared with the recorded baseline
env/baselines/tiny_deepseek_r1/h200.jsonl.gz by the command itself. Results are appended as they
come; the same command with the same file goes on with what is missing. Exit status: 0 when all
that ran came out as expected, 1 otherwise.

Needs torch, transformers, safetensors, aiohttp, numpy, typer and pyyaml; rows that need more
(vLLM's CPU environment, a CUDA device, FlagGems) say so and are skipped.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:1] = [str(ROOT / "tests"), str(ROOT)]

from zoo import checkpoints, table, trial  # noqa: E402
from zoo.rows import ROWS, Row  # noqa: E402
from zoo.trial import Machine  # noqa: E402


def parse() -> argparse.Namespace:
    lines = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=lines[0], epilog=lines[2], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda, cuda:1")
    add("--jobs", type=int, default=1, help="rows at once")
    add("--threads", type=int, help="CPU threads of a server (default: cores / jobs)")
    add("--only", nargs="+", metavar="ROW", help="these rows, or all of a kind", default=[])
    add("--limit", type=float, default=300.0, metavar="S", help="seconds a row may take")
    add("--until", type=float, metavar="S", help="start no row after so many seconds")
    add("--baseline", type=Path, default=trial.BASELINE, metavar="FILE", help="default: h200")
    add("--json", type=Path, metavar="FILE", help="append results here; go on where it was")
    add("--work", type=Path, metavar="DIR", help="for checkpoints and logs (default: temporary)")
    add("--table", nargs="+", type=Path, metavar="FILE", help="only print results of these files")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.table:
        print(table.markdown(table.read(options.table)), end="")
        return 0
    rows = chosen(options.only)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        work = (options.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        threads = options.threads or max(1, (os.cpu_count() or 1) // options.jobs)
        where = name(options.device)
        baseline = options.baseline.resolve()
        machine = Machine(options.device, threads, where, work, options.limit, baseline)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        checkpoints.prepare(work, options.device)
        results = run_all(left(rows, machine, options.json), machine, options)
    if options.json:
        results = [r for r in table.read([options.json]) if r["machine"] == machine.name]
    print(table.markdown(results), end="")
    judged = [
        ROWS[r["row"]].as_expected(r["verdict"]) for r in results if r["verdict"] != "SKIPPED"
    ]
    return int(False in judged)


def chosen(only: Sequence[str]) -> list[Row]:
    unknown = set(only) - set(ROWS) - {row.kind for row in ROWS.values()}
    if unknown:
        raise SystemExit(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return [row for row in ROWS.values() if not only or row.name in only or row.kind in only]


def left(rows: Sequence[Row], machine: Machine, file: Path | None) -> list[Row]:
    """What `file` does not hold a verdict of, the longest first."""
    known = table.read([file]) if file and file.is_file() else []
    done = {r["row"] for r in known if r["machine"] == machine.name and r["verdict"] != "ERROR"}
    return sorted((row for row in rows if row.name not in done), key=lambda row: -row.seconds)


def run_all(rows: Sequence[Row], machine: Machine, options: Any) -> list[dict[str, Any]]:
    lock, started = threading.Lock(), time.monotonic()
    results: list[dict[str, Any]] = []

    def one(row: Row) -> None:
        if options.until and time.monotonic() - started > options.until:
            return
        result = trial.run(row, machine)
        with lock:
            results.append(result)
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result, ensure_ascii=False) + "\n")
            note(f"{len(results)}/{len(rows)} {row.name}: {result['verdict']} {result['reason']}")

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, rows))
    return results


def note(line: str) -> None:
    print(line[:200], file=sys.stderr, flush=True)


def name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device)).removeprefix("NVIDIA ")
    return f"{platform.machine()} CPU"


if __name__ == "__main__":
    sys.exit(main())
