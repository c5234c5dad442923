"""Secrets by their values: the last guard before text reaches a file or a screen."""

import base64
from collections.abc import Iterable
from urllib.parse import quote

from flagdeploy.config.secret import Secret

# Shorter values would turn ordinary words into stars.
SHORTEST = 6
MASK = "***"


class Mask:
    """Replaces the given secrets, also when URL-encoded or in base64, by ``***``."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._forms: set[str] = set()
        for secret in secrets:
            value = secret.reveal()
            if len(value) >= SHORTEST:
                encoded = base64.b64encode(value.encode()).decode()
                self._forms |= {value, quote(value, safe=""), encoded, encoded.rstrip("=")}

    def __call__(self, text: str) -> str:
        # Longest first: a form may hold another.
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, MASK)
        return text
