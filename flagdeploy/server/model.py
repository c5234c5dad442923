"""Loading a checkpoint from a local directory: complete and unquantized, or not at all."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flagdeploy.errors import CheckpointError, EngineError, UsageError
from flagdeploy.server.mla import use_absorbed_attention
from flagdeploy.server.tokens import Tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """`dtype` is a torch name or ``auto``, the checkpoint's own; `seed` is for ``dummy``."""

    directory: Path
    device: str = "cpu"
    dtype: str = "float32"
    load_format: str = "auto"
    max_model_len: int | None = None
    trust_remote_code: bool = False
    seed: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """`max_model_len` counts prompt and output tokens; `eos` are the ids that end a sequence."""

    model: Any
    tokens: Tokens
    device: torch.device
    eos: frozenset[int]
    max_model_len: int


def load(options: LoadOptions) -> LoadedModel:
    """Load model and tokenizer; nothing is fetched from the network.

    Raises `CheckpointError` for a directory that is no checkpoint, a quantized one, or tensors that
    are missing, unexpected or of another shape; `EngineError` for an unusable device; `UsageError`
    for a `max_model_len` beyond what the model was made for.
    """
    config = _config(options)
    device = _device(options.device)
    max_model_len = _max_model_len(config, options.max_model_len)
    if device.type not in ("cpu", "cuda"):  # elsewhere grouped matrix products are rare
        config._experts_implementation = "eager"
    model = _dummy(config, options) if options.load_format == "dummy" else _read(config, options)
    model = model.to(device).eval()
    if not use_absorbed_attention(model):
        _require_full_attention(model.config)
    tokens = Tokens(_tokenizer(options), model.get_input_embeddings().weight.shape[0])
    return LoadedModel(model, tokens, device, _eos(model, tokens), max_model_len)


def _config(options: LoadOptions) -> Any:
    from transformers import AutoConfig

    path = options.directory / "config.json"
    try:
        stored = _json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not found", "--model takes a local checkpoint") from error
    quantization = stored.get("quantization_config")
    if options.load_format != "dummy":
        _require_plain(options.directory, quantization)
    try:
        config = AutoConfig.from_pretrained(
            options.directory, local_files_only=True, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {_first_line(error)}") from error
    if quantization:
        del config.quantization_config
    return config


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error


def _require_plain(directory: Path, quantization: dict[str, Any] | None) -> None:
    """Quantization is stated in config.json, by ModelOpt and TensorRT-LLM in files beside it."""
    beside = directory / "hf_quant_config.json"
    if quantization:
        path = directory / "config.json"
        words = [quantization.get("quant_method", "unnamed"), quantization.get("format")]
    elif beside.is_file():
        path = beside
        words = [_json(beside).get("quantization", {}).get("quant_algo", "unnamed")]
        layers = directory / "quant_cfg.json"
        if layers.is_file():
            stated = _json(layers).get("quantized_layers", {}).values()
            words += ["of", " and ".join(sorted({layer["quant_algo"] for layer in stated}))]
    else:
        return
    raise CheckpointError(
        f"{path}: the checkpoint is quantized ({' '.join(filter(None, words))}); the pytorch "
        "engine computes on plain weights",
        "convert it first: flagdeploy dequant --to bf16",
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # each backend has its own error types
        raise EngineError(f"device {name!r} is not usable: {_first_line(error)}") from error
    return device


def _max_model_len(config: Any, asked: int | None) -> int:
    limit: int | None = getattr(config, "max_position_embeddings", None)
    if asked is None:
        if limit is None:
            raise UsageError("config.json gives no max_position_embeddings", "set --max-model-len")
        return limit
    if limit is not None and asked > limit:
        raise UsageError(
            f"--max-model-len {asked} is beyond the model's max_position_embeddings={limit}"
        )
    return asked


def _dtype(options: LoadOptions, config: Any) -> Any:
    if options.dtype != "auto":
        return getattr(torch, options.dtype)
    return getattr(config, "dtype", None) or torch.float32


def _dummy(config: Any, options: LoadOptions) -> Any:
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    log.info("making random weights (seed %d), %s", options.seed, options.dtype)
    torch.manual_seed(options.seed)
    return auto.from_config(
        config, dtype=_dtype(options, config), trust_remote_code=options.trust_remote_code
    )


def _read(config: Any, options: LoadOptions) -> Any:
    import transformers
    from safetensors import SafetensorError

    auto: Any = transformers.AutoModelForCausalLM
    noise: Any = transformers.logging
    noise.set_verbosity_error()  # what it would warn of is an error below
    noise.disable_progress_bar()
    log.info("loading weights from %s, %s", options.directory, options.dtype)
    try:
        model, report = auto.from_pretrained(
            options.directory,
            config=config,
            dtype=_dtype(options, config),
            local_files_only=True,
            trust_remote_code=options.trust_remote_code,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{options.directory}: {_first_line(error)}") from error
    _require_complete(options.directory, config, report)
    return model


def _require_complete(directory: Path, config: Any, report: dict[str, Any]) -> None:
    unexpected = [key for key in report["unexpected_keys"] if not _belongs_to_mtp(key, config)]
    mismatched = [
        f"{key} is {list(stored)}, expected {list(wanted)}"
        for key, stored, wanted in sorted(report["mismatched_keys"])
    ]
    for what, names in (
        ("missing tensors", sorted(report["missing_keys"])),
        ("tensors of another shape", mismatched),
        ("tensors the architecture does not have", sorted(unexpected)),
        ("unreadable tensors", sorted(report["error_msgs"])),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise CheckpointError(
                f"{directory}: {len(names)} {what}: {', '.join(names[:8])}{more}",
                "the checkpoint does not match its config.json; pull or convert it again",
            )


def _belongs_to_mtp(key: str, config: Any) -> bool:
    """DeepSeek stores its multi-token-prediction layers behind the last decoder layer."""
    match = re.match(r"model\.layers\.(\d+)\.", key)
    return match is not None and int(match[1]) >= config.num_hidden_layers


def _require_full_attention(config: Any) -> None:
    """The batch cache holds plain keys and values: no sliding windows, no recurrent states."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        raise EngineError(
            f"the pytorch engine serves full attention only; {config.model_type} has other layers",
            "serve this model with vllm or sglang",
        )


def _tokenizer(options: LoadOptions) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            options.directory, local_files_only=True, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{options.directory}: tokenizer: {_first_line(error)}") from error


def _eos(model: Any, tokens: Tokens) -> frozenset[int]:
    """EOS ids of ``generation_config.json``, else of ``config.json``, else of the tokenizer."""
    for source in (model.generation_config, model.config, tokens.tokenizer):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
