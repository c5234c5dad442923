"""Start-up times as ratios to the bare interpreter, interleaved, in one run.

    python tests/benchmarks/startup.py [--rounds 15]

The bars: `--help` and `--version` at most 8x `python -c pass`, a dry run at most 20x.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FLAGDEPLOY = [str(Path(sys.executable).parent / "flagdeploy")]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "flagdeploy --help": [*FLAGDEPLOY, "--help"],
    "flagdeploy --version": [*FLAGDEPLOY, "--version"],
    "flagdeploy serve deepseek_r1 --dry-run": [*FLAGDEPLOY, "serve", "deepseek_r1", "--dry-run"],
    "flagdeploy serve deepseek_r1 cambricon_bf16 --dry-run": [
        *FLAGDEPLOY,
        *("serve", "deepseek_r1", "cambricon_bf16", "--dry-run"),
    ],
}
BARS = {"--help": 8, "--version": 8, "--dry-run": 20}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    bare = min(times["python -c pass"])
    print(f"{'command':54} {'min ms':>7} {'median':>7} {'ratio':>6} {'bar':>4}")
    for name, taken in times.items():
        median = sorted(taken)[rounds // 2]
        bar = BARS.get(name.split()[-1], "")
        fastest, ratio = min(taken) * 1e3, min(taken) / bare
        print(f"{name:54} {fastest:7.0f} {median * 1e3:7.0f} {ratio:6.1f} {bar:>4}")


if __name__ == "__main__":
    main()
