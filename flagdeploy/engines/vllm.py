"""vLLM: `vllm serve` on every host, without Ray from version 0.12 on.

Tensor and pipeline parallelism over hosts use vLLM's multi-node mode (``--nnodes``), data
parallelism its own coordinator, and versions before 0.12 a Ray cluster inside the containers.
"""

import ipaddress
from collections.abc import Iterator, Sequence

from flagdeploy.config.endpoint import bind_address
from flagdeploy.config.launch import EnvValue, Host, RankCommand
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import base
from flagdeploy.engines.arguments import compact_json, version
from flagdeploy.engines.base import Finding

_WITHOUT_RAY = (0, 12)
# $1 address, $2 port, $3 resources; the rest is the server, which takes the place of the shell.
_RAY_HEAD = (
    'ray start --head --node-ip-address="$1" --port="$2" --dashboard-host=127.0.0.1 "$3"'
    ' && shift 3 && exec "$@"'
)
_RAY_RESOURCES = {"cambricon": "MLU"}


class Engine(base.Engine):
    handled = base.DEGREES_AND_DRAFTS | {"endpoint.api_key"}

    def command(self, deployment: Deployment, hosts: Sequence[Host], rank: int) -> RankCommand:
        server = ["vllm", "serve", self.model(deployment)]
        server += ["--host", bind_address(deployment, hosts)]
        server += ["--port", str(deployment.endpoint.port)]
        server += ["--served-model-name", self.served_name(deployment)]
        server += _degrees(deployment) + _speculative(deployment) + self.flags(deployment)
        env = self.environment(deployment)
        if deployment.endpoint.api_key:
            env["VLLM_API_KEY"] = deployment.endpoint.api_key
        if len(hosts) == 1:
            return RankCommand(rank, tuple(server), env)
        env |= _own_address(hosts[rank])
        if version(self.version(deployment)) < _WITHOUT_RAY:
            return RankCommand(rank, _under_ray(server, deployment, hosts, rank), env)
        server += _multi_node(deployment, hosts, rank)
        return RankCommand(rank, tuple(server), env)

    def rules(self, deployment: Deployment) -> Iterator[Finding]:
        tensor, data = sizes(deployment)
        expert = deployment.parallel.expert
        if expert not in (1, tensor * data):
            what = f"vLLM spreads experts over TP x DP = {tensor} x {data} = {tensor * data}"
            yield "parallel.expert", f"{what} devices: set 1 or {tensor * data}"
        if deployment.model.precision == "w4a8" and deployment.quantization is None:
            what = "vLLM does not read DeepSeek's W4AFP8 format: use SGLang or TensorRT-LLM"
            yield "model.precision", f"{what}, or a compressed-tensors checkpoint (quantization)"
        removed = deployment.quantization == "fp8" and deployment.model.precision == "bf16"
        if removed and version(self.version(deployment)) >= (0, 33):
            what = "fp8 on a BF16 checkpoint was removed in vLLM 0.33: use fp8_per_block"
            yield "quantization", what
        if deployment.speculative.eagle_topk != 1:
            yield "speculative.eagle_topk", "vLLM's draft is a chain: leave it at 1"

    def topology(self, deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
        tensor, data = sizes(deployment)
        if data == 1 or len(hosts) < 2:
            return
        replica = tensor * deployment.parallel.pipeline
        if version(self.version(deployment)) < _WITHOUT_RAY:
            yield "parallel.data", "over several hosts needs vLLM 0.12 or later"
        elif data % len(hosts) or replica > hosts[0].slots:
            what = f"{data} replicas of {replica} devices on {len(hosts)} hosts"
            yield "parallel.data", f"{what}: every host needs the same number of whole replicas"


def sizes(deployment: Deployment) -> tuple[int, int]:
    """TP and DP in vLLM's words: it replicates attention by data parallelism of size TP x DP."""
    parallel = deployment.parallel
    if parallel.attention_data:
        return 1, parallel.tensor * parallel.data
    return parallel.tensor, parallel.data


def _degrees(deployment: Deployment) -> list[str]:
    tensor, data = sizes(deployment)
    flags = ["--tensor-parallel-size", str(tensor)]
    if deployment.parallel.pipeline > 1:
        flags += ["--pipeline-parallel-size", str(deployment.parallel.pipeline)]
    if data > 1:
        flags += ["--data-parallel-size", str(data)]
    return [*flags, *(["--enable-expert-parallel"] if deployment.parallel.expert > 1 else [])]


def _speculative(deployment: Deployment) -> list[str]:
    speculative = deployment.speculative
    if speculative.method == "none":
        return []
    config: dict[str, str | int] = {
        "method": speculative.method,
        "num_speculative_tokens": speculative.num_tokens,
    }
    if speculative.draft_checkpoint:
        config["model"] = speculative.draft_checkpoint
    return ["--speculative-config", compact_json(config)]


def _multi_node(deployment: Deployment, hosts: Sequence[Host], rank: int) -> list[str]:
    port, head = str(deployment.endpoint.master_port), hosts[0].address
    _, data = sizes(deployment)
    headless = ["--headless"] if rank else []
    if data == 1:
        place = ["--nnodes", str(len(hosts)), "--node-rank", str(rank)]
        return [*place, "--master-addr", head, "--master-port", port, *headless]
    local = data // len(hosts)
    place = ["--data-parallel-size-local", str(local), "--data-parallel-address", head]
    place += ["--data-parallel-rpc-port", port]
    if rank:
        place += ["--data-parallel-start-rank", str(rank * local)]
    return [*place, *headless]


def _under_ray(
    server: list[str], deployment: Deployment, hosts: Sequence[Host], rank: int
) -> tuple[str, ...]:
    host, port = hosts[rank], str(deployment.endpoint.master_port)
    kind = _RAY_RESOURCES.get(deployment.vendor)
    amount = f"--resources={compact_json({kind: host.slots})}" if kind else ""
    amount = amount or f"--num-gpus={host.slots}"
    if rank:
        join = ["ray", "start", "--block", f"--address={hosts[0].address}:{port}"]
        return (*join, f"--node-ip-address={host.address}", amount)
    head = ["bash", "-c", _RAY_HEAD, "ray-head", host.address, port, amount]
    return (*head, *server, "--distributed-executor-backend", "ray")


def _own_address(host: Host) -> dict[str, EnvValue]:
    """vLLM and Ray must agree on the address of a host, and vLLM takes no name for it."""
    try:
        ipaddress.ip_address(host.address)
    except ValueError:
        return {}
    return {"VLLM_HOST_IP": host.address}
