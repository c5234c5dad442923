"""What is wrong with the tensors of a checkpoint, said all at once."""

from collections.abc import Sequence

from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError

_SHOWN = 10


def refuse_all(checkpoint: Verification, what: str, problems: Sequence[str], hint: str) -> None:
    """Raise CheckpointError with the first ten of `problems`, if there are any."""
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        lines = "\n  ".join([*problems[:_SHOWN], *more])
        raise CheckpointError(f"{checkpoint.index.folder}: {what}:\n  {lines}", hint)
