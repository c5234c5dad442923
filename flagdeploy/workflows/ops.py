"""`flagdeploy ops bisect`: which operators of a library a model has to do without."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flagdeploy.config import yaml_file
from flagdeploy.errors import EngineError, UsageError
from flagdeploy.evals.bundle import fingerprint, read_bundle
from flagdeploy.operators.bisect import Culprit, Group, most_trials, search
from flagdeploy.operators.outcome import Bounds, Outcome
from flagdeploy.operators.trials import Trials
from flagdeploy.operators.watch import Limits
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.ops_refusals import (
    require_checkpoint,
    require_installed,
    require_known,
    require_sense,
)

LIBRARY = "flag_gems"
OUT = "ops-bisect"
YAML = "operators.yaml"
FLOOR_TIMES = 10.0  # the bound of the divergence, in noise floors
LEAST_KL = 1e-3  # nats; where native runs agree to the last bit, other kernels still round
SEQUENCES, LENGTH = 4, 128  # random probe
MOST_SEQUENCES, MOST_LENGTH = 8, 256  # of a bundle


@dataclass(frozen=True)
class Bisection:
    """`culprits` with the outcome of the trial that convicts each; `final` is the library with all
    on but `excluded`, as engines are told to run it."""

    file: Path
    operators: tuple[str, ...]
    called: tuple[str, ...]
    culprits: tuple[tuple[Culprit, Outcome], ...]
    passing: tuple[str, ...]
    final: Outcome
    bounds: Bounds
    floor: float
    native_s: float
    trials: int
    most_trials: int

    @property
    def excluded(self) -> tuple[str, ...]:
        return tuple(sorted(culprit.excluded for culprit, _ in self.culprits))

    def __str__(self) -> str:
        width = max([len(_names(culprit)) for culprit, _ in self.culprits] + [8])
        rows = [
            f"  {_names(culprit):{width}}  {outcome.kind:9}  {outcome.evidence}"
            for culprit, outcome in self.culprits
        ]
        head = (
            f"{len(self.culprits)} culprit(s) among {len(self.operators)} operators, "
            f"{len(self.called)} of which the model calls; {self.trials} trials "
            f"(at most {self.most_trials})"
        )
        bounds = f"bounds: KL {self.bounds.kl:.3g} nats (noise floor {self.floor:.3g})"
        if self.bounds.slowdown:
            bounds += f", {self.bounds.slowdown:g} times the native {self.native_s * 1e3:.0f} ms"
        final = f"all but the excluded: {self.final.kind}, {self.final.evidence}"
        return "\n".join([head, bounds, *rows, final, f"{self.file}: operators.exclude"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "excluded": list(self.excluded),
            "culprits": [
                {
                    "operators": list(culprit.operators),
                    "excluded": culprit.excluded,
                    "kind": outcome.kind,
                    "evidence": outcome.evidence,
                    "figures": dict(outcome.figures),
                }
                for culprit, outcome in self.culprits
            ],
            "passing": list(self.passing),
            "operators": len(self.operators),
            "called": list(self.called),
            "final": {"kind": self.final.kind, "evidence": self.final.evidence}
            | {"figures": dict(self.final.figures)},
            "bounds": {"kl": self.bounds.kl, "slowdown": self.bounds.slowdown},
            "noise_floor_kl": self.floor,
            "native_s": self.native_s,
            "trials": self.trials,
            "most_trials": self.most_trials,
        }


def bisect(
    checkpoint: str | Path,
    out: str | Path = OUT,
    *,
    baseline: str | Path | None = None,
    only: Sequence[str] | None = None,
    device: str = "cuda",
    dtype: str = "bfloat16",
    jobs: int = 1,
    max_kl: float | None = None,
    max_slowdown: float = 0.0,
    silent_s: float = 300.0,
    timeout_s: float = 900.0,
    report: Report = silent,
) -> Bisection:
    """Find the operators of FlagGems that crash `checkpoint` in the pytorch engine, corrupt its
    output or slow it down, and write the others' complement to ``out/operators.yaml``.

    Each trial is a process of its own: it switches a set of operators on and runs the token
    sequences of the bundle `baseline`, or random ones, with teacher forcing; the reference is a
    native run on the same device. `max_kl` is in nats per token, by default 10 times the divergence
    between two native runs that cut prompts differently, and 0.001 at least. `only` names the
    operators to look at. Trials already in `out` are not run again, but for those that ran out of
    time that they would have now.

    Raises CheckpointError for a folder without a model, UsageError for an `out` that holds another
    search, and EngineError when the native run fails or has NaN itself.
    """
    require_sense(only, max_kl, max_slowdown, silent_s, timeout_s)
    require_checkpoint(Path(checkpoint))
    sequences = _probe(baseline)
    require_installed(LIBRARY)
    folder = Path(out).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    request = {
        "model": str(Path(checkpoint).absolute()),
        "checkpoint": fingerprint(Path(checkpoint))["sha256"],
        "device": device,
        "dtype": dtype,
        "library": LIBRARY,
        "sequences": sequences,
        "reference": str(folder / "native.npy"),
        "versions": _versions(),
    }
    trials = Trials(folder, request, limits=Limits(silent_s, timeout_s), jobs=jobs)
    try:
        return _bisect(trials, folder, only, max_kl, max_slowdown, jobs, report)
    finally:
        trials.stop()


def _versions() -> dict[str, str]:
    """Of what computes: trials of other versions say nothing of these."""
    found = {}
    for name in ("torch", "triton", "transformers", "flag_gems"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _probe(baseline: str | Path | None) -> Any:
    if baseline is None:
        return {"random": [SEQUENCES, LENGTH]}
    passages = read_bundle(Path(baseline)).passages[:MOST_SEQUENCES]
    if not passages:
        raise UsageError(f"{baseline}: holds no passages for teacher forcing")
    return [[*one.prompt, *one.continuation][:MOST_LENGTH] for one in passages]


def _bisect(
    trials: Trials,
    folder: Path,
    only: Sequence[str] | None,
    max_kl: float | None,
    max_slowdown: float,
    jobs: int,
    report: Report,
) -> Bisection:
    report(Event("library", "asking the library for its operators"))
    library = trials.native("library", list=True)["operators"]
    require_known(only or (), LIBRARY, library, folder)
    report(Event("native", "running without the library"))
    native = trials.native("native")
    if native["not_finite"] or native["floor_kl"] is None:
        raise EngineError("the native run itself has NaN", "operators cannot be judged by it")
    floor = native["floor_kl"]
    trials.native_s = native["seconds"]
    kl = max(LEAST_KL, FLOOR_TIMES * floor) if max_kl is None else max_kl
    trials.bounds = Bounds(kl, max_slowdown)
    used, others = _groups(library, native["called"], only or sorted(library))
    groups = [*(used[index::jobs] for index in range(jobs)), others]  # the others pass, as a rule
    seen: dict[Group, Outcome] = {}

    def done(group: Group, outcome: Outcome) -> None:
        seen[group] = outcome
        names = _short(sorted(group))
        report(Event("trial", f"{names}: {outcome.kind}, {outcome.evidence}"))

    trials.done = done
    found = search(
        groups,
        lambda sets: [one.passed for one in trials.outcomes(sets)],
        width=jobs,
        again=lambda group: trials.alone(group).passed,
    )
    left_out = sorted(library.keys() - found.passing)
    final = trials.excluding(left_out)
    result = Bisection(
        file=folder / YAML,
        operators=tuple(sorted([*used, *others])),
        called=tuple(used),
        culprits=tuple((one, seen[frozenset(one.operators)]) for one in found.culprits),
        passing=tuple(sorted(found.passing)),
        final=final,
        bounds=trials.bounds,
        floor=floor,
        native_s=trials.native_s,
        trials=len(seen) + 3,
        most_trials=most_trials(
            len(used) + len(others), sum(len(one.operators) > 1 for one in found.culprits)
        )
        + 3,
    )
    _write(result, left_out)
    return result


def _groups(
    library: Mapping[str, Sequence[str]], called: Sequence[str], only: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Operators that replace something the model calls natively, and the others."""
    chosen = {name: library[name] for name in sorted(set(only))}
    names = set(called)
    used = [name for name, keys in chosen.items() if any(k.split(".")[0] in names for k in keys)]
    return used, [name for name in chosen if name not in used]


def _write(result: Bisection, left_out: Sequence[str]) -> None:
    text = yaml_file.dump({"operators": {"library": "flaggems", "exclude": list(left_out)}})
    lines = [f"# {line}" for line in str(result).splitlines()[:-1]]
    result.file.write_text("\n".join([*lines, text]))
    whole = json.dumps(result.to_dict(), indent=2)
    result.file.with_suffix(".json").write_text(whole + "\n")


def _names(culprit: Culprit) -> str:
    return " + ".join(culprit.operators)


def _short(names: Sequence[str]) -> str:
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"
