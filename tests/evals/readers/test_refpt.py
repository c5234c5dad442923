"""Files of torch.save as the demos' scripts write them; the vectors are those of their split."""

import lzma
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.refpt import Entry, read


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def top5(rows: int, first: int = 0) -> torch.Tensor:
    """Row i is 10 * (first + i) + 1..5, so a row says which it is."""
    starts = 10 * torch.arange(first, first + rows).reshape(-1, 1)
    return starts + torch.arange(1, 6)


def tens(*rows: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(10 * row + 1, 10 * row + 6)) for row in rows)


@pytest.mark.parametrize("rows", [7, 8])
def test_layout_a_predicts_the_next_token_and_splits_in_the_middle(
    tmp_path: Path, rows: int
) -> None:
    """T = 8: prompt 0..4, and row 4 predicts token 5. 7 rows of the HF script, 8 of the other."""
    content = {"reference_tokens": torch.arange(8)[None], "top5_tokens": top5(rows)}
    reference = read(saved(tmp_path / "a.refpt", content))
    assert (reference.layout, reference.left_out) == ("A", 0)
    assert reference.entries == (Entry((0, 1, 2, 3, 4), (5, 6, 7), tens(4, 5, 6)),)


def test_layout_d_is_a_with_more_beside_it(tmp_path: Path) -> None:
    content = {
        "reference_tokens": torch.arange(8)[None],
        "top5_tokens": top5(7),
        "top1_tokens": top5(7)[:, 0],
        "library_versions": {"torch": torch.__version__, "transformers": "4.57.0"},
    }
    reference = read(saved(tmp_path / "d.refpt", content))
    assert reference.layout == "D"
    assert reference.entries[0].top == tens(4, 5, 6)


def test_rows_made_without_what_is_before_them_do_not_count(tmp_path: Path) -> None:
    """The HF script starts again at 1024; the other script, which writes T rows, does not."""
    content = {"reference_tokens": torch.arange(2048)[None], "top5_tokens": top5(2047)}
    reference = read(saved(tmp_path / "a.refpt", content))
    (entry,) = reference.entries
    assert reference.left_out == 1023
    assert (len(entry.prompt), entry.continuation[-1], entry.top[-1]) == (513, 1024, tens(1023)[0])
    content["top5_tokens"] = top5(2048)
    whole = read(saved(tmp_path / "a.refpt", content))
    assert (whole.left_out, len(whole.entries[0].prompt)) == (0, 1025)


def entry(prompt: int = 5, generated: int = 3) -> dict[str, Any]:
    """As generate_teacher_forced_file.py writes it: rows of the prompt are zeros."""
    length = prompt + generated
    rows = top5(length)
    rows[:prompt] = 0
    return {
        "reference_tokens": torch.arange(length)[None],
        "prompt_tokens": torch.arange(prompt)[None],
        "generated_tokens": torch.arange(prompt, length)[None],
        "top5_tokens": rows,
        "tf_prompt_len": prompt,
    }


def test_layout_b_predicts_the_token_itself(tmp_path: Path) -> None:
    """P = 5, G = 3: row 5 predicts token 5."""
    meta = {"bos_id": 0, "eos_id": 1, "pad_id": None, "safe_pad_id_used_for_generate": 1}
    candidates = {"k": 20, "token_ids": torch.zeros(3, 20, dtype=torch.int32)}
    content = {
        **entry(),
        "max_new_tokens": 3,
        "prompt": "p",
        "decoded_generated_text": "g",
        "token_ids_meta": meta,
        "topk_candidates": {**candidates, "probs": torch.ones(3, 20, dtype=torch.bfloat16)},
    }
    reference = read(saved(tmp_path / "b.refpt", content))
    assert reference.layout == "B"
    assert reference.entries == (Entry((0, 1, 2, 3, 4), (5, 6, 7), tens(5, 6, 7)),)


def test_layout_c_holds_many(tmp_path: Path) -> None:
    content = {"format_version": "multi_prompt_v1", "entries": [entry(), entry(2, 4)], **entry()}
    reference = read(saved(tmp_path / "c.refpt", content))
    assert reference.layout == "C"
    assert [len(found.continuation) for found in reference.entries] == [3, 4]


def packed(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """As convert_api_json_to_refpt.py packs them: prompt, generated, five for each generated."""
    raw, layout = b"", []
    for one in entries:
        start, tokens = one["tf_prompt_len"], one["generated_tokens"][0].tolist()
        five = one["top5_tokens"][start:].reshape(-1).tolist()
        ids = [*one["prompt_tokens"][0].tolist(), *tokens, *five]
        raw += struct.pack(f"<{len(ids)}i", *ids)
        layout.append({"P": start, "G": len(tokens), "tf_prompt_len": start})
    return {
        "format_version": "multi_prompt_v1_lzma_v1",
        "num_prompts": len(entries),
        "max_new_tokens": 128,
        "token_ids_meta": {"eos_id": 1, "bos_id": 0, "pad_id": None},
        "tensor_lzma": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
        "entry_layout": layout,
        "tensor_raw_bytes_uncompressed": len(raw),
    }


def test_the_compressed_layout_c_holds_the_same(tmp_path: Path) -> None:
    entries = [entry(), entry(2, 4)]
    plain = read(saved(tmp_path / "c.refpt", {"entries": entries}))
    assert read(saved(tmp_path / "l.refpt", packed(entries))).entries == plain.entries


def test_a_row_that_nobody_predicted_is_none(tmp_path: Path) -> None:
    one = entry()
    one["top5_tokens"][6] = 0
    (found,) = read(saved(tmp_path / "b.refpt", one)).entries
    assert found.top == (tens(5)[0], None, tens(7)[0])


class Runs:
    def __reduce__(self) -> Any:
        return print, ("run",)


LAYOUT = [{"P": 5, "G": 9, "tf_prompt_len": 5}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"reference_tokens": Runs()}, "names __builtin__.print, which is no part of"),
        ([1], "holds no dict"),
        ({"weight": torch.ones(2)}, "holds weight, none of the four layouts"),
        (
            {"reference_tokens": torch.arange(8)[None], "top5_tokens": top5(4)},
            "has 4 rows of top5_tokens for 8 tokens",
        ),
        (
            {"reference_tokens": torch.arange(8)[None], "top5_tokens": top5(7)[:, :3]},
            "top5_tokens: has the shape [7, 3], not [n, 5]",
        ),
        (
            {"reference_tokens": torch.ones(1, 8), "top5_tokens": top5(7)},
            "reference_tokens: are no token ids",
        ),
        (
            {**entry(), "tf_prompt_len": 8},
            "has 8 rows of top5_tokens for 8 tokens, tf_prompt_len 8",
        ),
        ({**packed([entry()]), "entry_layout": LAYOUT}, "tensor_lzma: has 92 bytes, its entry"),
        ({**packed([entry()]), "tensor_lzma": b"no"}, "tensor_lzma: has 0 bytes"),
        ({**packed([entry()]), "tensor_lzma": b"no lzma at all"}, "not a teacher-forcing file: "),
    ],
)
def test_what_is_no_reference_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path / "x.refpt", content)
    with pytest.raises(EvalError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: {message}")
