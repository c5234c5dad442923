"""calibrate: prompts > plain weights > run in the pytorch engine > scales of experts' inputs."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagdeploy import __version__
from flagdeploy.checkpoint.act_scales import scales_of, write_act_scales
from flagdeploy.checkpoint.formats import recognise
from flagdeploy.checkpoint.hashes import file_digest
from flagdeploy.checkpoint.modelopt_amax import Place
from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.checkpoint.verify import Verification, verify
from flagdeploy.errors import CheckpointError, EngineError, UsageError
from flagdeploy.evals.prompts import Prompt, read_prompts
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.dequant import dequant

if TYPE_CHECKING:
    from flagdeploy.server.calibration import ExpertInputs
    from flagdeploy.server.model import LoadedModel

ACT_SCALES = "act_scales.safetensors"
DTYPES = ("float32", "bfloat16", "float16", "auto")
_TOOL = "flagdeploy calibrate"
_EXPERT = re.compile(r"model\.layers\.\d+\.mlp\.experts\.\d+\.gate_proj\.weight")


@dataclass(frozen=True)
class Calibration:
    """What was recorded; `tokens_of` counts, by layer, the tokens that each expert saw."""

    file: Path
    model_sha256: str
    prompts: int
    tokens: int
    tokens_of: Mapping[int, tuple[int, ...]]

    @property
    def without_tokens(self) -> dict[int, list[int]]:
        """By layer, the experts that no token reached: they have their layer's largest scale."""
        unseen = {
            layer: [expert for expert, count in enumerate(counts) if count == 0]
            for layer, counts in self.tokens_of.items()
        }
        return {layer: experts for layer, experts in unseen.items() if experts}

    @property
    def warning(self) -> str | None:
        if not self.without_tokens:
            return None
        named = "; ".join(
            f"layer {layer}: {', '.join(map(str, experts))}"
            for layer, experts in self.without_tokens.items()
        )
        return (
            f"no token reached these experts, which got the largest scale of their layer: {named}; "
            "more prompts would reach them"
        )

    def __str__(self) -> str:
        counts = [count for layer in self.tokens_of.values() for count in layer]
        return (
            f"{self.file}: scales of {len(counts)} experts in {len(self.tokens_of)} layer(s), from "
            f"{self.prompts} prompt(s) of {self.tokens} tokens; an expert saw {min(counts)} to "
            f"{max(counts)} tokens"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "model_sha256": self.model_sha256,
            "prompts": self.prompts,
            "tokens": self.tokens,
            "tokens_per_expert": {str(layer): list(n) for layer, n in self.tokens_of.items()},
            "without_tokens": {str(layer): e for layer, e in self.without_tokens.items()},
        }


def calibrate(
    checkpoint: str | Path,
    prompts: str | Path,
    out: str | Path = ACT_SCALES,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    max_tokens_per_prompt: int | None = None,
    raw: bool = False,
    trust_remote_code: bool = False,
    report: Report = silent,
) -> Calibration:
    """Run the model over a file of `prompts` and write `out`, the scales of its experts' inputs, as
    ``dequant(..., "w4afp8", act_scales=out)`` takes them.

    `prompts` is text, one per line, or ``.jsonl`` with ``messages``, ``prompt``, ``question`` or
    ``problem``. Each becomes a user's message in the chat template, as a server renders it, or with
    `raw` stays as it is; `max_tokens_per_prompt` cuts it. The whole model is held in memory, in
    `dtype` on the torch `device`; quantized weights are first converted to BF16 in a temporary
    folder beside `out`. Only the experts that the router chooses see a token; one that saw none
    gets the largest scale of its layer, which is what engines use for the whole layer.

    Raises UsageError for prompts that cannot be read or are longer than the model's context, an
    `out` that holds something else, and without torch; CheckpointError for a checkpoint that is
    damaged or has no routed experts; EngineError for a device that cannot be used.
    """
    target, source = Path(out), Path(checkpoint)
    _check_arguments(target, dtype, max_tokens_per_prompt)
    asked = read_prompts(Path(prompts))
    whole = verify(source).require()
    if not any(_EXPERT.fullmatch(name) for name in whole.index.weight_map):
        raise CheckpointError(
            f"{source}: has no routed experts (model.layers.L.mlp.experts.E.gate_proj.weight): "
            "nothing to calibrate",
            "w4afp8 quantizes the experts of mixture-of-experts models",
        )
    model_sha256 = _hash(whole, report)
    with _plain_weights(whole, target, report) as folder:
        report(Event("calibrate", f"loading {source} in {dtype} on {device}"))
        loaded = _load(folder, device, dtype, trust_remote_code)
        ids = [_ids(loaded, prompt, raw, max_tokens_per_prompt) for prompt in asked]
        inputs = _run(loaded, ids, report)
    tokens_of = {layer: seen.tokens for layer, seen in inputs.items()}
    result = Calibration(target, model_sha256, len(ids), sum(map(len, ids)), tokens_of)
    metadata = _metadata(result, Path(prompts)) | {
        "max_tokens_per_prompt": str(max_tokens_per_prompt or ""),
        "chat_template": str(not raw).lower(),
        "dtype": dtype,
    }
    write_act_scales(target, scales_of(_amax(inputs)), metadata)
    return result


def _check_arguments(target: Path, dtype: str, max_tokens_per_prompt: int | None) -> None:
    """Everything that can be refused before the work."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise UsageError(
            "calibrate runs the model in the pytorch engine, which is not installed",
            "it is an extra: pip install 'flagdeploy[pytorch]'",
        )
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: unknown", f"known are {', '.join(DTYPES)}")
    if max_tokens_per_prompt is not None and max_tokens_per_prompt < 1:
        raise UsageError(f"--max-tokens-per-prompt {max_tokens_per_prompt}: must be at least 1")
    if not target.parent.is_dir():
        raise UsageError(f"--out {target}: there is no folder {target.parent}")
    if target.exists() and not _ours(target):
        raise UsageError(f"--out {target}: holds something else", "remove it or name another file")


def _ours(path: Path) -> bool:
    try:
        return read_header(path).metadata.get("tool", "").startswith(_TOOL)
    except CheckpointError:
        return False


def _hash(whole: Verification, report: Report) -> str:
    """SHA-256 of the lines ``HASH  NAME`` of config.json and the shards, sorted by name, as
    ``sha256sum`` prints them."""
    folder = whole.index.folder
    names = sorted(["config.json", *whole.index.shards])
    total = sum((folder / name).stat().st_size for name in names)
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(Event("hash", "identifying the model", done=done, total=total, unit="B"))

    lines = [f"{file_digest(folder / name, 'sha256', progress)}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def _plain_weights(whole: Verification, target: Path, report: Report) -> Iterator[Path]:
    """The checkpoint's folder, or while the block runs one of its weights in BF16."""
    folder = whole.index.folder
    tensors = {name: t for header in whole.headers.values() for name, t in header.tensors.items()}
    if recognise(whole.config, tensors).plain:
        yield folder
        return
    prefix = f".{target.name}-bf16-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
        yield dequant(folder, "bf16", Path(temporary) / "bf16", drop_mtp=True, report=report).folder


def _load(folder: Path, device: str, dtype: str, trust_remote_code: bool) -> "LoadedModel":
    from flagdeploy.server.model import LoadOptions, load

    options = LoadOptions(
        directory=folder, device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    return load(options)


def _ids(
    loaded: "LoadedModel", prompt: Prompt, raw: bool, max_tokens: int | None
) -> tuple[int, ...]:
    """A prompt's tokens, as /v1/chat/completions has them, or with `raw` /v1/completions."""
    from flagdeploy.server.protocol import ChatPrompt
    from flagdeploy.server.refusal import Refusal

    tokens = loaded.tokens
    if raw and prompt.text is None:
        raise UsageError(f"{prompt.where}: messages need the chat template", "leave --raw out")
    if raw:
        ids = tokens.encode(prompt.text or "", add_special_tokens=True)
    elif not tokens.tokenizer.chat_template:
        raise UsageError("the checkpoint has no chat template", "--raw runs prompts as they are")
    else:
        try:
            text = tokens.chat(ChatPrompt(messages=prompt.messages))
        except Refusal as refusal:
            raise UsageError(f"{prompt.where}: {refusal.message}") from None
        ids = tokens.encode(text, add_special_tokens=False)
    ids = ids[:max_tokens]
    if len(ids) > loaded.max_model_len:
        raise UsageError(
            f"{prompt.where}: the prompt has {len(ids)} tokens, the model takes "
            f"{loaded.max_model_len}",
            f"cut prompts with --max-tokens-per-prompt {loaded.max_model_len}, or leave it out",
        )
    return ids


def _run(
    loaded: "LoadedModel", ids: list[tuple[int, ...]], report: Report
) -> dict[int, "ExpertInputs"]:
    from flagdeploy.server.calibration import record_expert_inputs

    total, done = sum(map(len, ids)), 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(Event("calibrate", "running prompts", done=done, total=total, unit="tokens"))

    return record_expert_inputs(loaded, ids, progress)


def _amax(inputs: Mapping[int, "ExpertInputs"]) -> dict[Place, float]:
    """The largest inputs; of experts that saw no token, or only zeros, the largest of the layer."""
    amax: dict[Place, float] = {}
    for layer, seen in inputs.items():
        for names, values in ((("w1", "w3"), seen.gate_up), (("w2",), seen.down)):
            largest = max(values)
            if largest == 0:
                raise EngineError(f"layer {layer}: no expert had an input other than zero")
            for expert, value in enumerate(values):
                amax |= {(layer, expert, name): value or largest for name in names}
    return amax


def _metadata(result: Calibration, prompts: Path) -> dict[str, str]:
    """What the file says of its origin; safetensors' metadata are strings."""
    counts = {
        str(layer): {
            "min": min(seen),
            "max": max(seen),
            "without": result.without_tokens.get(layer, []),
        }
        for layer, seen in result.tokens_of.items()
    }
    return {
        "tool": f"{_TOOL} {__version__}",
        "model_sha256": result.model_sha256,
        "prompts_sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        "prompts": str(result.prompts),
        "tokens": str(result.tokens),
        "tokens_per_expert": json.dumps(counts, separators=(",", ":")),
    }
