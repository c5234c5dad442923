"""The index: where each tensor lies, and file names that stay in the folder."""

import json
from pathlib import Path

import pytest

from checkpoint.deepseek_layout import deepseek
from flagdeploy.checkpoint.index import INDEX, SINGLE, read_index, write_index
from flagdeploy.errors import CheckpointError


def index_file(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / INDEX).write_text(text)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_index(folder)
    return str(caught.value)


def test_reads_what_it_writes(tmp_path: Path) -> None:
    write_index(tmp_path, {"b": "2.safetensors", "a": "1.safetensors"}, 12)
    index = read_index(tmp_path)
    assert index.weight_map == {"a": "1.safetensors", "b": "2.safetensors"}
    assert index.shards == ("1.safetensors", "2.safetensors")
    assert index.total_size == 12
    assert list(json.loads((tmp_path / INDEX).read_text())["weight_map"]) == ["a", "b"]


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards = {SINGLE: layout.tensors}
    layout.write(tmp_path)
    (tmp_path / INDEX).unlink()
    index = read_index(tmp_path)
    assert index.shards == (SINGLE,)
    assert index.weight_map.keys() == layout.tensors.keys()


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/../../x", "..", "", ".", "a\\..\\x", "x\n.safetensors"],
)
def test_a_shard_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = index_file(tmp_path, {"weight_map": {"a": name}})
    assert refusal(folder) == f"{folder}: refuses the file name {name!r}: it leaves the folder"


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.touch()
    folder = index_file(tmp_path / "model", {"weight_map": {"a": "x.safetensors"}})
    (folder / "x.safetensors").symlink_to(outside)
    assert refusal(folder) == (
        f"{folder}/x.safetensors: is a link to {outside}, outside the checkpoint"
    )


def test_a_link_to_itself_is_a_missing_file(tmp_path: Path) -> None:
    folder = index_file(tmp_path, {"weight_map": {"a": "x.safetensors"}})
    (folder / "x.safetensors").symlink_to("x.safetensors")
    assert read_index(folder).shards == ("x.safetensors",)
    assert not (folder / "x.safetensors").is_file()


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    name = "n" * 5000
    folder = index_file(tmp_path, {"weight_map": {"a": name}})
    assert refusal(folder) == (f"{folder}: refuses the file name {name[:80]!r}: File name too long")


def test_a_snapshot_of_the_hugging_face_cache_is_read(tmp_path: Path) -> None:
    blob = tmp_path / "models--o--m" / "blobs" / "abc"
    blob.parent.mkdir(parents=True)
    blob.touch()
    snapshots = tmp_path / "models--o--m" / "snapshots"
    snapshots.mkdir()
    folder = index_file(snapshots / "0123", {"weight_map": {"a": "x.safetensors"}})
    (folder / "x.safetensors").symlink_to("../../blobs/abc")
    assert read_index(folder).shards == ("x.safetensors",)
    (folder / "y.safetensors").symlink_to("../../../secret")
    index_file(folder, {"weight_map": {"a": "y.safetensors"}})
    assert "outside the checkpoint" in refusal(folder)


BROKEN = {
    "not JSON": ("{", f"{INDEX}: is not valid JSON: Expecting property name"),
    "a list": ("[]", f"{INDEX}: is not a JSON object"),
    "no weight_map": ({"metadata": {}}, f"{INDEX}: has no weight_map"),
    "empty weight_map": ({"weight_map": {}}, f"{INDEX}: has no weight_map"),
    "weight_map of numbers": (
        {"weight_map": {"a": 1}},
        f"{INDEX}: weight_map: a: 1 is not a file name",
    ),
    "duplicate key": (
        '{"weight_map": {"a": "x", "a": "y"}}',
        f"{INDEX}: is not valid JSON: key 'a' appears twice",
    ),
    "control characters": (
        {"weight_map": {"a\x1b[31m": "x"}},
        f"{INDEX}: tensor name 'a\\x1b[31m' holds control characters",
    ),
    "half of a surrogate pair": (
        {"weight_map": {"a": "\ud800"}},
        f"{INDEX}: holds half of a surrogate pair",
    ),
    "a long name": (
        {"weight_map": {"n" * 5000: 1}},
        f"{INDEX}: weight_map: {'n' * 80}: 1 is not a file name",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_index_is_refused(tmp_path: Path, case: str) -> None:
    content, reason = BROKEN[case]
    assert refusal(index_file(tmp_path, content)).startswith(f"{tmp_path}/{reason}")


@pytest.mark.parametrize(
    ("stated", "read"),
    [(12, 12), (12.0, 12), ("12", None), (None, None), (1e999, None), (True, None)],
)
def test_total_size_as_writers_store_it(tmp_path: Path, stated: object, read: int | None) -> None:
    text = json.dumps({"metadata": {"total_size": stated}, "weight_map": {"a": "x"}})
    folder = index_file(tmp_path, text.replace("Infinity", "1e999"))
    assert read_index(folder).total_size == read


def test_an_index_of_any_size_costs_no_memory(tmp_path: Path) -> None:
    with (tmp_path / INDEX).open("wb") as file:
        file.truncate(1 << 40)
    assert refusal(tmp_path) == f"{tmp_path}/{INDEX}: is larger than {64 << 20} bytes"


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"{tmp_path}/none: no such folder"
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds neither {INDEX} nor {SINGLE}: not a safetensors checkpoint"
    )
