"""Which members of a set make a test fail, singly or together, in few trials.

Groups are split as long as they fail, a whole level of them at once; what fails alone is a culprit
and leaves. Should the rest still fail, some members fail only together: delta debugging (Zeller,
Hildebrandt, Simplifying and isolating failure-inducing input, IEEE TSE 28(2), 2002) finds a
smallest such set, one member of it leaves, and so on until the rest passes. Before that, the rest
is tried again: what fails once and not twice would send it through every subset, and convict one.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

Group = frozenset[str]
Oracle = Callable[[Sequence[Group]], Sequence[bool]]
"""Whether each of several sets passes; they are independent and may be tried at the same time."""


@dataclass(frozen=True)
class Culprit:
    """`operators` fail together, and none of their parts does; leaving out `excluded` helps."""

    operators: tuple[str, ...]
    excluded: str


@dataclass(frozen=True)
class Search:
    """`passing` was tried and passes; with any of the excluded beside it, a trial failed.

    `splits` and `reductions` count the different sets tried while splitting groups, and in delta
    debugging.
    """

    culprits: tuple[Culprit, ...]
    passing: Group
    splits: int
    reductions: int

    @property
    def excluded(self) -> tuple[str, ...]:
        return tuple(sorted(culprit.excluded for culprit in self.culprits))


def most_trials(operators: int, interactions: int) -> int:
    """The most sets that `search` tries: twice as many as operators for splitting (the nodes of a
    tree whose inner nodes have two children or more), and per set that fails only together its
    removal's check, another try, and n^2 + 3n of delta debugging (the paper, section 4)."""
    return 2 * operators + interactions * (operators**2 + 3 * operators + 2) + 1


def search(
    groups: Sequence[Collection[str]],
    oracle: Oracle,
    *,
    width: int = 1,
    again: Callable[[Group], bool] = lambda group: False,
) -> Search:
    """Split disjoint `groups` until the culprits stand alone; `width` trials run at a time.

    The order of members decides which are tried together. No answer of `oracle` is asked for twice;
    `again` is another trial of a set that failed though none of its members does.
    """
    asked = _Asked(oracle)
    everything = [name for group in groups for name in group]
    culprits: list[Culprit] = []
    # with processes to spare, the groups do not wait for the answer that usually comes
    if not asked([everything, *groups] if width > 1 else [everything])[0]:
        found = _fail_alone([list(group) for group in groups if group], asked, width)
        culprits = [Culprit((name,), name) for name in found]
    splits = len(asked.answers)
    rest = _without(everything, culprits)
    while not asked([rest])[0] and not again(frozenset(rest)):
        together = _minimal(rest, asked)
        culprits.append(Culprit(tuple(together), together[-1]))
        rest = _without(rest, culprits)
    return Search(tuple(culprits), frozenset(rest), splits, len(asked.answers) - splits)


class _Asked:
    """The oracle, remembering; the empty set passes, which is for the caller to have made sure."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.answers: dict[Group, bool] = {}

    def __call__(self, sets: Sequence[Collection[str]]) -> list[bool]:
        wanted = [frozenset(one) for one in sets]
        new = [one for one in dict.fromkeys(wanted) if one and one not in self.answers]
        if new:
            self.answers.update(zip(new, self._oracle(new), strict=True))
        return [not one or self.answers[one] for one in wanted]


def _without(names: Sequence[str], culprits: Sequence[Culprit]) -> list[str]:
    out = {culprit.excluded for culprit in culprits}
    return [name for name in names if name not in out]


def _fail_alone(groups: list[list[str]], asked: _Asked, width: int) -> list[str]:
    """Members that fail alone, except those hidden in a group that passes."""
    found = []
    while groups:
        answers = asked(groups)
        failing = [group for group, passed in zip(groups, answers, strict=True) if not passed]
        found += [group[0] for group in failing if len(group) == 1]
        larger = [group for group in failing if len(group) > 1]
        pieces = max(2, -(-width // max(1, len(larger))))
        groups = [piece for group in larger for piece in _pieces(group, pieces)]
    return found


def _pieces(names: Sequence[str], count: int) -> Iterator[list[str]]:
    """`count` nearly equal pieces of `names`, none of them empty."""
    count = min(count, len(names))
    for index in range(count):
        piece = names[index * len(names) // count : (index + 1) * len(names) // count]
        yield list(piece)


def _minimal(failing: list[str], asked: _Asked) -> list[str]:
    """ddmin: a part of `failing` that fails, and passes without any one of its members."""
    count = 2
    while len(failing) > 1:
        subsets = list(_pieces(failing, count))
        smaller = next(_failing(subsets, asked), None)
        if smaller is not None:
            failing, count = smaller, 2
            continue
        rests = [[name for name in failing if name not in subset] for subset in subsets]
        smaller = next(_failing(rests, asked), None)
        if smaller is not None:
            failing, count = smaller, max(2, count - 1)
        elif count >= len(failing):
            break
        else:
            count = min(2 * count, len(failing))
    return failing


def _failing(sets: list[list[str]], asked: _Asked) -> Iterator[list[str]]:
    return (one for one, passed in zip(sets, asked(sets), strict=True) if not passed)
