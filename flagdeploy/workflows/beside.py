"""Where the baseline's side of a comparison comes from: a bundle, or an endpoint asked beside.

Two live endpoints are asked the same questions in the same order at equal concurrency, a small
part at a time on both: what drifts with time (a cache that fills, a neighbour that takes a share
of the machine, an engine that is restarted) then meets both sides alike.
"""

import platform
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flagdeploy import __version__
from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals import parameters, parity, scoring
from flagdeploy.evals.address import base_url
from flagdeploy.evals.answers import GREEDY, MISSING, Answer, Sampling, ask
from flagdeploy.evals.at_once import all_of
from flagdeploy.evals.benchmarks import Benchmark, benchmarks_of
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint
from flagdeploy.evals.divergence import partings
from flagdeploy.evals.items import Item, questions
from flagdeploy.evals.noise_floor import distance, largest
from flagdeploy.evals.passages import SEQUENCES, Scores, alternatives, choose, in_modes, modes_of
from flagdeploy.evals.score_log import scored
from flagdeploy.evals.suites import chosen
from flagdeploy.evals.teacher_forcing import Passage, Position, differences
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.work import OTHER_CONCURRENCY, Work

ROUND = 4  # requests in turn on every connection before the sides wait for each other
MOST_ROUNDS = 50  # enough for drift to meet both sides alike

# (questions, sampling, who hears of it; None: whoever hears of the run)
AskCandidate = Callable[[Sequence[Item], Sampling, Report | None], Awaitable[list[Answer]]]


class Recorded:
    """A bundle: everything is known. What a comparison asks of a baseline, and when."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    async def before_parity(self) -> None:
        """`bundle` has its prompts from here on."""

    async def before_forcing(self, candidate: AskCandidate) -> list[Answer]:
        """`bundle` has its passages and noise floor from here on.

        Gives the candidate's answers that had to be asked for that, where they count as answers.
        """
        return []

    async def beside(
        self, items: Sequence[Item], sampling: Sampling, candidate: AskCandidate
    ) -> list[Answer]:
        """The candidate's answers to `items`; `answers` then holds the baseline's."""
        return await candidate(items, sampling, None)

    @property
    def answers(self) -> Sequence[Answer]:
        return self.bundle.answers


class Live(Recorded):
    """An endpoint, asked beside the candidate. Its manifest grows as it is asked."""

    def __init__(self, endpoint: Endpoint, client: Client, work: Work) -> None:
        self.endpoint, self.client, self.work = endpoint, client, work
        self.known: dict[str, list[Answer]] = {}
        self.capabilities: Capabilities
        self.modes: list[str] = []

    async def open(self) -> None:
        """Ask what the endpoint is and load the questions."""
        if self.work.benchmarks is None:
            raise UsageError(
                "a live baseline brings no questions",
                hint="name the deployment, or give --benchmarks FOLDER with a benchmark.yaml",
            )
        benchmarks = benchmarks_of(self.work.benchmarks)
        self.capabilities = await probe(self.client)
        self.modes = modes_of(self.capabilities, self.work.mode)
        self.bundle = Bundle(
            name=self.endpoint.name or base_url(self.endpoint.url),
            manifest=self._manifest(benchmarks),
            prompts=(),
            items=tuple(questions(benchmarks)),
            answers=(),
            passages=(),
        )
        if self.work.margin_pp is not None:
            self.bundle = self.bundle.with_margin(self.work.margin_pp)

    def _manifest(self, benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
        sampling = self.work.sampling
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "flagdeploy": __version__,
            "python": platform.python_version(),
            "endpoint": self.capabilities.to_json(),
            "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p},
            "modes": self.modes,
            "prompt_logprobs": alternatives(self.capabilities, self.modes),
            "noise_floor": {},
            "benchmarks": [row.to_json() for row in benchmarks],
        }

    async def before_parity(self) -> None:
        cases = parity.cases(self.bundle.items)
        prompts = await parity.count(self.client, self.capabilities, cases)
        # How replies end shows in the answers to come, so only the open prompts are asked here.
        asked = parameters.asked((), ())

        async def observe() -> Any:
            return await parameters.observe(self.client, self.capabilities, asked)

        of = [self.client.base, self.capabilities.model, asked]
        facts = await self.work.kept("parameters-baseline.json", of, observe)
        manifest = {**self.bundle.manifest, "parameters": facts}
        self.bundle = replace(self.bundle, manifest=manifest, prompts=tuple(prompts))

    async def before_forcing(self, candidate: AskCandidate) -> list[Answer]:
        """Greedy answers to the questions whose tokens are scored, asked twice of the baseline.

        The second time at another concurrency, for its noise floor.
        """
        if not self.capabilities.return_token_ids:
            return []
        most = self.work.suite.questions
        items = chosen(self.bundle.items, most, self.work.limit)
        items = items[: self.work.suite.sequences or SEQUENCES]
        first, theirs = await self._both(items, GREEDY, candidate)
        greedy = self.work.sampling.temperature == 0
        if greedy:
            self.known.update({answer.item: [answer] for answer in first})
        passages = choose(items, first, len(items))
        by_mode: dict[str, Scores] = {}
        concurrency = OTHER_CONCURRENCY * self.client.concurrency
        async with Client(self.endpoint, concurrency, self.work.patience) as again:
            second = await self._ask(again, items, GREEDY, "answers-baseline-again")
            floor = self._floor(first, second)
            for mode in self.modes if passages else ():
                name = "scores-baseline" if mode != "D" else "scores-baseline-decoded"
                scores = await self._score(self.client, passages, f"{name}.jsonl", mode)
                apart = await self._score(again, passages, f"{name}-again.jsonl", mode)
                found = self._floor(first, second, scores, apart)
                floor = found if mode == self.modes[0] else {**floor, "decoded": found}
                by_mode[mode] = scores
        passages = [in_modes(passage, by_mode, self.modes) for passage in passages]
        manifest = {**self.bundle.manifest, "noise_floor": {"runs": 2, **floor}}
        self.bundle = replace(self.bundle, manifest=manifest, passages=tuple(passages))
        return theirs if greedy else []

    async def _score(
        self, client: Client, passages: Sequence[Passage], log: str, mode: str
    ) -> dict[str, tuple[Position, ...]]:
        k = int(self.bundle.manifest["prompt_logprobs"])

        async def one(passage: Passage) -> dict[str, tuple[Position, ...]]:
            return await scoring.score(
                client, self.capabilities, [passage], k, silent, mode, scoring.POSITIONS
            )

        path = self.work.path(log)
        model, report = self.capabilities.model, self.work.report
        scores = await scored(path, client, model, passages, k, one, report, mode)
        if len(scores) < len(passages):
            raise EvalError(
                f"the baseline did not score {len(passages) - len(scores)} of {len(passages)} "
                "sequences"
            )
        return scores

    def _floor(
        self,
        first: Sequence[Answer],
        second: Sequence[Answer],
        scores: Mapping[str, tuple[Position, ...]] | None = None,
        again: Mapping[str, tuple[Position, ...]] | None = None,
    ) -> dict[str, Any]:
        graded = [(a.score, b.score) for a, b in zip(first, second, strict=True)]
        apart = differences(scores or {}, again or {})
        return largest([distance(graded, apart, partings(first, second))])

    async def beside(
        self, items: Sequence[Item], sampling: Sampling, candidate: AskCandidate
    ) -> list[Answer]:
        ours, theirs = await self._both(items, sampling, candidate)
        for answer in ours:
            self.known.setdefault(answer.item, []).append(answer)
        return theirs

    @property
    def answers(self) -> Sequence[Answer]:
        """In the order of the questions, so that a report is the same however they were asked."""
        return [answer for item in self.bundle.items for answer in self.known.get(item.key, ())]

    async def _both(
        self, items: Sequence[Item], sampling: Sampling, candidate: AskCandidate
    ) -> tuple[list[Answer], list[Answer]]:
        """Both sides' answers, in the order that each was asked."""
        ours: list[Answer] = []
        theirs: list[Answer] = []
        size = max(ROUND * self.client.concurrency, len(items) // MOST_ROUNDS)
        for start in range(0, len(items), size):
            part = items[start : start + size]
            asked = self._ask(self.client, part, sampling, "answers-baseline")
            both = await all_of([asked, candidate(part, sampling, silent)])
            ours += both[0]
            theirs += both[1]
            what = f"questions to both sides, {self.client.concurrency} at once"
            done = start + len(part)
            self.work.report(Event("answer", what, done=done, total=len(items), unit="questions"))
        lost = [answer for answer in ours if answer.status in MISSING]
        if lost:
            raise EvalError(
                f"the baseline gave no answer to {len(lost)} of {len(ours)} questions, the first: "
                f"{lost[0].error}",
                hint="a baseline must be whole; the answers so far are kept in the record folder",
            )
        return ours, theirs

    async def _ask(
        self, client: Client, items: Sequence[Item], sampling: Sampling, log: str
    ) -> list[Answer]:
        return await ask(
            client,
            self.capabilities,
            items,
            log=self.work.answers(log, sampling),
            report=silent,
            stage="baseline",
            token_ids=self.capabilities.return_token_ids,
            sampling=sampling,
        )
