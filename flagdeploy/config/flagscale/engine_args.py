"""The engine arguments of a serve item, by FlagScale's own order of precedence."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from flagdeploy.config import references
from flagdeploy.config.flagscale import arguments
from flagdeploy.config.flagscale.draft import Draft
from flagdeploy.config.flagscale.pair import Reference
from flagdeploy.config.flagscale.texts import DIFFERS, LEFT_OUT, REFUSED
from flagdeploy.config.yaml_file import KeyPath


def read(draft: Draft, engine: str, item: KeyPath) -> None:
    """Map ``engine_args`` and ``engine_args_specific`` of the serve item at `item`."""
    for other in draft.section(*item, "engine_args_specific"):
        if other != engine:
            path = (*item, "engine_args_specific", other)
            if draft.take(*path):
                draft.note(path, LEFT_OUT["serve.other engine"])
    for name, (value, path) in _effective(draft, engine, item).items():
        _argument(draft, engine, name, value, path)
    _experts(draft, engine)
    model = draft.settings.get(("model", "checkpoint"))
    if model:
        draft.settings.setdefault(("model", "served_name"), model)  # as the engines do


def _effective(draft: Draft, engine: str, item: KeyPath) -> dict[str, tuple[Any, KeyPath]]:
    """Each argument with the value that FlagScale would let win: of `engine_args` for vLLM, of the
    engine's own for the others. What `runner` says becomes a part of `engine_args` before that."""
    common = [*_written(draft, (*item, "engine_args")), *_of_runner(draft)]
    specific = list(_written(draft, (*item, "engine_args_specific", engine)))
    order = [specific, common] if engine == "vllm" else [common, specific]
    chosen: dict[str, tuple[Any, KeyPath]] = {}
    for name, value, path in itertools.chain(*order):
        for other in [n for n in chosen if _same(engine, n) == _same(engine, name)]:
            beaten, where = chosen.pop(other)
            words = [f"{name}: {value}", f"{other}: {beaten}"]
            if other == name:
                words = [str(value), str(beaten)]
            if words[0] != words[1]:
                place = draft.pair.where(where)
                text = DIFFERS["won"].format(winner=words[0], loser=words[1], place=place)
                draft.note(path, text)
        chosen[name] = (value, path)
    return chosen


def _same(engine: str, name: str) -> str:
    """Equal for all names of one setting."""
    if row := arguments.row(engine, name):
        return row.key
    own = arguments.RENAMED[engine].get(name, name).replace("-", "_")
    return own.removeprefix("no_") if engine == "vllm" else own


def _written(draft: Draft, place: KeyPath) -> Iterator[tuple[str, Any, KeyPath]]:
    for raw in draft.section(*place):
        path = (*place, raw)
        yield raw.replace("-", "_"), draft.take(*path), path


def _of_runner(draft: Draft) -> Iterator[tuple[str, Any, KeyPath]]:
    """`deploy.port` and what FlagScale's command line sets, the strongest last."""
    given = ("experiment", "runner", "cli_args")
    for name, path in (
        ("port", (*deploy_place(draft), "port")),
        ("port", (*given, "port")),
        ("model", (*given, "model_path")),
    ):
        value = draft.take(*path)
        if name == "port" and value is not None and not arguments.is_port(value):
            draft.refuse(path, f"`{value}`: a port is a number up to 65535")
        elif value is not None:
            yield name, value, path
    path = (*given, "engine_args")
    written = draft.look(*path)
    if isinstance(written, str):  # JSON, as it is typed there
        draft.read.add(path)
        try:
            found = json.loads(written)
        except ValueError:
            found = None
        if isinstance(found, dict):
            yield from ((name.replace("-", "_"), value, path) for name, value in found.items())
        else:
            draft.refuse(path, f"`{written}`: a JSON object is expected")
    else:
        yield from _written(draft, path)


def deploy_place(draft: Draft) -> KeyPath:
    """Where the settings of the server stand: FlagScale puts the old place over the new one."""
    old = ("experiment", "deploy")
    return old if draft.look(*old) else ("experiment", "runner", "deploy")


def _argument(draft: Draft, engine: str, name: str, value: Any, path: KeyPath) -> None:
    if value is None:
        draft.note(path, DIFFERS["null"])
    elif name == "api_key":
        _api_key(draft, value, path)
    elif references.is_secret_argument(name) and isinstance(value, str) and value:
        draft.refuse(path, REFUSED["secret argument"])
    elif name == "distributed_executor_backend":
        draft.note(path, DIFFERS["Ray"])
    elif name in arguments.OF_RANKS:
        draft.note(path, DIFFERS["rank"])
    elif name == "load_format" and value in ("auto", "dummy"):
        draft.set("weights", "random" if value == "dummy" else "checkpoint", path)
    elif row := arguments.row(engine, name):
        _known(draft, engine, row, name, value, path)
    else:
        _own(draft, engine, name, value, path)


def _api_key(draft: Draft, value: Any, path: KeyPath) -> None:
    if isinstance(value, Reference):
        draft.set("endpoint.api_key", value, path)
    else:
        draft.refuse(path, REFUSED["secret"])


def _known(
    draft: Draft, engine: str, row: arguments.Row, name: str, value: Any, path: KeyPath
) -> None:
    try:
        meant = row.read(value)
    except ValueError as error:
        draft.refuse(path, str(error))
        return
    if row.key == "chunked_prefill_size" and meant <= 0:
        draft.set("chunked_prefill", False, path)
        return
    if row.key == "model.checkpoint":
        _model(draft, meant, path)
    elif not (engine == "sglang" and row.key == "chunked_prefill" and meant):  # its default
        draft.set(row.key, meant, path)
    flag = f"--{name.replace('_', '-')}"
    if name in arguments.FOREIGN[engine]:
        draft.note(path, DIFFERS["foreign"].format(flag=flag, key=row.key))
    elif name in ("enable_prefix_caching", "enable_chunked_prefill") and not meant:
        draft.note(path, DIFFERS["false"].format(flag=f"--no-{flag[2:]}"))


def _model(draft: Draft, name: str, path: KeyPath) -> None:
    """A folder, or a repository of the hub."""
    if name.startswith("/"):
        draft.set("model.checkpoint", name, path)
    elif re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        draft.set("model.repo", name, path)
    else:
        draft.refuse(path, f"`{name}`: {REFUSED['model']}")


def _own(draft: Draft, engine: str, name: str, value: Any, path: KeyPath) -> None:
    """An argument that stays the engine's own."""
    flag = arguments.RENAMED[engine].get(name, name.replace("_", "-"))
    if isinstance(value, dict):
        theirs = arguments.flattened(value)
        draft.note(path, DIFFERS["mapping"].format(theirs=theirs))
        value = arguments.compact_json(value)
    if value is False and engine == "sglang":
        draft.note(path, DIFFERS["false switch"])
        return
    if value is False:
        draft.note(path, DIFFERS["false"].format(flag=f"--no-{flag}"))
    if value is True and flag.startswith("no-") and engine == "vllm":
        flag, value = flag.removeprefix("no-"), False
    draft.set(("engine_args", flag), value, path)


def _experts(draft: Draft, engine: str) -> None:
    """vLLM's switch spreads the experts over all devices of TP and DP."""
    setting = draft.settings.pop(("parallel", "expert"), None)
    if setting and engine == "vllm":
        tensor, data = draft.get("parallel.tensor") or 1, draft.get("parallel.data") or 1
        setting = (tensor * data, setting[1]) if setting[0] else None
    if setting:
        draft.settings[("parallel", "expert")] = setting
