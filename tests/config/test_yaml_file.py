"""YAML as plain data: what is written is what is read, or an error with the line."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from flagdeploy.config import yaml_file
from flagdeploy.errors import ConfigError

PATH = Path("x.yaml")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT
SCALARS |= st.floats(allow_nan=False, allow_infinity=False)
DATA = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    max_size=6,
)


@given(DATA, st.booleans())
@example({"0E0": ["1e5", "-.5e+3", 1e5]}, True)
def test_what_is_written_is_read_back(data: dict[str, object], flow: bool) -> None:
    """By this reader, and by those that know YAML 1.1 alone."""
    text = yaml_file.dump(data, flow=flow)
    assert yaml_file.parse(text, PATH).data == data
    assert yaml.safe_load(text) == data


@given(st.text(max_size=60))
def test_any_text_is_data_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(yaml_file.parse(text, PATH).data, dict)
    except ConfigError as error:
        assert str(error).startswith("x.yaml")


def test_lines_of_keys() -> None:
    file = yaml_file.parse("a: 1\nb:\n  c:\n    - d\n", PATH)
    assert file.lines[("a",)] == 1
    assert file.lines[("b", "c")] == 3
    assert file.lines[("b", "c", "0")] == 4


def test_numbers_as_people_write_them() -> None:
    data = yaml_file.parse("{a: 1e-5, b: 2e3, c: -1, d: 0.5, e: '1e3', f: 2024-01-01}", PATH).data
    assert data == {"a": 1e-5, "b": 2000.0, "c": -1, "d": 0.5, "e": "1e3", "f": "2024-01-01"}


def test_aliases_cannot_multiply_without_bound() -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="too many nodes"):
        yaml_file.parse("\n".join(layers), PATH)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        yaml_file.read(Path("/nonexistent/x.yaml"))
