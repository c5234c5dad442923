"""What goes wrong in deployments: each fault a function from a loaded model to a changed one.

A fault changes the model or tokenizer it is given, or replaces a function of the server for the
life of the process (`replaced`); nothing on disk is touched.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

from flagdeploy.server.model import LoadedModel

Change = Callable[[LoadedModel], LoadedModel]


def replaced(target: Any, name: str, value: Any) -> None:
    """`target.name` is `value` until `mock.patch.stopall()`, which a server never calls."""
    mock.patch.object(target, name, value).start()
