"""What headers alone say about a checkpoint, and which conversion of another one it is."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from flagdeploy.checkpoint.against import Stored, Task
from flagdeploy.checkpoint.comparison import places_of
from flagdeploy.checkpoint.formats import SCALE, Format, recognise
from flagdeploy.checkpoint.fp8 import TARGETS
from flagdeploy.checkpoint.index import INDEX
from flagdeploy.checkpoint.jobs import ShardJob, Work
from flagdeploy.checkpoint.safetensors_file import Header, Tensor, parse_header, tensor_bytes
from flagdeploy.checkpoint.tensor_class import tensor_class
from flagdeploy.checkpoint.verify import Finding, Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.assembly import assemble
from flagdeploy.plans.conversion import W4afp8Options, plan_conversion
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.four_bit import FP8_BLOCK, four_bit_problems, without_int4
from flagdeploy.plans.mtp import LAYER
from flagdeploy.plans.pairs import pair_problems
from flagdeploy.plans.recipes import Source, all_tensors
from flagdeploy.plans.w4afp8 import ACT_SCALES

_NUMBER = re.compile(r"\d+")
# Dtype and shape.
Kind = tuple[str, tuple[int, ...]]
# Calibrated, not computed from the source.
_INPUT_SCALE = ".input_scale"


def shape_findings(checkpoint: Verification) -> list[Finding]:
    """Scales that do not fit their weights, in formats whose scales are known, and shards of
    another revision, told by shapes that differ from those of their kin."""
    return [*_scale_findings(checkpoint), *_odd_shapes(checkpoint)]


def _scale_findings(checkpoint: Verification) -> list[Finding]:
    home = checkpoint.index.weight_map
    tensors = all_tensors(checkpoint)
    if not checkpoint.ok:
        tensors = {name: tensor for name, tensor in tensors.items() if name in home}
    found = recognise(checkpoint.config, tensors)
    problems: list[tuple[str, str, str]] = []
    if found.block:
        problems = pair_problems(checkpoint, tensors, found.block)
    elif found.name in ("w4afp8", "mxfp4"):
        for line in four_bit_problems(tensors, found):
            name, _, what = line.partition(": ")
            problems.append((home.get(name, INDEX), name, what))
        if found.name == "w4afp8":
            problems += pair_problems(checkpoint, without_int4(tensors), FP8_BLOCK)
    return [
        Finding(shard, "scale", what, name)
        for shard, name, what in problems
        # Of a shard that is not there, that alone is said.
        if not any(twin in home and twin not in tensors for twin in _twins(name))
    ]


def _twins(name: str) -> tuple[str, ...]:
    """Names that a tensor's weight or scale may have."""
    stem = name.removesuffix("_blocks").removesuffix("_scales")
    return name + SCALE, name.removesuffix(SCALE), f"{stem}_blocks", f"{stem}_scales"


def _odd_shapes(checkpoint: Verification) -> list[Finding]:
    """Shards with tensors of another dtype or shape than the same tensors of other layers have,
    when the size that the index states is that which the usual ones would give."""
    stated, found = checkpoint.index.total_size, checkpoint.data_bytes
    if stated is None or stated == found or not checkpoint.ok:
        return []
    odd: dict[str, list[str]] = {}
    gains: dict[str, int] = {}
    for shard, tensor, usual in _odd_tensors(checkpoint):
        what = f"{tensor.name} is {_kind(tensor)}, not {_text(*usual)} as in other layers"
        odd.setdefault(shard, []).append(what)
        gains[shard] = gains.get(shard, 0) + tensor_bytes(*usual) - tensor.nbytes
    # All of them, or one: the others may be meant to be so.
    guilty = [shard for shard, gain in gains.items() if gain == stated - found]
    if sum(gains.values()) == stated - found:
        guilty = list(odd)
    return [
        Finding(shard, "foreign", f"of another revision: {odd[shard][0]}{_more(len(odd[shard]))}")
        for shard in guilty
    ]


def _odd_tensors(checkpoint: Verification) -> Iterator[tuple[str, Tensor, Kind]]:
    """Shard, tensor and usual kind of those that differ from most of other layers."""
    kinds: defaultdict[str, Counter[Kind]] = defaultdict(Counter)
    for name, tensor in all_tensors(checkpoint).items():
        kinds[_NUMBER.sub("N", name, count=1)][tensor.dtype, tensor.shape] += 1
    for shard, header in checkpoint.headers.items():
        for name, tensor in header.tensors.items():
            usual = kinds[_NUMBER.sub("N", name, count=1)].most_common(1)[0][0]
            if usual != (tensor.dtype, tensor.shape):
                yield shard, tensor, usual


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _kind(tensor: Tensor) -> str:
    return _text(tensor.dtype, tensor.shape)


def _text(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"


@dataclass(frozen=True)
class Expected:
    """A conversion as it must be: `plan` says what is made of what, `tensors` what must be there:
    dtype and shape by name, and the shard of the plan."""

    plan: ConversionPlan
    tensors: Mapping[str, tuple[str, tuple[int, ...], str]]

    @property
    def act_scales(self) -> bool:
        """True when activation scales belong to it."""
        return ACT_SCALES in self.plan.jobs.names


def expected_of(
    source: Verification, target: Verification, act_scales: Mapping[str, float] | None
) -> Expected:
    """Which conversion of `source` `target` is, told by formats and names alone, whatever tool
    made it. `act_scales` are those of W4AFP8.

    Raises CheckpointError when there is no such conversion, or the source cannot be converted.
    """
    plan = _plan(source, target, act_scales)
    tensors = {
        name: (tensor.dtype, tensor.shape, job.name)
        for job in plan.jobs
        for name, tensor in _laid(job).tensors.items()
        if not name.endswith(_INPUT_SCALE)
    }
    return Expected(plan, tensors)


def _plan(
    source: Verification, target: Verification, act_scales: Mapping[str, float] | None
) -> ConversionPlan:
    sources, targets = all_tensors(source), all_tensors(target)
    before, after = recognise(source.config, sources), recognise(target.config, targets)
    files = dict.fromkeys(source.index.shards, 0)
    drop = _lacks_mtp(source, targets)
    to, options = after.name, W4afp8Options(act_scales=act_scales or 1.0)
    if after.plain and not before.plain:
        to = _plain_target(before, sources, targets) or to
    elif after.name.startswith("compressed-tensors"):
        to, options = "w4afp8", W4afp8Options(layout="vllm")
    elif after.block:
        to = "fp8"
    if after.name == before.name:
        kept = Source(source, sources)
        cook = {name: [kept.copied(name)] for name in sources}
        return assemble(
            source,
            files,
            before,
            "copy",
            kept.by_shard(),
            cook.__getitem__,
            source.config,
            config_note="",
        )
    if to not in (*TARGETS, "fp8", "w4afp8"):
        raise CheckpointError(
            f"{target.index.folder}: is in {after}: no conversion that can be computed again",
            f"{source.index.folder} is in {before}; known are conversions to BF16, FP16, FP32, FP8 "
            "in blocks, and W4AFP8 for TensorRT-LLM or vLLM",
        )
    return plan_conversion(source, files, to, options, drop_mtp=drop)


def _plain_target(
    before: Format, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> str | None:
    """The target that the tensors have which were quantized; most others are BF16 in any case."""
    quantized = (
        name.removesuffix("_blocks").removesuffix("_packed")
        for name, tensor in sources.items()
        if tensor.dtype in ("F8_E4M3", "I8") or name.endswith(("_blocks", "_packed"))
    )
    dtypes = Counter(targets[name].dtype for name in quantized if name in targets)
    names = {dtype: name for name, dtype in TARGETS.items()}
    return names.get(dtypes.most_common(1)[0][0]) if dtypes else None


def _lacks_mtp(source: Verification, targets: Mapping[str, Tensor]) -> bool:
    """True when the multi-token prediction layers of the source were dropped."""
    layers = source.config.get("num_hidden_layers")
    if type(layers) is not int:
        return False

    def beyond(names: Mapping[str, Tensor] | Mapping[str, str]) -> bool:
        return any((m := LAYER.match(name)) and int(m[1]) >= layers for name in names)

    return beyond(source.index.weight_map) and not beyond(targets)


def differing_tensors(expected: Expected, target: Verification) -> list[Finding]:
    """Tensors that are missing, of another dtype or shape, or too many."""
    found = {name: (file, t) for file, h in target.headers.items() for name, t in h.tensors.items()}
    shards = target.index.shards
    index = INDEX if len(shards) > 1 else shards[0]
    findings = []
    for name, (dtype, shape, _) in expected.tensors.items():
        if name in found:
            file, tensor = found[name]
            if (tensor.dtype, tensor.shape) != (dtype, shape):
                what = f"is {_kind(tensor)}, not {_text(dtype, shape)}"
                findings.append(Finding(file, "shape", what, name))
        elif name not in target.index.weight_map:  # else its shard was named already
            findings.append(Finding(index, "missing", "the source makes it", name))
    for name, (file, _) in found.items():
        if name not in expected.tensors and not name.endswith(_INPUT_SCALE):
            findings.append(Finding(file, "extra", "nothing of the source makes it", name))
    return findings


def tasks(expected: Expected, target: Verification, sample: int | None) -> Iterator[Task]:
    """What to compare: everything, or pieces of `sample` tensors, of each class as many."""
    chosen = None if sample is None else _sample(expected, sample)
    stored = {
        name: Stored(file, header.data_start + tensor.begin, tensor)
        for file, header in target.headers.items()
        for name, tensor in header.tensors.items()
        if expected.tensors.get(name, ())[:2] == (tensor.dtype, tensor.shape) and tensor.nbytes
    }
    shards = expected.plan.jobs.names
    if chosen is not None:
        shards = tuple(sorted({expected.tensors[name][2] for name in chosen}))
    for shard in shards:
        job = expected.plan.jobs.of(shard)
        for work, names in _outputs(job):
            wanted = chosen is None or not chosen.isdisjoint(names)
            if wanted and all(name in stored for name in names):
                yield Task(work, tuple(stored[name] for name in names), chosen is not None)


def _outputs(job: ShardJob) -> Iterator[tuple[Work | bytes, tuple[str, ...]]]:
    """Each piece of work of a job, or content, with the names of the tensors it becomes."""
    laid = _laid(job)
    names = {laid.data_start + t.begin: name for name, t in laid.tensors.items() if t.nbytes}
    for item in job.work:
        if item.source.nbytes:
            yield item, tuple(names[place.offset] for place in places_of(job, item))
    for at, content in job.constants:
        yield content, (names[at],)


def _laid(job: ShardJob) -> Header:
    """Where the tensors of a shard to be written lie."""

    def refuse(what: str) -> NoReturn:
        raise AssertionError(what)

    return parse_header(job.head[8:], refuse)


def _sample(expected: Expected, count: int) -> set[str]:
    chance = random.Random(0)
    classes: defaultdict[str, list[str]] = defaultdict(list)
    for name in expected.tensors:
        classes[tensor_class(name)].append(name)
    for names in classes.values():
        chance.shuffle(names)
    chosen: set[str] = set()
    rounds = max(map(len, classes.values()), default=0)
    for turn in range(rounds):
        for _, names in sorted(classes.items()):
            if turn < len(names) and len(chosen) < count:
                chosen.add(names[turn])
    return chosen
