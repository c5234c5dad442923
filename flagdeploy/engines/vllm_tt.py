"""vLLM on Tenstorrent: one server on one Galaxy, the mesh given by a variable.

`engine_args.tt` holds the options of the backend (``trace_mode``, ``fabric_config``, ...), which
the fork takes as ``--override_tt_config`` and the plugin inside ``--additional-config``.
"""

from collections.abc import Iterator, Sequence

from flagdeploy.config.endpoint import bind_address
from flagdeploy.config.launch import EnvValue, Host, RankCommand
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import arguments, base
from flagdeploy.engines.arguments import compact_json, version
from flagdeploy.engines.base import Finding, changed

_PLUGIN = (0, 12)
_ARCHITECTURE = {"wormhole": "wormhole_b0", "blackhole": "blackhole"}
# What tt-metal calls the meshes of one, two and four Galaxies: rows x columns to name.
_SYSTEMS = {(4, 8): "TG", (8, 8): "DUAL", (16, 8): "QUAD", (8, 16): "QUAD"}
# DeepSeek's models read the first, all others the second.
_CACHES = ("DEEPSEEK_V3_CACHE", "TT_CACHE_PATH")
_RPC_TIMEOUT_MS = "1000000"  # the first start converts the weights


class Engine(base.Engine):
    handled = frozenset({"mesh_shape", "endpoint.api_key", "model.weight_cache"})

    def command(self, deployment: Deployment, hosts: Sequence[Host], rank: int) -> RankCommand:
        fork = self._is_fork(deployment)
        server = ["python", "examples/server_example_tt.py"] if fork else ["vllm", "serve"]
        model = deployment.model.repo or self.model(deployment)
        argv = [*server, "--model", model] if fork else [*server, model]
        argv += ["--host", bind_address(deployment, hosts)]
        argv += ["--port", str(deployment.endpoint.port)]
        argv += ["--served_model_name", self.served_name(deployment)]
        argv += arguments.flags(self.rows(deployment), changed(deployment))
        extra = dict(deployment.engine_args)
        options = extra.pop("tt", None)
        argv += arguments.extra(extra)
        if options and fork:
            argv += ["--override_tt_config", compact_json(options)]
        elif options:
            argv += ["--additional-config", compact_json({"tt": options})]
        return RankCommand(rank, tuple(argv), self._variables(deployment))

    def rules(self, deployment: Deployment) -> Iterator[Finding]:
        if not deployment.mesh_shape:
            yield "mesh_shape", "rows and columns of the mesh are needed, [4, 8] for a Galaxy"
        deepseek = deployment.model.architecture.model_type == "deepseek_v3"
        if deepseek and not deployment.model.weight_cache:
            what = "a folder of the host is needed that keeps the converted weights"
            yield "model.weight_cache", what
        if not isinstance(deployment.engine_args.get("tt", {}), dict):
            yield "engine_args.tt", "holds the options of the backend: expected a mapping"
        for name in _CACHES:
            if name in deployment.container.env:
                yield f"container.env.{name}", "is set by flagdeploy: use `model.weight_cache`"

    def words(self, deployment: Deployment) -> dict[str, str]:
        rows, columns = [*map(str, deployment.mesh_shape), "0", "0"][:2]
        return {
            **super().words(deployment),
            "rows": rows,
            "columns": columns,
            "mesh": _SYSTEMS.get((int(rows), int(columns)), f"{rows}x{columns}"),
            "architecture": _ARCHITECTURE.get(deployment.chip, deployment.chip),
        }

    def topology(self, deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
        if len(hosts) > 1:
            what = f"{len(hosts)} hosts form one mesh through tt-run (MPI), which is not driven yet"
            yield "hostfile", f"{what}: use one Galaxy (max_hosts 1)"

    def _variables(self, deployment: Deployment) -> dict[str, EnvValue]:
        model, fork = deployment.model, self._is_fork(deployment)
        env = self.environment(deployment)
        env["MESH_DEVICE"] = "({})".format(",".join(map(str, deployment.mesh_shape)))
        env["VLLM_TARGET_DEVICE"] = "tt"
        env["VLLM_RPC_TIMEOUT"] = _RPC_TIMEOUT_MS
        env["HF_MODEL"] = model.repo or self.model(deployment)
        if deployment.chip in _ARCHITECTURE:
            env["ARCH_NAME"] = _ARCHITECTURE[deployment.chip]
        if model.architecture.model_type == "deepseek_v3":
            env["DEEPSEEK_V3_HF_MODEL"] = self.model(deployment)
        if model.weight_cache:
            env |= dict.fromkeys(_CACHES, model.weight_cache)
        if fork:
            env["VLLM_USE_V1"] = "1"
        if deployment.endpoint.api_key:
            env["VLLM_API_KEY"] = deployment.endpoint.api_key
        return env

    def _is_fork(self, deployment: Deployment) -> bool:
        return version(self.version(deployment)) < _PLUGIN
