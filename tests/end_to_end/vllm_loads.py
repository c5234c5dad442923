"""Load checkpoints in vLLM on CPU, one after the other, and answer questions with each.

    python vllm_loads.py < TASKS > RESULTS        (the interpreter that has vLLM)

A task is a line of JSON: `name`, `folder`, `dtype`, `prompts` (user turns), `max_tokens` and
`engine_args` (more of vLLM's). Its result, a line too: `name` and `texts` of the greedy answers, or
`error`, the reason why vLLM does not load it.

A task with `places`, a path, asks no kernel whether it can run here; the model is left as vLLM's
loader filled it, before a kernel repacks it, and is saved at that path by vLLM's names.
"""

import gc
import json
import os
import sys
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"


class Filled(Exception):
    """The loader has done its part."""


def main() -> None:
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM and its libraries print
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    for line in sys.stdin:
        task = json.loads(line)
        work = places if task.get("places") else answers
        try:
            result = work(task)
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        results.write(json.dumps({"name": task["name"], **result}) + "\n")
        results.flush()
        gc.collect()
        cleanup_dist_env_and_memory()


def engine(task: dict[str, Any]) -> Any:
    from vllm import LLM

    return LLM(
        task["folder"],
        dtype=task["dtype"],
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=64,
        **task["engine_args"],
    )


def answers(task: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams

    chats = [[{"role": "user", "content": prompt}] for prompt in task["prompts"]]
    sampling = SamplingParams(temperature=0, max_tokens=task["max_tokens"])
    outputs = engine(task).chat(chats, sampling, use_tqdm=False)
    return {"texts": [output.outputs[0].text for output in outputs]}


def places(task: dict[str, Any]) -> dict[str, Any]:
    import torch
    from vllm import _custom_ops
    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEExperts
    from vllm.model_executor.model_loader import base_loader

    def filled(model: Any, *_: Any) -> None:
        torch.save(dict(model.state_dict()), task["places"])
        raise Filled

    supported = FusedMoEExperts.is_supported_config, torch.cpu._is_amx_tile_supported
    process = base_loader.process_weights_after_loading
    compiled = _custom_ops._supports_cpu_fp8_w8a16  # not for CPUs without AVX-512
    _custom_ops._supports_cpu_fp8_w8a16 = True
    FusedMoEExperts.is_supported_config = staticmethod(lambda *_: (True, None))
    torch.cpu._is_amx_tile_supported = lambda: True
    base_loader.process_weights_after_loading = filled
    try:
        engine(task)
    except Filled:
        return {"texts": []}
    finally:
        FusedMoEExperts.is_supported_config, torch.cpu._is_amx_tile_supported = supported
        base_loader.process_weights_after_loading = process
        _custom_ops._supports_cpu_fp8_w8a16 = compiled
    raise RuntimeError("vLLM loaded it without its loader")


if __name__ == "__main__":
    main()
