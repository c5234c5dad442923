"""A FlagScale pair as a deployment of ours: everything read is mapped, named in a note, or refused.

Pure but for reading the files: nothing depends on the current folder, and nothing is executed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flagdeploy.config import hostfile
from flagdeploy.config.flagscale import arguments, engine_args, environment, pair
from flagdeploy.config.flagscale.draft import Draft
from flagdeploy.config.flagscale.imported import Imported
from flagdeploy.config.flagscale.texts import ASSUMED, LEFT_OUT, REFUSED
from flagdeploy.config.launch import Host
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import ConfigError, did_you_mean

_ENGINES = ("vllm", "sglang")
VENDORS = {"gpu": "nvidia", "cpu": "cpu", "mlu": "cambricon", "tt": "tenstorrent"}
_RUNNER = ("experiment", "runner")


def read(
    given: Path,
    *,
    hosts: str | None = None,
    overridden: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Imported:
    """Import file or folder `given`.

    `hosts` is an inventory to use instead of FlagScale's; `overridden` are the keys of ours that
    the command line sets. Raises ConfigError with every problem as ``file:line: key: what``, and
    UsageError when no configuration is found.
    """
    found = pair.read(pair.locate(given), os.environ if environ is None else environ)
    draft = Draft(found, frozenset(overridden), notes=found.notes)
    for path in (("defaults",), ("action",), ("hydra",)):
        value = draft.take(*path)
        if value not in (None, "run", "test") and path[0] in LEFT_OUT:
            draft.note(path, LEFT_OUT[path[0]])
    name = _name(draft)
    _task(draft)
    inventory = _inventory(draft, hosts)
    _engine(draft)
    _deploy(draft)
    _runner(draft, inventory)
    environment.read(draft, inventory)
    _rest(draft)
    _assume(draft, inventory)
    draft.note_unread()
    if draft.problems:
        raise ConfigError(draft.problems)
    return Imported(name, found.file, tuple(draft.layers()), inventory, tuple(draft.notes))


def _name(draft: Draft) -> str:
    path = ("experiment", "exp_name")
    written = str(draft.take(*path) or draft.pair.file.stem)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", written).strip("-.") or "imported"
    if name != written:
        draft.note(path, ASSUMED["name"].format(name=name))
    return name


def _task(draft: Draft) -> None:
    path = ("experiment", "task", "type")
    if draft.take(*path) != "serve":
        draft.refuse(path, REFUSED["experiment.task.type"])
    path = ("experiment", "task", "entrypoint")
    if draft.take(*path) is not None:
        draft.refuse(path, REFUSED["experiment.task.entrypoint"])


def _engine(draft: Draft) -> None:
    """The first item of `serve` that has a serve_id, and its engine."""
    items = draft.look("serve")
    backend = draft.take("experiment", "task", "backend")
    chosen: KeyPath | None = None
    for index, item in enumerate(items if isinstance(items, list) else []):
        path = ("serve", str(index))
        if not isinstance(item, dict) or item.get("module") or item.get("depends"):
            draft.read.add(path)
            draft.refuse(path, REFUSED["serve.module"])
        elif item.get("serve_id") is None or chosen:
            draft.read.add(path)
            draft.note(path, LEFT_OUT["serve.more"])
        else:
            chosen = path
    if chosen is None:
        draft.read.add(("serve",))
        draft.refuse(("serve",), REFUSED["no serve item"])
        return
    draft.read.add((*chosen, "serve_id"))
    engine = draft.take(*chosen, "engine") or backend
    if backend not in (None, engine):
        what = f"`{backend}`, but {'.'.join(chosen)}.engine is `{engine}`: {REFUSED['backend']}"
        draft.refuse(("experiment", "task", "backend"), what)
    if engine not in _ENGINES:
        what = f"`{engine}`: {REFUSED['serve.engine']}; {did_you_mean(str(engine), _ENGINES)}"
        draft.refuse((*chosen, "engine"), what)
        draft.read.add(chosen)
        return
    key = (
        (*chosen, "engine") if draft.look(*chosen, "engine") else ("experiment", "task", "backend")
    )
    draft.set("engine", engine, key)
    engine_args.read(draft, engine, chosen)
    for name in ("profile", "resources"):
        place = (*chosen, name)
        replicas = (draft.section(*place) if name == "resources" else {}).get("num_replicas", 1)
        if draft.take(*place) and replicas != 1:
            draft.refuse(place, REFUSED["num_replicas"])
        elif draft.look(*place):
            draft.note(place, LEFT_OUT[f"serve.{name}"])


def _deploy(draft: Draft) -> None:
    """`runner.deploy`, or its old place; the port is an argument of the engine."""
    place = engine_args.deploy_place(draft)
    other = (*_RUNNER, "deploy")
    if place != other and draft.take(*other):
        draft.note(other, LEFT_OUT["runner.deploy"])
    found = draft.section(*place)
    if "use_fs_serve" not in found:
        draft.note((*place, "use_fs_serve"), ASSUMED["use_fs_serve"])
    for name in found:
        path = (*place, name)
        value = draft.take(*path)
        if name in ("prefill_decode_disaggregation", "enable_composition"):
            if value:
                draft.refuse(path, REFUSED[name])
        elif name == "use_fs_serve":
            if value:
                draft.note(path, LEFT_OUT["deploy.use_fs_serve"])
        elif name in _DEPLOY_ONLY:
            draft.note(path, LEFT_OUT["deploy"])
        elif name != "port":
            draft.note(path, LEFT_OUT["unknown"])


_DEPLOY_ONLY = {
    "prefill_num",
    "decode_num",
    "prefill_address",
    "decode_address",
    "decode_gpu_memory_utilization",
    "prefill_decode_log_dir",
    "prefill_decode_strategy",
    "pd_proxy_port",
    "name",
    "request",
    "working_dir",
}


def _inventory(draft: Draft, given: str | None) -> tuple[Host, ...]:
    """The hosts: of `given`, else of `runner.hostfile`, looked for beside the file and above."""
    path = (*_RUNNER, "hostfile")
    written = draft.take(*path)
    if given:
        for name in ("hostfile", "ssh_port", "nnodes"):
            if draft.take(*_RUNNER, name) is not None:
                draft.note((*_RUNNER, name), LEFT_OUT["runner.hosts given"])
        return hostfile.read(Path(given))
    if written is None:
        for name in ("ssh_port", "nnodes"):
            if draft.take(*_RUNNER, name) is not None:
                draft.note((*_RUNNER, name), LEFT_OUT["runner without hostfile"])
        return ()
    folders = draft.pair.file.resolve().parents
    found = next((f / str(written) for f in folders if (f / str(written)).is_file()), None)
    if found is None:
        draft.refuse(path, f"`{written}`: {REFUSED['hostfile']}")
        return ()
    draft.set("hostfile", str(found), path)
    hosts = _first(draft, hostfile.read(found))
    port = draft.take(*_RUNNER, "ssh_port") or 22
    if not arguments.is_port(port):
        draft.refuse((*_RUNNER, "ssh_port"), f"`{port}`: a port is a number up to 65535")
        return hosts
    return tuple(replace(host, port=int(port)) if host.port == 22 else host for host in hosts)


def _first(draft: Draft, hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    path = (*_RUNNER, "nnodes")
    count = draft.take(*path)
    if isinstance(count, int) and 0 < count < len(hosts):
        draft.note(path, LEFT_OUT["runner.nnodes fewer"])
        return hosts[:count]
    if count is not None:
        draft.note(path, LEFT_OUT["runner.nnodes"])
    return hosts


def _runner(draft: Draft, hosts: Sequence[Host]) -> None:
    draft.section(*_RUNNER)
    path = (*_RUNNER, "type")
    if draft.take(*path) not in (None, "ssh"):
        draft.refuse(path, REFUSED["experiment.runner.type"])
    path = (*_RUNNER, "docker")
    if draft.take(*path) is not None:
        if not hosts:
            draft.note(path, LEFT_OUT["runner.docker without hostfile"])
        elif "container.image" not in draft.given:
            draft.note(path, LEFT_OUT["runner.docker"])
    path = (*_RUNNER, "master_port")
    port = draft.take(*path)
    if port is not None and not arguments.is_port(port):
        draft.refuse(path, f"`{port}`: a port is a number up to 65535")
    elif port is not None:
        draft.set("endpoint.master_port", int(port), path)
    names = {name: f"runner.{name}" for name in ("master_addr", "nproc_per_node", "no_shared_fs")}
    if hosts:
        names["device_type"] = "runner.device_type"
    else:
        names |= dict.fromkeys(("master_addr", "nproc_per_node"), "runner without hostfile")
    for name, why in names.items():
        if draft.take(*_RUNNER, name) is not None:
            draft.note((*_RUNNER, name), LEFT_OUT[why])


def _rest(draft: Draft) -> None:
    for name in ("exp_dir", "auto_tuner"):
        path = ("experiment", name)
        if draft.take(*path) is not None:
            draft.note(path, LEFT_OUT[f"experiment.{name}"])
    path = ("experiment", "node_args")
    if not draft.take(*path):
        return
    if draft.get("engine") == "sglang":
        draft.refuse(path, REFUSED["node_args"])
    else:
        draft.note(path, LEFT_OUT["experiment.node_args"])


def _assume(draft: Draft, hosts: Sequence[Host]) -> None:
    """What FlagScale leaves open and we need."""
    path = (*_RUNNER, "device_type")
    kinds = {host.type for host in hosts} or {draft.look(*path) or ""}
    draft.read.add(path)
    place = path if not hosts else (*_RUNNER, "hostfile")
    if not hosts:
        draft.set("launcher", "local", ("experiment", "runner"))
    if len(kinds) > 1:
        draft.refuse(place, f"{', '.join(sorted(kinds))}: {REFUSED['types']}")
    elif "vendor" not in draft.given:
        _vendor(draft, kinds.pop() or "gpu", place)
    if "engine_version" not in draft.given:
        draft.note(("experiment",), ASSUMED["engine_version"])
    if not draft.get("endpoint.host") and "endpoint.host" not in draft.given:
        own = "the first host's own address" if hosts else "127.0.0.1"
        draft.note(("experiment",), ASSUMED["endpoint.host"].format(own=own))


def _vendor(draft: Draft, kind: str, path: KeyPath) -> None:
    vendor = VENDORS.get(kind)
    if vendor is None:
        what = f"unknown device type `{kind}`: {', '.join(VENDORS)} are known"
        draft.refuse(path, f"{what}; choose with vendor=NAME")
        return
    draft.set("vendor", vendor, path)
    if kind == "gpu":  # any accelerator, in FlagScale's words
        draft.note(path, ASSUMED["vendor"].format(vendor=vendor))
