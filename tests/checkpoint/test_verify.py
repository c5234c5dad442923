"""verify names every shard that is missing, torn, swapped, foreign or changed."""

import hashlib
import json
from pathlib import Path

import pytest

from checkpoint.deepseek_layout import INDEX, deepseek
from flagdeploy.checkpoint.hashes import check_hashes
from flagdeploy.checkpoint.verify import Finding, verify
from flagdeploy.errors import CheckpointError

FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "model")


def findings(folder: Path) -> list[str]:
    return [str(finding) for finding in verify(folder).findings]


def test_a_whole_checkpoint_has_no_findings(folder: Path) -> None:
    result = verify(folder).require()
    assert result.ok
    assert len(result.headers) == 3
    assert result.tensors == len(deepseek().tensors)
    assert result.data_bytes == result.index.total_size
    assert result.config["num_hidden_layers"] == 2
    assert str(result) == (
        f"{folder}: 3 shard(s), {result.tensors} tensors, {result.data_bytes} bytes: whole"
    )


def test_missing_shard(folder: Path) -> None:
    (folder / SECOND).unlink()
    assert findings(folder) == [f"{SECOND}: missing: the index names it, the folder lacks it"]


@pytest.mark.parametrize("change", [-1, 1, -100_000])
def test_torn_shard(folder: Path, change: int) -> None:
    size = (folder / SECOND).stat().st_size
    with (folder / SECOND).open("r+b") as file:
        file.truncate(size + change)
    assert findings(folder) == [
        f"{SECOND}: torn: the header describes {size} bytes, the file has {size + change}"
    ]


def test_shard_torn_in_its_header(folder: Path) -> None:
    length = int.from_bytes((folder / SECOND).read_bytes()[:8], "little")
    with (folder / SECOND).open("r+b") as file:
        file.truncate(100)
    assert findings(folder) == [
        f"{SECOND}: torn: the header needs {8 + length} bytes, the file has 100"
    ]


def test_shard_with_a_damaged_header(folder: Path) -> None:
    with (folder / SECOND).open("r+b") as file:
        file.seek(8)
        file.write(b"x")
    assert findings(folder) == [
        f"{SECOND}: header: header does not start with '{{': not a safetensors file"
    ]


def test_swapped_shards(folder: Path) -> None:
    (folder / SECOND).rename(folder / "x")
    (folder / THIRD).rename(folder / SECOND)
    (folder / "x").rename(folder / THIRD)
    assert findings(folder) == [
        f"{SECOND}: swapped: holds the tensors of {THIRD}",
        f"{THIRD}: swapped: holds the tensors of {SECOND}",
    ]


def test_shard_of_another_model(folder: Path, tmp_path: Path) -> None:
    other = deepseek(layers=7).write(tmp_path / "other")
    (folder / SECOND).write_bytes((other / "model-00006-of-000008.safetensors").read_bytes())
    first, second = findings(folder)
    assert first.startswith(f"{SECOND}: foreign: lacks model.layers.0.self_attn.q_a_proj.weight_sc")
    assert first.endswith(" and 14 more")
    assert second == (
        f"{SECOND}: foreign: holds model.layers.5.input_layernorm.weight unknown to the index"
    )


def test_tensor_in_two_shards(folder: Path) -> None:
    layout = deepseek()
    name = "model.embed_tokens.weight"
    layout.shards[SECOND][name] = layout.shards[FIRST][name].clone()
    layout.write(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = FIRST
    (folder / INDEX).write_text(json.dumps(index))
    assert findings(folder) == [f"{SECOND}: duplicate: holds {name} which belongs to {FIRST}"]


def test_shard_the_index_does_not_name(folder: Path) -> None:
    extra = "model-00001-of-000002.safetensors"
    (folder / extra).write_bytes((folder / FIRST).read_bytes())
    assert findings(folder) == [
        f"{extra}: foreign: a shard of another revision: the index does not name it"
    ]


def test_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert findings(folder) == ["config.json: missing: no engine loads without it"]
    (folder / "config.json").write_text("{")
    assert findings(folder)[0].startswith("config.json: side file: ")


def test_a_missing_tokenizer_is_only_noted(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    result = verify(folder)
    assert result.ok
    assert result.notes == (
        "there is no tokenizer: none of tokenizer.json, tokenizer.model, tokenizer_config.json, "
        "spiece.model, vocab.json",
    )
    (folder / "tokenizer.model").touch()
    assert verify(folder).notes == ()


def test_a_wrong_total_size_is_only_noted(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["total_size"] += 1
    (folder / INDEX).write_text(json.dumps(index))
    result = verify(folder)
    assert result.ok
    assert result.notes == (
        f"the index states total_size {result.data_bytes + 1}, "
        f"the shards hold {result.data_bytes} bytes",
    )


def test_all_findings_are_raised_together(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        verify(folder).require()
    assert str(caught.value) == (
        f"{folder}: 2 problem(s) in the checkpoint:\n"
        f"  {FIRST}: missing: the index names it, the folder lacks it\n"
        "  config.json: missing: no engine loads without it"
    )
    assert caught.value.hint == "flagdeploy pull fetches the missing and replaces the bad files"


def test_hashes(folder: Path) -> None:
    content = (folder / FIRST).read_bytes()
    known = {
        FIRST: hashlib.sha256(content).hexdigest(),
        "tokenizer.json": hashlib.sha1(b"blob 2\0{}").hexdigest(),
        "config.json": "0" * 64,
        "nothing": "1" * 40,
    }
    counted: list[int] = []
    hashes, found = check_hashes(folder, known, counted.append, workers=2)
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    assert hashes[FIRST] == known[FIRST]
    assert hashes["tokenizer.json"] == hashlib.sha256(b"{}").hexdigest()
    assert found == (
        Finding(
            "config.json", "changed", f"hash {config[:12]}… is not 000000000000… of the source"
        ),
        Finding("nothing", "missing", "the source has it, the folder lacks it"),
    )
    assert sum(counted) == len(content) + 2 + (folder / "config.json").stat().st_size


def test_files_interchanged_are_told_from_changed_ones(folder: Path) -> None:
    """Both have the other's hash."""
    names = (FIRST, "config.json", "tokenizer.json")
    known = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "x").write_bytes((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").write_bytes((folder / "x").read_bytes())
    _, found = check_hashes(folder, known, lambda count: None, workers=2)
    assert [str(finding) for finding in found] == [
        "config.json: swapped: holds what the source has as tokenizer.json",
        "tokenizer.json: swapped: holds what the source has as config.json",
    ]


def test_a_finding_about_a_tensor_names_it() -> None:
    finding = Finding("a.safetensors", "not finite", "1 NaN", "model.norm.weight")
    assert str(finding) == "a.safetensors: not finite: model.norm.weight: 1 NaN"
