"""Ranks of one dequant killed at random moments, then made up for in different ways and compared.

    python tests/soak/dequant_ranks_kill.py [--trials 100] [--seed 0]

Each trial begins with an empty output, starts two to four ranks at once, slowed, and kills one to
all of them with SIGKILL at moments drawn evenly from the time an undisturbed run takes. Then either
the ranks that died start again while the others go on, or another number of ranks, or the command
without ranks. The output must be that of an undisturbed run of one process, and no finished shard
may be written again.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import dequant_kill
from dequant_kill import Files, command, contents, make, phase, show, stamps


def start(source: Path, out: Path, rank: int, ranks: int) -> subprocess.Popen[bytes]:
    share = ["--rank", str(rank), "--world-size", str(ranks), "--workers", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command(source, out, slow=True), *share], **quiet)


def trial(source: Path, out: Path, expected: Files, seconds: float) -> tuple[str, str]:
    """How far the ranks had come when they were killed, and what made up for them."""
    ranks = random.randint(2, 4)
    running = {rank: start(source, out, rank, ranks) for rank in range(ranks)}
    dying = random.sample(range(ranks), random.randint(1, ranks))
    killed: list[int] = []
    began = time.monotonic()
    for moment in sorted(random.uniform(0, 1.5 * seconds) for _ in dying):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        running[rank := dying.pop()].kill()
        if running[rank].wait() == -9:
            killed.append(rank)
    reached = phase(out)
    before = stamps(out) if out.exists() else {}
    way = random.choice(["the same ranks", "other ranks", "no ranks"])
    if way == "the same ranks":
        for rank in killed:
            running[rank] = start(source, out, rank, ranks)
        codes = [process.wait() for process in running.values()]
        assert all(code == 0 for code in codes), codes
    else:
        for process in running.values():
            process.wait()
        count = random.randint(1, 5)
        if way == "other ranks":
            again = [start(source, out, rank, count) for rank in range(count)]
            codes = [process.wait() for process in again]
            assert not any(codes), codes
        else:
            plain = command(source, out, slow=False)
            subprocess.run(plain, check=True, capture_output=True)
    names = {path.name for path in out.iterdir()}
    assert names == expected.keys(), names ^ expected.keys()
    found = contents(out)
    assert found == expected, [name for name in names if found[name] != expected[name]]
    assert before.items() <= stamps(out).items(), "a finished shard was written again"
    return f"{len(killed)} killed, {reached}", way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}: {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "source", Path(name) / "out"
        make(source, "bf16")
        began = time.perf_counter()
        subprocess.run(command(source, out, slow=True), check=True, capture_output=True)
        seconds = time.perf_counter() - began
        expected = contents(out)
        dequant_kill.empty(out)
        print(f"an undisturbed run of one process, slowed: {seconds:.1f} s, {len(expected)} files")
        reached: Counter[str] = Counter()
        ways: Counter[str] = Counter()
        for _ in range(arguments.trials):
            how_far, way = trial(source, out, expected, seconds)
            reached[how_far] += 1
            ways[way] += 1
            dequant_kill.empty(out)
        show("ranks killed", reached)
        print(", ".join(f"{count} x resumed by {way}" for way, count in sorted(ways.items())))


if __name__ == "__main__":
    main()
