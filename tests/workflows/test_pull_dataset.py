"""pull --dataset: from a hub and from a manifest, pinned, checked, resumed, and said how."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint.hub_server import Hub, serve
from evals.test_download import Site, site  # noqa: F401  a fixture

from flagdeploy.errors import CheckpointError, EvalError, UsageError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals.dataset import DataSet
from flagdeploy.workflows.pull_dataset import listing, pull_dataset

COMMIT = "5" * 40
ROWS = b'{"problem": "Q", "answer": "7"}\n'
VAL = {f"{subject}/val-00000-of-00001.parquet": subject.encode() for subject in ("art", "law")}


def known(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    files = {"test.jsonl": ROWS, "README.md": b"-", "art/dev-0.parquet": b"-", **VAL}
    with serve(Hub("some/set", {COMMIT: files}, {"main": COMMIT}, kind="dataset")) as hub:
        yield hub


def given(monkeypatch: pytest.MonkeyPatch, name: str, source: Any) -> DataSet:
    changed = replace(datasets.load(name), source=source)
    monkeypatch.setattr(datasets, "load", lambda _: changed)
    return changed


def test_a_file_whose_hash_is_known(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, "aime25", datasets.Hub("some/set", COMMIT, {"test.jsonl": known(ROWS)}))
    to = tmp_path / "aime25"
    pulled = pull_dataset("AIME-25", to, endpoint=hub.endpoint)
    assert (to / "test.jsonl").read_bytes() == ROWS
    assert datasets.find_files("aime25", to) == [to / "test.jsonl"]
    assert pulled.hashes == {"test.jsonl": known(ROWS)}
    assert pulled.first_use == ()
    assert str(pulled).splitlines() == [
        f"{to}: AIME 2025, 1 file",
        f"  from some/set at {COMMIT}",
        "  licence: Apache-2.0 by the publisher; the problems are the MAA's",
    ]
    record = json.loads((to / "flagdeploy.json").read_text())
    assert record["sha256"] == pulled.hashes
    served = hub.served
    pull_dataset("aime25", to, endpoint=hub.endpoint)
    assert hub.served == served
    fetched = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert all(path == f"/datasets/some/set/resolve/{COMMIT}/test.jsonl" for path in fetched)


def test_a_file_that_is_not_the_published_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, "aime25", datasets.Hub("some/set", COMMIT, {"test.jsonl": known(b"else")}))
    with pytest.raises(EvalError, match=r"test.jsonl is not the file that was published: its SHA"):
        pull_dataset("aime25", tmp_path / "aime25", endpoint=hub.endpoint)
    assert not (tmp_path / "aime25" / "test.jsonl").exists()
    assert not (tmp_path / "aime25" / "flagdeploy.json").exists()


def test_hashes_nobody_publishes_are_trusted_on_first_use(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, "ceval", datasets.Hub("some/set", COMMIT, {"*/val-*.parquet": None}))
    to = tmp_path / "ceval"
    pulled = pull_dataset("ceval", to, endpoint=hub.endpoint)
    assert pulled.first_use == tuple(VAL)
    assert "2 files checked against the hub's own hashes only, as none are published" in str(pulled)
    assert len(datasets.find_files("ceval", to)) == 2
    name = next(iter(VAL))
    hub.commits[COMMIT][name] = b"changed behind the commit"
    with pytest.raises(CheckpointError, match=r"1 problem\(s\) in the data set:\n  art/val"):
        pull_dataset("ceval", to, endpoint=hub.endpoint)
    with pytest.raises(EvalError, match="is not the file that was published"):
        pull_dataset("ceval", to, endpoint=hub.endpoint)


def test_a_gated_set_says_what_to_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = datasets.Hub("some/set", COMMIT, {"test.jsonl": known(ROWS)}, gated=True)
    given(monkeypatch, "gpqa_diamond", source)
    hub.gated = True
    with pytest.raises(CheckpointError) as caught:
        pull_dataset("gpqa_diamond", tmp_path / "gpqa", endpoint=hub.endpoint)
    assert "is gated" in str(caught.value)
    assert caught.value.hint == (
        "accept them at https://huggingface.co/datasets/some/set, then set HF_TOKEN"
    )
    hub.gated, hub.token = False, "hf_canaryCanaryCanary"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    pulled = pull_dataset("gpqa_diamond", tmp_path / "gpqa", endpoint=hub.endpoint)
    assert hub.token not in json.dumps(pulled.to_dict())


def test_nothing_of_what_is_wanted(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, "ceval", datasets.Hub("some/set", COMMIT, {"*.zip": None}))
    with pytest.raises(EvalError, match=r"some/set at 555555555555 has none of \*.zip"):
        pull_dataset("ceval", tmp_path / "ceval", endpoint=hub.endpoint)


def manifest(site: Site, monkeypatch: pytest.MonkeyPatch, md5: str) -> None:  # noqa: F811
    source = datasets.Manifest(f"{site.url}/metadata/r1.uri", {"acc/f.pkl": md5})
    given(monkeypatch, "mlperf_deepseek_r1", source)


def test_a_manifest(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    content = b"x" * 5000
    md5 = hashlib.md5(content).hexdigest()
    site.files = {
        "/metadata/r1.uri": f"{site.url}/r1/datasets\n".encode(),
        "/metadata/r1.md5": f"{md5}  ./acc/f.pkl\n{'0' * 32}  ./perf/g.pkl\n".encode(),
        "/r1/datasets/acc/f.pkl": content,
    }
    manifest(site, monkeypatch, md5)
    site.cuts = [10_000, 10_000, 1000]
    pulled = pull_dataset("mlperf_deepseek_r1", tmp_path)
    assert (tmp_path / "acc" / "f.pkl").read_bytes() == content
    assert pulled.hashes == {"acc/f.pkl": known(content)}
    assert site.ranges[-1] == "bytes=1000-"
    manifest(site, monkeypatch, "1" * 32)
    with pytest.raises(EvalError, match=f"has acc/f.pkl with MD5 {md5}, not 1111"):
        pull_dataset("mlperf_deepseek_r1", tmp_path)
    site.files["/metadata/r1.uri"] = b"<html>log in</html>"
    with pytest.raises(EvalError, match="holds no address: '<html>log in"):
        pull_dataset("mlperf_deepseek_r1", tmp_path)


def test_a_dry_run_connects_nowhere(tmp_path: Path) -> None:
    planned = pull_dataset("gsm8k", tmp_path / "gsm8k", endpoint="http://[::1]:1", dry_run=True)
    assert str(planned).startswith(f"pull GSM8K into {tmp_path / 'gsm8k'}\n  from https://raw.")
    assert not (tmp_path / "gsm8k").exists()
    with pytest.raises(UsageError, match="no data set `nope`"):
        pull_dataset("nope", tmp_path)


def test_the_list_names_every_set() -> None:
    assert [row["name"] for row in listing()] == datasets.names()
