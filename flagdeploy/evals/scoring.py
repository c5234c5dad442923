"""Three ways to make an endpoint score given tokens, and which of them may be compared.

====  ==========================================================================================
S     one request per sequence: log-probabilities of the prompt, all from one prefill.
D     greedy decoding, which is teacher forcing up to the first token that differs; from there it
      is started again with the right token. About one request and one more per mismatch.
P     one request per position: the first token that follows each prefix, from a prefill.
====  ==========================================================================================

Prefill and decoding are two code paths of an engine, with kernels and rounding of their own, so
what one computed is compared with what the same one computed: S with S or P, D with D. A baseline
that can both is recorded in both; where a pair has no path in common nothing is scored, and that
is said. S comes before D, for which an endpoint must decode greedily, and P is last: it costs a
prefill per position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flagdeploy.errors import UsageError
from flagdeploy.evals.at_once import all_of
from flagdeploy.evals.capabilities import Capabilities, send
from flagdeploy.evals.client import Client
from flagdeploy.evals.teacher_forcing import Passage, Position, outside
from flagdeploy.evals.wire import DECODING, SCORING, Form, Row, with_ignored_eos
from flagdeploy.records.events import Event, Report

MODES = ("S", "D", "P")
POSITIONS = 256  # of each sequence of a baseline at most
LONGEST = 2048  # tokens of prompt and continuation: the logits of a whole prompt take memory
FIRST_CHUNK = 16
UNKNOWN = Position(math.nan, {})


@dataclass(frozen=True)
class Pairing:
    """How a candidate is scored, and with what it is compared.

    `passages` hold the baseline's positions made in `baseline`; `mode` is the candidate's. Both
    are empty, and `reason` says why, where nothing can be compared.
    """

    mode: str
    baseline: str
    passages: tuple[Passage, ...]
    reason: str = ""

    @property
    def label(self) -> str:
        if self.mode == self.baseline:
            return self.mode
        return f"{self.mode} against {self.baseline}, both by prefill" if self.mode else ""

    def to_json(self) -> dict[str, Any]:
        """How tokens were scored, for a result: `mode` of the candidate and of the `baseline`."""
        if not self.mode:
            return {"mode": None, "baseline": None, "why": self.reason}
        return {"mode": self.mode, "baseline": self.baseline, "why": self.label}


def check_mode(capabilities: Capabilities, mode: str | None) -> str:
    """`mode`, or the best the endpoint can (empty: none); UsageError for one it cannot."""
    if mode is None:
        return next(iter(capabilities.modes), "")
    if mode not in MODES:
        raise UsageError(f"unknown scoring mode `{mode}`", hint=f"there is: {', '.join(MODES)}")
    if mode not in capabilities.modes:
        able = ", ".join(capabilities.modes) or "none"
        raise UsageError(
            f"{capabilities.model} cannot be scored in mode {mode}", hint=f"it can: {able}"
        )
    return mode


def pair(
    passages: Sequence[Passage], capabilities: Capabilities, mode: str | None = None
) -> Pairing:
    """The best mode of a candidate that has its counterpart in a baseline's `passages`.

    `mode` forces one. Raises UsageError for a mode that the candidate cannot.
    """
    held = {passage.mode for passage in passages if passage.positions}
    held |= {"D"} if any(passage.decoded for passage in passages) else set()
    if not held:
        return Pairing("", "", (), "the baseline has no log-probabilities")
    able = (check_mode(capabilities, mode),) if mode else capabilities.modes
    for wanted in able:
        counterpart = wanted if wanted in held else _other(wanted)
        if counterpart in held:
            return Pairing(wanted, counterpart, _in_mode(passages, counterpart))
    if not able:
        return Pairing("", "", (), "the candidate gives no log-probabilities of given tokens")
    reason = (
        f"the baseline was scored in mode {' and '.join(sorted(held))}, the candidate can "
        f"{' and '.join(able)}, and prefill and decoding are not compared with each other"
    )
    return Pairing("", "", (), reason)


def _other(mode: str) -> str:
    return {"S": "P", "P": "S"}.get(mode, "")


def _in_mode(passages: Sequence[Passage], mode: str) -> tuple[Passage, ...]:
    found = []
    for passage in passages:
        positions = passage.positions if passage.mode == mode else ()
        positions = positions or (passage.decoded if mode == "D" else ())
        if positions:
            found.append(replace(passage, positions=positions, mode=mode, decoded=()))
    return tuple(found)


def forced(passage: Passage, most: int | None = None) -> tuple[int, ...]:
    """The tokens that are scored: those the baseline has positions of, else all, or `most`.

    With `most` the sequence is cut to LONGEST too.
    """
    if passage.positions:
        return passage.continuation[: len(passage.positions)]
    room = None if most is None else max(0, min(most, LONGEST - len(passage.prompt)))
    return passage.continuation[:room]


async def score(
    client: Client,
    capabilities: Capabilities,
    sequences: Sequence[Passage],
    k: int,
    report: Report,
    mode: str = "S",
    most: int | None = None,
) -> dict[str, tuple[Position, ...]]:
    """Positions of every sequence as this endpoint scores them; a failed one is left out.

    `k` alternatives each, where it gives as many; `forced` says which tokens.
    """
    scored: dict[str, tuple[Position, ...]] = {}
    scorer = _Scorer(client, capabilities, k)
    ways = {"S": scorer.prompt, "D": scorer.decoded, "P": scorer.probed}

    async def one(sequence: Passage) -> None:
        positions = await ways[mode](list(sequence.prompt), forced(sequence, most))
        if positions and any(position.top for position in positions):
            scored[sequence.key] = positions
        what = f"teacher forcing, mode {mode}"
        report(Event("score", what, done=len(scored), total=len(sequences), unit="sequences"))

    await all_of(one(sequence) for sequence in sequences)
    return scored


class _Scorer:
    """Each way takes prompt and continuation as ids and gives a position per token of the latter,
    or None where the endpoint failed."""

    def __init__(self, client: Client, capabilities: Capabilities, k: int) -> None:
        self.client = client
        self.capabilities = capabilities
        self.k = k

    async def prompt(self, prompt: list[int], tokens: Sequence[int]) -> tuple[Position, ...] | None:
        form = _named(SCORING, self.capabilities.scoring)
        ids = [*prompt, *tokens]
        k = min(self.k, self.capabilities.prompt_logprobs)
        reply = await send(self.client, form, form.payload(self.capabilities.model, ids, k, 1))
        rows = form.read(reply.body, ids)
        if rows is None:
            return None
        return tuple(Position(logprob, top) for _, logprob, top in rows[len(prompt) - 1 :])

    async def decoded(
        self, prompt: list[int], tokens: Sequence[int]
    ) -> tuple[Position, ...] | None:
        positions: list[Position] = []
        chunk = len(tokens)
        while len(positions) < len(tokens):
            left = tokens[len(positions) :]
            rows = await self.following([*prompt, *tokens[: len(positions)]], min(chunk, len(left)))
            if rows is None:
                return None
            if not rows:  # it ends here, with a token that it does not show
                positions.append(UNKNOWN)
                continue
            hits = _agreed(rows, left)
            positions += map(_position, rows[: hits + 1], left)
            # A run of hits promises another; what is decoded beyond a mismatch is thrown away.
            chunk = max(FIRST_CHUNK, 2 * hits)
        return tuple(positions)

    async def probed(self, prompt: list[int], tokens: Sequence[int]) -> tuple[Position, ...] | None:
        async def one(at: int) -> list[Row] | None:
            return await self.following([*prompt, *tokens[:at]], 1)

        found = await all_of(one(at) for at in range(len(tokens)))
        positions = []
        for rows, token in zip(found, tokens, strict=True):
            if rows is None:
                return None
            positions.append(_position(rows[0], token) if rows else UNKNOWN)
        return tuple(positions)

    async def following(self, ids: list[int], tokens: int) -> list[Row] | None:
        """At most `tokens` rows of what follows `ids`."""
        capabilities = self.capabilities
        form = _named(DECODING, capabilities.decoding)
        k = min(self.k, capabilities.logprobs)
        payload = form.payload(capabilities.model, ids, k, tokens)
        if capabilities.ignore_eos:
            payload = with_ignored_eos(form, payload)
        rows = form.read((await send(self.client, form, payload)).body, ids)
        return None if rows is None else rows[:tokens]


def _named(forms: Sequence[Form], name: str) -> Form:
    return next(form for form in forms if form.name == name)


def _agreed(rows: Sequence[Row], tokens: Sequence[int]) -> int:
    """How many rows from the first on have the wanted token; the next, if any, has another."""
    pairs = enumerate(zip(rows, tokens, strict=False))
    return next((at for at, (row, token) in pairs if row[0] != token), min(len(rows), len(tokens)))


def _position(row: Row, token: int) -> Position:
    """What `row` says of `token`, which need not be the one that was generated.

    Where it is not listed: at most what the least likely one listed has, and what is left over.
    """
    _, _, top = row
    return Position(top[token] if token in top else outside(top), top)
