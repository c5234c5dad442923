"""What is known of a folder's files, from the records of those who brought them."""

import hashlib
import json
from pathlib import Path

import pytest

from checkpoint.deepseek_layout import deepseek
from flagdeploy.checkpoint.ownership import UNFINISHED
from flagdeploy.checkpoint.recorded import Recorded, check_recorded, recorded
from flagdeploy.checkpoint.verify import Finding, verify
from flagdeploy.workflows.dequant import dequant
from flagdeploy.workflows.pull import pull

FIRST = "model-00001-of-000003.safetensors"
NAMES = ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "hub")


def test_nothing_is_known_of_a_plain_folder(folder: Path) -> None:
    assert recorded(folder) == Recorded("huggingface_hub's download record", {}, {})


def test_of_pull_sizes_and_hashes(folder: Path, tmp_path: Path) -> None:
    pulled = pull(folder, to=tmp_path / "R1").folder
    known = recorded(pulled)
    assert known.by == "flagdeploy.json"
    assert known.sizes[FIRST] == (folder / FIRST).stat().st_size
    assert known.digests[FIRST] == hashlib.sha256((folder / FIRST).read_bytes()).hexdigest()
    assert known.sizes.keys() == known.digests.keys() >= {FIRST, *NAMES}


def test_of_dequant_sizes(folder: Path) -> None:
    converted = dequant(folder, "bf16").folder
    known = recorded(converted)
    assert known.digests == {}
    assert known.sizes[FIRST] == (converted / FIRST).stat().st_size


def test_of_a_download_of_huggingface_hub(folder: Path) -> None:
    records = folder / ".cache/huggingface/download"
    records.mkdir(parents=True)
    digests = {FIRST: "a" * 64, "config.json": "b" * 40}
    for name, etag in digests.items():
        (records / f"{name}.metadata").write_text(f"{'c' * 40}\n{etag}\n1700000000.0\n")
    (records / "gone.json.metadata").write_text(f"{'c' * 40}\n{'d' * 40}\n1700000000.0\n")
    (records / "tokenizer.json.metadata").write_text("begun")
    assert recorded(folder) == Recorded("huggingface_hub's download record", {}, digests)


def test_of_the_hugging_face_cache(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--X/blobs", tmp_path / "models--X/snapshots/cccc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    digests = {}
    for path in folder.iterdir():
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (blobs / digests[path.name]).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blobs / digests[path.name])
    assert recorded(snapshot) == Recorded(
        "the Hugging Face cache", {}, dict(sorted(digests.items()))
    )


def test_sizes_that_differ(folder: Path) -> None:
    headers = verify(folder).headers
    sizes = {FIRST: 5, "tokenizer.json": 3, "config.json": 1, "vocab.json": 9}
    (folder / UNFINISHED).write_text("{}")
    known = Recorded("the record", sizes, {})
    size = (folder / FIRST).stat().st_size
    assert check_recorded(folder, known, headers, {"config.json"}) == [
        Finding(
            UNFINISHED,
            "unfinished",
            "a pull or dequant into this folder was interrupted; the same command ends it",
        ),
        Finding(FIRST, "foreign", f"has {size} bytes, the record says 5: of another revision"),
        Finding("tokenizer.json", "changed", "has 2 bytes, the record says 3"),
        Finding("vocab.json", "missing", "the record names it, the folder lacks it"),
    ]


def test_a_record_may_know_a_part(folder: Path) -> None:
    (folder / "flagdeploy.json").write_text(json.dumps({"files": {"x": {"size": 3}, "y": 4}}))
    assert recorded(folder) == Recorded("flagdeploy.json", {"x": 3, "y": 4}, {})
    (folder / "flagdeploy.json").write_text("{}")
    assert recorded(folder) == Recorded("flagdeploy.json", {}, {})
