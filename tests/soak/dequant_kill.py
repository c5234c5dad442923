"""dequant killed at random moments and on a disk that fills up, each time resumed and compared.

    python tests/soak/dequant_kill.py [bf16] [--kills 100] [--full-disks 20] [--seed 0]

The route is one of ROUTES: what is converted to what. Outputs are kept in dequant_kill.txt (bf16)
and dequant_kill_ROUTE.txt.

Each trial begins with an empty output. A kill is SIGKILL at a moment drawn evenly from the time an
undisturbed run takes, one to three times in a row; what was complete before does not count. A full
disk is a small tmpfs (which needs root) on which another file takes all the room that is left, at
such a moment; the run must then end with exit code 1 and say so. In both cases the next run must
leave exactly the files of an undisturbed one, and no finished shard may be written again.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import deepseek_checkpoint
from deepseek_checkpoint import Tensors

# The command, with writes slowed so that most moments lie within the conversion.
SLOWLY = """
import sys, time
import flagdeploy.checkpoint.shard as shard
from flagdeploy.__main__ import main
writing = shard.write_at
def slowly(*arguments):
    time.sleep(0.01)
    writing(*arguments)
shard.write_at = slowly
main()
"""
Files = dict[str, bytes]
# The options of the command by route; the last one begins with MXFP4, fp8 with BF16.
W4AFP8 = ("--to", "w4afp8")
ROUTES = {
    "bf16": ("--to", "bf16"),
    "w4afp8": (*W4AFP8, "--act-scales", "1.0"),
    "w4afp8_vllm": (*W4AFP8, "--layout", "vllm"),
    "fp8": ("--to", "fp8"),
    "mxfp4": ("--to", "bf16"),
}


def make(source: Path, route: str) -> None:
    """The source of a route in 13 shards, of 20 to 80 MB."""
    small = gpt_oss() if route == "mxfp4" else deepseek()
    quantization: dict[str, object] = {"quant_method": "mxfp4"}
    if route == "fp8":
        small = {
            name: ("BF16" if dtype == "F8_E4M3" else dtype, shape)
            for name, (dtype, shape) in small.items()
            if not name.endswith("_scale_inv")
        }
        quantization = {}
    deepseek_checkpoint.write(source, small, 13)
    if route in ("mxfp4", "fp8"):
        config = json.loads((source / "config.json").read_text())
        config["quantization_config"] = quantization
        (source / "config.json").write_text(json.dumps(config))


def gpt_oss() -> Tensors:
    """gpt-oss's experts in MXFP4, fewer and smaller."""
    found: Tensors = {"model.embed_tokens.weight": ("BF16", (4096, 256))}
    for layer in range(16):
        for name, rows in (("gate_up_proj", 1024), ("down_proj", 256)):
            prefix = f"model.layers.{layer}.mlp.experts.{name}"
            found[f"{prefix}_blocks"] = "U8", (4, rows, 16, 16)
            found[f"{prefix}_scales"] = "U8", (4, rows, 16)
            found[f"{prefix}_bias"] = "BF16", (4, rows)
    return found


def deepseek() -> Tensors:
    """DeepSeek's tensors with every dimension an eighth of the real one."""
    small: Tensors = {}
    for name, (dtype, shape) in deepseek_checkpoint.tensors(6, 2, 2, 4096).items():
        if not name.endswith("_scale_inv"):
            small[name] = dtype, tuple(max(1, size // 8) for size in shape)
            if dtype == "F8_E4M3":
                scale = tuple(-(-size // 128) for size in small[name][1])
                small[f"{name}_scale_inv"] = "F32", scale
    return small


def command(source: Path, out: Path, route: str, *, slow: bool) -> list[str]:
    start = ["-c", SLOWLY] if slow else ["-m", "flagdeploy"]
    folders = ["--ckpt", str(source), "--out", str(out)]
    return [sys.executable, *start, "dequant", *folders, *ROUTES[route]]


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    found = [(path.name, path.stat()) for path in out.glob("*.safetensors")]
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}


def phase(out: Path) -> str:
    """How far a run had come when it ended."""
    if not out.exists():
        return "before the folder"
    if (out / "flagdeploy.json").exists():
        return "complete"
    done, begun = len(stamps(out)), any(out.glob("*.safetensors.part"))
    if (out / "model.safetensors.index.json").exists():
        return "index written"
    return f"{done:2} shards done{', more begun' if begun else ''}"


def resumed(source: Path, out: Path, route: str, expected: Files) -> None:
    before = stamps(out) if out.exists() else {}
    done = subprocess.run(command(source, out, route, slow=False), capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert contents(out) == expected, "the output differs from that of an undisturbed run"
    assert before.items() <= stamps(out).items(), "a finished shard was written again"


def kills(
    source: Path, out: Path, route: str, expected: Files, count: int, seconds: float
) -> Counter[str]:
    phases: Counter[str] = Counter()
    while phases.total() < count:
        for _ in range(1 + phases.total() % 3):
            process = subprocess.Popen(
                command(source, out, route, slow=True),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(random.uniform(0, seconds))
            process.kill()
            process.wait()
        if (reached := phase(out)) != "complete":
            phases[reached] += 1
        resumed(source, out, route, expected)
        empty(out)
    return phases


def full_disks(
    source: Path, disk: Path, route: str, expected: Files, count: int, seconds: float
) -> Counter[str]:
    size = sum(map(len, expected.values())) + (8 << 20)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    subprocess.run(["mount", *options], check=True)
    try:
        phases: Counter[str] = Counter()
        while phases.total() < count:
            phases += full_disk(source, disk, route, expected, random.uniform(0.3, 1) * seconds)
        return phases
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def full_disk(source: Path, disk: Path, route: str, expected: Files, moment: float) -> Counter[str]:
    """One trial: the phase in which the disk was full, nothing when the run was faster."""
    out, filler = disk / "out", disk / "filler"
    process = subprocess.Popen(
        command(source, out, route, slow=True), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    time.sleep(moment)
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    _, stderr = process.communicate()
    reached = phase(out)
    if process.returncode:
        assert process.returncode == 1, process.returncode
        refused = b"the disk has" if b"needs" in stderr else b"No space left on device"
        assert refused in stderr and b"hint: free some space" in stderr, stderr.decode()
    filler.unlink()
    resumed(source, out, route, expected)
    empty(out)
    return Counter([reached] if process.returncode else [])


def empty(out: Path) -> None:
    for path in out.iterdir():
        path.unlink()
    out.rmdir()


def show(title: str, phases: Counter[str]) -> None:
    print(f"\n{phases.total()} x {title}, then resumed: each time the undisturbed output")
    for name, count in sorted(phases.items()):
        print(f"  {count:4} x {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("route", nargs="?", choices=ROUTES, default="bf16")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    route = arguments.route
    random.seed(arguments.seed)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}: {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out, disk = folder / "source", folder / "out", folder / "disk"
        disk.mkdir()
        make(source, route)
        began = time.perf_counter()
        subprocess.run(command(source, out, route, slow=True), check=True, capture_output=True)
        seconds = time.perf_counter() - began
        expected = contents(out)
        empty(out)
        print(f"an undisturbed run, slowed: {seconds:.1f} s, {len(expected)} files")
        show("killed", kills(source, out, route, expected, arguments.kills, seconds))
        if os.geteuid():
            print("\nfull disks: not run, a tmpfs needs root")
        else:
            count = arguments.full_disks
            show("disk full", full_disks(source, disk, route, expected, count, seconds))


if __name__ == "__main__":
    main()
