"""Which tool wrote a file or folder of answers, told by its content."""

from pathlib import Path

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals.readers import evalscope, lm_eval, mlperf_log, mlperf_outputs, recorded
from flagdeploy.evals.readers.pandas_pickle import read_rows
from flagdeploy.evals.readers.samples import Samples, json_lines

LOOKED_FOR = (
    "looked for: lm-eval samples_*.jsonl, evalscope reviews/*/*.jsonl, MLPerf "
    "mlperf_log_accuracy.json and what its evaluation scripts write, flagdeploy answers.jsonl"
)
PICKLES = (".pkl", ".pickle")
ROWS = (lm_eval, evalscope, recorded, mlperf_log)


def is_folder(path: Path) -> bool:
    """Whether a folder holds answers of a tool known here."""
    return path.is_dir() and (
        any((path / module.NAME).is_file() for module in (recorded, mlperf_log))
        or lm_eval.is_folder(path)
        or evalscope.is_folder(path)
    )


def read_samples(path: Path, filter_name: str | None = None) -> Samples:
    """The answers in `path`; `filter_name` chooses among lm-eval's filters.

    Raises EvalError for a file that none of the known tools wrote or that is broken, UsageError
    for a filter where there are none.
    """
    samples = _read(path, filter_name)
    if filter_name and samples.tool != lm_eval.TOOL:
        raise UsageError(f"--filter {filter_name}: only lm-eval's samples have filters")
    if not samples.rows:
        raise EvalError(f"{path}: holds no answers")
    return samples


def _read(path: Path, filter_name: str | None) -> Samples:
    if path.is_dir():
        return _of_folder(path, filter_name)
    if path.suffix in PICKLES:
        return mlperf_outputs.of_rows(path, read_rows(path))
    if path.suffix == ".json" and mlperf_outputs.is_json(path):
        return mlperf_outputs.read_json(path)
    if path.suffix == ".json":
        return mlperf_log.read(path)
    _, first = next(json_lines(path), ("", {}))
    if lm_eval.is_row(first):
        return lm_eval.read(path, filter_name)
    for module in (evalscope, recorded, mlperf_log):
        if module.is_row(first):
            return module.read(path)
    raise EvalError(f"{path}: no answers of a tool known here", LOOKED_FOR)


def _of_folder(path: Path, filter_name: str | None) -> Samples:
    if lm_eval.is_folder(path):
        return lm_eval.read(path, filter_name)
    if evalscope.is_folder(path):
        return evalscope.read(path)
    for module in (recorded, mlperf_log):
        if (path / module.NAME).is_file():
            return module.read(path / module.NAME)
    raise EvalError(f"{path}: holds no answers of a tool known here", LOOKED_FOR)
