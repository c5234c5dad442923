"""Which rank is this process: told on the command line, or by what started it."""

import pytest

from flagdeploy.config.rank import Rank, chosen, refuse_many, started_by
from flagdeploy.errors import UsageError

OMPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
SALLOC_SHELL = {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "12"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SRUN, ("Slurm", Rank(1, 8))),
        (OMPI, ("Open MPI", Rank(2, 4))),
        ({"PMI_RANK": "0", "PMI_SIZE": "3"}, ("MPI", Rank(0, 3))),
        ({"RANK": "5", "WORLD_SIZE": "6"}, ("torchrun", Rank(5, 6))),
        ({**SRUN, **OMPI}, ("Open MPI", Rank(2, 4))),  # mpirun's daemons are tasks of Slurm
        (BATCH_SCRIPT, None),
        (SALLOC_SHELL, None),
        ({"RANK": "6", "WORLD_SIZE": "6"}, None),
        ({"RANK": "gold", "WORLD_SIZE": "6"}, None),
        ({}, None),
    ],
)
def test_what_started_this_process(
    environment: dict[str, str], expected: tuple[str, Rank] | None
) -> None:
    assert started_by(environment) == expected


def test_what_is_told_wins() -> None:
    assert chosen(None, None, SRUN) is None
    assert chosen(3, 4, SRUN) == Rank(3, 4)
    assert chosen("auto", None, SRUN) == Rank(1, 8)
    assert chosen("auto", 8, SRUN) == Rank(1, 8)


@pytest.mark.parametrize(
    ("rank", "world_size", "environment", "message"),
    [
        (1, None, {}, "--rank needs --world-size"),
        (None, 4, {}, "--world-size needs --rank"),
        (4, 4, {}, "--rank 4 --world-size 4: there is no such rank"),
        ("auto", None, BATCH_SCRIPT, "--rank auto: no srun, mpirun or torchrun started this pro"),
        ("auto", 4, SRUN, "--rank auto: Slurm started 8 processes, not 4"),
    ],
)
def test_half_a_rank_is_refused(rank, world_size, environment, message) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        chosen(rank, world_size, environment)


def test_many_that_would_all_do_everything_are_refused() -> None:
    for environment in ({}, SALLOC_SHELL, BATCH_SCRIPT, {"RANK": "1", "WORLD_SIZE": "8"}):
        refuse_many(environment)
    with pytest.raises(UsageError) as caught:
        refuse_many(SRUN)
    assert str(caught.value) == (
        "Slurm started 8 of this command, and each would convert everything"
    )
    assert "--rank auto" in str(caught.value.hint)
