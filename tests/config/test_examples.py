"""The dimensions in the shipped deployments are those of the models."""

import json
from dataclasses import asdict
from pathlib import Path

from config.models import DEEPSEEK_R1, GPT_OSS_120B
from flagdeploy.config.load import load

WORKSPACE = Path(__file__).parents[2]


def test_the_model_in_the_box_has_the_dimensions_of_its_checkpoint():
    checkpoint = WORKSPACE / "examples" / "tiny_deepseek_r1" / "checkpoint"
    actual = json.loads((checkpoint / "config.json").read_text())
    architecture = load("tiny_deepseek_r1", root=WORKSPACE).deployment.model.architecture
    dimensions = {name: value for name, value in asdict(architecture).items() if value}
    assert dimensions == {name: actual[name] for name in dimensions}


def test_large_models():
    assert load("deepseek_r1", root=WORKSPACE).deployment.model.architecture == DEEPSEEK_R1
    assert load("gpt_oss_120b", root=WORKSPACE).deployment.model.architecture == GPT_OSS_120B
