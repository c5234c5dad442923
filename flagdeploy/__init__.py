"""flagdeploy: one YAML, any accelerator, provably the same model.

The verbs of the command line are functions of this package (``flagdeploy.serve(...)``, ``plan``,
``dequant``, ``compare``, ...), loaded on first use so that ``import flagdeploy`` stays cheap.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "serve": "serve",
    "plan": "plan",
    "status": "status",
    "logs": "logs",
    "stop": "stop",
    "pull": "pull",
    "dequant": "dequant",
    "compare": "compare",
}
__all__ = sorted(_VERBS)


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'flagdeploy' has no attribute {name!r}")
    return getattr(import_module(f"flagdeploy.workflows.{_VERBS[name]}"), name)
