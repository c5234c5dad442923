import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.engines import arguments
from flagdeploy.engines.arguments import Argument
from flagdeploy.errors import ConfigError


def test_versions_compare_by_number_not_by_text():
    assert arguments.version("0.9") < arguments.version("0.12")
    assert arguments.version("1.3.0rc5") == (1, 3, 0)
    assert arguments.version("v0.33.0+cpu") == (0, 33, 0)


def test_a_row_holds_from_since_until_before_until():
    row = Argument("k", flag="--k", since="0.5.10", until="0.5.23")
    held = [v for v in ("0.5.9", "0.5.10", "0.5.22", "0.5.23") if row.holds(v)]
    assert held == ["0.5.10", "0.5.22"]


def test_flags_of_every_kind():
    rows = [
        Argument("number", flag="--number"),
        Argument("word", flag="--word", values={"ours": "theirs"}),
        Argument("on", flag="--on", kind="switch"),
        Argument("off", flag="--no-off", kind="inverse"),
        Argument("constant", flag="--constant", kind="inverse", value="-1"),
        Argument("many", flag="--many", kind="list"),
        Argument("absent", flag="--absent"),
    ]
    settings = {
        "number": 0.9, "word": "ours", "on": True, "off": False, "constant": False, "many": [1, 8],
    }  # fmt: skip
    words = arguments.flags(rows, settings)
    assert words == [
        "--number", "0.9", "--word", "theirs", "--on", "--no-off", "--constant", "-1", "--many",
        "1", "8",
    ]  # fmt: skip


def test_switches_in_the_other_position_say_nothing():
    rows = [
        Argument("on", flag="--on", kind="switch"),
        Argument("off", flag="--no-off", kind="inverse"),
    ]
    assert arguments.flags(rows, {"on": False, "off": True}) == []


def test_options_nest_by_their_dotted_path():
    rows = [
        Argument("graph", yaml="graph", kind="optional"),
        Argument("padding", yaml="graph.padding"),
        Argument("sizes", yaml="graph.sizes"),
    ]
    both = arguments.options(rows, {"graph": True, "padding": True, "sizes": [1, 2]})
    assert both == {"graph": {"padding": True, "sizes": [1, 2]}}
    assert arguments.options(rows, {"graph": True}) == {"graph": {}}
    assert arguments.options(rows, {"graph": False}) == {"graph": None}


def test_variables_are_text():
    rows = [
        Argument("on", env="ON", kind="binary"),
        Argument("nvcc", env="USE_NVRTC", value="0", kind="switch"),
    ]
    assert arguments.environment(rows, {"on": True, "nvcc": True}) == {"ON": "1", "USE_NVRTC": "0"}
    assert arguments.environment(rows, {"on": False, "nvcc": False}) == {"ON": "0"}


def test_engine_args_of_every_type():
    words = arguments.extra(
        {
            "enable-metrics": True,
            "enable-thing": False,
            "left-out": None,
            "compilation-config": {"level": 3, "sizes": [1, 2]},
            "api-names": ["a b", "c"],
            "seed": 0,
        }
    )
    assert words == [
        "--enable-metrics",
        "--no-enable-thing",
        "--compilation-config",
        '{"level":3,"sizes":[1,2]}',
        "--api-names",
        "a b",
        "c",
        "--seed",
        "0",
    ]


@given(st.text())
def test_text_is_passed_byte_for_byte(text):
    assert arguments.extra({"name": text}) == ["--name", text]


leaf = st.integers() | st.text(max_size=5) | st.booleans() | st.none()
nested = st.recursive(leaf, lambda below: st.lists(below, max_size=3), max_leaves=5)


@given(st.dictionaries(st.text(max_size=5), nested, max_size=3))
def test_mappings_survive_as_one_json_argument(mapping):
    _, word = arguments.extra({"config": mapping})
    assert json.loads(word) == mapping


def test_a_row_with_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "engine.yaml"
    path.write_text(
        "title: E\nversions: {oldest: '1', newest: '2'}\narguments: {a.b: [{flga: --x}]}\n"
    )
    with pytest.raises(ConfigError, match="not an argument table: .*flga"):
        arguments.read(path)
