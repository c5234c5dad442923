"""Import what `vllm serve` of a DeepSeek-V3 model imports, and inspect the model class once.

Containers mount the environment read-only: byte code and the cache of inspected models have to
be there before, and each start is a quarter of a minute shorter for it. An environment that
cannot serve fails here.
"""

import importlib

ARCHITECTURE = "DeepseekV3ForCausalLM"
MODULES = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.attention.backends.mla.cpu_mla",
    "vllm.model_executor.models.deepseek_v2",
    "transformers.models.deepseek_v3",
)


if __name__ == "__main__":  # vLLM spawns a child process that imports this file again
    for module in MODULES:
        importlib.import_module(module)
    registry = importlib.import_module("vllm.model_executor.models.registry").ModelRegistry
    assert registry.models[ARCHITECTURE].inspect_model_cls().is_text_generation_model
