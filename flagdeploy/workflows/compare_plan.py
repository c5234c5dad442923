"""What a comparison will take, from the baseline alone: no endpoint is asked for anything."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import UsageError
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.power import ALPHA, POWER, Task, plan
from flagdeploy.evals.sequential import LOOKS
from flagdeploy.evals.suites import SUITES, Suite, shares
from flagdeploy.evals.tables import Table
from flagdeploy.evals.verdict import KEPT
from flagdeploy.workflows.sides import check_baseline, find

PLAN_FORMAT = "flagdeploy-compare-plan/1"
SPEED = 30.0  # output tokens per second of one request: a large model under load


def plan_compare(
    baseline: str | None,
    *,
    workspace: str | None = None,
    margin_pp: float | None = None,
    power: float = POWER,
    speed: float = SPEED,
    concurrency: int = 16,
) -> dict[str, Any]:
    """Questions, repeats, tokens and minutes that decide with `power`, per benchmark and pooled;
    and what each suite takes.

    `margin_pp` in the place of the baseline's own margins. Plain data, as `--json` gives it.
    Raises UsageError for a baseline that is not on this machine.
    """
    root = workspaces.find(workspace)
    check_baseline(baseline, root)
    assert baseline is not None, "check_baseline comes first"
    if baseline.startswith(("http://", "https://")):
        raise UsageError(
            "--plan needs a baseline that is recorded or published",
            hint="`flagdeploy baseline record URL` records one",
        )
    if not 0.5 <= power < 1.0:
        raise UsageError(f"--power {power}: a probability from 0.5 to below 1")
    found = find(baseline, root)
    tasks = _recorded(found, margin_pp) if isinstance(found, Bundle) else _table(found, margin_pp)
    if not tasks:
        raise UsageError(f"{baseline}: no score has a number of questions to plan with")
    rows = plan(tasks, tokens_per_second=speed * concurrency, power=power)
    passages = found.passages if isinstance(found, Bundle) else ()
    rate = 60.0 * speed * concurrency  # output tokens per minute
    return {
        "format": PLAN_FORMAT,
        "baseline": found.name,
        "alpha": ALPHA,
        "power": power,
        "speed": speed,
        "concurrency": concurrency,
        "rows": [asdict(row) for row in rows],
        "suites": [
            _suite(suite, tasks, found if isinstance(found, Bundle) else None, rate)
            for suite in SUITES.values()
        ],
        "sequences": len(passages),
        "scored_tokens": sum(len(row.prompt) + len(row.continuation) for row in passages),
    }


def _suite(
    suite: Suite, tasks: Sequence[Task], bundle: Bundle | None, rate: float
) -> dict[str, Any]:
    """What `suite` asks at most: with repeats until decided, all of them.

    `repeats` are those it may take, `least` the tokens and minutes of one pass. Scoring is
    prefill, which takes little beside writing, and is not in the minutes.
    """
    kept = shares({task.name: task.n for task in tasks}, suite.questions)
    sequences = bundle.passages[: suite.sequences] if bundle else ()
    known = [(kept[task.name], task.tokens) for task in tasks]
    tokens = None
    if not any(length is None for _, length in known):
        tokens = round(math.fsum(count * (length or 0.0) for count, length in known))
    repeats = suite.repeats or LOOKS[-1]
    scored = sum(len(row.prompt) + len(row.continuation) for row in sequences)
    return {
        "name": suite.name,
        "questions": sum(kept.values()),
        "repeats": list(LOOKS) if suite.repeats == 0 else [suite.repeats],
        "tokens": None if tokens is None else tokens * repeats,
        "minutes": None if tokens is None else tokens * repeats / rate,
        "least_minutes": None if tokens is None else tokens / rate,
        "sequences": len(sequences),
        "scored_tokens": scored * (1 + suite.own_floor),
        "own_floor": suite.own_floor,
    }


def _recorded(bundle: Bundle, margin_pp: float | None) -> list[Task]:
    tasks = []
    for name, points in bundle.margins_pp.items():
        answers = [answer for answer in bundle.answers if answer.task == name]
        lengths = [answer.completion_tokens for answer in answers if answer.completion_tokens]
        accuracy = math.fsum(answer.score or 0.0 for answer in answers) / len(answers)
        tokens = sum(lengths) / len(lengths) if lengths else None
        margin = _margin(accuracy, points if margin_pp is None else margin_pp)
        tasks.append(Task(name, len(answers), accuracy, tokens, margin))
    return _decidable(tasks)


def _table(table: Table, margin_pp: float | None) -> list[Task]:
    return _decidable(
        [
            Task(name, score.n, score.value, None, _margin(score.value, margin_pp))
            for name, score in table.scores.items()
            if score is not None and score.n
        ]
    )


def _margin(accuracy: float, points: float | None) -> float:
    return (1.0 - KEPT) * accuracy if points is None else points / 100.0


def _decidable(tasks: Sequence[Task]) -> list[Task]:
    return [task for task in tasks if task.margin > 0.0]
