"""Text to token ids and back, with the checkpoint's own tokenizer and chat template."""

from functools import lru_cache
from typing import Any

from flagdeploy.server.protocol import ChatPrompt
from flagdeploy.server.refusal import Refusal


class Tokens:
    """A transformers tokenizer; `vocab_size` is the model's (rows of its embedding)."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.text_of = lru_cache(maxsize=65536)(self._text_of)

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        encoding = self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        return tuple(encoding["input_ids"])

    def decode(self, ids: list[int] | tuple[int, ...], *, skip_special_tokens: bool) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def chat(self, prompt: ChatPrompt) -> str:
        """The prompt text of a conversation; raises `Refusal` when the template refuses it."""
        from jinja2.exceptions import TemplateError

        if not self.tokenizer.chat_template:
            message = "messages: the checkpoint has no chat template; use /v1/completions"
            raise Refusal(message, param="messages")
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(prompt.messages),
                tokenize=False,
                add_generation_prompt=prompt.add_generation_prompt,
                continue_final_message=prompt.continue_final_message,
                **prompt.template_kwargs,
            )
        except (TemplateError, ValueError, TypeError) as error:
            message = f"messages: the chat template refused them: {error}"
            raise Refusal(message, param="messages") from error
        return text

    def check(self, ids: tuple[int, ...], param: str) -> None:
        for index, token in enumerate(ids):
            if token >= self.vocab_size:
                message = f"{param}[{index}]: token id {token} is outside the vocabulary of "
                raise Refusal(f"{message}{self.vocab_size}", param=param)

    def _text_of(self, token: int) -> str:
        """One token alone, as reported beside log-probabilities; special tokens are spelt out."""
        return self.decode([token], skip_special_tokens=False)
