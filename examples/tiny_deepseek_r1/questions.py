"""Questions with their working, in the shapes of GSM8K, MMLU and AIME.

Every question is an instance (topic and numbers) drawn by a seeded generator. A hash of the
instance, without names and objects, decides on which side it lies: one in eight is held out and
never seen in training, however it is worded. `level` 1..4 sets how large the numbers are.

    python questions.py     writes the held-out questions anew
"""

import json
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from problems import TOPICS, Drawn

LETTERS = "ABCD"

KIND_FILES = ("gsm8k", "mmlu", "aime")
# The model is sure of the easier levels; these are where a loss of precision shows.
HELD_OUT_SEED = 2026
HELD_OUT_COUNTS = {"gsm8k": 400, "mmlu": 400, "aime": 200}
HELD_OUT_LEVELS = {"gsm8k": [4], "mmlu": [4], "aime": [3, 4]}
PROMPTS = {
    "gsm8k": "{question}\nPut your final answer within \\boxed{}.",
    "mmlu": '{question}\nA) {A}\nB) {B}\nC) {C}\nD) {D}\nEnd with "Answer: X".',
    "aime": "{question}\nPut your final answer within \\boxed{}.",
}


@dataclass(frozen=True)
class Question:
    """One instance: `key` identifies it whatever its wording, `working` has a line per step."""

    kind: str
    topic: str
    level: int
    key: tuple[int, ...]
    text: str
    working: str
    answer: str
    options: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        return zlib.crc32(f"{self.topic}{self.key}".encode()) % 8 == 0

    @property
    def prompt(self) -> str:
        """The user's turn."""
        filled = PROMPTS[self.kind].replace("{question}", self.text)
        for letter, option in zip(LETTERS, self.options, strict=False):
            filled = filled.replace(f"{{{letter}}}", option)
        return filled

    @property
    def final(self) -> str:
        """The last line of a right completion, after the closing think tag."""
        return f"Answer: {self.answer}" if self.kind == "mmlu" else f"\\boxed{{{self.answer}}}"


def distractors(rng: random.Random, right: int) -> list[int]:
    """Three wrong values near the right one: a digit slip, a carry slip, a small offset."""
    wrong: set[int] = set()
    while len(wrong) < 3:
        slip = rng.choice([-1, 1]) * rng.choice([1, 2, 10, 10, 20, 100 if right > 200 else 3])
        if right + slip > 0:
            wrong.add(right + slip)
    return list(wrong)


def with_options(rng: random.Random, drawn: Drawn) -> tuple[str, str, tuple[str, ...]]:
    """(letter, lines that read the options up to the right one, the options)."""
    values = [*distractors(rng, drawn[3]), drawn[3]]
    rng.shuffle(values)
    place = values.index(drawn[3])
    lines = [f"{LETTERS[i]} {values[i]} {'yes' if i == place else 'no'}" for i in range(place + 1)]
    return LETTERS[place], "\n".join(lines), tuple(str(v) for v in values)


def draw(rng: random.Random, kind: str, level: int) -> Question:
    """One question of `kind` at `level`, from either side of the split."""
    topic = rng.choice(list(TOPICS[kind]))
    drawn = TOPICS[kind][topic](rng, level)
    key, text, steps, value = drawn
    if kind != "mmlu":
        return Question(kind, topic, level, key, text, "\n".join(steps), str(value))
    letter, reading, options = with_options(rng, drawn)
    working = "\n".join([*steps, reading])
    return Question(kind, topic, level, key, text, working, letter, options)


def questions(seed: int, held_out: bool, kinds: list[str], levels: list[int]) -> Iterator[Question]:
    """Endless questions of one side of the split, kinds and levels drawn evenly."""
    rng = random.Random(seed)
    while True:
        question = draw(rng, rng.choice(kinds), rng.choice(levels))
        if question.held_out == held_out:
            yield question


# Files and grading ------------------------------------------------------------------------------


def as_row(question: Question, number: int) -> dict[str, object]:
    """The question in its benchmark's own shape; topic and level are added to all three."""
    extra = {"topic": question.topic, "level": question.level, "id": number}
    if question.kind == "gsm8k":
        answer = f"{question.working}\n#### {question.answer}"
        return {"question": question.text, "answer": answer, **extra}
    if question.kind == "mmlu":
        options = list(question.options)
        return {"question": question.text, "options": options, "answer": question.answer, **extra}
    return {"problem": question.text, "answer": question.answer, **extra}


def row_prompt(kind: str, row: dict[str, object]) -> str:
    """The user's turn for one row of a question file."""
    text = str(row.get("question", row.get("problem")))
    options = tuple(row.get("options", ()))  # type: ignore[call-overload]
    return Question(kind, "", 0, (), text, "", "", options).prompt


def row_answer(kind: str, row: dict[str, object]) -> str:
    """The value that the last line of a right completion carries."""
    return str(row["answer"]).split("#### ")[-1]


def parse(kind: str, completion: str) -> str | None:
    """The answer in a completion: the letter of the last `Answer: X`, or the last boxed integer."""
    pattern = r"Answer: ([A-D])\b" if kind == "mmlu" else r"\\boxed\{(\d+)\}"
    found = re.findall(pattern, completion)
    return found[-1] if found else None


def read_rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(
    folder: Path, seed: int, counts: dict[str, int], levels: dict[str, list[int]]
) -> None:
    """Write the held-out questions, no instance twice, one JSON Lines file per kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, count in counts.items():
        unique: dict[tuple[object, ...], Question] = {}
        for question in questions(seed, True, [kind], levels[kind]):
            unique.setdefault((question.topic, question.key), question)
            if len(unique) == count:
                break
        lines = [json.dumps(as_row(q, i)) for i, q in enumerate(unique.values())]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_rows(Path(__file__).parent / "questions", HELD_OUT_SEED, HELD_OUT_COUNTS, HELD_OUT_LEVELS)
