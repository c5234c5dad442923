"""What is said of everything in a FlagScale configuration that is not carried out, as data."""

REFUSED = {
    "defaults": "only `_self_`, `GROUP: NAME` and `NAME`, below the file's own folder, are read",
    "interpolation": "only ${key.of.the.tree} and ${oc.env:NAME,default} are read",
    "experiment.task.type": "only `serve` can be imported",
    "experiment.task.entrypoint": "a program of one's own is served by itself, not by an engine",
    "experiment.runner.type": "`cloud` has another machinery start the same command on every "
    "node; flagdeploy starts the ranks itself: use `ssh` and a hostfile",
    "prefill_decode_disaggregation": "prefill and decode on separate instances are not supported",
    "enable_composition": "graphs of several models are not supported: serve each by itself",
    "serve.module": "graphs of Python modules are not supported, only engines",
    "serve.engine": "flagdeploy has no such engine",
    "backend": "FlagScale reads the one or the other, by its version: leave one out",
    "no serve item": "no item of `serve` has a serve_id and an engine",
    "node_args": "every host gets the same engine arguments; only variables differ (nodes_envs)",
    "nodes_envs": "is no host of the hostfile",
    "model": "name an absolute path, or ORGANISATION/MODEL of the hub",
    "num_replicas": "one deployment is one replica: use data_parallel_size",
    "secret": "looks like a secret written out: write ${oc.env:NAME}",
    "secret argument": "looks like a secret, and every process sees arguments: write it to "
    "envs, as ${oc.env:NAME}",
    "secret elsewhere": "looks like a secret, which may stand only in envs",
    "part of a secret": "looks like a secret: write ${oc.env:NAME} for the whole value, without a "
    "default",
    "hostfile": "not found beside the file or in a folder above it: give --hosts FILE",
    "types": "one deployment runs on one type of device, but the hostfile has several",
}

LEFT_OUT = {
    "action": "not carried out: the command says what is done",
    "hydra": "not read: Hydra is not used, and runs are recorded in runs/",
    "experiment.exp_dir": "not used: runs and their logs are recorded in runs/",
    "experiment.auto_tuner": "not carried out: there is no automatic tuning yet",
    "experiment.cmds.after_stop": "not run: stopping removes the containers as a whole",
    "experiment.node_args": "not used: FlagScale reads it for SGLang only",
    "runner.deploy": "not used: FlagScale puts experiment.deploy in its place",
    "runner.no_shared_fs": "not used: it names FlagScale's log files",
    "runner.docker": "names a running container; flagdeploy starts one on every host: give its "
    "image with container.image=IMAGE",
    "runner.docker without hostfile": "not used: without a hostfile the engine starts here",
    "runner.hosts given": "not used: the hosts are those of --hosts",
    "runner without hostfile": "not used: without a hostfile the engine runs here, by itself",
    "runner.device_type": "not used: FlagScale reads it without a hostfile only",
    "runner.master_addr": "not used: the first host of the hostfile is rank 0",
    "runner.nproc_per_node": "not used: `slots` of the hostfile say it",
    "runner.nnodes": "not used: the hostfile says it",
    "runner.nnodes fewer": "only so many of the first hosts are used",
    "deploy.use_fs_serve": "not used: the engine's own server gives the same API without Ray Serve",
    "deploy": "not used without enable_composition or prefill_decode_disaggregation",
    "serve.profile": "not used: it sets the load of automatic tuning",
    "serve.resources": "not used: the degrees of parallelism say it",
    "serve.more": "not served: only the first item with a serve_id is",
    "serve.other engine": "not used: they are for another engine",
    "unknown": "not used: FlagScale does not read it either",
}

ASSUMED = {
    "vendor": "FlagScale does not say whose devices they are: `{vendor}` is taken; choose "
    "another one with vendor=NAME",
    "engine_version": "FlagScale does not say the version: the newest known is taken; it decides "
    "on the spelling of arguments and on Ray: engine_version=X",
    "endpoint.host": "FlagScale listens on every network; here it is {own}: "
    "endpoint.host=0.0.0.0 for all",
    "use_fs_serve": "true in FlagScale unless it is set, which starts Ray Serve; here the engine's "
    "own server gives the same API",
    "name": "becomes `{name}`, which may name a container",
}

DIFFERS = {
    "false": "FlagScale drops `false`; here the engine gets {flag}",
    "false switch": "false leaves the switch out, as FlagScale does",
    "mapping": "FlagScale would pass {theirs}; here it is one JSON argument",
    "null": "FlagScale would pass the text None; here it is left out",
    "foreign": "FlagScale passes it on as {flag}, which SGLang refuses; here it is {key}",
    "quoting": "FlagScale puts it unquoted into a shell line; here it arrives byte for byte",
    "won": "`{winner}` wins over `{loser}` of {place}, as in FlagScale",
    "both": "stands in envs too; the one of before_start, `{winner}`, wins",
    "Ray": "chosen by flagdeploy: Ray before vLLM 0.12, vLLM's own launcher since",
    "rank": "not used: flagdeploy sets it for each rank",
    "path": "is expanded on the host, in its container; FlagScale expands it where it runs",
}

NO_PLACE = {
    "": "FlagScale has no key for it",
    "container": "FlagScale starts no container: set runner.docker to the name of one that runs "
    "on every host, made with these settings",
    "vendor": "FlagScale has no word for it: the types of the hostfile do not say it",
    "engine": "FlagScale serves with vllm, sglang and llama_cpp",
    "hostfile": "FlagScale has one SSH port, and no user or socket, for all hosts",
}
