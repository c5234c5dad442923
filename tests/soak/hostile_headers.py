"""Safetensors files and indexes as no writer makes them: valid ones, changed part by part.

A header is kept as JSON text by part, so that keys can occur twice and numbers can be of any size.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from flagdeploy.checkpoint.safetensors_file import DTYPE_BITS, MAX_HEADER_BYTES, tensor_bytes

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples" / "tiny_deepseek_r1" / "checkpoint"
Fields = list[tuple[str, str]]
# Names and sizes as they are in DeepSeek-V3.
DEEPSEEK = {
    "self_attn.q_a_proj.weight": ("F8_E4M3", (1536, 7168)),
    "self_attn.q_a_proj.weight_scale_inv": ("F32", (12, 56)),
    "self_attn.kv_a_proj_with_mqa.weight": ("F8_E4M3", (576, 7168)),
    "self_attn.kv_a_proj_with_mqa.weight_scale_inv": ("F32", (5, 56)),
    "input_layernorm.weight": ("BF16", (7168,)),
    "mlp.gate.e_score_correction_bias": ("F32", (256,)),
    "mlp.experts.0.down_proj.weight": ("F8_E4M3", (7168, 2048)),
    "mlp.experts.0.down_proj.weight_scale_inv": ("F32", (56, 16)),
}
NUMBERS = [
    *("-1", "0", "1", "00", "01", "-0", "1.0", "1e3", "1e999", "true", "null", '"1"', "[]", "{}"),
    *map(str, (2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**18)),
    *("9" * 30, "9" * 4000, "9" * 5000, "NaN", "Infinity", "-Infinity", "0x10", "1_0", "\u0661"),
]
STRINGS = [
    *('""', '".."', '"../x"', '"/etc/passwd"', '"a/../../x"', '"a\\\\..\\\\x"', '"."', '"a//b"'),
    *('"a\\u0000b"', '"a\0b"', '"a\nb"', '"\\n"', '"\\u001b[31m"', '"\\u202e"', '"\\u0061"'),
    *('"\\ud800"', '"\\udfff\\ud800"', '"\\ud83d\\ude00"', '"\U0001f600"', '"\u00e9"'),
    *('"__metadata__"', '"\\u005f_metadata__"', '"a"', '"b"', '"model.safetensors"', '"link"'),
    *('"loop"', '"folder"', '"folder/x"', '"\\x"', '"', "'a'", "a", "null", "1", "[]", "{}"),
    *(f'"{"n" * size}"' for size in (255, 256, 1024, 1025, 5000, 100_000)),
]
DTYPES = [
    *(f'"{name}"' for name in DTYPE_BITS),
    *('"f32"', '"F7"', '""', '"BF16 "', '"\\u0042F16"', "null", "8", "[]", '{"a":1}', "[" * 300),
]
BYTES = b'"{}[],:\\ \n\0-+.eE0189/*\xff\xc0\x80\xed\xa0\xef\xbb\xbftfnuN'


@dataclass
class Case:
    """One file (`content`, then zeros up to `size` bytes) and what was done to it."""

    content: bytes
    size: int
    done: list[str] = field(default_factory=list)


class Entry(NamedTuple):
    """One member of a header: JSON texts of the key and of the value, or the value's members."""

    key: str
    value: str | Fields

    def text(self, comma: str, colon: str) -> str:
        if isinstance(self.value, str):
            return self.key + colon + self.value
        return self.key + colon + "{" + comma.join(k + colon + v for k, v in self.value) + "}"


Entries = list[Entry]


def valid(random: Random) -> Entries:
    """The entries of a valid header, in the order of their data."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    kind = random.random()
    if kind < 0.4:
        for layer in range(random.choice([1, 1, 2, 8])):
            layout |= {f"model.layers.{layer}.{name}": what for name, what in DEEPSEEK.items()}
    elif kind < 0.6:
        path = random.choice(sorted(TINY.glob("*.safetensors")))
        with path.open("rb") as file:
            text = file.read(int.from_bytes(file.read(8), "little"))
        return [
            Entry(json.dumps(key), [(json.dumps(k), json.dumps(v)) for k, v in value.items()])
            for key, value in json.loads(text).items()
        ]
    else:
        for number in range(random.choice([0, 1, 1, 2, 3, 5, 30])):
            shape = tuple(random.choice([0, 1, 2, 3, 5, 128]) for _ in range(random.randrange(4)))
            layout[f"t{number}"] = random.choice(list(DTYPE_BITS)), shape
    entries = [Entry('"__metadata__"', [('"format"', '"pt"')])] if random.random() < 0.5 else []
    end = 0
    for name, (dtype, shape) in layout.items():
        begin, end = end, end + tensor_bytes(dtype, shape)
        entries.append(
            Entry(
                json.dumps(name),
                [
                    ('"dtype"', f'"{dtype}"'),
                    ('"shape"', json.dumps(shape)),
                    ('"data_offsets"', f"[{begin},{end}]"),
                ],
            )
        )
    return entries


def data_bytes(entries: Entries) -> int:
    ends = [0]
    for entry in entries:
        if isinstance(entry.value, list) and (offsets := dict(entry.value).get('"data_offsets"')):
            ends.append(json.loads(offsets)[1])
    return max(ends)


def duplicate(random: Random, entries: Entries, at: int) -> None:
    entries.insert(random.randint(0, len(entries)), entries[at])


def drop(random: Random, entries: Entries, at: int) -> None:
    del entries[at]


def swap(random: Random, entries: Entries, at: int) -> None:
    other = random.randrange(len(entries))
    entries[at], entries[other] = entries[other], entries[at]


def shuffle(random: Random, entries: Entries, at: int) -> None:
    random.shuffle(entries)


def rename(random: Random, entries: Entries, at: int) -> None:
    key = random.choice([*STRINGS, random.choice(entries).key])
    entries[at] = Entry(key, entries[at].value)


def exchange(random: Random, entries: Entries, at: int) -> None:
    """A tensor gets the description of another one."""
    entries[at] = Entry(entries[at].key, random.choice(entries).value)


def replace_value(random: Random, entries: Entries, at: int) -> None:
    nested = random.choice(["[", '{"a":', "[[],"]) * random.choice([10, 1000, 100_000])
    entries[at] = Entry(entries[at].key, random.choice([*NUMBERS, *STRINGS, nested]))


def change_field(random: Random, entries: Entries, at: int) -> None:
    value = entries[at].value
    if not isinstance(value, list) or not value:
        return
    which = random.randrange(len(value))
    key, old = value[which]
    new = list(value)
    kind = random.randrange(10)
    if kind == 0:
        del new[which]
    elif kind == 1:
        new.insert(random.randint(0, len(new)), new[which])
    elif kind == 2:
        new[which] = random.choice(STRINGS), old
    elif kind == 3:
        random.shuffle(new)
    elif key == '"dtype"':
        new[which] = key, random.choice(DTYPES)
    else:
        new[which] = key, _numbers(random, old)
    entries[at] = Entry(entries[at].key, new)


def _numbers(random: Random, old: str) -> str:
    """A list of numbers, changed."""
    if random.random() < 0.1:
        return random.choice([*NUMBERS, "[[1]]", "[1,]", "[,]", "[" * 100_000, "[1 1]", "[1,2,3]"])
    parts = old.strip("[]").replace(" ", "").split(",")
    at = random.randrange(len(parts))
    kind = random.randrange(6)
    if kind == 0:
        parts[at] = random.choice(NUMBERS)
    elif kind == 1:
        parts.insert(at, random.choice(["0", "1", "2", str(2**32), str(2**62)]))
    elif kind == 2:
        del parts[at]
    elif kind == 3:
        parts.reverse()
    elif kind == 4:
        parts *= random.choice([2, 9, 20, 1000])
    elif parts[at].isdigit() and len(parts[at]) < 30:
        parts[at] = str(int(parts[at]) + random.choice([-8, -1, 1, 2, 8, 1 << 20, 1 << 62]))
    return f"[{','.join(parts)}]"


def many(random: Random, entries: Entries, at: int) -> None:
    """Thousands of tensors without a byte of data, all of one name or each of its own."""
    count = random.choice([300, 3000, 10_000])
    same = random.random() < 0.3
    empty = [
        ('"dtype"', '"U8"'),
        ('"shape"', "[0]"),
        ('"data_offsets"', "[0,0]"),
    ]
    entries += [Entry(f'"m{0 if same else n}"', empty) for n in range(count)]


CHANGES: Sequence[Callable[[Random, Entries, int], None]] = (
    *(duplicate, drop, swap, shuffle, rename, rename, exchange, replace_value),
    *(change_field,) * 9,
)


def header_case(random: Random) -> Case:
    """A file that begins with a header: sometimes valid, mostly changed in a few places."""
    entries = valid(random)
    size = data_bytes(entries)
    done = []
    for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
        if entries:
            change = many if random.random() < 0.004 else random.choice(CHANGES)
            change(random, entries, random.randrange(len(entries)))
            done.append(change.__name__)
    comma, colon = random.choice([(",", ":"), (",", ":"), (", ", ": "), (" ,\n", "\t:")])
    raw = ("{" + comma.join(entry.text(comma, colon) for entry in entries) + "}").encode()
    raw = changed_text(random, raw, done)
    raw += random.choice([b"", b" " * (-len(raw) % 8), b"  ", b"\n", b"\0", b" x"])
    return changed_file(random, raw, size, done)


def changed_text(random: Random, raw: bytes, done: list[str]) -> bytes:
    """Bytes of a text flipped, cut, doubled, replaced or put before it."""
    if random.random() < 0.7:
        return raw
    for _ in range(random.choice([1, 1, 2, 8])):
        at = random.randint(0, len(raw))
        kind = random.choice(["flip", "cut", "double", "token", "cut off", "in front"])
        done.append(kind)
        if kind == "flip" and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ 1 << random.randrange(8)]) + raw[at + 1 :]
        elif kind == "cut":
            raw = raw[:at] + raw[at + random.choice([1, 2, 8, 40]) :]
        elif kind == "double":
            raw = raw[:at] + raw[max(0, at - random.choice([1, 8, 80])) :]
        elif kind == "token":
            token = random.choice([*NUMBERS, *STRINGS]).encode(errors="surrogatepass")
            token = random.choice([token, bytes([random.choice(BYTES)])])
            raw = raw[:at] + token + raw[at + random.choice([0, 1, len(token)]) :]
        elif kind == "cut off":
            raw = raw[:at]
        else:
            raw = random.choice([b" ", b"\xef\xbb\xbf", b"[", b"{" * 300, b"\xff\xfe", b"0"]) + raw
    return raw


def changed_file(random: Random, raw: bytes, size: int, done: list[str]) -> Case:
    """The file of a header's text, with a length that lies or data that is cut or too long."""
    length, whole = len(raw), 8 + len(raw) + size
    kind = random.randrange(20)
    if kind == 0:
        done.append("length lies")
        near = [length + n for n in (-8, -1, 1, 8, 100, size, size + 1) if length + n >= 0]
        far = [
            0,
            1,
            MAX_HEADER_BYTES,
            MAX_HEADER_BYTES + 1,
            60 * 10**9,
            2**63 - 1,
            2**63,
            2**64 - 1,
        ]
        length = random.choice([*near, *far])
        whole = random.choice([whole, whole, min(8 + length, 1 << 42)])
    elif kind == 1:
        done.append("data cut")
        whole = random.choice([0, 1, 7, 8, 9, len(raw), 8 + len(raw), max(0, whole - 1)])
    elif kind == 2:
        done.append("data too long")
        whole += random.choice([1, 8, 4096, 1 << 30, 1 << 41])
    elif kind == 3 and random.random() < 0.3:
        done.append("random bytes")
        return Case(
            content := random.randbytes(random.choice([0, 3, 8, 9, 100])), len(content), done
        )
    return Case((length.to_bytes(8, "little") + raw)[:whole], whole, done)


def large_case(random: Random) -> Case:
    """A header of megabytes that asks for as much memory as one can."""
    unit, close = random.choice(
        [
            *(("[],", "]"), ("{},", "]"), ('"a",', "]"), ("1,", "]"), ("1e9,", "]"), ("[", "")),
            *(('{"a":', ""), ('"":', ""), ('"', ""), ("\\u0061", '"'), ('"\\ud800",', "]")),
        ]
    )
    size = random.choice([1 << 20, 4 << 20, 8 << 20])
    start = random.choice(['{"a":', '{"a":[', '{"a":"', '{"a":{"dtype":"U8","shape":[', "{", "["])
    raw = (start + unit * ((size - len(start)) // len(unit)) + close).encode()
    return Case(len(raw).to_bytes(8, "little") + raw, 8 + len(raw), [f"{start} and {unit} ..."])


def index_case(random: Random) -> Case:
    """The text of an index, changed."""
    names = ["a", "b", *(f"model.layers.{n}.weight" for n in range(random.choice([0, 3, 50])))]
    shard = "model-00001-of-000002.safetensors"
    entries = [Entry(json.dumps(name), json.dumps(shard)) for name in names]
    done = ["index"]
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        at = random.randrange(len(entries))
        if random.random() < 0.5:
            entries[at] = Entry(entries[at].key, random.choice([*STRINGS, *STRINGS, *NUMBERS]))
            done.append("shard")
        else:
            change = random.choice([duplicate, swap, rename, exchange, replace_value])
            change(random, entries, at)
            done.append(change.__name__)
    fields = [Entry('"weight_map"', [(e.key, str(e.value)) for e in entries])]
    if random.random() < 0.7:
        total = random.choice(["12", "12.0", *NUMBERS])
        fields.insert(random.randrange(2), Entry('"metadata"', f'{{"total_size":{total}}}'))
    if random.random() < 0.1:
        change = random.choice([duplicate, drop, rename, replace_value])
        change(random, fields, random.randrange(len(fields)))
        done.append(change.__name__)
    raw = ("{" + ",".join(entry.text(",", ":") for entry in fields) + "}").encode()
    raw = changed_text(random, raw, done)
    return Case(raw, len(raw), done)
