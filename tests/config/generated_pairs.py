"""FlagScale configurations of every kind, generated."""

from typing import Any

from hypothesis import strategies as st

from flagdeploy.config.escapes import escaped

AWKWARD = [
    "${",
    "\\${x}",
    "\\\\${",
    "}",
    "\\",
    "'",
    '"',
    " ",
    "$PATH",
    "`id`",
    "\n",
    "\t",
    "#",
    ": ",
    "- ",
    "ü",
    "日",
    "x",
]
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}([_-][a-z]{1,5})?", fullmatch=True).map("x_{}".format)
TEXT = (
    st.lists(st.sampled_from(AWKWARD), max_size=5).map("".join)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
).filter(lambda text: text != "???")  # OmegaConf's word for a missing value
PLAIN = st.one_of(st.booleans(), st.integers(-9, 99), st.floats(0, 1), TEXT)
NESTED = st.recursive(
    PLAIN | st.none(),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(NAMES, below, max_size=2),
    max_leaves=4,
)
ARGS = st.dictionaries(
    NAMES,
    st.one_of(
        PLAIN,
        st.none(),
        st.lists(st.integers() | TEXT, min_size=1, max_size=3),
        st.dictionaries(NAMES, NESTED, min_size=1, max_size=3),
    ),
    max_size=4,
)
KNOWN = st.fixed_dictionaries(
    {"model": st.sampled_from(["/m", "org/name"])},
    optional={
        "tensor_parallel_size": st.integers(1, 8),
        "pipeline-parallel-size": st.integers(1, 4),
        "max_model_len": st.sampled_from([4096, "4k", "4K"]),
        "gpu_memory_utilization": st.floats(0.1, 1),
        "enforce_eager": st.booleans(),
        "enable_prefix_caching": st.booleans(),
        "enable-chunked-prefill": st.booleans(),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8", "bfloat16"]),
        "trust_remote_code": st.booleans(),
        "served_model_name": TEXT.filter(str.strip),
        "load_format": st.sampled_from(["auto", "dummy"]),
        "port": st.integers(1, 65535),
    },
)
VARIABLES = st.dictionaries(
    NAMES.map(str.upper), PLAIN | st.just("${oc.env:HF_TOKEN}"), max_size=3
).map(lambda env: {name.replace("-", "_"): value for name, value in env.items()})
BEFORE = st.sampled_from(
    [
        "",
        "export A=1",
        "source /a && export USE_FLAGGEMS=1",
        "x $PATH ${HOME} ü\n",
        "export B='c d'",
    ]
) | TEXT.map("true {}".format)
ADDRESSES = ["192.0.2.1", "192.0.2.2", "n3.example"]
DEPLOY = st.fixed_dictionaries(
    {}, optional={"use_fs_serve": st.booleans(), "port": st.integers(1, 65535)}
)


@st.composite
def hostfiles(draw: st.DrawFn) -> str:
    """Empty for a deployment that runs here."""
    count, kind = draw(st.integers(0, 3)), draw(st.sampled_from(["", " type=gpu", " type=mlu"]))
    slots = draw(st.sampled_from([1, 8, 16]))
    return "".join(f"{address} slots={slots}{kind} # ü\n" for address in ADDRESSES[:count])


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], str]:
    """`experiment`, the item of `serve`, and the hostfile."""
    engine, hosts = draw(st.sampled_from(["vllm", "sglang"])), draw(hostfiles())
    runner: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "ssh_port": st.sampled_from([22, 2222]),
                "master_port": st.integers(1024, 65535),
                "docker": st.just("running"),
                "nnodes": st.integers(1, 3),
                "deploy": DEPLOY,
            },
        )
    )
    runner |= {"hostfile": "hosts.txt"} if hosts else {}
    envs = draw(VARIABLES)
    if hosts and draw(st.booleans()):
        envs["nodes_envs"] = {ADDRESSES[0]: draw(VARIABLES)}
    experiment = {
        "exp_name": draw(st.sampled_from(["made", "a b/c", "r1.mlu"])),
        "runner": runner,
        "envs": hydra(envs),
        "cmds": {"before_start": escaped(draw(BEFORE))},
    }
    if draw(st.booleans()):
        experiment["deploy"] = draw(DEPLOY)  # the place of old versions
    args = escaped({**draw(ARGS), **draw(KNOWN)})
    specific = {engine: escaped(draw(ARGS))}
    return (
        experiment,
        {"engine": engine, "engine_args": args, "engine_args_specific": specific},
        hosts,
    )


def hydra(envs: dict[str, Any]) -> dict[str, Any]:
    """`envs` as its file holds them: text escaped, references not."""
    return {
        name: hydra(value) if isinstance(value, dict)
        else value if value == "${oc.env:HF_TOKEN}" else escaped(value)
        for name, value in envs.items()
    }  # fmt: skip
