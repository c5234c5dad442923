"""A result that was stored earlier."""

import json
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.records.report import RESULT_FILE

FORMAT = "flagdeploy-compare/1"


def read_result(path: Path) -> dict[str, Any]:
    """The result in a file, or in the folder of a run.

    Raises UsageError where there is none, EvalError where the file holds something else.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            f"{file}: no such file", hint="give a result.json, or the folder of a comparison"
        )
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise EvalError(f"{file}: not JSON: {error}") from None
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != FORMAT:
        raise EvalError(f"{file}: expected a result of format {FORMAT}, found {found}")
    return dict(data)
