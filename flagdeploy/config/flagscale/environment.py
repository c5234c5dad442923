"""The variables of a FlagScale deployment, and the shell text that runs before its engine."""

import re
from collections.abc import Sequence
from typing import Any

from flagdeploy.config import references
from flagdeploy.config.flagscale import prelude
from flagdeploy.config.flagscale.draft import Draft
from flagdeploy.config.flagscale.pair import Reference
from flagdeploy.config.flagscale.texts import DIFFERS, LEFT_OUT, REFUSED
from flagdeploy.config.launch import Host
from flagdeploy.config.yaml_file import KeyPath


def read(draft: Draft, hosts: Sequence[Host]) -> None:
    """Map ``experiment.envs`` and ``experiment.cmds``."""
    envs = ("experiment", "envs")
    for name in draft.section(*envs):
        if name != "nodes_envs":
            value = draft.take(*envs, name)
            _variable(draft, ("container", "env", name), value, (*envs, name))
    ranks = {host.address: str(rank) for rank, host in enumerate(hosts)}
    for address in draft.section(*envs, "nodes_envs"):
        place = (*envs, "nodes_envs", address)
        if address not in ranks:
            draft.take(*place)
            if hosts or draft.look("experiment", "runner", "hostfile") is None:
                draft.refuse(place, f"{address} {REFUSED['nodes_envs']}")
            continue
        for name in draft.section(*place):
            key = ("container", "rank_env", ranks[address], name)
            _variable(draft, key, draft.take(*place, name), (*place, name))
    _commands(draft)
    _operators(draft)


def _variable(draft: Draft, key: KeyPath, value: Any, path: KeyPath) -> None:
    if isinstance(value, Reference):
        name = value[len("${env:") : -1]
        if not references.allowed(name):
            listed = draft.get("environment_allowlist") or []
            draft.set("environment_allowlist", sorted({*listed, name}), path)
        draft.set(key, value, path)
    elif isinstance(value, dict | list):
        draft.refuse(path, "a variable has one value")
    elif value is None:
        draft.note(path, DIFFERS["null"])
    elif references.looks_secret(key[-1]) and value != "":
        draft.refuse(path, REFUSED["secret"])
    else:
        text = str(value)
        if re.search(r"[\s\"'`;&|<>()*?#\\]", text):
            draft.note(path, DIFFERS["quoting"])
        draft.set(key, text, path)


def _commands(draft: Draft) -> None:
    path = ("experiment", "cmds", "after_stop")
    if draft.take(*path):
        draft.note(path, LEFT_OUT["experiment.cmds.after_stop"])
    path = ("experiment", "cmds", "before_start")
    text = str(draft.take(*path) or "")
    draft.section("experiment", "cmds")
    found = prelude.variables(text)
    if found is None:
        draft.set("container.prelude", text, path)
        for name in prelude.names(text):
            if references.looks_secret(name):
                draft.refuse(path, f"{name} {REFUSED['secret']}")
            elif any(name == key[-1] for key in draft.settings if key[0] == "container"):
                winner = prelude.exported(text, name)
                draft.note(path, f"{name} {DIFFERS['both'].format(winner=winner)}")
        if re.search(r"\$[A-Za-z_{]", text):
            draft.note(path, DIFFERS["path"])
        return
    for name, value in found.items():
        before = draft.get(f"container.env.{name}")
        if before not in (None, value):
            draft.note(path, f"{name} {DIFFERS['both'].format(winner=value)}")
        if references.looks_secret(name):
            draft.refuse(path, f"{name} {REFUSED['secret']}")
        draft.set(("container", "env", name), value, path)


def _operators(draft: Draft) -> None:
    """USE_FLAGGEMS asks for FlagGems, of an engine that FlagScale patched or of the FL plugin. Only
    the former takes ``yes`` for a yes; only the latter is on where the variable is not set."""
    value, where = _reaching(draft, "USE_FLAGGEMS")
    plugins, named = _reaching(draft, "VLLM_PLUGINS")
    plugin = "fl" in plugins.split(",")
    if plugin and not where and _on_by_itself(draft):
        value, where = "1", named
    if value.lower() not in ("1", "true", *(() if plugin else ("yes",))):
        return
    draft.settings["operators", "library"] = ("flaggems", where)
    draft.settings["operators", "build"] = ("plugin" if plugin else "patched", where)


def _on_by_itself(draft: Draft) -> bool:
    """Does the FL plugin, which is vLLM's, take FlagGems unasked? Not where its own variables say
    otherwise (vllm_fl/utils.py, `use_flaggems`)."""
    prefer, _ = _reaching(draft, "VLLM_FL_PREFER")
    enabled, where = _reaching(draft, "VLLM_FL_PREFER_ENABLED")
    off = prefer.strip().lower() not in ("", "flagos")
    off = off or (where != "" and enabled.lower() not in ("1", "true"))
    return draft.get("engine") == "vllm" and not off


def _reaching(draft: Draft, name: str) -> tuple[str, str]:
    """The value with which a variable reaches the engine, and its place; both empty without it."""
    value = prelude.exported(draft.get("container.prelude") or "", name)
    if value is not None:
        return value, draft.pair.where(("experiment", "cmds", "before_start"))
    value, where = draft.settings.get(("container", "env", name), ("", ""))
    return str(value), where
