"""The configuration: frozen dataclasses, one per section of the YAML.

Every key carries its own explanation, which `flagdeploy config explain KEY` prints. Values are
typed by OmegaConf (`flagdeploy.config.typed`); rules across keys live in `flagdeploy.config.check`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def key(default: T, explanation: str) -> T:
    """A documented key with a default; mutable defaults are copied for each instance."""
    metadata = {"help": explanation}
    if isinstance(default, (list, dict)) or hasattr(default, "__dataclass_fields__"):
        return field(default_factory=lambda: type(default)(), metadata=metadata)
    return field(default=default, metadata=metadata)


Precision = Literal["fp8", "bf16", "fp16", "fp32", "w4a8", "nvfp4", "mxfp4"]


@dataclass(frozen=True)
class Architecture:
    """Dimensions of the model under the names of its config.json; the checks compute with them."""

    model_type: Literal["deepseek_v3", "gpt_oss"] = key("deepseek_v3", "model_type of config.json")
    num_hidden_layers: int = key(0, "transformer layers, without MTP layers")
    first_k_dense_replace: int = key(0, "leading layers with a dense MLP instead of experts")
    hidden_size: int = key(0, "width of the residual stream")
    intermediate_size: int = key(0, "width of a dense MLP")
    moe_intermediate_size: int = key(0, "width of one expert")
    n_routed_experts: int = key(0, "routed experts in a layer")
    n_shared_experts: int = key(0, "shared experts in a layer")
    num_attention_heads: int = key(0, "query heads")
    num_key_value_heads: int = key(0, "key and value heads (grouped-query attention)")
    head_dim: int = key(0, "width of a head (grouped-query attention)")
    q_lora_rank: int = key(0, "rank of the query projection (MLA)")
    kv_lora_rank: int = key(0, "rank of the latent KV cache (MLA)")
    qk_nope_head_dim: int = key(0, "width of a query head without rotary embedding (MLA)")
    qk_rope_head_dim: int = key(0, "width of a query head with rotary embedding (MLA)")
    v_head_dim: int = key(0, "width of a value head (MLA)")
    vocab_size: int = key(0, "rows of the embedding")
    num_nextn_predict_layers: int = key(0, "multi-token-prediction (MTP) layers")
    max_position_embeddings: int = key(0, "longest context the model was made for")


@dataclass(frozen=True)
class Model:
    """What is served."""

    repo: str = key("", "repository on the hub, as `pull --ckpt` takes it")
    revision: str | None = key(None, "branch, tag or commit of the repository")
    checkpoint: str = key("", "folder with the weights; the same path on every host")
    source: str = key("", "folder that `pull` fills and `dequant` reads; `checkpoint` by default")
    weight_cache: str = key("", "folder where the engine keeps weights it converted; on every host")
    served_name: str = key("", "model name of the endpoint; the repository's by default")
    precision: Precision = key("bf16", "precision of the stored weights")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = key("auto", "dtype of activations")
    trust_remote_code: bool = key(False, "run Python code found in the checkpoint")
    architecture: Architecture = key(Architecture(), "dimensions, for the checks")


@dataclass(frozen=True)
class Parallel:
    """How the model is split over devices."""

    tensor: int = key(1, "tensor parallelism (TP): devices that share every layer")
    pipeline: int = key(1, "pipeline parallelism (PP): groups of layers")
    expert: int = key(1, "expert parallelism (EP): devices over which experts are spread")
    data: int = key(1, "data parallelism (DP): replicas that share one endpoint")
    attention_data: bool = key(False, "attention replicated per device, experts split")


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine."""

    context_length: int | None = key(None, "tokens of prompt and answer together")
    max_num_seqs: int | None = key(None, "requests that run at once")
    max_num_batched_tokens: int | None = key(None, "tokens in one step of the engine")
    memory_fraction: float | None = key(
        None, "share of device memory; of what each engine counts it says its own table"
    )


@dataclass(frozen=True)
class KvCache:
    """The KV cache."""

    dtype: Literal["auto", "bf16", "fp8"] = key("auto", "fp8 turns FP8 MLA on for DeepSeek")
    block_size: int | None = key(None, "tokens in one block (page)")
    block_reuse: bool | None = key(None, "reuse blocks of equal prefixes (prefix caching)")


@dataclass(frozen=True)
class RelaxedAcceptance:
    """Looser acceptance of draft tokens while the model thinks (TensorRT-LLM, DeepSeek-R1 only)."""

    topk: int = key(10, "candidates taken from the logits")
    delta: float = key(0.6, "largest gap to the best probability")


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding."""

    method: Literal["none", "mtp", "eagle", "eagle3"] = key("none", "where draft tokens come from")
    num_tokens: int = key(1, "draft tokens a step (MTP: next-n)")
    eagle_topk: int = key(1, "branches of the draft tree")
    draft_checkpoint: str | None = key(None, "folder of the draft model (EAGLE)")
    relaxed_acceptance: RelaxedAcceptance | None = key(None, "looser acceptance while thinking")


@dataclass(frozen=True)
class CudaGraph:
    """CUDA graph capture."""

    enabled: bool | None = key(None, "false runs eagerly; unset keeps the engine's default")
    batch_sizes: list[int] = key([], "batch sizes to capture")
    max_batch_size: int | None = key(None, "largest batch size to capture")
    padding: bool | None = key(None, "pad a batch up to the next captured size")


@dataclass(frozen=True)
class DeepGemm:
    """DeepGEMM kernels (FP8 matrix products on Hopper)."""

    enabled: bool | None = key(None, "unset keeps the engine's default")
    jit_debug: bool = key(False, "log the just-in-time compilation")
    jit_use_nvcc: bool = key(False, "compile with NVCC (CUDA 12.3 or later) instead of NVRTC")
    jit_dump_cubin: bool = key(False, "keep the compiled kernels")


@dataclass(frozen=True)
class Moe:
    """Kernels of mixture-of-experts layers."""

    backend: str | None = key(None, "kernel family by the engine's own name")
    max_num_tokens: int | None = key(None, "tokens in one expert pass")


@dataclass(frozen=True)
class Endpoint:
    """Where the OpenAI-compatible server listens."""

    host: str = key("", "address to bind; rank 0's own address by default")
    port: int = key(8000, "TCP port")
    api_key: Any = key(None, "bearer token, only as ${env:NAME}")
    master_port: int = key(29501, "port on which the ranks find each other")


@dataclass(frozen=True)
class Container:
    """The container in which each rank runs."""

    image: str = key("", "image reference; a digest pins it")
    mounts: list[str] = key([], "bind mounts SOURCE:TARGET[:ro]")
    env: dict[str, Any] = key({}, "environment variables, quoted strings (`local` launcher too)")
    rank_env: dict[str, Any] = key({}, "environment of single ranks: RANK: {NAME: VALUE}")
    prelude: str = key("", "bash that runs before the engine, e.g. to activate an environment")
    shm_size: str | None = key(None, "size of /dev/shm when the host's IPC is not shared")
    privileged: bool = key(False, "all capabilities and devices: grants root on the host")
    network: Literal["host", "bridge"] = key("host", "network of the container")
    ipc: Literal["host", "private"] = key("host", "shared memory of the container")
    pid: Literal["host", "private"] = key("private", "process namespace of the container")
    ulimits: dict[str, int] = key({}, "resource limits, e.g. memlock: -1")
    cap_add: list[str] = key([], "capabilities")
    security_opt: list[str] = key([], "e.g. seccomp=unconfined")
    devices: list[str] = key([], "device nodes; * is expanded on the host")
    group_add: list[str] = key([], "extra groups, numeric")
    runtime: str | None = key(None, "container runtime, e.g. nvidia")
    gpus: Literal["none", "all"] = key("none", "device request to the container toolkit")
    entrypoint: list[str] | None = key(None, "replaces the image's entrypoint")
    user: str | None = key(None, "user inside the container")
    workdir: str | None = key(None, "working directory inside the container")
    init: bool = key(True, "reap zombies with a small init process")
    stop_timeout: int = key(30, "seconds between SIGTERM and SIGKILL")


@dataclass(frozen=True)
class Stage:
    """One of the vendor's own converters, run in its container before the ranks start."""

    converter: str = key("none", "row of `converters:` in env/engines/E.yaml; none: no such stage")
    image: str | None = key(None, "image that holds the converter; container.image by default")
    args: dict[str, Any] = key({}, "more arguments, under the converter's own names")


@dataclass(frozen=True)
class Stages:
    """What converters of the vendor make of the checkpoint before the ranks start."""

    shared: bool = key(False, "the folders lie on one file system: the first host converts for all")
    checkpoint: Stage = key(Stage(), "makes model.checkpoint of model.source")
    weight_cache: Stage = key(Stage(), "makes model.weight_cache of model.checkpoint")


@dataclass(frozen=True)
class Patch:
    """A vendor's changes to the source of a component, put on the hosts before the ranks start."""

    set: str | None = key(None, "patch set: VENDOR/COMPONENT@COMMIT under patches/")
    repository: str = key("", "git repository of the component, on every host")
    worktree: str = key("", "folder for the patched source, on every host")
    shared: bool = key(False, "it lies on one file system: the first host makes it for all")
    mount: str = key("", "path in the containers where the ranks see it, read-only")


@dataclass(frozen=True)
class Operators:
    """A Triton operator library that replaces PyTorch's kernels."""

    library: Literal["none", "flaggems"] = key("none", "which library")
    build: Literal["none", "patched", "plugin", "flagdeploy"] = key(
        "none", "engine build that honours it: FlagScale's patch, the FL plugin, or our patch set"
    )
    include: list[str] | None = key(None, "only these operators, by the library's function names")
    exclude: list[str] = key([], "all but these operators")
    config: dict[str, Any] = key({}, "more settings of library and build, see env/engines/E.yaml")
    compare_native: bool = key(True, "start once without it: its outputs show that they change")


@dataclass(frozen=True)
class Profiler:
    """The engine's own profiler; whoever reaches the endpoint can start it."""

    folder: str | None = key(
        None, "folder of torch.profiler's traces beside each rank; `ops coverage` needs it"
    )


@dataclass(frozen=True)
class Readiness:
    """When a starting deployment counts as ready, and when as stuck."""

    stall_timeout: int = key(900, "seconds without any sign of progress (log, memory, disk)")
    interval: float = key(2.0, "seconds between looks")


@dataclass(frozen=True)
class Deployment:
    """One model on one set of hosts with one engine."""

    name: str = key("", "name of the deployment: the folder under examples/")
    variant: str = key("", "variant: the file under serve/")
    vendor: str = key("cpu", "file name under env/vendors/")
    chip: str = key("", "chip of the vendor, for the memory check")
    torch_device: str = key("cpu", "PyTorch's name of the vendor's devices")
    engine: str = key("pytorch", "file name under env/engines/")
    engine_version: str = key("", "version of the engine; picks the spelling of its arguments")
    launcher: Literal["ssh", "local"] = key("ssh", "containers over SSH, or a child process here")
    hostfile: str | None = key(None, "inventory; relative to the workspace")
    max_hosts: int | None = key(None, "use only the first hosts of the inventory")
    weights: Literal["checkpoint", "random"] = key("checkpoint", "random: a smoke test")
    quantization: str | None = key(None, "the engine's method; unset: as the checkpoint says")
    chunked_prefill: bool | None = key(None, "split long prompts over steps")
    chunked_prefill_size: int | None = key(None, "tokens of one piece")
    reasoning_parser: str | None = key(None, "splits <think> from the answer")
    stream_interval: int | None = key(None, "tokens between two chunks of a stream")
    mesh_shape: list[int] = key([], "rows and columns of a Tenstorrent mesh")
    model: Model = key(Model(), "what is served")
    parallel: Parallel = key(Parallel(), "how it is split")
    limits: Limits = key(Limits(), "bounds")
    kv_cache: KvCache = key(KvCache(), "KV cache")
    speculative: Speculative = key(Speculative(), "speculative decoding")
    cuda_graph: CudaGraph = key(CudaGraph(), "CUDA graphs")
    deep_gemm: DeepGemm = key(DeepGemm(), "DeepGEMM")
    moe: Moe = key(Moe(), "mixture-of-experts kernels")
    endpoint: Endpoint = key(Endpoint(), "where it listens")
    container: Container = key(Container(), "container of a rank")
    stages: Stages = key(Stages(), "the vendor's own converters")
    patch: Patch = key(Patch(), "the vendor's patches")
    operators: Operators = key(Operators(), "operator library")
    profiler: Profiler = key(Profiler(), "the engine's profiler")
    readiness: Readiness = key(Readiness(), "when it is ready")
    engine_args: dict[str, Any] = key({}, "anything else, passed to the engine as it is")
    environment_allowlist: list[str] = key([], "more variables that ${env:NAME} may read")
