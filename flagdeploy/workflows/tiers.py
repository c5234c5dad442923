"""A comparison with a live candidate, tier by tier, ending where nothing is left to decide."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flagdeploy.evals import (
    agreement,
    conformance,
    own_floor,
    parameters,
    parity,
    scoring,
    tiers,
)
from flagdeploy.evals.address import base_url
from flagdeploy.evals.answers import GREEDY, Answer, Sampling, ask, write_answers
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint
from flagdeploy.evals.comparison import CompareResult, paired
from flagdeploy.evals.divergence import partings
from flagdeploy.evals.figures import logprob_scatter
from flagdeploy.evals.items import Item
from flagdeploy.evals.pairing import planned_tests
from flagdeploy.evals.passages import SEQUENCES
from flagdeploy.evals.repeats import held
from flagdeploy.evals.score_log import scored
from flagdeploy.evals.scoring import Pairing
from flagdeploy.evals.sequential import LOOKS
from flagdeploy.evals.suites import chosen
from flagdeploy.evals.teacher_forcing import Passage, Position, differences
from flagdeploy.evals.tiers import Stage, Tier
from flagdeploy.evals.verdict import Finding, Verdict, judged, overall
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.beside import Live, Recorded
from flagdeploy.workflows.work import OTHER_CONCURRENCY, Work


def about_endpoint(b: Endpoint, capabilities: Capabilities, work: Work) -> dict[str, Any]:
    return {"name": b.name or base_url(b.url), "endpoint": capabilities.to_json(), **work.about}


async def against_bundle(a: Bundle, b: Endpoint, work: Work) -> CompareResult:
    async with Client(b, work.concurrency, work.patience) as client:
        return await _all_tiers(Recorded(a), b, client, work)


async def against_endpoint(a: Endpoint, b: Endpoint, work: Work) -> CompareResult:
    async with (
        Client(a, work.concurrency, work.patience) as ours,
        Client(b, work.concurrency, work.patience) as theirs,
    ):
        baseline = Live(a, ours, work)
        await baseline.open()
        return await _all_tiers(baseline, b, theirs, work)


async def _all_tiers(baseline: Recorded, b: Endpoint, client: Client, work: Work) -> CompareResult:
    run = _Run(baseline, b, client, await probe(client), work)
    scoring.check_mode(run.capabilities, work.mode)
    for name, tier in run.order():
        await run.take(name, tier)
    return run.result()


@dataclass
class _Run:
    """One comparison under way: what was found so far, and in `ended` why it needs no more."""

    baseline: Recorded
    b: Endpoint
    client: Client
    capabilities: Capabilities
    work: Work
    ran: list[Tier] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    ended: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    answered: CompareResult | None = None
    scores: dict[str, tuple[Position, ...]] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)  # by question

    @property
    def a(self) -> Bundle:
        return self.baseline.bundle

    def order(self) -> list[tuple[str, Callable[[], Awaitable[Tier]]]]:
        return [
            (tiers.PARITY, self.parity),
            (tiers.FORCING, self.forced),
            (tiers.OWN_FLOOR, self.own_floor),
            (tiers.ANSWERS, self.ask_all),
        ]

    async def take(self, name: str, tier: Callable[[], Awaitable[Tier]]) -> None:
        if self.ended:
            self.ran.append(Tier(name, False, self.ended))
            return
        self.ran.append(await tier())
        if overall(self.judged()) is Verdict.FAIL and not self.work.all_tiers:
            self.ended = f"FAIL is shown by {name}"

    def judged(self) -> list[Finding]:
        return judged(self.findings, self.planned)

    @property
    def pairing(self) -> Pairing:
        return scoring.pair(self.a.passages, self.capabilities, self.work.mode)

    @property
    def passages(self) -> Sequence[Passage]:
        return self.pairing.passages[: self.work.suite.sequences]

    @property
    def floor(self) -> Mapping[str, Any]:
        return self.a.floor_of(self.pairing.baseline)

    @property
    def scorable(self) -> bool:
        return bool(self.passages)

    @property
    def planned(self) -> int:
        greedy = self.work.sampling.temperature == 0
        return planned_tests(self.a, self.scorable, greedy, self.work.suite.own_floor)

    def result(self) -> CompareResult:
        about = about_endpoint(self.b, self.capabilities, self.work)
        # A run that has shown FAIL before any answer still holds as many tests as it planned.
        result = self.answered or paired(
            self.a, about, self.findings, [], [], self.mode, self.figures, planned=self.planned
        )
        return replace(result, tiers=tuple(self.ran), scoring=self.pairing.to_json())

    @property
    def mode(self) -> str:
        if self.ended and len([tier for tier in self.ran if tier.ran]) == 1:
            return "stopped at parity"
        return "paired with teacher forcing" if self.scorable else "paired answers only"

    # --- the tiers -------------------------------------------------------------------------------

    async def parity(self) -> Tier:
        await self.baseline.before_parity()
        known = [prompt for prompt in self.a.prompts if prompt.error is None]
        seen = await parity.count(self.client, self.capabilities, known)
        self.findings.append(agreement.parity(parity.differences(known, seen), len(known)))
        if self.findings[-1].verdict is not Verdict.FAIL or self.work.all_tiers:
            self.findings += await self.parameters()
        return Tier(tiers.PARITY, True, f"{len(known)} prompts")

    async def parameters(self) -> list[Finding]:
        facts = self.a.manifest.get("parameters")
        if not facts:
            return []

        async def observe() -> Any:
            return await parameters.observe(self.client, self.capabilities, facts["asked"])

        asked = [self.client.base, self.capabilities.model, facts["asked"]]
        found = await self.work.kept("parameters.json", asked, observe)
        return conformance.compared(facts, found)

    async def forced(self) -> Tier:
        for answer in await self.baseline.before_forcing(self.ask_candidate):
            self.answers[answer.item] = [answer]
        if not self.scorable:
            self.work.report(Event("score", f"{self.pairing.reason}: accuracy only"))
            return Tier(tiers.FORCING, False, self.pairing.reason)
        self.scores = await self.score(self.client, "scores.jsonl")
        self.figures["scatter"] = logprob_scatter(self.passages, self.scores)
        apart = differences({p.key: p.positions for p in self.passages}, self.scores)
        lost = len(self.passages) - len(apart)
        self.findings += agreement.teacher_forced(apart, lost, self.floor)
        why = f"{len(self.passages)} sequences, mode {self.pairing.label}"
        return Tier(tiers.FORCING, True, why)

    async def score(self, client: Client, log: str) -> dict[str, tuple[Position, ...]]:
        k, mode = int(self.a.manifest["prompt_logprobs"]), self.pairing.mode

        async def one(passage: Passage) -> dict[str, tuple[Position, ...]]:
            return await scoring.score(client, self.capabilities, [passage], k, silent, mode)

        path = self.work.path(log)
        model, report = self.capabilities.model, self.work.report
        return await scored(path, client, model, self.passages, k, one, report, mode)

    async def own_floor(self) -> Tier:
        if not self.work.suite.own_floor:
            why = f"the {self.work.suite.name} suite does not measure it"
            return Tier(tiers.OWN_FLOOR, False, why)
        other = OTHER_CONCURRENCY * self.client.concurrency
        async with Client(self.b, other, self.work.patience) as again:
            if self.scorable:
                apart = differences(self.scores, await self.score(again, "scores-again.jsonl"))
                both = (self.client.concurrency, other)
                if apart:
                    self.findings.append(own_floor.scored_twice(apart, self.floor, both))
                return Tier(tiers.OWN_FLOOR, True, f"{len(apart)} sequences scored twice")
            if not self.capabilities.return_token_ids:
                why = "the candidate gives neither log-probabilities nor token ids"
                return Tier(tiers.OWN_FLOOR, False, why)
            return await self.answer_twice(again)

    async def answer_twice(self, again: Client) -> Tier:
        items = chosen(self.a.items, self.work.suite.questions, self.work.limit)[:SEQUENCES]
        first = await self.ask(self.client, items, "answers", GREEDY)
        second = await self.ask(again, items, "answers-again", GREEDY)
        apart = partings(first, second)
        self.findings.append(own_floor.answered_twice(apart, self.a.noise_floor.get("divergence")))
        return Tier(tiers.OWN_FLOOR, True, f"{len(apart)} questions answered twice")

    async def ask_all(self) -> Tier:
        items = chosen(self.a.items, self.work.suite.questions, self.work.limit)
        early = self.work.early or overall(self.judged()) is Verdict.DIFFERENT
        most = held(self.a) if type(self.baseline) is Recorded else LOOKS[-1]
        plan = tiers.stages(len(items), self.work.sampling.repeats, early, most)
        if self.work.all_tiers:
            plan = tiers.stages(len(items), plan[-1].repeats, early=False)
        why = ""
        for stage in plan:
            why = await self.look(items, stage)
            if why and not stage.look.last:
                self.work.report(Event("answer", f"{why}: asking no more"))
                break
        else:
            why = self.work.note
        self.keep_graded()
        return Tier(tiers.ANSWERS, True, _asked(stage, plan[-1]) + (f": {why}" if why else ""))

    def keep_graded(self) -> None:
        """All answers beside the log, where each part of the run had left only its own."""
        if path := self.work.path("answers.graded.jsonl"):
            write_answers(path, self.all_answers)
        if path and isinstance(self.baseline, Live):
            write_answers(path.with_name("answers-baseline.graded.jsonl"), self.baseline.answers)

    @property
    def all_answers(self) -> list[Answer]:
        keys = dict.fromkeys(item.key for item in self.a.items)
        return [answer for key in keys for answer in self.answers.get(key, ())]

    async def look(self, items: Sequence[Item], stage: Stage) -> str:
        """Ask what `stage` wants beyond what is known, test it all, and say why that decides."""
        part = items[: stage.questions]
        for known in sorted({self.repeats_of(item) for item in part}):
            left = [item for item in part if self.repeats_of(item) == known < stage.repeats]
            if left:
                sampling = replace(self.work.sampling, first=known, repeats=stage.repeats)
                for answer in await self.baseline.beside(left, sampling, self.ask_candidate):
                    self.answers.setdefault(answer.item, []).append(answer)
        keys = {item.key for item in part}
        self.answered = paired(
            self.a,
            about_endpoint(self.b, self.capabilities, self.work),
            self.findings,
            [answer for answer in self.baseline.answers if answer.item in keys],
            self.all_answers,
            self.mode,
            self.figures,
            look=stage.look,
            planned=0 if stage.look.last else self.planned,
            sampled=self.work.sampling.temperature != 0,
        )
        to_pass = self.work.early or self.work.sampling.repeats == 0
        return tiers.decided(self.answered.findings, to_pass)

    def repeats_of(self, item: Item) -> int:
        return len(self.answers.get(item.key, ()))

    async def ask_candidate(
        self, items: Sequence[Item], sampling: Sampling, report: Report | None
    ) -> list[Answer]:
        return await self.ask(self.client, items, "answers", sampling, report)

    async def ask(
        self,
        client: Client,
        items: Sequence[Item],
        log: str,
        sampling: Sampling,
        report: Report | None = None,
    ) -> list[Answer]:
        return await ask(
            client,
            self.capabilities,
            items,
            log=self.work.answers(log, sampling),
            report=report or self.work.report,
            stage="answer",
            token_ids=self.capabilities.return_token_ids,
            sampling=sampling,
        )


def _asked(stage: Stage, whole: Stage) -> str:
    """How much of the plan was asked: `stage` of `whole`."""
    cut = f" of {whole.questions}" if stage.questions < whole.questions else ""
    asked = f"{stage.questions}{cut} questions"
    if whole.repeats == 1:
        return asked
    cut = f" of {whole.repeats}" if stage.repeats < whole.repeats else ""
    return f"{asked} asked {stage.repeats}{cut} times"
