"""TensorRT-LLM: `trtllm-serve` with an options file, over several hosts under `mpirun`.

On one host rank 0 is the server. On several, each rank is a container: rank 0 runs `mpirun`, which
reaches the others through an SSH server that they run inside (the image must hold one), on
`endpoint.master_port`. All mount one key pair at /root/.ssh; it is the host key too, so each side
knows the other::

    ssh-keygen -t ed25519 -N '' -f id_ed25519
    cp id_ed25519.pub authorized_keys
    (printf '* '; cat id_ed25519.pub) > known_hosts
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from flagdeploy.config import yaml_file
from flagdeploy.config.endpoint import bind_address
from flagdeploy.config.launch import File, Host, RankCommand
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import arguments, base
from flagdeploy.engines.base import Finding, changed

_OPTIONS = "/etc/flagdeploy/options.yaml"
# $1 is the port. A session gets the container's search paths, where mpirun's own daemon is found.
_SSH_SERVER = (
    'mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -p "$1"'
    " -o HostKey=/root/.ssh/id_ed25519 -o PermitRootLogin=prohibit-password"
    ' -o PasswordAuthentication=no -o "SetEnv=PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH"'
)


class Engine(base.Engine):
    handled = frozenset(
        {
            "speculative.method",
            "speculative.num_tokens",
            "speculative.draft_checkpoint",
            "speculative.relaxed_acceptance",
        }
    )

    def command(self, deployment: Deployment, hosts: Sequence[Host], rank: int) -> RankCommand:
        file = File(_OPTIONS, yaml_file.dump(self.options(deployment)))
        env = self.environment(deployment)
        if rank > 0:
            port = str(deployment.endpoint.master_port)
            return RankCommand(rank, ("bash", "-c", _SSH_SERVER, "sshd", port), env, (file,))
        server = ["trtllm-serve", self.model(deployment)]
        server += ["--host", bind_address(deployment, hosts)]
        server += ["--port", str(deployment.endpoint.port)]
        server += [self._options_flag(deployment), _OPTIONS]
        server += arguments.flags(self.rows(deployment), changed(deployment))
        if len(hosts) > 1:
            passed = sorted({*env, *deployment.container.env})
            server = [*_mpirun(deployment, hosts, passed), *server]
        return RankCommand(rank, tuple(server), env, (file,))

    def served_name(self, deployment: Deployment) -> str:
        """The server calls a folder by its own name, and takes no other."""
        return PurePosixPath(self.model(deployment)).name

    def options(self, deployment: Deployment) -> dict[str, Any]:
        """The content of the options file."""
        options = arguments.options(self.rows(deployment), changed(deployment))
        speculative = _speculative(deployment, self._since_1_3(deployment))
        if speculative:
            options["speculative_config"] = speculative
        return _merged(options, deployment.engine_args)

    def rules(self, deployment: Deployment) -> Iterator[Finding]:
        parallel, limits = deployment.parallel, deployment.limits
        if parallel.tensor % parallel.expert:
            what = f"parallel.tensor {parallel.tensor} / parallel.expert {parallel.expert}"
            yield "parallel.expert", f"TP = MoE TP x EP: {what} must be whole"
        if deployment.speculative.method == "eagle":
            yield "speculative.method", "TensorRT-LLM takes EAGLE3 drafts only: use eagle3 or mtp"
        named, served = deployment.model.served_name, self.served_name(deployment)
        if named not in ("", deployment.model.repo, deployment.name, served):
            what = f"TensorRT-LLM serves a folder under its own name, which is {served}"
            yield "model.served_name", what
        block, tokens = deployment.kv_cache.block_size or 32, limits.max_num_batched_tokens
        if deployment.chunked_prefill and tokens and tokens % block:
            what = f"{tokens} is no multiple of the KV block of {block}"
            yield "limits.max_num_batched_tokens", f"{what}, which chunked prefill needs"
        if deployment.launcher == "local":
            yield "launcher", "TensorRT-LLM is started in its container: use ssh"

    def topology(self, deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
        mounted = any(
            mount.split(":")[1].rstrip("/") == "/root/.ssh"
            for mount in deployment.container.mounts
            if ":" in mount
        )
        if len(hosts) > 1 and not mounted:
            what = "several hosts talk through mpirun over SSH: mount the folder with the key pair"
            yield "container.mounts", f"{what} at /root/.ssh (see the multi-host example)"

    def meeting_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        """All but the first run an SSH server there."""
        return hosts[1:]

    def notes(self, deployment: Deployment) -> list[str]:
        notes = super().notes(deployment)
        graphs = deployment.cuda_graph.enabled is not False
        if deployment.speculative.method == "mtp" and deployment.parallel.attention_data and graphs:
            notes.append("MTP with attention DP and CUDA graphs has known accuracy issues")
        return notes

    def extra_names(self, deployment: Deployment) -> list[str]:
        whole = [name for name in deployment.engine_args if name in self.table.owned]
        return [*whole, *arguments.leaves(deployment.engine_args)]

    def owned_names(self) -> dict[str, str]:
        paths = {row.yaml: row.key for row in self.table.arguments if row.yaml}
        return {
            name.replace("_", "-"): key for name, key in {**paths, **self.table.owned}.items()
        } | super().owned_names()

    def _options_flag(self, deployment: Deployment) -> str:
        return "--config" if self._since_1_3(deployment) else "--extra_llm_api_options"

    def _since_1_3(self, deployment: Deployment) -> bool:
        return arguments.version(self.version(deployment)) >= (1, 3)


def _speculative(deployment: Deployment, since_1_3: bool) -> dict[str, Any]:
    speculative = deployment.speculative
    if speculative.method == "none":
        return {}
    if speculative.method == "eagle3":
        draft = "speculative_model" if since_1_3 else "speculative_model_dir"
        return {
            "decoding_type": "Eagle3" if since_1_3 else "Eagle",
            "max_draft_len": speculative.num_tokens,
            draft: speculative.draft_checkpoint,
        }
    config: dict[str, Any] = {
        "decoding_type": "MTP",
        "num_nextn_predict_layers": speculative.num_tokens,
    }
    relaxed = speculative.relaxed_acceptance
    if relaxed:
        config["use_relaxed_acceptance_for_thinking"] = True
        config |= {"relaxed_topk": relaxed.topk, "relaxed_delta": relaxed.delta}
    return config


def _mpirun(deployment: Deployment, hosts: Sequence[Host], passed: Sequence[str]) -> list[str]:
    """One MPI rank for each device. Variables are passed by name; values stay out of argv."""
    # The others may still be starting when rank 0 calls them: an attempt a second for two minutes.
    ssh = f"-p {deployment.endpoint.master_port} -o ConnectionAttempts=120"
    places = ",".join(f"{host.address}:{host.slots}" for host in hosts)
    ranks = str(sum(host.slots for host in hosts))
    argv = ["mpirun", "-H", places, "-mca", "plm_rsh_args", ssh, "--allow-run-as-root"]
    argv += ["-n", ranks]
    for name in passed:
        argv += ["-x", name]
    return [*argv, "trtllm-llmapi-launch"]


def _merged(options: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(options)
    for name, value in extra.items():
        below = merged.get(name)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[name] = _merged(below, value) if both and below is not None else value
    return merged
