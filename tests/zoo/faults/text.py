"""Prompts that become other tokens: template, tokenizer, context."""

import json
from dataclasses import replace
from typing import Any

from flagdeploy.server.model import LoadedModel
from flagdeploy.server.tokens import Tokens
from zoo.faults import Change, replaced

GENERATION = "<｜Assistant｜><think>\\n"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def template(text: str) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        loaded.tokens.tokenizer.chat_template = text
        return loaded

    return change


def template_edited(old: str, new: str) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        before = loaded.tokens.tokenizer.chat_template
        assert old in before
        loaded.tokens.tokenizer.chat_template = before.replace(old, new)
        return loaded

    return change


def bos_doubled(loaded: LoadedModel) -> LoadedModel:
    """The template writes BOS, and the tokenizer adds one more."""
    plain = Tokens.encode

    def encode(self: Tokens, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return plain(self, text, add_special_tokens=True)

    replaced(Tokens, "encode", encode)
    return loaded


def prompt_cut(tokens: int) -> Change:
    """Only the last `tokens` of a prompt are kept, silently."""
    plain = Tokens.encode

    def encode(self: Tokens, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return plain(self, text, add_special_tokens=add_special_tokens)[-tokens:]

    def change(loaded: LoadedModel) -> LoadedModel:
        replaced(Tokens, "encode", encode)
        return loaded

    return change


def think_tags_as_text(loaded: LoadedModel) -> LoadedModel:
    """A tokenizer of before <think> and </think> were tokens of their own."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    old = loaded.tokens.tokenizer
    parts: dict[str, Any] = json.loads(old.backend_tokenizer.to_str())
    parts["added_tokens"] = [row for row in parts["added_tokens"] if "think" not in row["content"]]
    new = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        bos_token=old.bos_token,
        eos_token=old.eos_token,
        pad_token=old.pad_token,
        chat_template=old.chat_template,
    )
    return replace(loaded, tokens=Tokens(new, loaded.tokens.vocab_size))


def normalized(loaded: LoadedModel) -> LoadedModel:
    """A tokenizer revision with NFKC: the full-width question mark becomes an ASCII one."""
    from tokenizers.normalizers import NFKC

    loaded.tokens.tokenizer.backend_tokenizer.normalizer = NFKC()
    return loaded
