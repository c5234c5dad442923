"""Which of several processes on one piece of work is this? Told, or read from what started it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flagdeploy.errors import UsageError

# (launcher, variable of the rank, variable of the count), the innermost first: mpirun inside a
# Slurm job starts its daemons with srun, and a daemon's variables reach its ranks. A batch script
# has SLURM_PROCID and SLURM_NTASKS too, but is no task of a step: SLURM_STEP_NUM_TASKS tells.
_VARIABLES = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPI", "PMI_RANK", "PMI_SIZE"),
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


@dataclass(frozen=True)
class Rank:
    """Rank `number`, from 0, of `of` processes."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"rank {self.number} of {self.of}"

    @property
    def word(self) -> str:
        """For file names."""
        return f"{self.number}-of-{self.of}"


def started_by(environment: Mapping[str, str]) -> tuple[str, Rank] | None:
    """The launcher that started this process and its rank there: torchrun, Open MPI, another MPI
    (PMI) or Slurm's srun; None for a process of its own."""
    for launcher, rank, count in _VARIABLES:
        values = environment.get(rank, ""), environment.get(count, "")
        if all(value.isdecimal() for value in values):
            number, of = map(int, values)
            if number < of:
                return launcher, Rank(number, of)
    return None


def chosen(
    rank: int | Literal["auto"] | None, world_size: int | None, environment: Mapping[str, str]
) -> Rank | None:
    """The rank that was asked for; ``auto`` is that of `started_by`. UsageError for half of one."""
    if rank is None and world_size is None:
        return None
    if rank == "auto":
        found = started_by(environment)
        if found is None or world_size not in (None, found[1].of):
            what = "no srun, mpirun or torchrun started this process"
            if found:
                what = f"{found[0]} started {found[1].of} processes, not {world_size}"
            raise UsageError(f"--rank auto: {what}", "or give --rank R --world-size N")
        return found[1]
    if rank is None or world_size is None:
        given, other = (
            ("--rank", "--world-size") if world_size is None else ("--world-size", "--rank")
        )
        raise UsageError(f"{given} needs {other}", "--rank R --world-size N, R from 0 to N - 1")
    if not 0 <= rank < world_size:
        raise UsageError(
            f"--rank {rank} --world-size {world_size}: there is no such rank",
            "ranks go from 0 to N - 1",
        )
    return Rank(rank, world_size)


def refuse_many(environment: Mapping[str, str]) -> None:
    """Raise UsageError when srun or mpirun started several of this process and no rank was given:
    each would do everything. RANK alone is no sign: containers often have it."""
    found = started_by({name: environment[name] for name in environment if name != "RANK"})
    if found and found[1].of > 1:
        launcher, rank = found
        raise UsageError(
            f"{launcher} started {rank.of} of this command, and each would convert everything",
            "--rank auto gives each its share; --rank 0 --world-size 1 means this one alone",
        )
