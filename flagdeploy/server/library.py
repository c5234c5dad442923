"""FlagGems' operators in place of PyTorch's, when the environment asks for them.

``USE_FLAGGEMS=1`` asks. ``FLAGGEMS_INCLUDE`` or ``FLAGGEMS_EXCLUDE``, names of FlagGems' functions
with commas between, choose among its operators. What was called is written to
``flaggems_oplist.PID.log`` in the rank's folder, else in /tmp, whatever $TMPDIR says: `serve` looks
for it there.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from flagdeploy.errors import EngineError, did_you_mean

log = logging.getLogger(__name__)

LIBRARY = "flag_gems"


def enable_if_asked(environment: Mapping[str, str] = os.environ) -> None:
    """Switch the library on for this process; asked for and not there is an EngineError."""
    if environment.get("USE_FLAGGEMS", "").lower() not in ("1", "true", "yes"):
        return
    include, exclude = (_names(environment, f"FLAGGEMS_{k}") for k in ("INCLUDE", "EXCLUDE"))
    if include and exclude:
        raise EngineError("FLAGGEMS_INCLUDE and FLAGGEMS_EXCLUDE are both set: set one of them")
    folder = environment.get("FLAGDEPLOY_RANK_FOLDER") or "/tmp"
    path = Path(folder) / f"flaggems_oplist.{os.getpid()}.log"
    library = load(LIBRARY)
    enable(library, path, include=include or None, exclude=exclude)
    count = len(set(library.all_registered_ops()))
    log.info("%s %s: %d operators on; %s", LIBRARY, version(library), count, path)


def load(name: str) -> ModuleType:
    """The library; EngineError when it is not installed, or finds no device that it knows."""
    if importlib.util.find_spec(name) is None:
        raise EngineError(f"{name} is not installed", "pip install --no-deps flag-gems")
    try:
        return importlib.import_module(name)
    except Exception as error:  # it looks for its vendor's device at import, in many ways
        text = str(error).partition("\n")[0]
        raise EngineError(f"{name} cannot be used: {type(error).__name__}: {text}") from error


def enable(
    library: ModuleType,
    path: Path,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> None:
    """Register the operators `include`, or all but `exclude`; calls are recorded in `path`.

    Raises EngineError for a name that the library does not have: it would ignore it.
    """
    known = getattr(library, "FULL_CONFIG_BY_FUNC", None)
    for name in (*(include or ()), *exclude):
        if known is not None and name not in known:
            raise EngineError(
                f"{LIBRARY} has no operator `{name}`", did_you_mean(name, list(known))
            )
    # once: the autotuner's own calls would fill the log
    if include is not None:
        library.only_enable(include=list(include), record=True, once=True, path=str(path))
    else:
        library.enable(unused=list(exclude), record=True, once=True, path=str(path))


def version(library: ModuleType) -> str:
    return str(getattr(library, "__version__", ""))


def _names(environment: Mapping[str, str], variable: str) -> list[str]:
    return [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]
