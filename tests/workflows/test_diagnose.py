"""Lines that engines and drivers really print, and the cause each stands for."""

from pathlib import Path

import pytest

from flagdeploy.workflows.diagnose import diagnose

LOGS = Path(__file__).parents[1] / "cases" / "logs"

SEEN = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": (
        "out of device memory"
    ),
    "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU "
    "memory utilization": "out of device memory",
    "ValueError: No available memory for the cache blocks. Try increasing": "out of device memory",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't "
    "allocate memory: you tried to allocate 8589934592 bytes.": "out of host memory",
    "Fatal Python error: Bus error": "shared memory too small",
    "OSError: [Errno 28] No space left on device": "disk full",
    "OSError: [Errno 98] Address already in use": "port in use",
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local "
    "network address. port: 29501, useIpv6: false, code: -98, name: EADDRINUSE, message: address "
    "already in use": "port in use",
    "vllm: error: unrecognized arguments: --enable-magic": "unknown argument",
    "launch_server.py: error: argument --tp: invalid choice": "unknown argument",
    "TypeError: LlmArgs.__init__() got an unexpected keyword argument 'foo'": "unknown argument",
    "huggingface_hub.errors.GatedRepoError: 401 Client Error.": "model not allowed",
    "safetensors_rust.SafetensorError: Error while deserializing header: "
    "MetadataIncompleteBuffer": "damaged checkpoint",
    "FileNotFoundError: [Errno 2] No such file or directory: '/models/r1/config.json'": (
        "missing checkpoint"
    ),
    "OSError: /models/r1 does not appear to have a file named config.json.": "missing checkpoint",
    "RuntimeError: Found no NVIDIA driver on your system.": "driver or device",
    "RuntimeError: CUDA error: system not yet initialized": "driver or device",
    "RuntimeError: Failed to infer device type": "driver or device",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2021, unhandled "
    "system error": "network between ranks",
    "RuntimeError: Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no "
    "error": "network between ranks",
    "ModuleNotFoundError: No module named 'torch_mlu'": "missing module",
    "ModuleNotFoundError: No module named 'torch'": "pytorch engine not installed",
    "ERROR /m/config.json: the checkpoint is quantized (fp8); the pytorch engine computes on plain "
    "weights": "quantized checkpoint",
    "RuntimeError: expect weight to be bfloat16, float16, int8, fp8_e4m3 or uint8(mxfp4 or "
    "int4).": "vLLM's MLA kernels for AMX",
    "ImportError: /x.so: undefined symbol: _ZN3c10": "missing module",
    "sh: 1: vllm: not found": "program not found",
    "PermissionError: [Errno 13] Permission denied: '/root/.cache'": "no permission",
    "ValueError: Total number of attention heads (61) must be divisible by tensor parallel size "
    "(4).": "not supported by the engine",
    "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 "
    "clients joined.": "connection timeout",
}  # fmt: skip


@pytest.mark.parametrize(("line", "cause"), SEEN.items(), ids=list(SEEN.values()))
def test_a_line_and_its_cause(line: str, cause: str) -> None:
    found = diagnose(f"INFO starting\n{line}\nINFO gone\n", exit_code=1)
    assert (found.cause, found.line) == (cause, line)
    assert found.remedy


def test_what_a_healthy_start_says_is_no_cause() -> None:
    """A real start of vLLM on CPU complains of memory policies and missing libraries."""
    log = (LOGS / "vllm_healthy.log").read_text()
    assert "Operation not permitted" in log
    assert diagnose(log, 1).cause == "unknown cause"
    assert diagnose(log, 137).cause == "ended by SIGKILL"
    assert diagnose(log, 139).cause == "ended by SIGSEGV"


def test_the_cause_of_a_failed_start_is_not_its_last_exception() -> None:
    found = diagnose((LOGS / "vllm_no_room_for_kv_cache.log").read_text(), 1)
    assert found.cause == "out of device memory"
    assert "ValueError: No available memory for the cache blocks." in found.line


def test_the_cause_comes_before_its_consequences() -> None:
    log = (
        "RuntimeError: Connection reset by peer\n"
        "torch.OutOfMemoryError: CUDA out of memory.\n"
        "TimeoutError: timed out\n"
    )
    assert diagnose(log, 1).cause == "out of device memory"


def test_the_kernel_knows_best() -> None:
    assert diagnose("TimeoutError\n", 137, oom_killed=True).cause == "out of host memory"


@pytest.mark.parametrize(("code", "name"), [(137, "SIGKILL"), (139, "SIGSEGV"), (134, "SIGABRT")])
def test_a_signal_without_words(code: int, name: str) -> None:
    assert diagnose("INFO serving\n", code).cause == f"ended by {name}"


def test_an_exception_nobody_knows_is_shown() -> None:
    found = diagnose("Traceback:\nKeyError: 'a'\nmy.own.StrangeError: what\n", 1)
    assert (found.cause, found.line) == ("error of the engine", "my.own.StrangeError: what")
    assert diagnose("", 1).cause == "unknown cause"
