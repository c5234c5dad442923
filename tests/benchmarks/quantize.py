"""W4AFP8 against the published script's algorithm in torch, interleaved, per core.

    python tests/benchmarks/quantize.py [--gigabytes 1] [--rounds 4] [--folder DIR]

A checkpoint of DeepSeek-V3's expert shapes is quantized by `flagdeploy dequant --to w4afp8` with
one thread, and by torch with one thread and the script's input and output (safe_open, all tensors
of a part in memory, save_file). Compared is the time of one core: wall clock and CPU. The outputs
must be equal, tensor by tensor. The bar: 4x the throughput of torch.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
INTER, HIDDEN = 2048, 7168
SHAPES = {"gate_proj": (INTER, HIDDEN), "up_proj": (INTER, HIDDEN), "down_proj": (HIDDEN, INTER)}
SHARD_BYTES = 300 << 20
METHODS = ("flagdeploy", "torch")
BAR = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--run", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        {"flagdeploy": run_flagdeploy, "torch": run_torch}[given.run](given.folder)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        compare(Path(folder), given.gigabytes, given.rounds)


def compare(folder: Path, gigabytes: float, rounds: int) -> None:
    source = folder / "R1"
    weights = write_checkpoint(source, gigabytes)
    taken: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(rounds):
        for method in METHODS:
            shutil.rmtree(folder / method, ignore_errors=True)
            command = [sys.executable, __file__, "--run", method, "--folder", str(folder)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            taken[method].append(json.loads(done.stdout))
    same_tensors(folder)
    print(f"{weights / 1e9:.2f} G weights, {rounds} rounds, one thread each")
    print(f"{'method':12} {'wall s':>7} {'median':>7} {'CPU s':>7} {'ns/weight':>10} {'RSS MB':>7}")
    best: dict[str, dict[str, float]] = {}
    for method, runs in taken.items():
        best[method] = {key: min(run[key] for run in runs) for key in runs[0]}
        median = sorted(run["wall"] for run in runs)[rounds // 2]
        wall, cpu, rss = (best[method][key] for key in ("wall", "cpu", "rss"))
        each = cpu / weights * 1e9
        print(f"{method:12} {wall:7.2f} {median:7.2f} {cpu:7.2f} {each:10.2f} {rss:7.0f}")
    for key in ("wall", "cpu"):
        ratio = best["torch"][key] / best["flagdeploy"][key]
        print(f"{key}: {ratio:.1f}x torch per core (bar {BAR}x)")


def write_checkpoint(folder: Path, gigabytes: float) -> int:
    """Experts of one layer in FP8; returns the number of weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    experts = max(1, round(gigabytes * 1e9 / (3 * INTER * HIDDEN)))
    pool = {shape: (torch.randn(shape) * 60).to(torch.float8_e4m3fn) for shape in SHAPES.values()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    for expert in range(experts):
        if sum(tensor.nbytes for tensor in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        for name, shape in SHAPES.items():
            weight = f"model.layers.0.mlp.experts.{expert}.{name}.weight"
            shards[-1][weight] = pool[shape].roll(expert, 0)
            blocks = shape[0] // 128, shape[1] // 128
            shards[-1][f"{weight}_scale_inv"] = torch.rand(blocks) * 1e-3
    weight_map = {}
    for index, tensors in enumerate(shards):
        shard = f"model-{index + 1:05d}-of-{len(shards):06d}.safetensors"
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "quantization_config": block}
    (folder / "config.json").write_text(json.dumps(config))
    return experts * 3 * INTER * HIDDEN


def report(began: float) -> None:
    """Time since the import of the libraries, which is not what is compared."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - CPU_BEFORE[0]
    wall = time.perf_counter() - began
    # Not ru_maxrss, which counts what this process was before it became another program.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    rss = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": rss}))


CPU_BEFORE = [0.0]


def start() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    CPU_BEFORE[0] = used.ru_utime + used.ru_stime
    return time.perf_counter()


def run_flagdeploy(folder: Path) -> None:
    sys.path.insert(0, str(ROOT))
    from flagdeploy.workflows.dequant import dequant

    began = start()
    dequant(folder / "R1", "w4afp8", folder / "flagdeploy", act_scales=1.0, parts=1, workers=1)
    report(began)


def run_torch(folder: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    began = start()
    source, out = folder / "R1", folder / "torch"
    out.mkdir()
    weight_map = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: safe_open(source / name, "pt") for name in set(weight_map.values())}
    tensors = {}
    for name, shard in weight_map.items():
        if name.endswith("_scale_inv"):
            continue
        scale = files[weight_map[f"{name}_scale_inv"]].get_tensor(f"{name}_scale_inv")
        numbers, steps = quantize(files[shard].get_tensor(name), scale)
        tensors[name] = (numbers[:, 0::2] & 0x0F) | (numbers[:, 1::2] << 4)
        tensors[f"{name}_scale_inv"] = steps
    save_file(tensors, out / "model-00000-of-00001.safetensors", metadata={"format": "pt"})
    os.sync()
    report(began)


def quantize(weight, scale):  # type: ignore[no-untyped-def]
    """The published algorithm: FP32 blocks, BF16, groups of 128, ``max / 7``, nearest even."""
    import torch

    rows, columns = weight.shape
    blocks = weight.view(rows // 128, 128, columns // 128, 128).to(torch.float32)
    plain = (blocks * scale[:, None, :, None]).view(rows, columns // 128, 128)
    plain = plain.to(torch.bfloat16).to(torch.float32)
    steps = plain.abs().max(dim=2).values / 7
    numbers = torch.clamp(torch.round(plain / steps[..., None]), -8, 7).to(torch.int8)
    return numbers.view(rows, columns), steps


def same_tensors(folder: Path) -> None:
    from safetensors import safe_open

    name = "model-00000-of-00001.safetensors"
    ours, theirs = (safe_open(folder / method / name, "pt") for method in METHODS)
    assert sorted(ours.keys()) == sorted(theirs.keys())
    for tensor in ours.keys():  # noqa: SIM118 - it is no mapping
        assert ours.get_tensor(tensor).equal(theirs.get_tensor(tensor)), tensor


if __name__ == "__main__":
    main()
