"""YAML as plain data: what is written is what is read, or an error with the line."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
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


@given(DATA)
def test_what_pyyaml_writes_is_read_back(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data)
    assert yaml_file.parse(text, PATH).data == data


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
