"""FlagScale's serve configurations, read as they are: nothing of them is ignored in silence."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flagdeploy import engines, vendors
from flagdeploy.config import workspace, yaml_file
from flagdeploy.config.escapes import escaped
from flagdeploy.config.facts import Facts
from flagdeploy.config.flagscale import exporting, importing, prelude
from flagdeploy.config.flagscale.pair import locate
from flagdeploy.config.load import Loaded, load, load_imported
from flagdeploy.config.plain import plain
from flagdeploy.errors import ConfigError, FlagdeployError
from flagdeploy.plans.serve import plan_serve, problems
from flagdeploy.plans.steps import Start
from flagdeploy.workflows.config import import_

from .generated_pairs import NAMES, configurations
from .pairs import write

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "flagscale" / "examples"
ENVIRON = {"HF_TOKEN": "hf_canary"}


def imported(folder: Path, *overrides: str, environ: Any = ENVIRON) -> importing.Imported:
    names = [override.partition("=")[0] for override in overrides]
    return importing.read(folder, overridden=names, environ=environ)


def loaded(folder: Path, *overrides: str, environ: Any = ENVIRON) -> Loaded:
    found = imported(folder, *overrides, environ=environ)
    return load_imported(found, overrides, root=ROOT, environ=environ)


def specs(of: Loaded) -> list[Any]:
    engine = engines.load(of.deployment.engine, ROOT)
    vendor = vendors.load(of.deployment.vendor, ROOT)
    plan = plan_serve(of.deployment, of.hosts, Facts(), engine, vendor, "dry-run", "python")
    served = (step for step in plan.steps if step.stage.startswith("start-"))
    return [step.spec for step in served if isinstance(step, Start)]


def outcome(folder: Path) -> str:
    """All that an import says, as text: settings with their places, notes, and rank 0's plan."""
    found = imported(folder)
    lines = [
        f"{'.'.join(path)} = {source.value!r}  # {source.where}"
        for layer in found.layers
        for path, source in _sources(layer)
    ]
    lines += [f"host {host.address} slots={host.slots} port={host.port}" for host in found.hosts]
    lines += [f"note {note}" for note in found.notes]
    of = loaded(folder)
    engine, vendor = (
        engines.load(of.deployment.engine, ROOT),
        vendors.load(of.deployment.vendor, ROOT),
    )
    lines += [f"open {k}: {w}" for k, w in problems(of.deployment, of.hosts, engine, vendor)]
    for rank, spec in enumerate(specs(of)):
        lines += [f"rank {rank} env {name}={value}" for name, value in sorted(spec.env.items())]
        lines += [f"rank {rank} argv {word!r}" for word in spec.argv if rank in (0, 1)]
    return "\n".join(lines).replace(f"{ROOT}/", "") + "\n"


def _sources(layer: Any) -> list[Any]:
    from flagdeploy.config.layers import Merged

    merged = Merged()
    merged.add(layer)
    return [(path, sources[-1]) for path, sources in merged.history.items()]


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_an_import_has_the_recorded_outcome(case: str) -> None:
    assert outcome(CASES / case) == (CASES / case / "outcome.txt").read_text()


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_nothing_depends_on_the_current_folder(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = imported(CASES / case)
    monkeypatch.chdir(tmp_path)
    assert imported(CASES / case) == before


def test_a_model_is_found_by_its_name_in_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `flagscale serve two_hosts` finds it."""
    monkeypatch.chdir(CASES.parent)
    assert locate(Path("two_hosts")) == Path("examples/two_hosts/conf/serve.yaml")


MODEL = {"engine_args": {"model": "/m"}}


@pytest.mark.parametrize(
    ("experiment", "item", "message"),
    [
        ({}, {"engine": "vlm"}, "conf/serve/task.yaml:2: serve.0.engine: `vlm`: flagdeploy has no "
         "such engine; did you mean `vllm`?"),
        ({"task": {"type": "serve", "backend": "sglang"}}, {}, "conf/serve.yaml:8: experiment.task."
         "backend: `sglang`, but serve.0.engine is `vllm`: FlagScale reads the one or the other, "
         "by its version: leave one out"),
        ({"task": {"type": "train"}}, {}, "conf/serve.yaml:7: experiment.task.type: only `serve` "
         "can be imported"),
        ({"runner": {"hostfile": "no.txt"}}, {}, "conf/serve.yaml:9: experiment.runner.hostfile: "
         "`no.txt`: not found beside the file or in a folder above it: give --hosts FILE"),
        ({"runner": {"device_type": "npx"}}, {}, "conf/serve.yaml:9: experiment.runner.device_type:"
         " unknown device type `npx`: gpu, cpu, mlu, tt are known; choose with vendor=NAME"),
        ({"envs": {"A_TOKEN": "hf_1"}}, {}, "conf/serve.yaml:9: experiment.envs.A_TOKEN: looks like"
         " a secret written out: write ${oc.env:NAME}"),
        ({"envs": {"X": "${experiment.nope}"}}, {}, "conf/serve.yaml:9: experiment.envs.X: "
         "`${experiment.nope}`: only ${key.of.the.tree} and ${oc.env:NAME,default} are read"),
        ({"exp_dir": "${experiment.exp_dir}/x"}, {}, "conf/serve.yaml:8: experiment.exp_dir: "
         "`${experiment.exp_dir}/x` leads back to itself"),
        ({}, {"engine_args": {"model": "/m", "port": "http"}}, "conf/serve/task.yaml:5: "
         "serve.0.engine_args.port: `http`: a whole number is expected"),
        ({}, {"engine_args": {"model": "/m", "enable_expert_parallel": "on"}}, "conf/serve/task"
         ".yaml:5: serve.0.engine_args.enable_expert_parallel: `on`: true or false is expected"),
        ({}, {"engine_args": {"model": "/m", "hf-token": "hf_1"}}, "conf/serve/task.yaml:5: serve"
         ".0.engine_args.hf-token: looks like a secret, and every process sees arguments: write it "
         "to envs, as ${oc.env:NAME}"),
        ({"runner": {"cli_args": {"engine_args": "port=1"}}}, {}, "conf/serve.yaml:10: experiment."
         "runner.cli_args.engine_args: `port=1`: a JSON object is expected"),
        ({"runner": {"cli_args": {"engine_args": "[[1, 2]]"}}}, {}, "conf/serve.yaml:10: "
         "experiment.runner.cli_args.engine_args: `[[1, 2]]`: a JSON object is expected"),
        ({"runner": {"deploy": {"port": 65536}}}, {}, "conf/serve.yaml:10: experiment.runner."
         "deploy.port: `65536`: a port is a number up to 65535"),
        ({}, {"engine_args": {"model": "m"}}, "conf/serve/task.yaml:4: serve.0.engine_args.model: "
         "`m`: name an absolute path, or ORGANISATION/MODEL of the hub"),
        ({}, {"engine_args": {"model": "${oc.env:NOT_SET}"}}, "conf/serve/task.yaml:4: "
         "serve.0.engine_args.model: the environment variable NOT_SET is not set"),
        ({"envs": {"HF_TOKEN": "${oc.env:HF_TOKEN,''}"}}, {}, "conf/serve.yaml:9: experiment.envs."
         "HF_TOKEN: HF_TOKEN looks like a secret: write ${oc.env:NAME} for the whole value, "
         "without a default"),
        ({"envs": {"X": "Bearer ${oc.env:HF_TOKEN}"}}, {}, "conf/serve.yaml:9: experiment.envs.X: "
         "HF_TOKEN looks like a secret: write ${oc.env:NAME} for the whole value, without a "
         "default"),
        ({"envs": {"X": "${oc.env:X,022}"}}, {}, "conf/serve.yaml:9: experiment.envs.X: `022` would"
         " be read as the octal number 18: drop the zero, or quote it"),
        ({"runner": {"deploy": {"prefill_decode_disaggregation": True}}}, {}, "conf/serve.yaml:10: "
         "experiment.runner.deploy.prefill_decode_disaggregation: prefill and decode on separate "
         "instances are not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_said_with_its_line(
    experiment: dict[str, Any], item: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, experiment, {**MODEL, **item})
    with pytest.raises(ConfigError) as raised:
        imported(folder, environ={})
    assert str(raised.value).replace(f"{tmp_path}/", "") == message


def test_a_backslash_before_an_interpolation_is_read_as_hydra_does(tmp_path: Path) -> None:
    envs = {
        "X": "C:\\\\${experiment.exp_name}\\n",
        "Y": "\\${experiment.exp_name}",
        "Z": "\\\\\\${a",
    }
    [spec] = specs(loaded(write(tmp_path, {"envs": envs}, MODEL)))
    values = (spec.env["X"], spec.env["Y"], spec.env["Z"])
    assert values == ("C:\\made\\n", "${experiment.exp_name}", "\\${a")


def test_a_variable_within_a_text_is_read_as_hydra_does(tmp_path: Path) -> None:
    envs = {"X": "a-${oc.env:PART}-b", "Y": "${experiment.envs.Z}:c", "Z": "${oc.env:PART}"}
    folder = write(tmp_path, {"envs": envs}, MODEL)
    environ = {"PART": "1 2"}
    found = loaded(folder, environ=environ).deployment.container.env
    assert (found["X"], found["Y"]) == ("a-1 2-b", "1 2:c")
    told = [str(note.what) for note in imported(folder, environ=environ).notes]
    assert "PART is `1 2`, from the environment, and stays so" in told


def refused(folder: Path) -> str:
    with pytest.raises(FlagdeployError) as raised:
        imported(folder, environ={})
    return str(raised.value).replace(f"{folder}/", "").replace(str(folder), "FOLDER")


def test_what_is_no_pair_is_said(tmp_path: Path) -> None:
    assert refused(tmp_path) == "FOLDER holds no FlagScale configuration"
    with pytest.raises(FlagdeployError, match=r"nowhere: no such file or folder"):
        locate(tmp_path / "nowhere")
    (tmp_path / "serve_a.yaml").write_text("")
    (tmp_path / "serve_b.yaml").write_text("")
    assert refused(tmp_path) == "FOLDER holds several configurations"
    write(tmp_path, {}, MODEL)
    file = tmp_path / "conf" / "serve" / "task.yaml"
    file.write_text("- serve_id: vllm_model\n  engine: vllm\n  engine_args: {model: [}\n")
    line = "conf/serve/task.yaml:3: not YAML: did not find expected node content"
    assert refused(tmp_path) == line
    file.write_text("- !!python/object/apply:os.system ['false']\n")
    assert "conf/serve/task.yaml:1: 0: " not in refused(tmp_path)
    file.unlink()
    found = refused(tmp_path)
    assert found == "conf/serve.yaml:1: defaults.serve: no such file: conf/serve/task.yaml"


AWKWARD = "a b 'c' \"d\" $PATH ${HOME} \\${X} \\\\${Y} `x` \\ ü \n#e"


def test_values_arrive_byte_for_byte(tmp_path: Path) -> None:
    """FlagScale puts them unquoted into lines of a shell."""
    text = escaped(AWKWARD)
    args = {"model": "/m", "chat_template": text}
    folder = write(tmp_path, {"envs": {"X": text}}, {"engine_args": args})
    [spec] = specs(loaded(folder))
    assert spec.env["X"] == AWKWARD
    assert spec.argv[spec.argv.index("--chat-template") + 1] == AWKWARD


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_false_and_mappings_reach_the_engine(engine: str, tmp_path: Path) -> None:
    args = {"model": "/m", "enable_thing": False, "deep": {"a": {"b": 2}}, "many": [1, 2]}
    args |= {"enable_chunked_prefill": False}
    folder = write(tmp_path, {}, {"engine": engine, "engine_args": args})
    argv = list(specs(loaded(folder))[0].argv)
    assert argv[argv.index("--deep") + 1] == '{"a":{"b":2}}'
    assert argv[argv.index("--many") + 1 :][:2] == ["1", "2"]
    assert "--enable-thing" not in argv
    assert ("--no-enable-thing" in argv) == (engine == "vllm")
    if engine == "vllm":
        assert "--no-enable-chunked-prefill" in argv
    else:
        assert argv[argv.index("--chunked-prefill-size") + 1] == "-1"
    noted = {note.key for note in imported(folder).notes}
    assert {"serve.0.engine_args.enable_thing", "serve.0.engine_args.deep"} <= noted


def test_each_engine_has_flagscales_order_of_precedence(tmp_path: Path) -> None:
    both = {
        "engine_args": {"model": "/m", "max_num_seqs": 4},
        "engine_args_specific": {
            "vllm": {"max_num_seqs": 8},
            "sglang": {"max-running-requests": 8},
        },
    }
    for engine, wins, place in (("vllm", 4, "8"), ("sglang", 8, "5")):
        folder = write(tmp_path, {}, {"engine": engine, **both})
        found = loaded(folder)
        assert found.deployment.limits.max_num_seqs == wins
        assert any("as in FlagScale" in note.what and place in note.what
                   for note in imported(folder).notes)  # fmt: skip


def told(folder: Path) -> list[str]:
    return [str(note).replace(f"{folder}/", "") for note in imported(folder).notes]


def test_what_flagscales_command_line_sets_is_a_part_of_engine_args(tmp_path: Path) -> None:
    """`flagscale serve NAME --port 1 --model-path ORG/M --engine-args '{...}'`, which it merges
    into `engine_args`: SGLang's own arguments still win over them."""
    given = {"port": 1, "model_path": "org/m", "engine_args": '{"max-num-seqs": 4}'}
    experiment = {"runner": {"cli_args": given, "deploy": {"port": 2}}}
    args: dict[str, Any] = {"engine_args": {"model": "/m", "max_num_seqs": 3, "port": 3}}
    found = loaded(write(tmp_path, experiment, args)).deployment
    assert (found.model.repo, found.model.checkpoint) == ("org/m", "")
    assert (found.endpoint.port, found.limits.max_num_seqs) == (1, 4)
    args |= {"engine": "sglang", "engine_args_specific": {"sglang": {"max_num_seqs": 5, "port": 6}}}
    found = loaded(write(tmp_path, experiment, args)).deployment
    assert (found.endpoint.port, found.limits.max_num_seqs) == (6, 5)


def test_the_old_place_of_deploy_is_put_over_the_new_one(tmp_path: Path) -> None:
    both = {"deploy": {"port": 1}, "runner": {"deploy": {"port": 2, "use_fs_serve": False}}}
    folder = write(tmp_path, both, MODEL)
    assert loaded(folder).deployment.endpoint.port == 1
    said = "conf/serve.yaml:11: experiment.runner.deploy: not used: FlagScale puts "
    assert f"{said}experiment.deploy in its place" in told(folder)


def test_what_is_said_of_hosts_is_read_or_named(tmp_path: Path) -> None:
    runner: dict[str, Any] = {"ssh_port": 2222, "nnodes": 1}
    here = told(write(tmp_path, {"runner": runner}, MODEL))
    runner |= {"hostfile": "hosts.txt", "device_type": "mlu"}
    folder = write(tmp_path, {"runner": runner}, MODEL, "192.0.2.1 slots=8\n192.0.2.2 slots=8\n")
    there = told(folder)
    (tmp_path / "own.txt").write_text("192.0.2.9 slots=8\n")
    given = importing.read(folder, hosts=str(tmp_path / "own.txt"), environ={})
    assert [(host.address, host.port) for host in given.hosts] == [("192.0.2.9", 22)]

    def reasons(notes: list[str], name: str) -> list[str]:
        return [n.partition(f".{name}: ")[2] for n in notes if f".{name}: not used" in n]

    own = [str(note) for note in given.notes]
    for name in ("ssh_port", "nnodes"):
        why = "not used: without a hostfile the engine runs here, by itself"
        assert reasons(here, name) == [why]
        assert reasons(own, name) == ["not used: the hosts are those of --hosts"]
    assert reasons(own, "hostfile") == ["not used: the hosts are those of --hosts"]
    assert reasons(there, "device_type") == ["not used: FlagScale reads it without a hostfile only"]


def test_ray_serve_is_told_also_where_flagscale_takes_it_unasked(tmp_path: Path) -> None:
    for deploy, count in (({}, 1), ({"use_fs_serve": True}, 1), ({"use_fs_serve": False}, 0)):
        notes = told(write(tmp_path, {"runner": {"deploy": deploy}}, MODEL))
        assert len([note for note in notes if "Ray Serve" in note]) == count


@pytest.mark.parametrize(
    ("engine", "common", "specific", "note"),
    [
        ("vllm", {"enable_prefix_caching": True}, {"no_enable_prefix_caching": True},
         "`enable_prefix_caching: True` wins over `no_enable_prefix_caching: True`"),
        ("vllm", {"tensor_parallel_size": 2}, {"tp": 4},
         "`tensor_parallel_size: 2` wins over `tp: 4`"),
        ("vllm", {"enable_log_requests": True}, {"no-enable-log-requests": True},
         "`enable_log_requests: True` wins over `no_enable_log_requests: True`"),
        ("sglang", {"seed": 1}, {"random_seed": 2}, "`random_seed: 2` wins over `seed: 1`"),
        ("sglang", {"enable_prefix_caching": True}, {"disable_radix_cache": True},
         "`disable_radix_cache: True` wins over `enable_prefix_caching: True`"),
    ],
)  # fmt: skip
def test_two_names_of_one_setting_are_told(
    engine: str, common: dict[str, Any], specific: dict[str, Any], note: str, tmp_path: Path
) -> None:
    args = {"engine_args": {"model": "/m", **common}, "engine_args_specific": {engine: specific}}
    notes = told(write(tmp_path, {}, {"engine": engine, **args}))
    assert len([found for found in notes if f"{note} of conf/serve/task.yaml:" in found]) == 1


FL = "export VLLM_PLUGINS=fl"


@pytest.mark.parametrize(
    ("envs", "before", "build"),
    [
        ({"USE_FLAGGEMS": "1"}, "", "patched"),
        ({"USE_FLAGGEMS": "yes"}, "", "patched"),
        ({"USE_FLAGGEMS": True}, "", "patched"),
        ({"USE_FLAGGEMS": False}, "", None),
        ({"USE_FLAGGEMS": "true", "VLLM_PLUGINS": "fl"}, "", "plugin"),
        ({"USE_FLAGGEMS": "yes", "VLLM_PLUGINS": "fl"}, "", None),
        ({"VLLM_PLUGINS": "fl"}, "", "plugin"),
        ({"VLLM_PLUGINS": "fl", "USE_FLAGGEMS": ""}, "", None),
        ({"VLLM_PLUGINS": "fl", "VLLM_FL_PREFER": "flagos"}, "", "plugin"),
        ({"VLLM_PLUGINS": "fl", "VLLM_FL_PREFER": "vendor"}, "", None),
        ({"VLLM_PLUGINS": "fl", "VLLM_FL_PREFER_ENABLED": "False"}, "", None),
        ({}, f"source /x && {FL}", "plugin"),
        ({}, f"source /x && {FL} && export USE_FLAGGEMS=1", "plugin"),
        ({"USE_FLAGGEMS": "1"}, f"source /x && {FL}", "plugin"),
        ({"USE_FLAGGEMS": "0"}, "source /x && export USE_FLAGGEMS=1", "patched"),
        ({"USE_FLAGGEMS": "1"}, "source /x && export USE_FLAGGEMS=0", None),
    ],
)
def test_flaggems_is_asked_for_by_what_its_builds_take_for_a_yes(
    envs: dict[str, Any], before: str, build: str | None, tmp_path: Path
) -> None:
    experiment = {"envs": envs, "cmds": {"before_start": before}}
    operators = loaded(write(tmp_path, experiment, MODEL)).deployment.operators
    wanted = ("flaggems", build) if build else ("none", "none")
    assert (operators.library, operators.build) == wanted


def test_the_plugin_of_another_engine_is_no_wish_for_flaggems(tmp_path: Path) -> None:
    folder = write(tmp_path, {"envs": {"VLLM_PLUGINS": "fl"}}, {"engine": "sglang", **MODEL})
    assert loaded(folder).deployment.operators.library == "none"


def test_the_prelude_runs_before_the_engine_without_quoting(tmp_path: Path) -> None:
    text = 'source /x/it\'s && export A="$PATH:1"'
    [spec] = specs(loaded(write(tmp_path, {"cmds": {"before_start": text}}, MODEL)))
    assert spec.argv[:5] == ("bash", "-c", 'eval "$0" && exec "$@"', text, "vllm")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('export A=1 && export B="2 3" # x', {"A": "1", "B": "2 3"}),
        ("export A=1\nexport B=c:d,e", {"A": "1", "B": "c:d,e"}),
        ("", {}),
        ("A=1", None),
        ("export A=$HOME", None),
        ("export A=1; reboot", None),
        ("export A=1 || true", None),
        ("export A='", None),
        ("export A=x#y", None),
        ("export A=1\nB=2", None),
    ],
)
def test_only_plain_exports_are_variables(text: str, found: dict[str, str] | None) -> None:
    assert prelude.variables(text) == found


def test_a_device_type_of_its_own_keeps_its_quoting(tmp_path: Path) -> None:
    runner = {"runner": {"hostfile": "hosts.txt", "docker": "c"}}
    args = {"engine_args": {"model": "/m", "tensor_parallel_size": 16}}
    folder = write(
        tmp_path, runner, args, "192.0.2.1 slots=8 type=mlu\n192.0.2.2 slots=8 type=mlu\n"
    )
    ranks = specs(loaded(folder, "engine_version='0.8.5'", "container.image=i"))
    assert [spec.argv.count('--resources={"MLU":8}') for spec in ranks] == [1, 1]


SHIPPED = [
    (name, path.stem)
    for name in workspace.deployments(ROOT)
    for path in sorted((ROOT / "examples" / name / "serve").glob("*.yaml"))
]


@pytest.mark.parametrize(("name", "variant"), SHIPPED)
def test_an_export_can_be_imported(name: str, variant: str, tmp_path: Path) -> None:
    ours = load(name, variant, ["endpoint.port=9431", "speculative.method=none"], root=ROOT)
    try:
        exported = exporting.export(ours)
    except ConfigError as error:
        assert ours.deployment.engine in str(error)
        assert ours.deployment.engine not in ("vllm", "sglang")
        return
    for file, text in exported.files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    back = loaded(tmp_path, f"engine_version='{ours.deployment.engine_version}'")
    assert [words(spec) for spec in specs(back)] == [words(spec) for spec in specs(ours)]


def exported(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[str]]:
    """`runner` of an export, and what it says of the vendor."""
    found = exporting.export(loaded(folder, *overrides))
    runner = yaml.safe_load(found.files[exporting.EXPERIMENT])["experiment"]["runner"]
    return runner, [note.what for note in found.notes if note.key == "vendor"]


def test_an_export_has_what_flagscale_asks_for(tmp_path: Path) -> None:
    """It refuses device_type alone, and SGLang on several hosts without nnodes and master_addr."""
    args = {"engine": "sglang", "engine_args": {"model": "/m", "tp": 2, "pp": 2}}
    runner, notes = exported(write(tmp_path, {}, args), "vendor=cambricon")
    assert (runner["device_type"], runner["nproc_per_node"], notes) == ("mlu", 4, [])
    hosts = "192.0.2.1 slots=2\n192.0.2.2 slots=2\n"
    folder = write(tmp_path, {"runner": {"hostfile": "hosts.txt"}}, args, hosts)
    runner, notes = exported(folder)
    assert (runner["nnodes"], runner["master_addr"], notes) == (2, "192.0.2.1", [])
    said = ["FlagScale has no word for it: the types of the hostfile do not say it"]
    assert exported(folder, "vendor=cambricon")[1] == said


def words(spec: Any) -> list[str]:
    """Engines take ``--a_b`` for ``--a-b``; FlagScale only knows the former."""
    return [w.replace("_", "-") if w.startswith("--") else w for w in spec.argv]


@settings(max_examples=25, deadline=None)
@given(configuration=configurations())
def test_import_export_import_is_stable(
    tmp_path_factory: pytest.TempPathFactory, configuration: tuple[Any, Any, str]
) -> None:
    """Of whole configurations: what runs, where, with which environment, and what is written."""
    first = loaded(write(tmp_path_factory.mktemp("pair"), *configuration))
    again = tmp_path_factory.mktemp("again")
    exported = exporting.export(first).files
    for file, text in exported.items():
        (again / file).parent.mkdir(parents=True, exist_ok=True)
        (again / file).write_text(text, newline="")
    second = loaded(again)
    assert replace(second.deployment, hostfile=None) == replace(first.deployment, hostfile=None)
    assert second.hosts == first.hosts
    assert exporting.export(second).files == exported
    assert [plain(spec) for spec in specs(second)] == [plain(spec) for spec in specs(first)]


@settings(max_examples=10, deadline=None)
@given(configuration=configurations())
def test_what_an_import_writes_is_the_same_deployment(
    tmp_path_factory: pytest.TempPathFactory, configuration: tuple[Any, Any, str]
) -> None:
    """`config import PAIR --to examples/made` and `serve made` is `serve --from-flagscale PAIR`."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "examples").mkdir()
    (root / "env").symlink_to(ROOT / "env")
    first = loaded(write(root / "pair", *configuration))
    name = first.deployment.name
    import_(root / "pair", to=root / "examples" / name, workspace=str(root))
    second = load(name, root=root, environ=ENVIRON)
    assert replace(second.deployment, hostfile=None) == replace(first.deployment, hostfile=None)
    assert second.hosts == first.hosts
    assert [plain(spec) for spec in specs(second)] == [plain(spec) for spec in specs(first)]


def test_the_ssh_port_of_all_hosts_is_written_for_each(tmp_path: Path) -> None:
    runner = {"runner": {"hostfile": "hosts.txt", "ssh_port": 2222}}
    hosts = "192.0.2.1 slots=8\n192.0.2.2 slots=8 port=2022\n"
    import_(write(tmp_path / "pair", runner, MODEL, hosts), to=tmp_path, workspace=str(ROOT))
    assert (tmp_path / "hostfile.txt").read_text() == (
        "192.0.2.1 slots=8 port=2222\n192.0.2.2 slots=8 port=2022\n"
    )


JUNK = st.sampled_from([None, 3, -1, 0.5, True, "", "x y", "${a}", [], [1], [[{}]], {}, {"a": {}}])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), junk=JUNK, case=st.sampled_from(["two_hosts", "mlu_hosts", "here"]))
def test_any_value_in_any_place_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, junk: Any, case: str
) -> None:
    folder = tmp_path_factory.mktemp("pair") / "examples" / case
    shutil.copytree(CASES / case, folder)
    name = data.draw(st.sampled_from(sorted(folder.rglob("*.yaml"))))
    tree = yaml.safe_load(name.read_text())
    places = list(_places(tree))
    parent, key = data.draw(st.sampled_from(places))
    parent[key] = junk
    name.write_text(yaml_file.dump(tree))
    with contextlib.suppress(FlagdeployError):
        loaded(folder)


def _places(tree: Any) -> Any:
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


@settings(max_examples=40, deadline=None)
@given(key=NAMES, place=st.sampled_from(["top", "experiment", "runner", "task", "item", "deploy"]))
def test_a_key_that_nobody_reads_is_named(
    tmp_path_factory: pytest.TempPathFactory, key: str, place: str
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    odd: dict[str, Any] = {key: {"deep": [1]}}
    places: dict[str, dict[str, Any]] = {
        "experiment": odd,
        "runner": {"runner": odd},
        "deploy": {"runner": {"deploy": odd}},
        "task": {"task": {"type": "serve", **odd}},
    }
    write(folder, places.get(place, {}), {**MODEL, **(odd if place == "item" else {})})
    if place == "top":
        file = folder / "conf" / "serve.yaml"
        file.write_text(file.read_text() + yaml_file.dump(odd))
    assert any(key in note.key.split(".") for note in imported(folder).notes)


def test_a_secret_is_never_in_what_is_written(tmp_path: Path) -> None:
    assert "HF_TOKEN" not in os.environ or os.environ["HF_TOKEN"] != ENVIRON["HF_TOKEN"]
    found = loaded(CASES / "two_hosts")
    assert str(found.deployment.container.env["HF_TOKEN"]) == "***"
    assert ENVIRON["HF_TOKEN"] not in str(exporting.export(found).files)
    assert "${oc.env:HF_TOKEN}" in str(exporting.export(found).files)
