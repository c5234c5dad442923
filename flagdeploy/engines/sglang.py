"""SGLang: the same `sglang.launch_server` on every host; rank 0 answers requests."""

from collections.abc import Iterator, Sequence

from flagdeploy.config.endpoint import bind_address
from flagdeploy.config.launch import Host, RankCommand
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import base
from flagdeploy.engines.arguments import version
from flagdeploy.engines.base import Finding

_ATTENTION_DP_SIZE = (0, 5, 22)
_ALGORITHM = {"mtp": "NEXTN", "eagle": "EAGLE", "eagle3": "EAGLE3"}


class Engine(base.Engine):
    handled = base.DEGREES_AND_DRAFTS

    def command(self, deployment: Deployment, hosts: Sequence[Host], rank: int) -> RankCommand:
        argv = ["python3", "-m", "sglang.launch_server", "--model-path", self.model(deployment)]
        argv += ["--host", bind_address(deployment, hosts)]
        argv += ["--port", str(deployment.endpoint.port)]
        argv += ["--served-model-name", self.served_name(deployment)]
        argv += self._degrees(deployment) + _speculative(deployment) + self.flags(deployment)
        if len(hosts) > 1:
            meeting = f"{_bracketed(hosts[0].address)}:{deployment.endpoint.master_port}"
            argv += ["--nnodes", str(len(hosts)), "--node-rank", str(rank)]
            argv += ["--dist-init-addr", meeting]
        return RankCommand(rank, tuple(argv), self.environment(deployment))

    def rules(self, deployment: Deployment) -> Iterator[Finding]:
        parallel, speculative = deployment.parallel, deployment.speculative
        if parallel.tensor % parallel.expert:
            what = f"parallel.tensor {parallel.tensor} / parallel.expert {parallel.expert}"
            yield "parallel.expert", f"SGLang spreads experts inside TP: {what} must be whole"
        if parallel.attention_data and parallel.data > 1:
            what = "SGLang replicates attention inside parallel.tensor"
            yield "parallel.data", f"{what}: leave it at 1 with parallel.attention_data"
        extra = {name.replace("_", "-") for name in deployment.engine_args}
        tree = speculative.method != "none" and speculative.eagle_topk > 1
        if tree and "speculative-num-draft-tokens" not in extra:
            what = "a tree of drafts needs its size: engine_args speculative-num-draft-tokens"
            yield "speculative.eagle_topk", what
        for name, value in deployment.engine_args.items():
            if value is False:
                what = "SGLang's switches have no negative form: leave it out"
                yield f"engine_args.{name}", what

    def _degrees(self, deployment: Deployment) -> list[str]:
        parallel = deployment.parallel
        flags = ["--tp-size", str(parallel.tensor)]
        if parallel.pipeline > 1:
            flags += ["--pp-size", str(parallel.pipeline)]
        if parallel.expert > 1:
            flags += ["--ep-size", str(parallel.expert)]
        if parallel.data > 1:
            flags += ["--dp-size", str(parallel.data)]
        if not parallel.attention_data:
            return flags
        if version(self.version(deployment)) >= _ATTENTION_DP_SIZE:
            return [*flags, "--attn-dp-size", str(parallel.tensor)]
        return [*flags, "--dp-size", str(parallel.tensor), "--enable-dp-attention"]


def _speculative(deployment: Deployment) -> list[str]:
    """A chain of n drafts verifies n + 1 tokens; the three numbers are set together or not."""
    speculative = deployment.speculative
    if speculative.method == "none":
        return []
    flags = ["--speculative-algorithm", _ALGORITHM[speculative.method]]
    if speculative.draft_checkpoint:
        flags += ["--speculative-draft-model-path", speculative.draft_checkpoint]
    flags += ["--speculative-num-steps", str(speculative.num_tokens)]
    flags += ["--speculative-eagle-topk", str(speculative.eagle_topk)]
    if speculative.eagle_topk == 1:
        flags += ["--speculative-num-draft-tokens", str(speculative.num_tokens + 1)]
    return flags


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
