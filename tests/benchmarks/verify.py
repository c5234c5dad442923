"""What verify takes on a checkpoint with the tensors of DeepSeek-R1: 163 shards, 91,989 tensors.

    python tests/benchmarks/verify.py FOLDER [--rounds 9]

The checkpoint is written into FOLDER (its headers are real, its data are holes), then the whole
command and a bare interpreter are measured, interleaved, by the clock and in seconds of a core; and
how fast values are searched for NaN and computed again, per core. The bar: a second.
"""

import argparse
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import deepseek_checkpoint
import numpy as np

from flagdeploy.checkpoint.comparison import Place, compare_piece
from flagdeploy.checkpoint.jobs import Dequantize, Extent
from flagdeploy.checkpoint.nonfinite import not_finite
from flagdeploy.checkpoint.pieces import pieces
from flagdeploy.checkpoint.reading import OpenFolder

SHARDS = 163
MEMORY = """
import sys
from flagdeploy.workflows.verify import verify
print(verify(sys.argv[1]))
print("peak memory:", *(t[6:].strip() for t in open("/proc/self/status") if t[:5] == "VmHWM"))
"""


def seconds(work: Callable[[], object]) -> float:
    """Seconds of a core."""
    began = time.process_time()
    work()
    return time.process_time() - began


def run(*arguments: str) -> tuple[float, float]:
    """Seconds by the clock, and of a core."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, core


def scan_rate(dtype: str) -> float:
    """GB/s of one core, in chunks of the size that is read."""
    chunk = memoryview(bytes(2 << 20))
    return (
        50
        * len(chunk)
        / min(seconds(lambda: [not_finite(chunk, 0, dtype) for _ in range(50)]) for _ in range(3))
    )


def compare_rate(folder: Path) -> float:
    """Elements per second of one core: FP8 to BF16, computed again and compared."""
    rows, columns, chance = 2048, 7168, random.Random(0)
    count, scales = rows * columns, np.full((16, 56), 1e-3, np.float32)
    codes = np.frombuffer(chance.randbytes(count), np.uint8) & np.uint8(0xFE)  # none is NaN
    (folder / "source").write_bytes(codes.tobytes() + scales.tobytes())
    (folder / "target").write_bytes(bytes(2 * count))
    where = Extent("source", 0, count), Extent("source", count, scales.nbytes)
    item = Dequantize("w", *where, "F32", (rows, columns), (128, 128), "bf16", 0)
    with OpenFolder(folder) as opened:
        places = [Place("target", 0)]
        return count / min(
            seconds(lambda: [compare_piece(item, p, opened, opened, places) for p in pieces(item)])
            for _ in range(3)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    checkpoint = options.folder / "checkpoint"
    deepseek_checkpoint.write(checkpoint, deepseek_checkpoint.tensors(), SHARDS, sparse=True)
    commands = {
        "python -c pass": ("-c", "pass"),
        "flagdeploy --version": ("-m", "flagdeploy", "--version"),
        "flagdeploy verify": ("-m", "flagdeploy", "verify", "--ckpt", str(checkpoint)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, arguments in commands.items():
            times[name].append(run(*arguments))
    print(f"{'':20} {'min s':>7} {'median':>7} {'core s':>7}")
    for name, taken in times.items():
        clock = sorted(wall for wall, _ in taken)
        core = min(core for _, core in taken)
        print(f"{name:20} {clock[0]:7.3f} {clock[len(clock) // 2]:7.3f} {core:7.3f}")
    print(subprocess.check_output([sys.executable, "-c", MEMORY, checkpoint], text=True).strip())
    for dtype in ("F8_E4M3", "BF16", "F32"):
        print(f"values of {dtype:8} searched: {scan_rate(dtype) / 1e9:5.1f} GB/s per core")
    print(f"FP8 to BF16 computed again: {compare_rate(options.folder) / 1e6:5.0f} M/s per core")


if __name__ == "__main__":
    main()
