"""Public test sets: what one is, and where its files lie.

A set is one module of ``datasets/`` that holds a `DataSet`, and its name is that file's name.
Its questions are never shipped. They are read where they lie: a file or folder that the user
names, ``data/NAME/`` of the workspace, or of the folder that $FLAGDEPLOY_DATA names.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import EvalError, UsageError, did_you_mean
from flagdeploy.evals import rows

MODULES = Path(__file__).parent / "datasets"
VARIABLE = "FLAGDEPLOY_DATA"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Hub:
    """Files of a data set repository of the hub at a commit: names to SHA-256.

    A name may be a pattern (``*/val-*.parquet``) when the hash is None: such files are checked
    against the hashes that the hub states for that commit, and recorded when they first come.
    """

    repository: str
    commit: str
    files: Mapping[str, str | None]
    gated: bool = False


@dataclass(frozen=True)
class Web:
    """Files of the web: names to address and SHA-256."""

    files: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Manifest:
    """Files of an MLCommons ``.uri``: its address, and names to MD5.

    The manifest names the folder that holds the files, and the ``.md5`` beside it their hashes.
    """

    uri: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """One question as its file has it, before any prompt; `gold` is "" where grading needs tests.

    `cluster` is what its errors go together with (a subject), `benchmark` the grader's name where
    it differs from its set's. `messages` are given instead of `text` where a set brings whole
    conversations.
    """

    text: str
    gold: str
    options: Sequence[str] = ()
    cluster: str = ""
    benchmark: str = ""
    messages: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class DataSet:
    """A public test set.

    `files` are patterns below its folder, tried in turn: the first that matches counts. `columns`
    name the cells of files without a header. `read` raises KeyError, ValueError or TypeError for a
    row that is no question. `grader` is a name for evals/grading; its score is by `rule`.
    `temperature` and `top_p`, `repeats` and `max_tokens` are how it is usually asked, `margin_pp`
    how many points lower still count as the same (None: 1% of the score). `reasoning_effort` is
    sent with every request. `rows` is how many rows the whole set has, and with
    `rows_are_repeats` equal ones are one question asked so many times. `reference` is the score in
    per cent and the mean tokens (0: none) of MLPerf's own run, of which 99% and 90 to 110% are
    wanted.
    """

    title: str
    licence: str
    source: Hub | Web | Manifest
    files: tuple[str, ...]
    read: Callable[[Row], Question]
    prompt: str
    grader: str
    rows: int
    rule: Literal["lenient", "mlperf", "gpt-oss-120b"] = "lenient"
    columns: tuple[str, ...] = ()
    max_tokens: int = 32768
    temperature: float = 0.0
    top_p: float | None = None
    repeats: int = 1
    margin_pp: float | None = None
    reasoning_effort: str | None = None
    rows_are_repeats: bool = False
    reference: tuple[float, float] | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """The known hashes of its files by name: SHA-256 (64 digits) or MD5 (32)."""
        match self.source:
            case Hub(files=files):
                return {name: known for name, known in files.items() if known}
            case Web(files=pages):
                return {name: known for name, (_, known) in pages.items()}
            case Manifest(files=listed):
                return dict(listed)

    def questions(self, files: Sequence[Path]) -> Iterator[Question]:
        """Every question of `files`; raise EvalError naming file and row for what is none."""
        for path in files:
            for number, row in enumerate(rows.read(path, self.columns), 1):
                try:
                    yield self.read({**row, "path": path.as_posix()})
                except (KeyError, ValueError, TypeError, IndexError) as error:
                    raise EvalError(
                        f"{path}: row {number} is no question of {self.title}: "
                        f"{type(error).__name__} {error}",
                        hint=f"it has {', '.join(map(str, row))}",
                    ) from None


def names() -> list[str]:
    """Every data set's name."""
    return sorted(path.stem for path in MODULES.glob("[!_]*.py"))


def load(name: str) -> DataSet:
    """The set called `name`, see `canonical`."""
    dataset: DataSet = import_module(f"{__package__}.datasets.{canonical(name)}").DATASET
    return dataset


def canonical(name: str) -> str:
    """The file name of the set that `name` means, in any spelling of case and dashes (MATH-500);
    UsageError when there is none."""
    for known in names():
        if _letters(known) == _letters(name):
            return known
    raise UsageError(f"no data set `{name}`", did_you_mean(name, names()))


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def places(workspace: Path | None = None) -> list[Path]:
    """Folders in which data sets have a folder of their name, the strongest first."""
    root = workspace or workspaces.find()
    given = os.environ.get(VARIABLE)
    own = [workspaces.writable_folder(root) / "data", root / "data"]
    return list(dict.fromkeys([Path(given).expanduser()] if given else []) | dict.fromkeys(own))


def find_files(name: str, data: Path | None = None, workspace: Path | None = None) -> list[Path]:
    """The files of the set `name`: in `data` (its file, its folder, or one that holds a folder
    `name`), else in `places`. Raises UsageError that says where it was looked for and how to
    get them.
    """
    dataset = load(name)
    if data is not None:
        if data.is_file():
            return [data]
        folders = [data / name, data]
    else:
        folders = [place / name for place in places(workspace)]
    for folder in folders:
        if found := files_of(dataset, folder):
            return found
    where = " nor in ".join(str(folder) for folder in folders)
    raise UsageError(
        f"{dataset.title} is not in {where}",
        hint=f"`flagdeploy pull --dataset {name}` fetches it ({dataset.licence}); "
        f"or name its file or folder: --data PATH",
    )


def files_of(dataset: DataSet, folder: Path) -> list[Path]:
    """What the first pattern of `dataset` that matches anything matches in `folder`."""
    for pattern in dataset.files:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found
    return []
