"""The stages of a deployment before its ranks: which converter, with which words, on what."""

from collections.abc import Iterator, Mapping, Sequence
from shlex import join
from typing import Any

from flagdeploy.config.launch import File, StageCommand
from flagdeploy.config.schema import Deployment, Stage
from flagdeploy.engines import arguments
from flagdeploy.engines.converters import Converter
from flagdeploy.errors import did_you_mean

Finding = tuple[str, str]

_SCRIPT = "/etc/flagdeploy/convert.sh"


def commands(
    table: arguments.Table, deployment: Deployment, words: Mapping[str, str]
) -> tuple[StageCommand, ...]:
    """One command for each stage with a converter; none with random weights."""
    if deployment.weights == "random":
        return ()
    return tuple(
        _command(table.converters[stage.converter], stage, deployment, words)
        for _, stage in _chosen(deployment)
    )


def _chosen(deployment: Deployment) -> list[tuple[str, Stage]]:
    stages = deployment.stages
    both = [("checkpoint", stages.checkpoint), ("weight_cache", stages.weight_cache)]
    return [(name, stage) for name, stage in both if stage.converter != "none"]


def _folders(deployment: Deployment, stage: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """(key, folder) of what a stage reads and of what it makes."""
    model = deployment.model
    checkpoint = ("model.checkpoint", model.checkpoint)
    if stage == "checkpoint":
        return ("model.source", model.source), checkpoint
    return checkpoint, ("model.weight_cache", model.weight_cache)


def _command(
    converter: Converter, stage: Stage, deployment: Deployment, words: Mapping[str, str]
) -> StageCommand:
    (_, source), (_, product) = _folders(deployment, converter.stage)
    words = {**words, "source": source, "product": product}
    args = dict(stage.args)
    parts = int(args.pop(converter.parts[0], 1)) if converter.parts else 1
    argv = [*_filled(converter.run, words), *arguments.extra(args)]
    files: tuple[File, ...] = ()
    if parts > 1:
        files = (File(_SCRIPT, _in_parts(argv, converter.parts, parts)),)
        argv = ["sh", _SCRIPT]
    return StageCommand(
        stage=converter.stage,
        converter=converter.name,
        image=stage.image or deployment.container.image,
        argv=tuple(argv),
        source=source,
        product=product,
        disk=converter.disk,
        inputs=tuple(str(args[name]) for name in converter.paths if name in args),
        env=dict(zip(converter.env, _filled([*converter.env.values()], words), strict=True)),
        files=files,
        workdir=converter.workdir,
        devices=converter.devices,
        expects=tuple(_filled(converter.expects, words)),
        corrections=dict(converter.config),
    )


def _filled(texts: Sequence[str], words: Mapping[str, str]) -> list[str]:
    return [text.format_map(words) for text in texts]


def _in_parts(argv: Sequence[str], names: Sequence[str], parts: int) -> str:
    """A script that runs all parts at once and fails when one of them does."""
    count, which = names
    command = join([*argv, f"--{count}", str(parts), f"--{which}"])
    return (
        f"for part in {' '.join(map(str, range(parts)))}; do\n"
        f'    {command} "$part" &\n'
        '    pids="$pids $!"\n'
        "done\n"
        'for pid in $pids; do wait "$pid" || failed=1; done\n'
        "exit ${failed:-0}\n"
    )


def problems(table: arguments.Table, deployment: Deployment, version: str) -> Iterator[Finding]:
    """What is wrong with the stages, as (dotted key, what)."""
    for name, stage in _chosen(deployment):
        here = f"stages.{name}"
        converter = table.converters.get(stage.converter)
        if converter is None or converter.stage != name:
            known = [row.name for row in table.converters.values() if row.stage == name]
            hint = did_you_mean(stage.converter, known)
            yield f"{here}.converter", f"{table.title} has no `{stage.converter}`; {hint}"
            continue
        yield from _converter_problems(converter, table, deployment, version, here)
        yield from _args_problems(converter, stage.args, here)
        yield from _folder_problems(deployment, name)


def _converter_problems(
    converter: Converter, table: arguments.Table, deployment: Deployment, version: str, here: str
) -> Iterator[Finding]:
    now = arguments.version(version)
    early = converter.since and now < arguments.version(converter.since)
    late = converter.until and now >= arguments.version(converter.until)
    if early or late:
        span = f"since {converter.since}" if early else f"until {converter.until}"
        yield f"{here}.converter", f"{table.title} {version} has no {converter.name} ({span})"
    kind = deployment.model.architecture.model_type
    if converter.models and kind not in converter.models:
        what = f"{converter.name} knows {', '.join(converter.models)}, not {kind}"
        yield f"{here}.converter", what
    made = converter.precision
    if made and made != deployment.model.precision:
        yield "model.precision", f"{converter.name} makes {made}: set it to that"
    if deployment.launcher == "local":
        yield f"{here}.converter", "runs in the vendor's container: use --launcher ssh"


def _args_problems(converter: Converter, args: Mapping[str, Any], here: str) -> Iterator[Finding]:
    owned = {_plain(word) for word in (*converter.run, *converter.parts[1:])}
    for name, value in args.items():
        if _plain(name) in owned:
            yield f"{here}.args.{name}", "is set by flagdeploy"
        if name in converter.paths and not str(value).startswith("/"):
            yield f"{here}.args.{name}", f"`{value}`: an absolute path on the hosts is needed"
        if name in converter.parts[:1] and not (isinstance(value, int) and value >= 1):
            yield f"{here}.args.{name}", f"{value}: a whole number from 1 on is needed"
    for name in converter.needs:
        if name not in args:
            yield f"{here}.args.{name}", f"{converter.name} does not run without it"


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def _folder_problems(deployment: Deployment, stage: str) -> Iterator[Finding]:
    (source_key, source), (product_key, product) = _folders(deployment, stage)
    for key, folder in ((source_key, source), (product_key, product)):
        if not folder.startswith("/"):
            yield key, f"`{folder}`: the {stage} stage needs an absolute path on the hosts"
            return
    if source == product:
        yield source_key, f"the {stage} stage needs the folder that it converts"
    elif _within(product, source) or _within(source, product):
        yield product_key, f"{product} and {source} lie inside one another"


def _within(inner: str, outer: str) -> bool:
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")
