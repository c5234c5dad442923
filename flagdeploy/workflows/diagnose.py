"""What an engine's log says about why it died: a table of causes and remedies."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A class of failure, the text that shows it, and what to do."""

    name: str
    pattern: re.Pattern[str]
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """`line` is the line of the log that shows the cause; empty when only the exit code does."""

    cause: str
    line: str
    remedy: str


def _cause(name: str, pattern: str, remedy: str) -> Cause:
    return Cause(name, re.compile(pattern, re.IGNORECASE | re.MULTILINE), remedy)


# First match wins. Causes come before what they bring about: a rank that ran out of memory also
# resets its peers' connections, and every failed import ends in some other exception.
CAUSES = (
    _cause(
        "out of device memory",
        r"OutOfMemoryError|CUDA out of memory|Free memory on device .* is less than desired"
        r"|No available memory for the cache blocks|CNRT_RET_ERR_NOMEM|HIP out of memory"
        r"|NPU out of memory|TT_FATAL.*Out of Memory",
        "lower limits.context_length, limits.max_num_seqs or limits.memory_fraction, use more "
        "devices (parallel.tensor), or end what else uses the device",
    ),
    _cause(
        "out of host memory",
        r"can't allocate memory|Cannot allocate memory|MemoryError|std::bad_alloc"
        r"|oom-kill",
        "free memory on the host, or lower the KV cache (limits.context_length, max_num_seqs)",
    ),
    _cause(
        "shared memory too small",
        r"Bus error|/dev/shm.*No space left|No space left.*(/dev/shm|shm)",
        "container.ipc=host, or container.shm_size=16g",
    ),
    _cause("disk full", r"No space left on device|ENOSPC", "free disk space on the host"),
    _cause(
        "port in use",
        r"Address already in use|EADDRINUSE|errno:? ?98\b|port \d+ is (already )?in use",
        "end what listens there (ss -ltnp on the host), or set endpoint.port or "
        "endpoint.master_port",
    ),
    _cause(
        "unknown argument",
        r"unrecognized arguments?|no such option|error: argument |invalid choice"
        r"|unexpected keyword argument|unexpected argument",
        "does engine_version name the version inside the image? engine_args may hold a flag that "
        "this version lacks",
    ),
    _cause(
        "model not allowed",
        r"gated repo|GatedRepoError|401 Client Error|403 Client Error|RepositoryNotFoundError",
        "flagdeploy pull the checkpoint first, and give HF_TOKEN for a gated model",
    ),
    _cause(
        "damaged checkpoint",
        r"MetadataIncompleteBuffer|HeaderTooLarge|InvalidHeader|SafetensorError"
        r"|size mismatch for",
        "flagdeploy pull verifies every file and fetches the damaged ones again",
    ),
    _cause(
        "missing checkpoint",
        r"No such file or directory:? .*(config\.json|safetensors|tokenizer)"
        r"|does not appear to have a file named|not a local folder and is not a valid model"
        r"|HFValidationError|Can't load the configuration|Cannot find any model weights"
        r"|no such folder|not a safetensors checkpoint|Invalid repository ID",
        "is model.checkpoint a folder on this host, and mounted (container.mounts)? "
        "flagdeploy pull fetches it",
    ),
    _cause(
        "quantized checkpoint",
        r"the checkpoint is quantized",
        "flagdeploy dequant NAME, and model.checkpoint names what it wrote",
    ),
    _cause(
        "vLLM's MLA kernels for AMX",
        r"expect weight to be bfloat16, float16, int8",
        "they compute in BF16 only: model.dtype=bfloat16, or engine_args.attention_backend=CPU_MLA",
    ),
    _cause(
        "driver or device",
        r"no NVIDIA driver|driver version is insufficient|no CUDA-capable device"
        r"|forward compatibility was attempted|system not yet initialized|NVMLError"
        r"|Failed to initialize NVML|libcuda\.so|CUDA error: |CUDA_ERROR_|cnrtInit|CNRT_RET_ERR"
        r"|Failed to infer device type|No accelerator|TT_FATAL|hugepages",
        "check the driver on the host (nvidia-smi, cnmon, tt-smi) and that the container sees "
        "the devices (container.devices, container.gpus, container.runtime)",
    ),
    _cause(
        "network between ranks",
        r"NCCL error|ncclSystemError|ncclInternalError|unhandled system error"
        r"|Gloo connectFullMesh|Unable to resolve hostname|No route to host"
        r"|Network is unreachable",
        "set NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in container.env to the interface that "
        "the hosts share",
    ),
    _cause(
        "pytorch engine not installed",
        r"No module named '(torch|transformers)'",
        "the pytorch engine is an extra: pip install 'flagdeploy[pytorch]' on this machine, or "
        "container.image of an image that has both",
    ),
    _cause(
        "operator library",
        r"No module named 'flag_gems'|flag_gems (is not installed|cannot be used|has no operator)",
        "FlagGems has to be installed beside the engine (pip install --no-deps flag-gems, "
        "sqlalchemy) and see a device that it knows; operators.* names its functions",
    ),
    _cause(
        "missing module",
        r"ModuleNotFoundError|ImportError|No module named|undefined symbol"
        r"|cannot open shared object file",
        "the image lacks it or mixes versions: check container.image",
    ),
    _cause(
        "program not found",
        r"executable file not found|: not found$|command not found|can't open file"
        r"|exec .*: no such file or directory",
        "is this the engine's image? check container.image and container.entrypoint",
    ),
    _cause(
        "no permission",
        r"PermissionError|Permission denied",
        "check the owner of the mounted folders, container.user and container.security_opt",
    ),
    _cause(
        "not supported by the engine",
        r"NotImplementedError|(is|are) not (yet )?(supported|divisible)|must be divisible"
        r"|not supported for|Unsupported",
        "change the setting that the line names",
    ),
    _cause(
        "connection timeout",
        r"timed out|TimeoutError|DistStoreError|DistNetworkError|Connection refused"
        r"|Connection reset by peer|Broken pipe|heartbeat",
        "do the hosts reach each other on endpoint.master_port? check firewalls, and whether "
        "another rank died first",
    ),
)

# What a rank says when another one is gone: never the first cause if there is any other.
CONSEQUENCES = frozenset({"connection timeout", "network between ranks"})

_EXCEPTION = re.compile(r"^\S*(Error|Exception|Fatal)\b.*$", re.MULTILINE)
# Lines that an engine itself calls harmless: a healthy start warns of missing modules and more.
_HARMLESS = re.compile(r"^.*\b(DEBUG|INFO|(?<!NCCL )WARN(ING)?|\w*Warning:).*\n?", re.MULTILINE)
SIGNALS = {132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 137: "SIGKILL",
           139: "SIGSEGV", 143: "SIGTERM"}  # fmt: skip
# These come from outside: whatever the log says did not end the engine.
_FROM_OUTSIDE = frozenset({137, 143})


def diagnose(log: str, exit_code: int | None = None, oom_killed: bool = False) -> Diagnosis:
    """Classify a failure by a rank's log, its exit code and what the kernel says."""
    if oom_killed:
        remedy = next(cause.remedy for cause in CAUSES if cause.name == "out of host memory")
        return Diagnosis("out of host memory", "ended by the kernel's OOM killer", remedy)
    if exit_code in _FROM_OUTSIDE:
        remedy = "somebody ended it, or the kernel for want of memory (dmesg on the host)"
        return Diagnosis(f"ended by {SIGNALS[exit_code]}", "", remedy)
    complaints = _HARMLESS.sub("", log)
    for cause in CAUSES:
        if match := cause.pattern.search(complaints):
            return Diagnosis(cause.name, _line(complaints, match.start()), cause.remedy)
    if name := SIGNALS.get(exit_code or 0):
        return Diagnosis(f"ended by {name}", "", "a fault of the engine or its driver")
    exceptions = [match.group() for match in _EXCEPTION.finditer(complaints)]
    if exceptions:
        return Diagnosis("error of the engine", exceptions[-1], "")
    return Diagnosis("unknown cause", "", "")


def _line(log: str, position: int) -> str:
    start = log.rfind("\n", 0, position) + 1
    end = log.find("\n", position)
    return log[start : end if end >= 0 else len(log)].strip()[:400]
