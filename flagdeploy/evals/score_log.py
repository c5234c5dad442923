"""Scored sequences on disk as they come: an interrupted run scores none of them again.

A second scoring of the same tokens need not give the same numbers, so a resumed run would else
judge by other ones than it would have.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flagdeploy.evals.at_once import all_of
from flagdeploy.evals.client import Client
from flagdeploy.evals.journal import Journal
from flagdeploy.evals.teacher_forcing import Passage, Position
from flagdeploy.records.events import Event, Report

Scores = dict[str, tuple[Position, ...]]


async def scored(
    path: Path | None,
    client: Client,
    model: str,
    passages: Sequence[Passage],
    k: int,
    score: Callable[[Passage], Awaitable[Mapping[str, tuple[Position, ...]]]],
    report: Report,
    mode: str = "S",
) -> Scores:
    """`score` of every passage, by key; those in the journal at `path` are taken from there.

    One that failed is in neither, and is tried again by the next run. `k` alternatives are asked
    of `model`, in `mode` of `scoring`.
    """
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(path)) if path else None
        known = {row["request"]: row for row in journal.rows()} if journal else {}
        found: Scores = {}

        async def one(passage: Passage) -> None:
            request = _request(client, model, passage, k, mode)
            if request in known:
                found[passage.key] = _positions(known[request]["positions"])
            else:
                found.update(await score(passage))
                if journal and passage.key in found:
                    positions = [[p.logprob, *p.top.items()] for p in found[passage.key]]
                    await journal.append({"request": request, "positions": positions})
            done = len(found)
            report(
                Event(
                    "score",
                    f"teacher forcing, mode {mode}",
                    done=done,
                    total=len(passages),
                    unit="sequences",
                )
            )

        await all_of(one(passage) for passage in passages)
        # In the order of the passages, whatever order they came in.
        return {p.key: found[p.key] for p in passages if p.key in found}


def _request(client: Client, model: str, passage: Passage, k: int, mode: str) -> str:
    tokens = [passage.prompt, passage.continuation, len(passage.positions)]
    text = json.dumps([client.base, model, client.concurrency, *tokens, k, mode])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _positions(rows: Sequence[Sequence[Any]]) -> tuple[Position, ...]:
    return tuple(Position(logprob, dict(top)) for logprob, *top in rows)
