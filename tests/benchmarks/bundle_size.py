"""The size of a bundle of the standard suite, from content drawn to be as hard to pack.

GSM8K, MATH-500 and the STEM part of MMLU, answers of 600 tokens in words drawn by Zipf's law (real
reasoning repeats itself more), and 256 sequences of 256 positions with 20 alternatives each, ids
by Zipf's law over 129 280 tokens, scored by prefill and by decoding, which differ by 0.02 nat.

    python tests/benchmarks/bundle_size.py
"""

import gzip
import math
import random
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.bundle import Bundle, read_bundle, write_bundle
from flagdeploy.evals.items import Item
from flagdeploy.evals.teacher_forcing import Passage, Position

BENCHMARKS = {"GSM8K": (1319, 45), "MATH-500": (500, 50), "MMLU-STEM": (3018, 60)}
WORDS_OF_ANSWER = 460  # 600 tokens at 1.3 of a word
VOCABULARY, SEQUENCES, POSITIONS, TOP = 129_280, 256, 256, 20
LIMIT = 20_000_000

rng = random.Random(0)
letters = "etaoinshrdlucmfwygpbvkqjxz"
words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
word_weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
id_weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
ids = rng.sample(range(VOCABULARY), VOCABULARY)


def text(count: int) -> str:
    return " ".join(rng.choices(words, cum_weights=word_weights, k=count))


def tokens(count: int) -> tuple[int, ...]:
    return tuple(rng.choices(ids, cum_weights=id_weights, k=count))


def position() -> tuple[Position, Position]:
    """Two thirds of the positions are sure, as in the answers of an instructed model."""
    best = rng.expovariate(50) if rng.random() < 0.65 else rng.expovariate(0.7)
    step = rng.gammavariate(2, 2.5) if best < 0.1 else rng.expovariate(1.3)
    values, value = [-best], -best - step
    for _ in range(TOP - 1):
        values.append(value)
        value -= rng.expovariate(4)
    total = math.log(math.fsum(map(math.exp, values)))
    top = dict(zip(tokens(TOP), (v - max(0.0, total) - 1e-6 for v in values), strict=False))
    again = {id_: min(-1e-6, v + rng.gauss(0, 0.02)) for id_, v in top.items()}
    first = next(iter(top))
    return Position(top[first], top), Position(again[first], again)


def main() -> None:
    items, answers = [], []
    for task, (n, length) in BENCHMARKS.items():
        for _ in range(n):
            key = f"{rng.getrandbits(64):016x}"
            question = ({"role": "user", "content": text(length)},)
            items.append(Item(key, task, "gsm8k", question, "42", key, 2048))
            answers.append(
                Answer(
                    f"{rng.getrandbits(64):016x}", key, task, "ok", "42", "42", 1.0,
                    text(WORDS_OF_ANSWER), "stop", 90, rng.randint(300, 900), 200, 1,
                    time.time() + rng.random(), time.time() + 9 * rng.random(),
                )
            )  # fmt: skip
    passages = []
    for item in items[:SEQUENCES]:
        rows = [position() for _ in range(POSITIONS)]
        prefill, decoded = (tuple(side) for side in zip(*rows, strict=True))
        passages.append(
            Passage(item.key, item.task, tokens(90), tokens(600), prefill, "S", decoded)
        )
    bundle = Bundle("b", {"benchmarks": []}, (), tuple(items), tuple(answers), tuple(passages))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.jsonl.gz"
        write_bundle(path, bundle)
        size = path.stat().st_size
        parts: dict[bytes, bytes] = {}
        for line in gzip.decompress(path.read_bytes()).splitlines(keepends=True):
            kind = line.split(b'"')[3]
            parts[kind] = parts.get(kind, b"") + line
        assert len(read_bundle(path).passages) == SEQUENCES
    for kind, content in parts.items():
        print(f"{kind.decode():<10} {len(gzip.compress(content, 9)) / 1e6:6.2f} MB")
    print(f"{'in all':<10} {size / 1e6:6.2f} MB, of {LIMIT / 1e6:.0f} allowed")
    assert size < LIMIT


main()
