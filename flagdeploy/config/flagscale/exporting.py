"""A deployment of ours as a FlagScale pair and hostfile; what FlagScale cannot say is named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagdeploy.config import keys, yaml_file
from flagdeploy.config.escapes import escaped
from flagdeploy.config.flagscale import arguments
from flagdeploy.config.flagscale.importing import VENDORS
from flagdeploy.config.flagscale.texts import NO_PLACE
from flagdeploy.config.launch import Host
from flagdeploy.config.load import Loaded
from flagdeploy.config.schema import Deployment
from flagdeploy.config.secret import Secret
from flagdeploy.errors import ConfigError, Problem

EXPERIMENT, HOSTFILE = "conf/serve.yaml", "conf/hostfile.txt"
_SAID = {"name", "variant", "engine", "vendor", "launcher", "hostfile", "max_hosts"}
_SAID |= {"container.env", "container.rank_env", "container.prelude", "endpoint.api_key"}
_SAID |= {"endpoint.master_port", "model.repo", "parallel.expert", "weights", "engine_args"}
_SAID |= {"environment_allowlist", "operators.library", "operators.build", "model.source"}
_OUR_OWN = ("model.architecture.", "readiness.", "torch_device", "chip", "model.precision")


@dataclass(frozen=True)
class Exported:
    """Texts by file name, below the folder of the model, and what they do not say."""

    files: Mapping[str, str]
    notes: tuple[Problem, ...]


def export(loaded: Loaded) -> Exported:
    """Write `loaded` in FlagScale's formats. Raises ConfigError for an engine it does not serve."""
    deployment = loaded.deployment
    if deployment.engine not in arguments.ROWS:
        what = f"{deployment.engine}: {NO_PLACE['engine']}"
        raise ConfigError([Problem(loaded.where("engine"), "engine", what)])
    values = _values(deployment)
    engine_args, said = _engine_args(deployment, values)
    task = deployment.variant or "task"
    item = {
        "serve_id": f"{deployment.engine}_model",
        "engine": deployment.engine,
        "engine_args": engine_args,
    }
    here = deployment.launcher == "local"
    files = {
        EXPERIMENT: yaml_file.dump(_experiment(deployment, () if here else loaded.hosts, task)),
        f"conf/serve/{task}.yaml": yaml_file.dump([item]),
    }
    if not here:
        files[HOSTFILE] = hostfile(loaded.hosts, _ssh_port(loaded.hosts))
    return Exported(files, tuple(_notes(loaded, values, said)))


def _values(deployment: Deployment) -> dict[str, Any]:
    """What differs from the schema's defaults."""
    found = {}
    for path, key in keys.schema_keys().items():
        value: Any = deployment
        for name in path:
            value = getattr(value, name, key.default)
        if value != key.default:
            found[str(key)] = value
    return found


def _engine_args(
    deployment: Deployment, values: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """The arguments under FlagScale's names, and the keys that they say."""
    model, written = deployment.model, dict[str, Any]()
    written["model"] = model.checkpoint or model.repo
    said = {"model.checkpoint"}
    for row in arguments.ROWS[deployment.engine]:
        if row.key in values and row.key not in said and row.when in (None, values[row.key]):
            written[row.names[0]] = row.write(values[row.key])
            said.add(row.key)
    if written.get("served_model_name") == written["model"]:
        del written["served_model_name"]
    if deployment.engine == "sglang" and deployment.chunked_prefill is not None:
        said.add("chunked_prefill")
        written.pop("enable_chunked_prefill", None)
        if not deployment.chunked_prefill:
            written["chunked_prefill_size"] = -1
    if deployment.weights == "random":
        written["load_format"] = "dummy"
    for name, value in deployment.engine_args.items():
        written |= _own(name.replace("-", "_"), value)
    written = escaped(written)
    if isinstance(deployment.endpoint.api_key, Secret):
        written["api_key"] = _reference(deployment.endpoint.api_key)
    return written, said


def _own(name: str, value: Any) -> dict[str, Any]:
    """FlagScale drops a false argument and takes a mapping apart."""
    if value is None:
        return {}
    if value is False:
        return {f"no_{name}": True}
    return {name: arguments.compact_json(value) if isinstance(value, dict) else value}


def _experiment(deployment: Deployment, hosts: Sequence[Host], task: str) -> dict[str, Any]:
    runner: dict[str, Any] = {"deploy": {"use_fs_serve": False}}
    if hosts:
        runner["hostfile"] = HOSTFILE
        runner["ssh_port"] = _ssh_port(hosts)
    elif deployment.vendor != "nvidia":
        kinds = {vendor: kind for kind, vendor in VENDORS.items()}
        split = deployment.parallel
        runner["device_type"] = kinds.get(deployment.vendor, deployment.vendor)
        # FlagScale refuses the one without the other.
        runner["nproc_per_node"] = split.tensor * split.pipeline * split.data
    if deployment.engine == "sglang" and len(hosts) > 1:  # nor does it start without these
        runner |= {"nnodes": len(hosts), "master_addr": hosts[0].address}
    runner["master_port"] = deployment.endpoint.master_port
    experiment = {
        "exp_name": deployment.name,
        "exp_dir": "outputs/${experiment.exp_name}",
        "task": {"type": "serve"},
        "runner": runner,
        "envs": _envs(deployment, hosts),
    }
    if deployment.container.prelude:
        experiment["cmds"] = {"before_start": escaped(deployment.container.prelude)}
    return {"defaults": ["_self_", {"serve": task}], "experiment": experiment, "action": "run"}


def _ssh_port(hosts: Sequence[Host]) -> int:
    ports = {host.port for host in hosts}
    return ports.pop() if len(ports) == 1 else 22


def _envs(deployment: Deployment, hosts: Sequence[Host]) -> dict[str, Any]:
    container, operators = deployment.container, deployment.operators
    envs: dict[str, Any] = {}
    if operators.library == "flaggems" and "USE_FLAGGEMS" not in container.prelude:
        envs["USE_FLAGGEMS"] = "1"
        envs |= {"VLLM_PLUGINS": "fl"} if operators.build == "plugin" else {}
    envs |= _variables(container.env)
    own = {hosts[int(rank)].address: _variables(env) for rank, env in container.rank_env.items()}
    return {**envs, **({"nodes_envs": own} if own else {})}


def _variables(env: Mapping[str, Any]) -> dict[str, str]:
    return {n: _reference(v) if isinstance(v, Secret) else escaped(v) for n, v in env.items()}


def _reference(secret: Secret) -> str:
    return f"${{oc.env:{secret.name}}}"


def hostfile(hosts: Sequence[Host], ssh_port: int = 22) -> str:
    """Each host with what it needs beside `ssh_port`, which is said elsewhere.

    FlagScale reads the host, slots and type of a line, and passes over what follows.
    """
    lines = []
    for host in hosts:
        words = [host.address, f"slots={host.slots}"]
        words += [f"type={host.type}"] if host.type else []
        words += [f"user={host.user}"] if host.user else []
        words += [f"port={host.port}"] if host.port != ssh_port else []
        words += [f"docker={host.docker}"] if host.docker else []
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def _notes(loaded: Loaded, values: Mapping[str, Any], said: set[str]) -> list[Problem]:
    """One note for each key that was set and has no place, and one for the whole container."""
    left = [key for key in values if key not in said | _SAID and not key.startswith(_OUR_OWN)]
    container = [key for key in left if key.startswith("container.")]
    notes = [Problem(loaded.where(k), k, NO_PLACE[""]) for k in left if k not in container]
    if container:
        notes.append(Problem("", ", ".join(container), NO_PLACE["container"]))
    hosts = () if loaded.deployment.launcher == "local" else loaded.hosts
    if hosts and {VENDORS.get(h.type or "gpu") for h in hosts} != {loaded.deployment.vendor}:
        notes.append(Problem(loaded.where("vendor"), "vendor", NO_PLACE["vendor"]))
    if any(h.user or h.docker for h in hosts) or len({h.port for h in hosts}) > 1:
        notes.append(Problem(loaded.where("hostfile"), "hostfile", NO_PLACE["hostfile"]))
    return notes
