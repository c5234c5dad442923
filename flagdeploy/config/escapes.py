r"""Text that holds ``${`` and is no interpolation, as files of OmegaConf (and so Hydra) write it.

Backslashes right before ``${`` are halved when read, and an odd one makes it text: ``\${x}`` stands
for ``${x}``, ``\\${x}`` for a backslash and the value of x; elsewhere a backslash is itself
(OmegaConf 2.4, grammar/OmegaConfGrammarLexer.g4).
"""

import re
from typing import Any

_OPENING = re.compile(r"(\\*)\$\{")


def escaped(value: Any) -> Any:
    """Every text in `value` (lists and mappings too) so that it is read as it is now."""
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return _OPENING.sub(r"\1\1\\${", value) if isinstance(value, str) else value
