"""The problems behind the questions: each draws its numbers and works out the answer step by step.

A problem returns (numbers that identify the instance, text, working line by line, answer).
"""

import random
from collections.abc import Callable
from math import gcd

NAMES = ["Ana", "Ben", "Eva", "Ida", "Jon", "Kim", "Leo", "Mia", "Tom", "Zoe"]
THINGS = ["apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps"]

Drawn = tuple[tuple[int, ...], str, list[str], int]


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


def change(rng: random.Random, level: int) -> Drawn:
    count, price = factors(rng, level)
    paid = count * price + number(rng, min(level + 1, 3))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    text = (
        f"{name} buys {count} {thing} at {price} cents each and pays {paid} cents. "
        f"How many cents come back?"
    )
    cost = count * price
    working = [f"{count}*{price}={cost}", f"{paid}-{cost}={paid - cost}"]
    return (count, price, paid), text, working, paid - cost


def boxes(rng: random.Random, level: int) -> Drawn:
    count, size = factors(rng, level)
    first, lost = number(rng, min(level + 1, 3)), number(rng, min(level, 2))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    text = (
        f"{name} has {first} {thing}, gets {count} boxes of {size} {thing} and loses {lost}. "
        f"How many {thing} are left?"
    )
    bought = count * size
    have = first + bought
    working = [
        f"{count}*{size}={bought}",
        f"{first}+{bought}={have}",
        f"{have}-{lost}={have - lost}",
    ]
    return (count, size, first, lost), text, working, have - lost


def wages(rng: random.Random, level: int) -> Drawn:
    pay, days = factors(rng, level)
    more, weeks = factors(rng, max(level - 1, 1))
    name = rng.choice(NAMES)
    text = (
        f"{name} earns {pay} coins on each of {days} days and "
        f"{more} coins on each of {weeks} days. How many coins in all?"
    )
    one, two = pay * days, more * weeks
    working = [f"{pay}*{days}={one}", f"{more}*{weeks}={two}", f"{one}+{two}={one + two}"]
    return (pay, days, more, weeks), text, working, one + two


def family(rng: random.Random, level: int) -> Drawn:
    first, times = factors(rng, level)
    fewer = rng.randint(1, first)
    (a, b, c), thing = rng.sample(NAMES, 3), rng.choice(THINGS)
    text = (
        f"{a} has {first} {thing}, {b} has {times} times as many, "
        f"{c} has {fewer} fewer than {b}. How many has {c}?"
    )
    second = first * times
    working = [f"{first}*{times}={second}", f"{second}-{fewer}={second - fewer}"]
    return (first, times, fewer), text, working, second - fewer


def sharing(rng: random.Random, level: int) -> Drawn:
    each, people = factors(rng, min(level, 3))
    extra = number(rng, min(level + 1, 3))
    total, (name, thing) = each * people, (rng.choice(NAMES), rng.choice(THINGS))
    text = (
        f"{total} {thing} are shared equally by {people} friends. {name}, one of them, "
        f"had {extra}. How many has {name} now?"
    )
    working = [f"{total}/{people}={each}", f"{each}+{extra}={each + extra}"]
    return (total, people, extra), text, working, each + extra


# Olympiad problems, answers 0..999 (AIME) --------------------------------------------------------


def product_remainder(rng: random.Random, level: int) -> Drawn:
    a, b = factors(rng, min(level + 1, 4))
    modulus = rng.randint(5, (20, 60, 200, 999)[level - 1])
    product = a * b
    quotient, rest = divmod(product, modulus)
    text = f"Find the remainder when {a}*{b} is divided by {modulus}."
    working = [
        f"{a}*{b}={product}",
        f"{product}/{modulus}={quotient}",
        f"{quotient}*{modulus}={product - rest}",
    ]
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
    text = (
        f"Find the sum modulo 1000 of the {terms} terms {first}, {first + step}, "
        f"{first + 2 * step}, ..., {last}."
    )
    working = [
        f"{first}+{last}={both}",
        f"{both}*{terms}={both * terms}",
        f"{both * terms}/2={total}",
    ]
    return (first, step, terms), text, [*working, f"{total}%1000={total % 1000}"], total % 1000


def recurrence(rng: random.Random, level: int) -> Drawn:
    modulus = rng.randint(7, (19, 49, 99, 199)[level - 1])
    factor, shift = rng.randint(2, 9), number(rng, 1)
    value = start = rng.randint(1, modulus - 1)
    text = (
        f"Let a1={start} and "
        f"a(n+1) be the remainder of {factor}*a(n)+{shift} divided by {modulus}. Find a4."
    )
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


# Multiple choice (MMLU) ------------------------------------------------------------------------


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
    text = (
        f"A square hole of area {inner} is cut from a {width} by {height} plate. What area is left?"
    )
    area = width * height
    return (
        (width, height, inner),
        text,
        [f"{width}*{height}={area}", f"{area}-{inner}={area - inner}"],
        area - inner,
    )


TOPICS: dict[str, dict[str, Callable[[random.Random, int], Drawn]]] = {
    "gsm8k": {f.__name__: f for f in (change, boxes, wages, family, sharing)},
    "mmlu": {f.__name__: f for f in (linear_algebra, arithmetic, number_theory, geometry)},
    "aime": {
        f.__name__: f for f in (product_remainder, multiples, progression, recurrence, polynomial)
    },
}
