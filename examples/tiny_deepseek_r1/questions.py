"""Questions with their working, in the shapes of GSM8K, MMLU and AIME.

Every question is an instance (topic, numbers, ...) drawn by a seeded generator. A hash of the instance,
without names and objects, decides on which side it lies: one instance in eight is held out and is never
seen in training, however it is worded. `level` 1..4 sets how large the numbers are.
"""

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

NAMES = ["Ana", "Ben", "Eva", "Ida", "Jon", "Kim", "Leo", "Mia", "Tom", "Zoe"]
THINGS = ["apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps"]
LETTERS = "ABCD"

KIND_FILES = ("gsm8k", "mmlu", "aime")
PROMPTS = {
    "gsm8k": "{question}\nPut your final answer within \\boxed{}.",
    "mmlu": "{question}\nA) {A}\nB) {B}\nC) {C}\nD) {D}\nEnd with \"Answer: X\".",
    "aime": "{question}\nPut your final answer within \\boxed{}.",
}


@dataclass(frozen=True)
class Question:
    """One instance: `key` identifies it whatever its wording, `working` is the reasoning, a line per step."""

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


def number(rng: random.Random, digits: int) -> int:
    """A number of exactly `digits` digits, at least 2."""
    return rng.randint(max(2, 10 ** (digits - 1)), 10**digits - 1)


def factors(rng: random.Random, level: int) -> tuple[int, int]:
    """Two factors: 1x1 and 2x1 digits at level 1, up to 2x2 and 3x2 digits at level 4."""
    if level == 4:
        return number(rng, rng.choice([2, 2, 3])), number(rng, 2)
    if level == 3:
        return number(rng, 2), rng.randint(11, 39)
    return number(rng, level), number(rng, 1)


# Word problems (GSM8K) -------------------------------------------------------------------------

Drawn = tuple[tuple[int, ...], str, list[str], int]


def change(rng: random.Random, level: int) -> Drawn:
    count, price = factors(rng, level)
    paid = count * price + number(rng, min(level + 1, 3))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    text = f"{name} buys {count} {thing} at {price} cents each and pays {paid} cents. How many cents come back?"
    cost = count * price
    working = [f"{count}*{price}={cost}", f"{paid}-{cost}={paid - cost}"]
    return (count, price, paid), text, working, paid - cost


def boxes(rng: random.Random, level: int) -> Drawn:
    count, size = factors(rng, level)
    first, lost = number(rng, min(level + 1, 3)), number(rng, min(level, 2))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    text = f"{name} has {first} {thing}, gets {count} boxes of {size} {thing} and loses {lost}. How many {thing} are left?"
    bought = count * size
    have = first + bought
    working = [f"{count}*{size}={bought}", f"{first}+{bought}={have}", f"{have}-{lost}={have - lost}"]
    return (count, size, first, lost), text, working, have - lost


def wages(rng: random.Random, level: int) -> Drawn:
    pay, days = factors(rng, level)
    more, weeks = factors(rng, max(level - 1, 1))
    name = rng.choice(NAMES)
    text = f"{name} earns {pay} coins on each of {days} days and {more} coins on each of {weeks} days. How many coins in all?"
    one, two = pay * days, more * weeks
    working = [f"{pay}*{days}={one}", f"{more}*{weeks}={two}", f"{one}+{two}={one + two}"]
    return (pay, days, more, weeks), text, working, one + two


def family(rng: random.Random, level: int) -> Drawn:
    first, times = factors(rng, level)
    fewer = rng.randint(1, first)
    (a, b, c), thing = rng.sample(NAMES, 3), rng.choice(THINGS)
    text = f"{a} has {first} {thing}, {b} has {times} times as many, {c} has {fewer} fewer than {b}. How many has {c}?"
    second = first * times
    working = [f"{first}*{times}={second}", f"{second}-{fewer}={second - fewer}"]
    return (first, times, fewer), text, working, second - fewer


def sharing(rng: random.Random, level: int) -> Drawn:
    each, people = factors(rng, min(level, 3))
    extra = number(rng, min(level + 1, 3))
    total, (name, thing) = each * people, (rng.choice(NAMES), rng.choice(THINGS))
    text = f"{total} {thing} are shared equally by {people} friends. {name}, one of them, had {extra}. How many has {name} now?"
    working = [f"{total}/{people}={each}", f"{each}+{extra}={each + extra}"]
    return (total, people, extra), text, working, each + extra


# Olympiad problems, answers 0..999 (AIME) --------------------------------------------------------


def product_remainder(rng: random.Random, level: int) -> Drawn:
    a, b = factors(rng, min(level + 1, 4))
    modulus = rng.randint(5, (20, 60, 200, 999)[level - 1])
    product = a * b
    quotient, rest = divmod(product, modulus)
    text = f"Find the remainder when {a}*{b} is divided by {modulus}."
    working = [f"{a}*{b}={product}", f"{product}/{modulus}={quotient}", f"{quotient}*{modulus}={product - rest}"]
    working.append(f"{product}-{product - rest}={rest}")
    return (a, b, modulus), text, working, rest


def multiples(rng: random.Random, level: int) -> Drawn:
    p, q = rng.sample([2, 3, 5, 7] if level < 3 else [3, 5, 7, 8, 11, 13], 2)
    limit = rng.randint(20, (99, 400, 700, 999)[level - 1])
    counts = limit // p, limit // q, limit // (p * q)
    either = counts[0] + counts[1]
    text = f"How many positive integers up to {limit} are divisible by {p} or by {q}?"
    working = [f"{limit}/{d}={c}" for d, c in zip((p, q, p * q), counts, strict=True)]
    working += [f"{counts[0]}+{counts[1]}={either}", f"{either}-{counts[2]}={either - counts[2]}"]
    return (p, q, limit), text, working, either - counts[2]


def progression(rng: random.Random, level: int) -> Drawn:
    step, terms = number(rng, 1 + level // 3), rng.randint(4, (8, 12, 16, 19)[level - 1])
    first = number(rng, 1 + level // 3)
    last = first + step * (terms - 1)
    both = first + last
    total = both * terms // 2
    text = f"Find the sum modulo 1000 of the {terms} terms {first}, {first + step}, {first + 2 * step}, ..., {last}."
    working = [f"{first}+{last}={both}", f"{both}*{terms}={both * terms}", f"{both * terms}/2={total}"]
    return (first, step, terms), text, [*working, f"{total}%1000={total % 1000}"], total % 1000


def recurrence(rng: random.Random, level: int) -> Drawn:
    modulus = rng.randint(7, (19, 49, 99, 199)[level - 1])
    factor, shift = rng.randint(2, 9), number(rng, 1)
    value = start = rng.randint(1, modulus - 1)
    text = f"Let a1={start} and a(n+1) be the remainder of {factor}*a(n)+{shift} divided by {modulus}. Find a4."
    working = []
    for _ in range(3):
        raised = factor * value + shift
        working.append(f"{factor}*{value}+{shift}={raised},{raised}%{modulus}={raised % modulus}")
        value = raised % modulus
    return (modulus, factor, shift, start), text, working, value


def polynomial(rng: random.Random, level: int) -> Drawn:
    a, b, c = (number(rng, 1) for _ in range(3))
    x = number(rng, 1) if level == 1 else rng.randint(11, (0, 25, 50, 99)[level - 1])
    square = x * x
    first, second = a * square, b * x
    total = first + second + c
    text = f"Let f(x)={a}x^2+{b}x+{c}. Find the remainder when f({x}) is divided by 1000."
    working = [f"{x}*{x}={square}", f"{a}*{square}={first}", f"{b}*{x}={second}"]
    working += [f"{first}+{second}+{c}={total}", f"{total}%1000={total % 1000}"]
    return (a, b, c, x), text, working, total % 1000


# Multiple choice (MMLU): the working finds the value, then reads the options in order ---------------


def linear_algebra(rng: random.Random, level: int) -> Drawn:
    x, a = factors(rng, level)
    b = number(rng, min(level + 1, 3))
    text = f"If {a}x+{b}={a * x + b}, what is x?"
    return (a, b, x), text, [f"{a * x + b}-{b}={a * x}", f"{a * x}/{a}={x}"], x


def arithmetic(rng: random.Random, level: int) -> Drawn:
    a, b = factors(rng, level)
    c = number(rng, min(level + 1, 3))
    text = f"What is {a}*{b}+{c}?"
    return (a, b, c), text, [f"{a}*{b}={a * b}", f"{a * b}+{c}={a * b + c}"], a * b + c


def number_theory(rng: random.Random, level: int) -> Drawn:
    divisor = rng.randint(2, (9, 20, 40, 99)[level - 1])
    a, b = sorted(rng.sample(range(1, 12 + 6 * level), 2), reverse=True)
    a, b = a * divisor, b * divisor
    high, low, working = a, b, []
    while low:
        working.append(f"{high}%{low}={high % low}")
        high, low = low, high % low
    return (a, b), f"What is the greatest common divisor of {a} and {b}?", working, gcd(a, b)


def geometry(rng: random.Random, level: int) -> Drawn:
    width, height = factors(rng, level)
    inner = rng.randint(1, max(1, width * height // 2))
    text = f"A square hole of area {inner} is cut from a {width} by {height} plate. What area is left?"
    area = width * height
    return (width, height, inner), text, [f"{width}*{height}={area}", f"{area}-{inner}={area - inner}"], area - inner


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


TOPICS: dict[str, dict[str, Callable[[random.Random, int], Drawn]]] = {
    "gsm8k": {f.__name__: f for f in (change, boxes, wages, family, sharing)},
    "mmlu": {f.__name__: f for f in (linear_algebra, arithmetic, number_theory, geometry)},
    "aime": {f.__name__: f for f in (product_remainder, multiples, progression, recurrence, polynomial)},
}


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
    """Endless questions of one side of the split, kinds and levels drawn evenly from the two lists."""
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


def write_rows(folder: Path, seed: int, counts: dict[str, int], levels: dict[str, list[int]]) -> None:
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
