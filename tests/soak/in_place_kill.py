"""dequant --in-place killed at random moments and on a disk that fills up, resumed and compared.

    python tests/soak/in_place_kill.py [--kills 100] [--full-disks 20] [--seed 0]

Each trial begins with a fresh copy of the source. A kill is SIGKILL at a moment drawn evenly from
the time an undisturbed run takes, one to five times in a row. A full disk is a tmpfs (which needs
root) with room for the source and what the conversion takes at its worst moment, on which another
file takes all that is left, at such a moment; the run must then end with exit code 1 and say so. In
both cases the next run must leave exactly what an undisturbed one does.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from dequant_kill import SLOWLY, Files, make, show

SLOW, PLAIN = ["-c", SLOWLY], ["-m", "flagdeploy"]


def command(checkpoint: Path, *, slow: bool) -> list[str]:
    start = SLOW if slow else PLAIN
    return [sys.executable, *start, "dequant", "--ckpt", str(checkpoint), "--in-place"]


def contents(folder: Path) -> Files:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def phase(checkpoint: Path) -> str:
    """How far a run had come when it ended."""
    tree = checkpoint / ".flagdeploy-in-place"
    if not (checkpoint / ".flagdeploy-unfinished.json").exists():
        return "complete" if (checkpoint / "flagdeploy.json").exists() else "before the mark"
    if not (tree / "source").is_dir():
        return "the likeness begun, or all done but the mark"
    done = len(list((tree / "out").glob("*.safetensors")))
    left = len(list(checkpoint.glob("*.safetensors")))
    return f"{done:2} shards written, {left:2} in the folder"


def resumed(checkpoint: Path, expected: Files) -> None:
    done = subprocess.run(command(checkpoint, slow=False), capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert contents(checkpoint) == expected, "differs from what an undisturbed run leaves"


def kills(
    source: Path, checkpoint: Path, expected: Files, count: int, seconds: float
) -> Counter[str]:
    phases: Counter[str] = Counter()
    while phases.total() < count:
        shutil.copytree(source, checkpoint)
        for _ in range(1 + phases.total() % 5):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command(checkpoint, slow=True), **quiet)
            time.sleep(random.uniform(0, seconds))
            process.kill()
            process.wait()
        if (reached := phase(checkpoint)) != "complete":
            phases[reached] += 1
        resumed(checkpoint, expected)
        shutil.rmtree(checkpoint)
    return phases


def full_disks(
    source: Path, disk: Path, checkpoint: Path, expected: Files, count: int, seconds: float
) -> Counter[str]:
    """`checkpoint` is where the disk's is seen, so that both leave the same record."""
    size = sum(map(len, expected.values())) + (24 << 20)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    subprocess.run(["mount", *options], check=True)
    phases: Counter[str] = Counter()
    try:
        while phases.total() < count:
            shutil.copytree(source, disk / "R1")
            checkpoint.mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", disk / "R1", checkpoint], check=True)
            try:
                moment = random.uniform(0.2, 1) * seconds
                phases += full_disk(checkpoint, disk / "filler", expected, moment)
            finally:
                subprocess.run(["umount", checkpoint], check=True)
            shutil.rmtree(disk / "R1")
        return phases
    finally:
        subprocess.run(["umount", disk], check=True)


def full_disk(checkpoint: Path, filler: Path, expected: Files, moment: float) -> Counter[str]:
    """One trial: the phase in which the disk was full, nothing when the run was faster."""
    process = subprocess.Popen(
        command(checkpoint, slow=True), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    time.sleep(moment)
    with suppress(OSError):
        while process.poll() is None:  # what is freed meanwhile is taken, too
            with suppress(OSError), filler.open("ab", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass
            time.sleep(0.02)
    _, stderr = process.communicate()
    reached = phase(checkpoint)
    if process.returncode:
        assert process.returncode == 1, process.returncode
        assert b"No space left on device" in stderr or b"the disk has" in stderr, stderr.decode()
    filler.unlink(missing_ok=True)
    resumed(checkpoint, expected)
    return Counter([reached] if process.returncode else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}: {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, checkpoint, disk = folder / "source", folder / "R1", folder / "disk"
        disk.mkdir()
        make(source, "bf16")
        shutil.copytree(source, checkpoint)
        began = time.perf_counter()
        subprocess.run(command(checkpoint, slow=True), check=True, capture_output=True)
        seconds = time.perf_counter() - began
        expected = contents(checkpoint)
        shutil.rmtree(checkpoint)
        print(f"an undisturbed run, slowed: {seconds:.1f} s, {len(expected)} files")
        show("killed", kills(source, checkpoint, expected, arguments.kills, seconds))
        if os.geteuid():
            print("\nfull disks: not run, a tmpfs needs root")
        else:
            count = arguments.full_disks
            show("disk full", full_disks(source, disk, checkpoint, expected, count, seconds))


if __name__ == "__main__":
    main()
