"""Which questions of two runs are the same: by the tool's own hash, else by what they say.

Two runs of one tool share its hash of the content. Of different tools, or of one that was
prompted otherwise, a question is the same where the text of one stands in that of the other and
the right answers agree, if there is exactly one such partner. Position in a file proves nothing.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.readers.samples import Row, Samples

WINDOW = 40  # characters by which a question is looked up in longer texts


@dataclass(frozen=True)
class Asked:
    """One question with all answers to it, the repeats."""

    key: str
    task: str
    text: str
    prompt: str
    gold: str
    cluster: str
    answers: tuple[Answer, ...]

    @property
    def score(self) -> float | None:
        """The mean over its answers; None where one has none, which is not like the others."""
        scores = [answer.score for answer in self.answers if answer.score is not None]
        return sum(scores) / len(scores) if len(scores) == len(self.answers) else None


@dataclass(frozen=True)
class Matching:
    """`pairs` of (baseline, candidate) by `how`; the questions that only one side has; and how
    many of those share a text with the other side, whose right answer is another (`gold`) or
    which fits several questions (`ambiguous`)."""

    pairs: tuple[tuple[Asked, Asked], ...]
    only_baseline: tuple[Asked, ...]
    only_candidate: tuple[Asked, ...]
    how: str
    gold: int = 0
    ambiguous: int = 0

    @property
    def prompts_differ(self) -> int:
        """How many pairs were prompted otherwise, where both prompts are known."""
        return sum(bool(a.prompt and b.prompt and a.prompt != b.prompt) for a, b in self.pairs)


def match(a: Samples, b: Samples) -> Matching:
    """Baseline `a` and candidate `b`; EvalError with the reason when no question is in both."""
    ours, theirs = questions(a.rows), questions(b.rows)
    if a.identity == b.identity:
        known = {(other.task, other.key): other for other in theirs}
        pairs = [
            (question, known[question.task, question.key])
            for question in ours
            if (question.task, question.key) in known
        ]
        if pairs:
            return _matching(pairs, ours, theirs, a.identity)
    if not all(question.text for question in (*ours, *theirs)):
        mute = next(side for side in (a, b) if not all(row.question for row in side.rows))
        raise EvalError(
            f"{a.name} and {b.name} have no question in common by {a.identity}"
            if a.identity == b.identity
            else f"{a.name} names questions by {a.identity}, {b.name} by {b.identity}, and "
            f"{mute.name} keeps no question texts to pair them by",
            hint="compare two files of one tool, or a bundle (`flagdeploy baseline record`)",
        )
    return _by_text(a, b, ours, theirs)


def questions(rows: Iterable[Row]) -> list[Asked]:
    """Rows of one content are repeats of one question."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.answer.task, row.answer.item), []).append(row)
    return [
        Asked(
            key=key,
            task=task,
            text=_plain(same[0].question),
            prompt=_plain(same[0].prompt),
            gold=same[0].answer.gold,
            cluster=same[0].cluster,
            answers=tuple(row.answer for row in same),
        )
        for (task, key), same in groups.items()
    ]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _matching(
    pairs: Sequence[tuple[Asked, Asked]],
    ours: Sequence[Asked],
    theirs: Sequence[Asked],
    how: str,
    gold: int = 0,
    ambiguous: int = 0,
) -> Matching:
    mine = {id(a) for a, _ in pairs}
    other = {id(b) for _, b in pairs}
    return Matching(
        tuple(pairs),
        tuple(question for question in ours if id(question) not in mine),
        tuple(question for question in theirs if id(question) not in other),
        how,
        gold,
        ambiguous,
    )


def _by_text(a: Samples, b: Samples, ours: Sequence[Asked], theirs: Sequence[Asked]) -> Matching:
    turned = _length(ours) > _length(theirs)
    needles, texts = (theirs, ours) if turned else (ours, theirs)
    found = _holding([question.text for question in needles], [text.text for text in texts])
    fitting = [
        [place for place in places if right(needles[i].gold) == right(texts[place].gold)]
        for i, places in enumerate(found)
    ]
    taken: dict[int, int] = {}
    for place in (place for places in fitting for place in places):
        taken[place] = taken.get(place, 0) + 1
    pairs = [
        (texts[places[0]], needles[i]) if turned else (needles[i], texts[places[0]])
        for i, places in enumerate(fitting)
        if len(places) == 1 and taken[places[0]] == 1
    ]
    gold = sum(bool(held) and not same for held, same in zip(found, fitting, strict=True))
    ambiguous = sum(map(bool, fitting)) - len(pairs)
    if not pairs:
        raise EvalError(_nothing(a, b, gold, ambiguous))
    order = {id(question): place for place, question in enumerate(ours)}
    pairs.sort(key=lambda row: order[id(row[0])])
    return _matching(pairs, ours, theirs, "question text and right answer", gold, ambiguous)


def _nothing(a: Samples, b: Samples, gold: int, ambiguous: int) -> str:
    why = []
    if gold:
        why.append(f"{gold} share their text but not the right answer")
    if ambiguous:
        why.append(f"{ambiguous} fit several questions of the other side")
    reason = "; ".join(why) or "no text of one side stands in any of the other"
    return f"{a.name} and {b.name} have no question in common: {reason}"


def _length(questions: Sequence[Asked]) -> int:
    return sum(len(question.text) for question in questions) // max(1, len(questions))


def _holding(needles: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """For each needle the places in `texts` that contain it.

    Looked up by the first characters of a needle, for 14 042 questions in as many prompts would
    be 200 million comparisons.
    """
    width = min([WINDOW, *map(len, needles)])  # at least 1: a question without text is refused
    starts: dict[str, list[int]] = {}
    for index, needle in enumerate(needles):
        starts.setdefault(needle[:width], []).append(index)
    found: list[dict[int, None]] = [{} for _ in needles]
    for place, text in enumerate(texts):
        for at in range(len(text) - width + 1):
            for index in starts.get(text[at : at + width], ()):
                if text.startswith(needles[index], at) and _whole(text, at, needles[index]):
                    found[index][place] = None
    return [list(places) for places in found]


def _whole(text: str, at: int, needle: str) -> bool:
    """Whether `needle` ends where words of `text` do: ``5 apples`` is not in ``15 apples``."""
    edges = (text[at - 1 : at] + needle[:1], needle[-1:] + text[at + len(needle) :][:1])
    return not any(len(edge) == 2 and edge.isascii() and edge.isalnum() for edge in edges)


def right(gold: str) -> str:
    """A right answer in one spelling: what follows ``####``, without brackets, commas and $."""
    answer = gold.rpartition("####")[2].strip().rstrip(".")
    answer = re.sub(r"^\((.+)\)$", r"\1", answer)
    return re.sub(r"[,$\s]", "", answer).casefold()
