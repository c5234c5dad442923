"""What a comparison was asked for, as its parts hand it on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.evals.answers import GREEDY, AnswerLog, Sampling
from flagdeploy.evals.benchmarks import Benchmark
from flagdeploy.evals.client import Patience
from flagdeploy.evals.suites import Suite
from flagdeploy.records.events import Report

OTHER_CONCURRENCY = 4  # times as many requests at once when a side is measured again


@dataclass(frozen=True)
class Work:
    """What was asked for. `benchmarks`: a folder or a list; `about`: what is known of a live
    candidate beside what probing finds; `early`: look before everything is asked; `all_tiers`: end
    nowhere early; `mode`: score tokens in that mode of `evals.scoring`, None for the best that
    both sides have."""

    suite: Suite
    benchmarks: Path | Sequence[Benchmark] | None
    concurrency: int
    limit: int | None
    record_dir: Path | None
    patience: Patience | None
    report: Report
    about: Mapping[str, Any]
    margin_pp: float | None
    early: bool = False
    all_tiers: bool = False
    sampling: Sampling = GREEDY
    mode: str | None = None
    note: str = ""  # why questions are not asked as the suite would
    logs: dict[str, AnswerLog] = field(default_factory=dict)

    def log(self, name: str) -> AnswerLog:
        """The same one each time: asking goes in parts, and only the first reads the whole log."""
        return self.logs.setdefault(name, AnswerLog(self.path(name)))

    def path(self, name: str) -> Path | None:
        return self.record_dir / name if self.record_dir else None
