"""What a comparison was asked for, as its parts hand it on."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.evals.answers import GREEDY, AnswerLog, Sampling
from flagdeploy.evals.benchmarks import Benchmark
from flagdeploy.evals.client import Patience
from flagdeploy.evals.suites import Suite
from flagdeploy.records.events import Report
from flagdeploy.records.files import write_private

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

    def answers(self, name: str, sampling: Sampling) -> AnswerLog:
        """The log of answers asked so; of a sampled run, those asked greedily to be scored or to
        see whether they stay the same lie apart, for they are no repeats of the others."""
        apart = sampling.temperature != self.sampling.temperature
        return self.log(f"{name}{'-greedy' if apart else ''}.jsonl")

    def path(self, name: str) -> Path | None:
        return self.record_dir / name if self.record_dir else None

    async def kept(self, name: str, asked: Any, observe: Callable[[], Awaitable[Any]]) -> Any:
        """What `observe` found when it was first asked so, as plain data.

        A run that goes on is to end as it would have, also where an endpoint would answer
        otherwise by now (a sampled text).
        """
        path, given = self.path(name), json.loads(json.dumps(asked))
        if path and path.exists():
            row = json.loads(path.read_text("utf-8"))
            if row["asked"] == given:
                return row["found"]
        found = json.loads(json.dumps(await observe()))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            row = {"asked": given, "found": found}
            write_private(path, [json.dumps(row, ensure_ascii=False).encode()])
        return found
