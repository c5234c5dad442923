"""Values of every type reach every engine, or are refused: none is dropped, none taken apart."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engines.conftest import ONE, R1, WORKSPACE, of
from flagdeploy import engines
from flagdeploy.config import keys
from flagdeploy.config.schema import Deployment
from flagdeploy.engines.base import Engine

NAMES = engines.names(WORKSPACE)
TENSTORRENT = replace(R1, vendor="tenstorrent", mesh_shape=[4, 8])

names = st.from_regex(r"x[a-z]{1,6}(-[a-z]{1,5})?", fullmatch=True)
plain = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8).filter(lambda text: not text.startswith("-")),
)  # fmt: skip
nested = st.recursive(
    plain | st.none(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(names, below, max_size=3),
    max_leaves=6,
)
given_args = st.dictionaries(names, nested, max_size=4)


@cache
def loaded(name: str) -> tuple[Engine, Deployment]:
    return engines.load(name, WORKSPACE), TENSTORRENT if name == "vllm_tt" else R1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@example(args={"x": "a\x85b \u2028", "x-y": {"z": [None, False, "\x85"]}})
@given(args=given_args)
def test_engine_args_of_any_type_arrive_or_are_refused(name: str, args: dict[str, Any]) -> None:
    engine, deployment = loaded(name)
    given = of(deployment, engine_args=args)
    refused = {key for key, _ in engine.problems(given, ONE)}
    refused -= {key for key, _ in engine.problems(deployment, ONE)}
    assert refused <= {f"engine_args.{key}" for key, value in args.items() if value is False}
    kept = {key: value for key, value in args.items() if f"engine_args.{key}" not in refused}
    (command,) = engine.commands(of(deployment, engine_args=kept), ONE)
    (before,) = engine.commands(deployment, ONE)
    if name == "tensorrt_llm":
        assert command.argv == before.argv
        options = yaml.safe_load(command.files[0].content)
        assert {key: options[key] for key in kept} == kept
        return
    added = list(command.argv)[len(before.argv) :]
    assert list(command.argv)[: len(before.argv)] == list(before.argv)
    for key, value in kept.items():
        assert added[: len(words(key, value))] == words(key, value)
        del added[: len(words(key, value))]
    assert added == []


def words(name: str, value: Any) -> list[str]:
    """The arguments of one value; written down by itself, apart from the engines' own table."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(text, value if isinstance(value, list) else [value])]


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("options", [False, True, 0, "", [], [1], "trace_mode", None])
def test_options_of_the_backend_are_a_mapping(options: Any) -> None:
    engine, deployment = loaded("vllm_tt")
    found = engine.problems(of(deployment, engine_args={"tt": options}), ONE)
    assert ("engine_args.tt", "holds the options of the backend: expected a mapping") in found


@pytest.mark.parametrize("version", ["0.8", "0.12"])
def test_options_of_the_backend_stay_together(version: str) -> None:
    engine, deployment = loaded("vllm_tt")
    options = {"trace_mode": False, "fabric": {"on": None, "text": "a b"}}
    given = of(deployment, engine_version=version, engine_args={"tt": options})
    (command,) = engine.commands(given, ONE)
    found = json.loads(command.argv[-1])
    assert (found.get("tt", found), "--no-trace_mode" in command.argv) == (options, False)


SWITCHES = [
    str(key)
    for key in keys.schema_keys().values()
    if key.type == bool | None and not str(key).startswith(("stages.", "container."))
]


@pytest.mark.parametrize("key", SWITCHES)
@pytest.mark.parametrize("name", NAMES)
def test_false_says_something_or_is_refused(name: str, key: str) -> None:
    """A key of ours that is unset leaves the engine its default; false is no default."""
    engine, deployment = loaded(name)
    without = with_key(deployment, key, False)
    if key not in dict(engine.problems(without, ONE)):
        assert engine.commands(without, ONE) != engine.commands(deployment, ONE)


def with_key(deployment: Deployment, key: str, value: Any) -> Deployment:
    section, _, name = key.rpartition(".")
    if not section:
        return replace(deployment, **{name: value})
    inner = replace(getattr(deployment, section), **{name: value})
    return replace(deployment, **{section: inner})
