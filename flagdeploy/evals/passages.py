"""The sequences of a baseline that are teacher-forced: which ones, and in which modes.

Pure: a recording (`workflows.baseline`) and a live baseline (`workflows.beside`) do the scoring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flagdeploy.evals import scoring
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.items import Item
from flagdeploy.evals.teacher_forcing import Passage, Position

SEQUENCES = 64
TOP_K = 20

Scores = dict[str, tuple[Position, ...]]


def choose(items: Sequence[Item], answers: Sequence[Answer], count: int) -> list[Passage]:
    """`count` questions whose tokens are known, taken in turn from each benchmark by hash."""
    usable = sorted(
        (
            Passage(
                item.key,
                item.task,
                tuple(answer.prompt_token_ids),
                tuple(answer.token_ids),
                (),
            )
            for item, answer in zip(items, answers, strict=True)
            if answer.prompt_token_ids
            and answer.token_ids
            and len(answer.prompt_token_ids) < scoring.LONGEST
        ),
        key=lambda passage: passage.key,
    )
    turns: dict[str, int] = {}
    ranked = []
    for passage in usable:
        turns[passage.task] = turns.get(passage.task, 0) + 1
        ranked.append((turns[passage.task], passage.task, passage))
    return [passage for _, _, passage in sorted(ranked, key=lambda row: row[:2])[:count]]


def modes_of(capabilities: Capabilities, mode: str | None) -> list[str]:
    """The modes a baseline is scored in: the best, or `mode`, and by decoding too where it can.

    So a candidate that can only the one or the other finds its counterpart.
    """
    best = scoring.check_mode(capabilities, mode)
    both = mode is None and "D" in capabilities.modes
    return list(dict.fromkeys([best, "D"] if both else [best])) if best else []


def alternatives(capabilities: Capabilities, modes: Sequence[str]) -> int:
    """How many are asked for at every position, over all `modes`."""
    by_mode = {"S": capabilities.prompt_logprobs}
    return min(TOP_K, max((by_mode.get(mode, capabilities.logprobs) for mode in modes), default=0))


def in_modes(passage: Passage, scores: Mapping[str, Scores], modes: Sequence[str]) -> Passage:
    """`passage` with its positions in the first of `modes`, and by decoding if that comes next."""
    if not scores:
        return passage
    positions = {mode: scores[mode][passage.key] for mode in modes}
    decoded = positions["D"] if modes[1:] else ()
    return replace(passage, positions=positions[modes[0]], mode=modes[0], decoded=decoded)
