"""One recording of a baseline under way: an endpoint asked everything, once at each concurrency."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy import __version__
from flagdeploy.errors import EvalError
from flagdeploy.evals import parameters, parity, scoring
from flagdeploy.evals.answers import MISSING, Answer, AnswerLog, ask
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client
from flagdeploy.evals.items import Item
from flagdeploy.evals.passages import TOP_K, Scores, alternatives, choose, in_modes, modes_of
from flagdeploy.evals.run_to_run import Run, run_to_run
from flagdeploy.evals.teacher_forcing import Passage
from flagdeploy.records.events import Event, Report


@dataclass
class Recording:
    """What is asked, and what the first run found: every further run repeats it."""

    items: Sequence[Item]
    sequences: int
    mode: str | None
    record_dir: Path | None
    report: Report
    runs: list[Run] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    prompts: list[parity.Prompt] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    passages: list[Passage] = field(default_factory=list)

    async def carry_out(self, clients: Sequence[Client]) -> Bundle:
        for client in clients:
            async with client:
                capabilities = await probe(client)
                await self._run(client, capabilities)
        return self._bundle(capabilities)

    async def _run(self, client: Client, capabilities: Capabilities) -> None:
        answers = await self._ask(client, capabilities)
        if not self.runs:
            await self._look(client, capabilities, answers)
        scores = {mode: await self._score(client, capabilities, mode) for mode in self.modes}
        if not self.modes:
            self.report(Event("score", "the endpoint scores no given tokens: accuracy only"))
        self.runs.append(Run(client.concurrency, answers, scores))

    async def _ask(self, client: Client, capabilities: Capabilities) -> list[Answer]:
        path = f"answers-{len(self.runs)}-c{client.concurrency}.jsonl"
        answers = await ask(
            client,
            capabilities,
            self.items,
            log=AnswerLog(self.record_dir / path if self.record_dir else None),
            report=self.report,
            stage=f"answer {client.concurrency}",
            token_ids=capabilities.return_token_ids,
        )
        _none_missing(answers)
        return answers

    async def _look(
        self, client: Client, capabilities: Capabilities, answers: Sequence[Answer]
    ) -> None:
        """What is asked but once, and the sequences that every run scores."""
        self.modes = modes_of(capabilities, self.mode)
        self.prompts = await parity.count(client, capabilities, parity.cases(self.items))
        self.parameters = await _parameters(client, capabilities, self.items, answers)
        self.passages = choose(self.items, answers, self.sequences)

    async def _score(self, client: Client, capabilities: Capabilities, mode: str) -> Scores:
        passages, most = self.passages, scoring.POSITIONS
        scores = await scoring.score(client, capabilities, passages, TOP_K, self.report, mode, most)
        if len(scores) < len(passages):
            lost = len(passages) - len(scores)
            raise EvalError(f"{lost} of {len(passages)} sequences not scored")
        return scores

    def _bundle(self, capabilities: Capabilities) -> Bundle:
        first = self.runs[0]
        return Bundle(
            name="",
            manifest=self._manifest(capabilities),
            prompts=tuple(self.prompts),
            items=tuple(self.items),
            answers=tuple(first.answers),
            passages=tuple(in_modes(row, first.scores, self.modes) for row in self.passages),
        )

    def _manifest(self, capabilities: Capabilities) -> dict[str, Any]:
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "flagdeploy": __version__,
            "python": platform.python_version(),
            "endpoint": capabilities.to_json(),
            "parameters": self.parameters,
            "sampling": {"temperature": 0},
            "concurrency": [run.concurrency for run in self.runs],
            "modes": self.modes,
            "prompt_logprobs": alternatives(capabilities, self.modes),
            **run_to_run(self.runs),
        }


def _none_missing(answers: Sequence[Answer]) -> None:
    missing = [answer for answer in answers if answer.status in MISSING]
    if missing:
        raise EvalError(
            f"{len(missing)} of {len(answers)} questions got no answer, the first: "
            f"{missing[0].error}",
            hint="a baseline must be whole; the answers so far are kept in the record folder",
        )


async def _parameters(
    client: Client, capabilities: Capabilities, items: Sequence[Item], answers: Sequence[Answer]
) -> dict[str, Any]:
    facts = await parameters.observe(client, capabilities, parameters.asked(items, answers))
    needed = [
        (answer.prompt_tokens or 0) + item.max_tokens
        for item, answer in zip(items, answers, strict=True)
    ]
    return {**facts, "longest": max(needed, default=0)}
