"""Which tool wrote a file or folder of answers, told by its content."""

from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers import evalscope, lm_eval, mlperf_log, mlperf_outputs, recorded
from flagdeploy.evals.readers.samples import Samples, json_lines

LOOKED_FOR = (
    "looked for: lm-eval samples_*.jsonl, evalscope reviews/*/*.jsonl, MLPerf "
    "mlperf_log_accuracy.json and what its evaluation scripts write, flagdeploy answers.jsonl"
)
PICKLES = (".pkl", ".pickle")


def is_folder(path: Path) -> bool:
    """Whether a folder holds answers of a tool known here."""
    return path.is_dir() and (
        any((path / name).is_file() for name in (recorded.NAME, mlperf_log.NAME))
        or lm_eval.is_folder(path)
        or evalscope.is_folder(path)
    )


def read_samples(path: Path, filter_name: str | None = None) -> Samples:
    """The answers in `path`; `filter_name` chooses among lm-eval's filters.

    Raises EvalError for a file that none of the known tools wrote or that is broken.
    """
    samples = _read(path, filter_name)
    if not samples.rows:
        raise EvalError(f"{path}: holds no answers")
    return samples


def _read(path: Path, filter_name: str | None) -> Samples:
    if path.is_dir():
        return _of_folder(path, filter_name)
    if path.suffix in PICKLES:
        return mlperf_outputs.read_pickle(path)
    if path.suffix == ".json":
        outputs = mlperf_outputs.is_json(path)
        return mlperf_outputs.read_json(path) if outputs else mlperf_log.read(path)
    first = _first(path)
    if lm_eval.is_row(first):
        return lm_eval.read(path, filter_name)
    if evalscope.is_row(first):
        return evalscope.read(path)
    if recorded.is_row(first):
        return recorded.read(path)
    if mlperf_log.is_row(first):
        return mlperf_log.read(path)
    raise EvalError(f"{path}: no answers of a tool known here", LOOKED_FOR)


def _first(path: Path) -> dict[str, Any]:
    """The first row; a file not called .jsonl need not hold any."""
    try:
        return next(json_lines(path), ("", {}))[1]
    except EvalError:
        if path.suffix == ".jsonl":
            raise
        return {}


def _of_folder(path: Path, filter_name: str | None) -> Samples:
    if lm_eval.is_folder(path):
        return lm_eval.read(path, filter_name)
    if evalscope.is_folder(path):
        return evalscope.read(path)
    if (path / recorded.NAME).is_file():
        return recorded.read(path / recorded.NAME)
    if (path / mlperf_log.NAME).is_file():
        return mlperf_log.read(path / mlperf_log.NAME)
    raise EvalError(f"{path}: holds no answers of a tool known here", LOOKED_FOR)
