"""FP8 to BF16 against its peers and the machine's limits, interleaved, in one run.

    python tests/benchmarks/dequant.py --folder /scratch [--size 2] [--rounds 3] [--scaling]
        [--compressed-tensors PYTHON]     an interpreter that has compressed-tensors

Every sample is a fresh process, from start to exit, on the same checkpoint (DeepSeek's layout and
shapes, `--size` GB): cold (its pages dropped before) and with the output synced to disk, and warm,
as each program leaves it. Outputs are compared byte by byte, tensor by tensor. The bars: ten times
the torch port's throughput (three with numpy), 0.9 of dd that writes as many bytes while another dd
reads the input (one that reads nothing is shown too), 150 MB of memory, the kernel within 1.2 of a
memory copy, the first byte within 0.5 s.
"""

import argparse
import ctypes
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import deepseek_checkpoint
import ml_dtypes
import numpy as np

from flagdeploy.checkpoint import native
from flagdeploy.checkpoint.fp8 import Dequantizer
from flagdeploy.checkpoint.safetensors_file import read_header

PEERS = Path(__file__).parent / "peers"
FLAGDEPLOY = [sys.executable, "-m", "flagdeploy", "dequant", "--quiet"]


@dataclass
class Samples:
    """Seconds of wall clock and of CPU, and MB of peak memory, of each run."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0


def run(command: list[str], **environment: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    peak = 0.0
    while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
        # ru_maxrss would count the memory of this process, which the child began as.
        peak = max(peak, peak_memory(process.pid))
        time.sleep(0.01)
    _, status, usage = waited
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak


def peak_memory(pid: int) -> float:
    """The largest resident memory so far, in MB, of a process that may just be ending."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def programs(
    source: Path, out: Path, peer: str | None
) -> dict[str, Callable[[], tuple[float, ...]]]:
    flagdeploy = [*FLAGDEPLOY, "--ckpt", str(source), "--out", str(out)]
    torch_port = [sys.executable, str(PEERS / "fp8_cast_torch.py"), str(source), str(out)]
    found: dict[str, Callable[[], tuple[float, ...]]] = {
        "flagdeploy native": lambda: run(flagdeploy, FLAGDEPLOY_KERNEL="native"),
        "flagdeploy numpy": lambda: run(flagdeploy, FLAGDEPLOY_KERNEL="numpy"),
        "torch port": lambda: run(torch_port),
    }
    if peer:
        script = str(PEERS / "compressed_tensors_convert.py")
        found["compressed-tensors"] = lambda: run([peer, script, str(source), str(out)])
    return found


def drop_pages(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync(folder: Path) -> float:
    """Seconds until what a program wrote is on the disk."""
    began = time.perf_counter()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def digests(folder: Path) -> dict[str, int]:
    """CRC-32 of every tensor."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        header = read_header(path)
        with path.open("rb") as file:
            for tensor in header.tensors.values():
                file.seek(header.data_start + tensor.begin)
                found[tensor.name] = zlib.crc32(file.read(tensor.nbytes))
    return found


def dd(out: Path, size: int, sources: Sequence[Path] = ()) -> tuple[float, float, float]:
    """Write `size` bytes of zeros with dd, while another dd reads the files `sources`."""
    out.mkdir()
    lines = [f"dd if={path} of=/dev/null bs=2M status=none" for path in sources]
    to = f"of={out / 'zeros'} conv=fdatasync"
    zeros = f"dd if=/dev/zero {to} bs=2M count={size >> 21} status=none"
    return run(["sh", "-ec", f"({'; '.join([*lines, ':'])}) & {zeros}; wait"])


def copied(size: int) -> tuple[float, float, float]:
    """Copy `size` bytes within memory, 64 MB at a time."""
    source, target = np.ones(64 << 20, np.uint8), np.ones(64 << 20, np.uint8)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(size >> 26):
        ctypes.memmove(target.ctypes.data, source.ctypes.data, source.nbytes)
    return time.perf_counter() - began, time.process_time() - cpu, 128.0


def kernels(rounds: int) -> None:
    """CPU nanoseconds per element of one 6144 x 7168 matrix, and of copying its output."""
    shape, chance = (6144, 7168), np.random.default_rng(0)
    normal = (chance.standard_normal(shape, np.float32) * 100).clip(-448, 448)
    codes = normal.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    scales = chance.random((48, 56), np.float32)
    out, other = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    size = out.nbytes
    every = {
        "memory copy of the output": lambda: ctypes.memmove(
            other.ctypes.data, out.ctypes.data, size
        ),
        "native": native.NativeDequantizer("bf16", native.LIBRARY),
        "numpy": Dequantizer("bf16"),
    }
    best = dict.fromkeys(every, float("inf"))
    for _ in range(4 * rounds):
        for name, call in every.items():
            began = time.process_time()
            call() if name.startswith("memory") else call(codes, scales, out, 0, (128, 128))
            best[name] = min(best[name], time.process_time() - began)
    limit = best["memory copy of the output"]
    print(f"\nkernel, one core, {shape[0]} x {shape[1]}{'':>10} ns/element  x memory copy")
    for name, seconds in best.items():
        print(f"{name:40} {seconds / codes.size * 1e9:10.2f} {seconds / limit:14.2f}")


def first_byte(source: Path, out: Path, rounds: int) -> float:
    """Seconds from the start of the command to the first byte of the first shard."""
    best = float("inf")
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        process = subprocess.Popen([*FLAGDEPLOY, "--ckpt", str(source), "--out", str(out)])
        while process.poll() is None:
            parts = list(out.glob("*.safetensors.part")) if out.exists() else []
            if any(part.stat().st_size for part in parts):
                break
            time.sleep(0.001)
        best = min(best, time.perf_counter() - began)
        process.wait()
    return best


def compare(source: Path, out: Path, written: int, rounds: int, peer: str | None) -> None:
    every = programs(source, out, peer)
    shards = sorted(source.glob("*.safetensors"))
    limits: dict[str, Callable[[], tuple[float, ...]]] = {
        "dd reads and writes": lambda: dd(out, written, shards),
        "dd only writes": lambda: dd(out, written),
        "memory copy": lambda: copied(written),
    }
    cold = {name: Samples() for name in [*every, *limits]}
    warm = {name: Samples() for name in every}
    known: dict[str, dict[str, int]] = {}
    for turn in range(rounds):
        for name, call in (every | limits).items():
            for table in (cold, warm) if name in warm else (cold,):
                drop_pages(source) if table is cold else read(source)
                shutil.rmtree(out, ignore_errors=True)
                wall, cpu, memory = call()
                if table is cold and name in warm:
                    wall += sync(out)
                sample = table[name]
                sample.wall.append(wall)
                sample.cpu.append(cpu)
                sample.memory = max(sample.memory, memory)
            if not turn and name in warm:
                known[name] = digests(out)
    shutil.rmtree(out, ignore_errors=True)
    same = all(found == known["torch port"] for found in known.values())
    print(f"\noutputs of {', '.join(known)}: {'equal, every tensor' if same else 'NOT EQUAL'}")
    for title, table in {
        "cold input, synced output": cold,
        "warm input, output as the program leaves it": warm,
    }.items():
        show(title, table, written)


def read(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(8 << 20):
                pass


def show(title: str, table: dict[str, Samples], written: int) -> None:
    print(f"\n{title}")
    print(f"{'':20} {'min s':>7} {'median':>7} {'GB/s out':>9} {'x torch':>8} {'x dd':>6}", end="")
    print(f" {'CPU s':>7} {'peak MB':>8}")
    port = min(table["torch port"].wall)
    limit = table.get("dd reads and writes")
    disk = min(limit.wall) if limit else None
    for name, sample in table.items():
        best = min(sample.wall)
        ratio = f"{disk / best:6.2f}" if disk else f"{'':6}"
        print(
            f"{name:20} {best:7.2f} {statistics.median(sample.wall):7.2f} "
            f"{written / best / 1e9:9.2f} {port / best:8.1f} {ratio} "
            f"{min(sample.cpu):7.2f} {sample.memory:8.0f}"
        )


def scaling(folder: Path, size: float, rounds: int) -> None:
    print(f"\n{'size GB':>8} {'kernel':>8} {'min s':>8} {'s/GB':>8} {'CPU s':>8} {'peak MB':>8}")
    for times in (1, 2, 4):
        source, out = folder / f"x{times}", folder / "out"
        total = make(source, size * times)
        for kernel in ("native", "numpy"):
            sample = Samples()
            for _ in range(rounds):
                drop_pages(source)
                shutil.rmtree(out, ignore_errors=True)
                command = [*FLAGDEPLOY, "--ckpt", str(source), "--out", str(out)]
                wall, cpu, memory = run(command, FLAGDEPLOY_KERNEL=kernel)
                sample.wall.append(wall)
                sample.cpu.append(cpu)
                sample.memory = max(sample.memory, memory)
            best, cpu = min(sample.wall), min(sample.cpu)
            print(
                f"{total / 1e9:8.2f} {kernel:>8} {best:8.2f} {best / total * 1e9:8.2f} "
                f"{cpu:8.2f} {sample.memory:8.0f}",
                flush=True,
            )
        shutil.rmtree(out)
        shutil.rmtree(source)


def make(source: Path, size: float) -> int:
    """A checkpoint of `size` GB in shards of about 0.7 GB."""
    everything = deepseek_checkpoint.of_size(size * 1e9)
    return deepseek_checkpoint.write(source, everything, max(2, round(size / 0.7)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--compressed-tensors", metavar="PYTHON")
    arguments = parser.parse_args()
    folder, rounds = arguments.folder / "dequant-benchmark", arguments.rounds
    folder.mkdir()
    try:
        source, out = folder / "source", folder / "out"
        total = make(source, arguments.size)
        everything = deepseek_checkpoint.of_size(arguments.size * 1e9)
        written = sum(
            deepseek_checkpoint.tensor_bytes("BF16" if dtype == "F8_E4M3" else dtype, shape)
            for name, (dtype, shape) in everything.items()
            if not name.endswith("_scale_inv")
        )
        shards = len(list(source.glob("*.safetensors")))
        print(f"{time.strftime('%Y-%m-%d %H:%M')}: {' '.join(sys.argv[1:])}")
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{total / 1e9:.2f} GB in {shards} shards, {written / 1e9:.2f} GB written")
        kernels(rounds)
        compare(source, out, written, rounds, arguments.compressed_tensors)
        print(f"\nfirst byte after {first_byte(source, out, rounds):.2f} s")
        shutil.rmtree(source)
        if arguments.scaling:
            scaling(folder, arguments.size, max(1, rounds // 2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
