"""Sequences that share a batch get the logits they would get alone, from plain transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from flagdeploy.server import forward
from flagdeploy.server.forward import Forward
from flagdeploy.server.model import LoadedModel, LoadOptions, load
from flagdeploy.server.tokens import Tokens

VOCABULARY = 64


@pytest.fixture(params=["deepseek_v3", "llama"])
def models(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[tuple[LoadedModel, Any]]:
    """The model as the server has it, and as transformers has it."""
    with torch.inference_mode():
        if request.param == "deepseek_v3":
            plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32")
            yield load(LoadOptions(directory=checkpoint)), plain
        else:
            torch.manual_seed(0)
            sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
            heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
            config = LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.2, **sizes, **heads)
            plain = AutoModelForCausalLM.from_config(config).eval()
            tokens = Tokens(None, VOCABULARY)
            yield LoadedModel(plain, tokens, torch.device("cpu"), frozenset(), 512), plain


def ids_of(length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return tuple(torch.randint(0, VOCABULARY, (length,), generator=generator).tolist())


def expected(plain: Any, ids: tuple[int, ...]) -> torch.Tensor:
    logits: torch.Tensor = plain(torch.tensor([ids])).logits[0]
    return logits


def test_joining_and_leaving_changes_nothing_for_the_others(
    models: tuple[LoadedModel, Any],
) -> None:
    loaded, plain = models
    runner = Forward(loaded, 3)
    ids = [ids_of(length, length) for length in (5, 300, 40, 17)]
    wanted = [expected(plain, prompt) for prompt in ids]
    running: list[int] = []
    done = [0, 0, 0, 0]  # tokens of each sequence that the cache holds

    def join(index: int, length: int) -> None:
        cache = DynamicCache()
        logits, count = runner.prefill(cache, ids[index][:length], 0, all_logits=False)
        torch.testing.assert_close(logits[0], wanted[index][length - 1], atol=1e-4, rtol=1e-4)
        runner.cache.join(len(running), cache)
        running.append(index)
        done[index] = count

    def step() -> None:
        lengths = [done[index] for index in running]
        tokens = [ids[index][length] for index, length in zip(running, lengths, strict=True)]
        logits = runner.decode(tokens, lengths)
        for row, index in enumerate(running):
            want = wanted[index][done[index]]
            torch.testing.assert_close(logits[row], want, atol=1e-4, rtol=1e-4)
            done[index] += 1

    def leave(row: int) -> None:
        runner.cache.leave(row, len(running) - 1)
        running[row] = running[-1]
        running.pop()

    join(0, 1)
    step()
    join(1, 250)
    join(2, 30)
    for _ in range(2):
        step()
    leave(0)
    join(3, 9)
    for _ in range(6):  # sequence 1 outgrows the cache's first capacity of 256
        step()
    leave(running.index(2))
    step()
    assert running == [3, 1] and done == [4, 259, 38, 16]


def test_a_prompt_in_chunks(models: tuple[LoadedModel, Any], monkeypatch: Any) -> None:
    loaded, plain = models
    monkeypatch.setattr(forward, "CHUNK", 7)
    monkeypatch.setattr(forward, "LOGITS", 3 * loaded.tokens.vocab_size)
    runner, ids = Forward(loaded, 1), ids_of(24, 1)
    want = expected(plain, ids)
    for all_logits, chunk in ((True, 3), (False, 7)):
        cache, start = DynamicCache(), 0
        while start < len(ids):
            logits, count = runner.prefill(cache, ids, start, all_logits=all_logits)
            assert count == min(chunk, len(ids) - start)
            start += count
            rows = want[start - len(logits) : start]
            torch.testing.assert_close(logits, rows, atol=1e-4, rtol=1e-4)


def test_a_row_that_held_nan_is_clean_for_the_next(models: tuple[LoadedModel, Any]) -> None:
    loaded, plain = models
    runner, long, short = Forward(loaded, 2), ids_of(60, 1), ids_of(5, 2)
    for ids in (long, short):
        cache = DynamicCache()
        runner.prefill(cache, ids[:-1], 0, all_logits=False)
        if ids is long:
            for keys, values, *_ in cache:
                keys.fill_(torch.nan)
                values.fill_(torch.nan)
        runner.cache.join(0 if ids is long else 1, cache)
    runner.cache.leave(0, 1)
    logits = runner.decode([short[-1]], [len(short) - 1])
    torch.testing.assert_close(logits[0], expected(plain, short)[-1], atol=1e-4, rtol=1e-4)
    cache = DynamicCache()
    runner.prefill(cache, long[:-1], 0, all_logits=False)
    runner.cache.join(1, cache)
    logits = runner.decode([short[-1], long[-1]], [len(short) - 1, len(long) - 1])
    assert logits.isfinite().all()
