"""Ranks of dequant under the real Slurm, Open MPI and Ray, in the words that a user types."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from proving_ground import slurm as cluster

from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.workflows.dequant import dequant

ROOT = Path(__file__).parent.parent.parent
FLAGDEPLOY = [sys.executable, "-m", "flagdeploy", "dequant"]
REFUSED = "started 3 of this command, and each would convert everything"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek(layers=5).write(tmp_path / "R1")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if reason := cluster.missing():
        pytest.skip(reason)
    with cluster.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def run(*command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**(env or os.environ), "PYTHONPATH": path}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)


def check(done: subprocess.CompletedProcess[str], source: Path, ranks: int) -> None:
    """Every rank said what it did, and together they left what one process would."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == ranks
    assert all(f"of {ranks}" in line or "already done" in line for line in lines)
    found = contents(Path(f"{source}-bf16"))
    expected = contents(dequant(source, out=source.with_name("alone")).folder)
    assert found == expected


def test_srun(slurm: dict[str, str], source: Path) -> None:
    task = [*FLAGDEPLOY, "--ckpt", source, "--quiet"]
    refused = run("srun", "-n", "3", *task, env=slurm)
    assert refused.returncode == 2
    assert f"Slurm {REFUSED}" in refused.stderr
    check(run("srun", "-n", "3", *task, "--rank", "auto", env=slurm), source, 3)


def test_a_shell_of_salloc_is_no_task(slurm: dict[str, str], source: Path) -> None:
    task = [*FLAGDEPLOY, "--ckpt", source, "--quiet"]
    refused = run("salloc", "-Q", "-n", "3", *task, "--rank", "auto", env=slurm)
    assert "--rank auto: no srun, mpirun or torchrun started this process" in refused.stderr
    alone = run("salloc", "-Q", "-n", "3", *task, env=slurm)
    assert alone.stdout.endswith("6 shard(s) written, verified\n")


def test_mpirun(source: Path) -> None:
    if shutil.which("mpirun") is None:
        pytest.skip("ranks of MPI need mpirun (tests/proving_ground/setup.sh)")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3"]
    task = [*FLAGDEPLOY, "--ckpt", source, "--quiet"]
    refused = run(*mpirun, *task)
    assert f"Open MPI {REFUSED}" in refused.stderr
    check(run(*mpirun, *task, "--rank", "auto"), source, 3)


def test_ray(source: Path, tmp_path: Path) -> None:
    """A cluster that Ray starts on this machine for the time of the command."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ranks of Ray need Ray (the extra `ray`)")
    options = ["--ckpt", source, "--on", "ray", "--world-size", "2", "--workers", "1", "--json"]
    done = run(*FLAGDEPLOY, *options, env={**os.environ, "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = json.loads(done.stdout)["ranks"]
    assert sum(rank["shards_written"] for rank in ranks.values()) == 6
    assert [rank["world_size"] for rank in ranks.values()] == [2, 2]
    assert "to bf16 1.5 MB of 1.5 MB" in done.stderr
    found = contents(Path(f"{source}-bf16"))
    expected = contents(dequant(source, out=source.with_name("alone")).folder)
    assert {n: c for n, c in found.items() if n != RECORD} == {
        n: c for n, c in expected.items() if n != RECORD
    }


def test_ray_that_is_not_installed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ray'] = None\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [*FLAGDEPLOY, "--ckpt", str(source), "--on", "ray"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: --on ray: Ray is not installed\n\nhint: pip install 'flagdeploy[ray]', or start "
        "the ranks yourself: --rank R --world-size N\n"
    )
