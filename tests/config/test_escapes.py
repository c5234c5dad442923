"""Text is written so that OmegaConf itself reads it back."""

from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flagdeploy.config.escapes import escaped

PIECES = st.lists(
    st.sampled_from(["\\", "${", "}", "$", "{", "x", "'", '"', "\n", "ü", "a.b"])
).map("".join)


@given(PIECES | st.text())
@example("C:\\${HOME}")
@example("\\\\${HOME}\\")
def test_any_text_is_read_back(text: str) -> None:
    value = {"a": text, "many": [text], "deep": {"b": text}}
    config = OmegaConf.create(escaped({**value, "a.b": "no", "x": "no"}))
    read = OmegaConf.to_container(config, resolve=True)
    assert {name: read[name] for name in value} == value
