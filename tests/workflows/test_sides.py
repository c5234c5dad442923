"""Finding what a user names: baselines by name and path, endpoints by URL."""

from dataclasses import replace
from pathlib import Path

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.bundle import Bundle, read_bundle, write_bundle
from flagdeploy.evals.tables import Table
from flagdeploy.workflows.sides import check_baseline, deployed, endpoint_of, find, names

ENDPOINT = {"model": "m", "version": None, "max_model_len": 9, "prompt_logprobs": 20}
MANIFEST = {"created": "today", "flagdeploy": "0", "endpoint": ENDPOINT, "benchmarks": []}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "env" / "baselines"
    for name in ("tiny/h200", "big/h200", "big/h100"):
        bundle = Bundle(name, {**MANIFEST, "facts": {"of": name}}, (), (), (), ())
        write_bundle(folder / f"{name}.jsonl.gz", bundle)
    (folder / "h100.yaml").write_text("title: H100\nscores: {MMLU: {n: 14042, value: 85.34}}\n")
    return tmp_path


def test_names(workspace: Path) -> None:
    assert names(workspace) == ["big/h100", "big/h200", "h100", "tiny/h200"]


def test_the_bundle_of_the_deployment_comes_before_the_published_table(workspace: Path) -> None:
    found = find("h100", workspace, "big")
    assert isinstance(found, Bundle)
    assert found.manifest["facts"] == {"of": "big/h100"}


def test_a_deployment_without_a_bundle_gets_the_table(workspace: Path) -> None:
    assert isinstance(find("h100", workspace, "tiny"), Table)
    assert isinstance(find("h100", workspace), Table)


def test_a_name_that_two_deployments_share_needs_the_deployment(workspace: Path) -> None:
    for name, deployment in (("h200", "tiny"), ("tiny/h200", None)):
        found = find(name, workspace, deployment)
        assert isinstance(found, Bundle)
        assert found.manifest["facts"] == {"of": "tiny/h200"}
    with pytest.raises(UsageError, match="no baseline `h200`"):
        find("h200", workspace)


def test_another_deployments_bundle_is_never_taken_silently(workspace: Path) -> None:
    with pytest.raises(UsageError, match="no baseline `h200`"):
        find("h200", workspace, "another")


def test_a_path(workspace: Path) -> None:
    path = workspace / "env" / "baselines" / "tiny" / "h200.jsonl.gz"
    assert find(str(path), Path("/nowhere")) == read_bundle(path)


def test_what_cannot_be_a_baseline_is_said_before_anything_is_asked(workspace: Path) -> None:
    check_baseline("h200", workspace)
    check_baseline("http://host", workspace)
    for name in ("h300", None):
        with pytest.raises(UsageError) as error:
            check_baseline(name, workspace)
        assert error.value.hint == "there are: big/h100, big/h200, h100, tiny/h200"


def test_the_key_for_a_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAGDEPLOY_API_KEY", raising=False)
    assert endpoint_of("http://h", Path()).api_key is None
    monkeypatch.setenv("FLAGDEPLOY_API_KEY", "canary")
    key = endpoint_of("http://h", Path()).api_key
    assert key is not None
    assert key.reveal() == "canary"


def test_the_configuration_of_a_served_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_RUNS", str(tmp_path))
    endpoint = endpoint_of("http://h", tmp_path)
    assert deployed(endpoint, tmp_path) is None
    for stamp, tensor in (("20260101T000000Z", 4), ("20260102T000000Z", 8)):
        folder = tmp_path / f"{stamp}-tiny-00ff"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"parallel: {{tensor: {tensor}}}\n")
    assert deployed(replace(endpoint, name="tiny"), tmp_path) == {"parallel": {"tensor": 8}}
