"""The reference server of this package, `python -m flagdeploy.server`.

The first word is the literal ``python``: on the `local` launcher plans put the running interpreter
in its place.
"""

from collections.abc import Iterator, Sequence

from flagdeploy.config.endpoint import bind_address
from flagdeploy.config.launch import Host, RankCommand
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import base
from flagdeploy.engines.base import Finding


class Engine(base.Engine):
    handled = frozenset({"endpoint.api_key"})

    def command(self, deployment: Deployment, hosts: Sequence[Host], rank: int) -> RankCommand:
        argv = ["python", "-m", "flagdeploy.server", "--model", self.model(deployment)]
        argv += ["--host", bind_address(deployment, hosts)]
        argv += ["--port", str(deployment.endpoint.port)]
        argv += ["--served-model-name", self.served_name(deployment)]
        argv += ["--device", deployment.torch_device]
        argv += self.flags(deployment)
        env = self.environment(deployment)
        if deployment.endpoint.api_key:
            env["FLAGDEPLOY_API_KEY"] = deployment.endpoint.api_key
        return RankCommand(rank, tuple(argv), env)

    def rules(self, deployment: Deployment) -> Iterator[Finding]:
        if deployment.model.precision not in ("bf16", "fp16", "fp32"):
            what = f"it loads BF16, FP16 and FP32, not {deployment.model.precision}"
            yield "model.precision", f"{what}: `flagdeploy dequant --to bf16`"
        for name, value in deployment.engine_args.items():
            if value is False:
                yield f"engine_args.{name}", "its switches have no negative form: leave it out"

    def topology(self, deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
        if len(hosts) > 1:
            yield "hostfile", f"it runs on one host, but {len(hosts)} are given (max_hosts 1)"
