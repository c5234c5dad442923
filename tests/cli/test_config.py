"""`flagdeploy config`: the resolved YAML with the source of each leaf, and the history of a key."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from flagdeploy.cli.app import app
from flagdeploy.config import workspace

ROOT = Path(__file__).parents[2]
PAIRS = ROOT / "tests" / "cases" / "flagscale" / "examples"
VARIANT = "examples/deepseek_r1/serve/cambricon_bf16.yaml"
CANARY = "hf_canary_0123456789"
SECRET = "container.env.HF_TOKEN=${env:HF_TOKEN}"


def config(*words: str) -> Result:
    return CliRunner().invoke(app, ["config", *words, "--workspace", str(ROOT)])


def sources(text: str) -> dict[str, str]:
    """The comment behind each line that has one, by the line's own key."""
    pairs = (line.split("  # ") for line in text.splitlines() if "  # " in line)
    return {left.split(":")[0].strip(): right for left, right in pairs}


def test_each_leaf_is_shown_with_its_source() -> None:
    shown = config("show", "deepseek_r1", "cambricon_bf16", "parallel.tensor=4")
    found = yaml.safe_load(shown.stdout)
    assert found["parallel"] == {"tensor": 4, "pipeline": 4}
    assert found["engine_version"] == "0.8.5"
    where = sources(shown.stdout)
    assert where["tensor"] == "command line"
    assert where["pipeline"] == f"{VARIANT}:{line_of('parallel:')}"
    assert where["RAY_CGRAPH_get_timeout"] == f"{VARIANT}:{line_of('RAY_CGRAPH')}"
    assert where["repo"] == "examples/deepseek_r1/config.yaml:6"
    assert where["privileged"].startswith("env/vendors/cambricon.yaml:")
    assert where["entrypoint"].startswith("env/engines/vllm.yaml:")
    assert "context_length" in where
    assert "master_port" not in where


def line_of(text: str) -> int:
    lines = (ROOT / VARIANT).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.strip().startswith(text))


def test_all_shows_the_defaults_too() -> None:
    where = sources(config("show", "tiny_deepseek_r1", "--all").stdout)
    assert where["master_port"] == "defaults"


@pytest.mark.parametrize("name", workspace.deployments(ROOT))
def test_what_is_shown_says_the_same_as_json(name: str) -> None:
    data = json.loads(config("show", name, "--json").stdout)
    nested = yaml.safe_load(config("show", name).stdout)
    for key, leaf in data.items():
        value = nested
        for part in key.split("."):
            value = value[part]
        assert value == leaf["value"], key


def test_a_secret_is_shown_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    for words in (["show"], ["show", "--json"], ["explain", "container.env"]):
        shown = config(words[0], *words[1:], "deepseek_r1", "vllm_fp8_h200", SECRET)
        assert shown.exit_code == 0, shown.stderr
        assert "HF_TOKEN" in shown.stdout
        assert CANARY not in shown.stdout + shown.stderr


def test_the_history_of_a_key() -> None:
    explained = config("explain", "parallel.tensor", "deepseek_r1", "parallel.tensor=4")
    assert explained.stdout == (
        "parallel.tensor = 4\n"
        "  tensor parallelism (TP): devices that share every layer (int)\n"
        "  set by   command line: 4\n"
        "  overrode examples/deepseek_r1/serve/vllm_fp8_h200.yaml:8: 8\n"
        "  overrode defaults: 1\n"
    )


def test_the_history_of_each_word_of_a_mapping() -> None:
    words = ("explain", "container.ulimits", "deepseek_r1", "container.ulimits.stack=1")
    assert config(*words).stdout.splitlines()[2:] == [
        "  container.ulimits.memlock set by   env/vendors/nvidia.yaml:37: -1",
        "  container.ulimits.stack set by   command line: 1",
        "  container.ulimits.stack overrode env/vendors/nvidia.yaml:38: 67108864",
    ]
    data = json.loads(config(*words, "--json").stdout)
    assert data["value"] == {"memlock": -1, "stack": 1}
    assert data["history"]["container.ulimits.memlock"] == [
        {"where": "env/vendors/nvidia.yaml:37", "value": -1}
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "parallel.tensr",
            "error: command line: parallel.tensr: unknown key\n\n"
            "hint: did you mean `parallel.tensor`?\n",
        ),
        (
            "moe",
            "error: command line: moe: is a section: name one of its keys\n\n"
            "hint: there are: moe.backend, moe.max_num_tokens\n",
        ),
    ],
)
def test_what_is_no_key(key: str, message: str) -> None:
    explained = config("explain", key, "deepseek_r1")
    assert (explained.exit_code, explained.stderr) == (2, message)


def test_a_flagscale_pair_becomes_a_deployment(tmp_path: Path) -> None:
    pair, to = PAIRS / "mlu_hosts", str(tmp_path / "made")
    done = config("import", str(pair), "container.image=i:1", "chip=MLU590", "--to", to)
    assert done.stdout == f"wrote {to}/config.yaml\nwrote {to}/hostfile.txt\n"
    assert (done.exit_code, "not ready to serve" in done.stderr) == (0, False)
    made = yaml.safe_load((tmp_path / "made" / "config.yaml").read_text())
    assert made["hostfile"] == f"{to}/hostfile.txt"
    assert made["operators"] == {"library": "flaggems", "build": "patched"}
    assert len((tmp_path / "made" / "hostfile.txt").read_text().splitlines()) == 4
    again = config("import", str(pair), "--to", to)
    assert (again.exit_code, again.stderr.splitlines()[0]) == (
        2,
        f"error: {to}/config.yaml exists already",
    )


ERRORS = yaml.safe_load((ROOT / "tests/cases/errors/flagscale.yaml").read_text())


@pytest.mark.parametrize("case", ERRORS["cases"].values(), ids=ERRORS["cases"])
def test_bad_input(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGDEPLOY_RUNS", str(tmp_path / "out"))
    pair, out = tmp_path / "pair", tmp_path / "out"
    for name, text in {**ERRORS["sound"], **case.get("files", {})}.items():
        if text is not None:
            (pair / name).parent.mkdir(parents=True, exist_ok=True)
            (pair / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    words = case.get("arguments", ["config", "import", "PAIR", "--to", "OUT"])
    words = [word.replace("PAIR", str(pair)).replace("OUT", str(out)) for word in words]
    result = CliRunner().invoke(app, [*words, "--workspace", str(ROOT)])
    said = result.stderr.replace(str(pair), "PAIR")
    if case.get("notes"):
        said = "".join(line for line in said.splitlines(True) if not line.startswith("note: "))
    assert said == f"error: {case['error']}\n"
    assert (result.exit_code, result.stdout) == (2, "")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_cases_start_from_is_sound(tmp_path: Path) -> None:
    for name, text in ERRORS["sound"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = config("import", str(tmp_path), "container.image=i", "--to", str(tmp_path / "out"))
    assert (done.exit_code, "not ready" in done.stderr) == (0, False)


def test_an_import_needs_no_secret_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    done = config("import", str(PAIRS / "two_hosts"))
    assert done.exit_code == 0, done.stderr
    made = yaml.safe_load(done.stdout.split("# --- hostfile.txt\n")[0])
    assert made["container"]["env"]["HF_TOKEN"] == "${env:HF_TOKEN}"
    assert "not ready to serve: " in done.stderr
    assert "the environment variable HF_TOKEN is not set" in done.stderr


def test_an_export_names_what_has_no_place(tmp_path: Path) -> None:
    done = config("export", "deepseek_r1", "sglang_mtp_h200", "--to", str(tmp_path))
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == [
        "hostfile.txt",
        "serve.yaml",
        "sglang_mtp_h200.yaml",
    ]
    assert "speculative.method: FlagScale has no key for it" in done.stderr
    refused = config("export", "tiny_deepseek_r1", "local")
    assert refused.exit_code == 2
    assert "pytorch: FlagScale serves with vllm, sglang and llama_cpp" in refused.stderr
    assert config("export", "deepseek_r1", "--format", "x").exit_code == 2


def test_an_export_carries_the_choice_of_operators(tmp_path: Path) -> None:
    choice = "{library: flaggems, build: plugin, exclude: [mm, mul], config: {strict: true}}"
    words = ("deepseek_r1", "vllm_fp8_h200", f"operators={choice}", "--to", str(tmp_path))
    assert "operators" not in config("export", *words).stderr
    made = yaml.safe_load((tmp_path / "conf" / "serve.yaml").read_text())
    assert made["experiment"]["envs"] == {
        "USE_FLAGGEMS": "1",
        "VLLM_PLUGINS": "fl",
        "VLLM_FL_FLAGOS_BLACKLIST": "mm,mul",
        "VLLM_FL_STRICT": "1",
    }
