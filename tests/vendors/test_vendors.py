from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from flagdeploy import vendors
from flagdeploy.config.schema import Deployment
from flagdeploy.errors import ConfigError, FlagdeployError

WORKSPACE = Path(__file__).parents[2]
CASES = sorted((WORKSPACE / "tests" / "cases" / "detect").glob("*/*.txt"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_listing(case):
    vendor = vendors.load(case.parent.name, WORKSPACE)
    expected = yaml.safe_load(case.with_suffix(".yaml").read_text())
    if isinstance(expected, dict):
        with pytest.raises(FlagdeployError) as caught:
            vendor.devices(case.read_text())
        assert str(caught.value) == expected["error"]
    else:
        assert [asdict(device) for device in vendor.devices(case.read_text())] == expected


def test_every_vendor_file_loads():
    assert vendors.names(WORKSPACE) == ["cambricon", "cpu", "nvidia", "tenstorrent"]
    for name in vendors.names(WORKSPACE):
        assert vendors.load(name, WORKSPACE).name == name


def test_a_vendor_without_a_listing_has_no_devices_to_report():
    assert vendors.load("cpu", WORKSPACE).devices("") == []


def test_unknown_vendor_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        vendors.load("cambrcon", WORKSPACE)
    assert str(caught.value) == "vendor: unknown vendor `cambrcon`"
    assert caught.value.hint == "did you mean `cambricon`?"


def test_unknown_fact_is_refused(tmp_path):
    folder = tmp_path / "env" / "vendors"
    folder.mkdir(parents=True)
    (folder / "acme.yaml").write_text("vendor: {devcies: [x]}\n")
    with pytest.raises(ConfigError, match="vendor.devcies: unknown key"):
        vendors.load("acme", tmp_path)


def test_unknown_chip_and_engine_of_a_vendor():
    tenstorrent = vendors.load("tenstorrent", WORKSPACE)
    deployment = replace(Deployment(), vendor="tenstorrent", engine="vllm", chip="wormhol")
    assert tenstorrent.problems(deployment) == [
        ("chip", "tenstorrent has no chip `wormhol`; did you mean `wormhole`?"),
        ("engine", "tenstorrent runs vllm_tt, not vllm"),
    ]


def test_a_plugin_of_a_wrong_shape_is_refused(tmp_path):
    folder = tmp_path / "env" / "vendors"
    folder.mkdir(parents=True)
    (folder / "acme.yaml").write_text(
        "vendor:\n  plugin:\n    vllm: {packge: x}\n    sglang: {package: x, env: {}}\n"
        "    pytorch: {package: x, environment: {A: 1}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        vendors.load("acme", tmp_path)
    path = folder / "acme.yaml"
    assert str(caught.value).splitlines() == [
        f"{path}: vendor.plugin.vllm: expected {{package: NAME, index: URL, "
        "environment: {NAME: value}}",
        f"{path}: vendor.plugin.sglang: unknown key `env`",
        f"{path}: vendor.plugin.pytorch: its values are text: quote them",
    ]
