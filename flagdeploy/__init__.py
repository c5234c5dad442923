"""flagdeploy: one YAML, any accelerator, provably the same model.

The verbs of the command line are functions of this package, loaded on first use so that
``import flagdeploy`` stays cheap::

    flagdeploy.pull("deepseek-ai/DeepSeek-R1", to="/models/DeepSeek-R1")
    flagdeploy.dequant("/models/DeepSeek-R1", "bf16")
    flagdeploy.verify("/models/DeepSeek-R1-bf16", "/models/DeepSeek-R1").ok
    print(flagdeploy.plan("deepseek_r1", "sglang_mtp_h200"))
    flagdeploy.serve("deepseek_r1", overrides=["limits.max_num_seqs=64"])
    flagdeploy.compare("deepseek_r1", "h100").verdict
    flagdeploy.evaluate("deepseek_r1", ["gsm8k"]).to_json()  # `flagdeploy eval`
    flagdeploy.status(), flagdeploy.logs("deepseek_r1"), flagdeploy.stop("deepseek_r1")

They print nothing and raise the errors of `flagdeploy.errors`; those that take long tell a
`report` callback what they do (`flagdeploy.records.events.Event`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; at run time `__getattr__` finds them
    from flagdeploy.workflows.calibrate import calibrate
    from flagdeploy.workflows.compare import compare
    from flagdeploy.workflows.dequant import dequant
    from flagdeploy.workflows.eval import evaluate
    from flagdeploy.workflows.logs import logs
    from flagdeploy.workflows.plan import plan
    from flagdeploy.workflows.pull import pull
    from flagdeploy.workflows.serve import serve
    from flagdeploy.workflows.status import status
    from flagdeploy.workflows.stop import stop
    from flagdeploy.workflows.verify import verify

__version__ = "0.1.0"
__all__ = [
    "calibrate",
    "compare",
    "dequant",
    "evaluate",
    "logs",
    "plan",
    "pull",
    "serve",
    "status",
    "stop",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flagdeploy' has no attribute {name!r}")
    module = "eval" if name == "evaluate" else name  # eval is Python's own
    return getattr(import_module(f"flagdeploy.workflows.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
