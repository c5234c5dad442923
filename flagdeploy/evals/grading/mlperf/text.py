"""Text handling common to every parser (eval_accuracy.py `validate_text_input`)."""


def cleaned(text: str) -> str:
    """Leading and trailing whitespace goes; the whole output counts, thoughts included."""
    return text.strip()


def unescaped(text: str) -> str:
    """A reply that is the repr of a list of one string loses its frame, and escapes are undone.

    ``['Answer: A\\\\nbecause']`` becomes ``Answer: A``, newline, ``because``.
    """
    if text.startswith(("['", '["')) and text.endswith(("']", '"]')):
        text = text[2:-2].strip()
    return text.replace(r"\n", "\n").replace(r"\'", "'")
