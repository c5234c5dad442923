"""What each engine build is told of an operator library, and what is refused with its reason."""

from dataclasses import replace

import pytest

from engines.conftest import ONE, R1, WORKSPACE, of
from flagdeploy import engines
from flagdeploy.config.schema import Container, Operators
from flagdeploy.config.secret import Secret
from flagdeploy.engines.operators import environment


def flaggems(engine="vllm", vendor="nvidia", **changes):
    deployment = of(R1, operators=Operators(library="flaggems", **changes))
    return replace(deployment, engine=engine, vendor=vendor)


def operator_problems(deployment):
    engine = engines.load(deployment.engine, WORKSPACE)
    found = engine.problems(deployment)
    return [row for row in found if row[0].startswith(("operators.", "container.", "launcher"))]


@pytest.mark.parametrize(
    "engine, operators, expected",
    [
        ("vllm", {"build": "patched"}, {"USE_FLAGGEMS": "1"}),
        (
            "vllm",
            {"build": "plugin", "exclude": ["softmax", "mm"]},
            {"USE_FLAGGEMS": "1", "VLLM_PLUGINS": "fl", "VLLM_FL_FLAGOS_BLACKLIST": "softmax,mm"},
        ),
        (
            "vllm",
            {
                "build": "plugin",
                "include": ["mm"],
                "config": {
                    "prefer": "vendor",
                    "strict": True,
                    "oot_enabled": False,
                    "per_op": {"rms_norm": ["vendor", "flagos"], "silu_and_mul": "reference"},
                    "deny_vendors": ["cuda", "ascend"],
                    "db_url": "sqlite:///:memory:",
                    "vendor": "kunlunxin",
                },
            },
            {
                "USE_FLAGGEMS": "1",
                "VLLM_PLUGINS": "fl",
                "VLLM_FL_FLAGOS_WHITELIST": "mm",
                "VLLM_FL_PREFER": "vendor",
                "VLLM_FL_STRICT": "1",
                "VLLM_FL_OOT_ENABLED": "0",
                "VLLM_FL_PER_OP": "rms_norm=vendor|flagos;silu_and_mul=reference",
                "VLLM_FL_DENY_VENDORS": "cuda,ascend",
                "FLAGGEMS_DB_URL": "sqlite:///:memory:",
                "GEMS_VENDOR": "kunlunxin",
            },
        ),
        (
            "vllm",
            {"build": "flagdeploy", "exclude": ["mm"]},
            {"USE_FLAGGEMS": "1", "FLAGGEMS_EXCLUDE": "mm"},
        ),
        (
            "sglang",
            {"build": "patched"},
            {"USE_FLAGGEMS": "1", "FLAGGEMS_LOG_PATH": "/tmp/gems_oplist.log.txt"},
        ),
        (
            "sglang",
            {"build": "plugin", "exclude": ["mm"], "config": {"per_op": {"rms_norm": "vendor"}}},
            {
                "USE_FLAGGEMS": "1",
                "SGLANG_FLAGGEMS_RECORD": "1",
                "SGLANG_FLAGGEMS_LOG_PATH": "/tmp/flaggems_oplist.log",
                "SGLANG_FL_FLAGOS_BLACKLIST": "mm",
                "SGLANG_FL_PER_OP": "rms_norm=vendor",
            },
        ),
        ("pytorch", {"include": ["topk"]}, {"USE_FLAGGEMS": "1", "FLAGGEMS_INCLUDE": "topk"}),
    ],
)
def test_the_environment_of_a_build(engine, operators, expected):
    deployment = flaggems(engine, **operators)
    assert operator_problems(deployment) == []
    assert environment(engines.load(engine, WORKSPACE).table, deployment) == expected


@pytest.mark.parametrize("engine", ["vllm", "sglang", "pytorch"])
def test_every_build_is_told_when_the_library_is_not_wanted(engine):
    """The image's environment, or the user's for a rank of this machine, may switch it on."""
    table = engines.load(engine, WORKSPACE).table
    for build in table.operators:
        deployment = replace(of(R1, operators=Operators(build=build)), engine=engine)
        assert environment(table, deployment) == {"USE_FLAGGEMS": "0"}


BUILDS = "use an image built for it and set patched or plugin"


@pytest.mark.parametrize(
    "deployment, expected",
    [
        (
            flaggems(),
            ("operators.build", f"stock vLLM ignores flaggems: {BUILDS} or flagdeploy"),
        ),
        (
            flaggems("sglang"),
            ("operators.build", f"stock SGLang ignores flaggems: {BUILDS}"),
        ),
        (
            flaggems("sglang", build="flagdeploy"),
            (
                "operators.build",
                "SGLang has no flagdeploy build; leave it out, or set patched or plugin",
            ),
        ),
        (
            flaggems("pytorch", build="plugin"),
            ("operators.build", "the pytorch engine has no plugin build; leave it out"),
        ),
        (
            flaggems("tensorrt_llm"),
            (
                "operators.library",
                "TensorRT-LLM: its kernels are compiled with it, none of PyTorch's is replaced",
            ),
        ),
        (
            flaggems("vllm_tt", vendor="tenstorrent"),
            (
                "operators.library",
                "vLLM on Tenstorrent: TT-NN computes, not PyTorch, and FlagGems has no backend "
                "for Tenstorrent",
            ),
        ),
        (
            flaggems("sglang", build="patched", include=["mm"]),
            ("operators.include", "the patched build of SGLang cannot choose operators"),
        ),
        (
            flaggems(build="plugin", vendor="cambricon"),
            ("operators.build", "plugin: the FL plugin of vLLM has no Cambricon backend"),
        ),
        (
            flaggems(build="plugin", config={"perop": {"mm": "vendor"}}),
            (
                "operators.config.perop",
                "the plugin build of vLLM has no such setting; did you mean `per_op`?",
            ),
        ),
        (
            flaggems(build="plugin", config={"file": "/etc/fl.yaml", "strict": True}),
            ("operators.config.strict", "is ignored: operators.config.file replaces it"),
        ),
        (
            flaggems(build="plugin", include=["mm"], config={"blacklist_append": ["add"]}),
            (
                "operators.config.blacklist_append",
                "is ignored: operators.include leaves out all others",
            ),
        ),
        (
            replace(
                flaggems("sglang", build="plugin"),
                container=Container(env={"SGLANG_FLAGGEMS_RECORD": "0"}),
            ),
            (
                "container.env.SGLANG_FLAGGEMS_RECORD",
                "0 switches off the operator log, which proves the swap",
            ),
        ),
        (
            flaggems(build="plugin", exclude=["aten::mm"]),
            ("operators.exclude", "`aten::mm` is no name of a function of the library"),
        ),
        (
            flaggems(build="patched", vendor="cambricon", compare_native=False),
            (
                "operators.compare_native",
                "nothing else would show the swap: Cambricon's patch keeps no record, and goes on "
                "natively on an error",
            ),
        ),
        (
            replace(flaggems(build="plugin", compare_native=False), launcher="local"),
            (
                "operators.compare_native",
                "nothing else would show the swap: all that runs on this machine shares "
                "/tmp/flaggems_enable_oplist.txt",
            ),
        ),
        (
            replace(flaggems(build="patched"), container=Container(mounts=["/tmp:/tmp/"])),
            (
                "container.mounts",
                "`/tmp:/tmp/`: the host's folder holds /tmp/gems_oplist.log.txt of every "
                "deployment that mounts it, so it proves nothing of one: mount a folder of its own "
                "there",
            ),
        ),
        (
            replace(flaggems(build="patched"), container=Container(env={"USE_FLAGGEMS": "0"})),
            (
                "container.env.USE_FLAGGEMS",
                "0 switches off what operators.library asks for",
            ),
        ),
        (
            replace(
                flaggems(build="plugin", exclude=["mm"]),
                container=Container(rank_env={"1": {"VLLM_FL_FLAGOS_BLACKLIST": "add"}}),
            ),
            (
                "container.rank_env.1.VLLM_FL_FLAGOS_BLACKLIST",
                "is set by flagdeploy: use `operators.exclude`",
            ),
        ),
        (
            replace(
                flaggems(build="plugin", config={"db_url": "sqlite:///a.db"}),
                container=Container(env={"FLAGGEMS_DB_URL": Secret("postgres://u:p@h", "DB_URL")}),
            ),
            (
                "container.env.FLAGGEMS_DB_URL",
                "is set by flagdeploy: use `operators.config.db_url`",
            ),
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(deployment, expected):
    assert expected in operator_problems(deployment)


@pytest.mark.parametrize(
    "mount, env",
    [
        ("/data/r1/tmp:/tmp", {}),
        ("/data:/data", {}),
        ("/tmp", {}),  # which is said elsewhere
        ("/tmp:/tmp", {"FLAGGEMS_ENABLE_OPLIST_PATH": "/run/ops.txt"}),
    ],
)
def test_a_log_that_nobody_else_writes_proves_the_swap(mount, env):
    container = Container(mounts=[mount], env=env)
    assert operator_problems(replace(flaggems(build="plugin"), container=container)) == []


@pytest.mark.parametrize("name", engines.names(WORKSPACE))
def test_every_engine_honours_a_library_or_says_why_not(name):
    table = engines.load(name, WORKSPACE).table
    assert bool(table.operators) != bool(table.no_operators)
    for build in table.operators.values():
        assert build.switch == "USE_FLAGGEMS"
        assert build.log
        assert all(place in build.log for place in build.log_at.values())


def test_a_switch_is_undone_whoever_set_it(vllm):
    exclude = flaggems(build="plugin", exclude=["mm"])
    switch = vllm.switch(exclude)
    assert switch.variables == ("USE_FLAGGEMS", "VLLM_PLUGINS", "VLLM_FL_FLAGOS_BLACKLIST")
    assert switch.taken_back == (
        *("-u", "VLLM_PLUGINS", "-u", "VLLM_FL_FLAGOS_BLACKLIST"),
        "USE_FLAGGEMS=0",
    )
    assert vllm.switch(of(R1)) is None
    assert vllm.commands(exclude, ONE)[0].env.keys() == set(switch.variables)
