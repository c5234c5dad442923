"""How much a comparison asks: three suites, each with its reasons. Pure data.

============  ===========================================================================
``quick``     minutes: what most faults show in. 64 teacher-forced sequences tell another
              model from the same one with more power than 10 000 questions; at most 1000
              questions then tell harm from mere difference, 3 points of it for a model
              that flips 4% of its answers.
``standard``  every question of the baseline, so that each benchmark has the power it can
              have, and the candidate against itself, which alone shows kernels that give
              another result each time.
``full``      questions asked again and again with sampling, as a reasoning model is used:
              1, 2, 4, 8 and 16 times until that decides.
============  ===========================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flagdeploy.errors import UsageError
from flagdeploy.evals.items import Item


@dataclass(frozen=True)
class Suite:
    """`sequences` and `questions` at most (None: all there are).

    `repeats`: answers to each question, 0 to look after 1, 2, 4, 8, 16 and stop when decided.
    `own_floor`: the candidate is measured against itself on the sequences.
    """

    name: str
    sequences: int | None
    questions: int | None
    repeats: int = 1
    own_floor: bool = False


SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", sequences=64, questions=1000),
        Suite("standard", sequences=None, questions=None, own_floor=True),
        Suite("full", sequences=None, questions=None, repeats=0, own_floor=True),
    )
}


def suite_named(name: str) -> Suite:
    if name not in SUITES:
        raise UsageError(f"unknown suite `{name}`", hint=f"there are: {', '.join(SUITES)}")
    return SUITES[name]


def chosen(items: Sequence[Item], most: int | None = None, limit: int | None = None) -> list[Item]:
    """At most `limit` of each benchmark's `items` and `most` in all, in the order of their keys.

    Where `most` cuts, every benchmark keeps an equal share or all it has. The order mixes the
    benchmarks so that every part of it holds each in about its share: a key is a hash of the
    question, and files are often sorted by difficulty or subject.
    """
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.task] = sizes.get(item.task, 0) + 1
    if limit is not None:
        sizes = {task: min(size, limit) for task, size in sizes.items()}
    sizes = shares(sizes, most)
    ranks: dict[str, int] = {}
    placed = []
    for item in sorted(items, key=lambda item: item.key):
        rank = ranks[item.task] = ranks.get(item.task, 0) + 1
        if rank <= sizes[item.task]:
            placed.append((rank / sizes[item.task], item.task, item))
    return [item for _, _, item in sorted(placed, key=lambda row: row[:2])]


def shares(sizes: Mapping[str, int], most: int | None) -> dict[str, int]:
    """How many of each benchmark's questions, of which there are `sizes`, make `most` in all."""
    if most is None:
        return dict(sizes)
    kept, left = {}, most
    for place, (task, size) in enumerate(sorted(sizes.items(), key=lambda row: row[1])):
        kept[task] = min(size, left // (len(sizes) - place))
        left -= kept[task]
    return kept
