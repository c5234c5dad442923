"""pull: from a hub that answers over HTTP, and from a local folder; verified, resumable."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from checkpoint.hub_server import Hub, serve

from flagdeploy.checkpoint import disk
from flagdeploy.checkpoint.ownership import RECORD, UNFINISHED
from flagdeploy.config.secret import Secret
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.records.events import Event
from flagdeploy.workflows.pull import pull

OLD, NEW = "0" * 40, "1" * 40
REPOSITORY = "deepseek-ai/DeepSeek-R1"
FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
CANARY = "hf_canaryCanaryCanaryCanary0123456789"


def contents(folder: Path) -> dict[str, bytes]:
    """Visible files; hidden ones are the download library's own bookkeeping."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    visible = (name for name in names if not name.parts[0].startswith("."))
    return {name.as_posix(): (folder / name).read_bytes() for name in visible}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = deepseek().write(tmp_path / "R1")
    (folder / "assets").mkdir()
    (folder / "assets" / "chart.svg").write_text("<svg/>")
    return folder


@pytest.fixture
def hub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    files = contents(source)
    old = {**files, "tokenizer.json": b'{"old": true}', "NOTICE": b"old"}
    extra = {".gitattributes": b"*", "original/x.safetensors": b"x", "pytorch_model.bin": b"y"}
    commits = {OLD: {**old, **extra}, NEW: {**files, **extra}}
    with serve(Hub(REPOSITORY, commits, {"main": NEW, "v1": OLD})) as hub:
        yield hub


def test_files_are_fetched_verified_and_recorded(hub: Hub, source: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    out = tmp_path / "models" / "R1"
    result = pull(REPOSITORY, to=out, endpoint=hub.endpoint, report=events.append)
    files = contents(out)
    record = json.loads(files.pop(RECORD))
    assert files == contents(source)
    assert result.outcome == "pulled"
    assert result.commit == NEW
    assert list(result.plan.left_out) == [
        *(".gitattributes", "original/x.safetensors", "pytorch_model.bin")
    ]
    assert record["identity"] == {"kind": "pull", "source": REPOSITORY, "commit": NEW}
    assert record["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    assert not (out / UNFINISHED).exists()
    for stage in ("pull", "verify"):
        last = [event for event in events if event.stage == stage][-1]
        assert last.done == last.total == result.plan.total_bytes


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_revision_is_pinned_to_its_commit(hub: Hub, tmp_path: Path, revision: str) -> None:
    result = pull(REPOSITORY, revision, tmp_path / "out", endpoint=hub.endpoint)
    assert result.commit == OLD
    assert (tmp_path / "out" / "NOTICE").read_bytes() == b"old"
    fetched = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert fetched
    assert all(f"/resolve/{OLD}/" in path for path in fetched)


def test_the_second_time_nothing_is_fetched(hub: Hub, tmp_path: Path) -> None:
    pull(REPOSITORY, to=tmp_path / "out", endpoint=hub.endpoint)
    before, served = contents(tmp_path / "out"), hub.served
    result = pull(REPOSITORY, to=tmp_path / "out", endpoint=hub.endpoint)
    assert result.outcome == "already here"
    assert (contents(tmp_path / "out"), hub.served) == (before, served)


def test_a_newer_revision_replaces_the_older(hub: Hub, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pull(REPOSITORY, "v1", out, endpoint=hub.endpoint)
    served = hub.served
    pull(REPOSITORY, None, out, endpoint=hub.endpoint)
    files = contents(out)
    assert json.loads(files.pop(RECORD))["revision"] == NEW
    assert files == contents(source)
    assert hub.served - served == len(files["tokenizer.json"])


def test_a_lost_file_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pull(REPOSITORY, to=out, endpoint=hub.endpoint)
    whole, served = contents(out), hub.served
    (out / SECOND).unlink()
    pull(REPOSITORY, to=out, endpoint=hub.endpoint)
    assert contents(out) == whole
    assert hub.served - served == len(whole[SECOND])


def test_dropped_connections_are_resumed(hub: Hub, source: Path, tmp_path: Path) -> None:
    hub.cut = {FIRST: [1000, 69_000], SECOND: [2000]}
    pull(REPOSITORY, to=tmp_path / "out", endpoint=hub.endpoint)
    assert contents(tmp_path / "out").items() >= contents(source).items()
    ranges = [wanted for _, _, wanted in hub.requests if wanted]
    assert sorted(ranges) == ["bytes=1000-", "bytes=2000-", "bytes=70000-"]


def test_an_interrupted_pull_goes_on_where_it_was(hub: Hub, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hub.cut = {name: [50_000] + [0] * 100 for name in (FIRST, SECOND, THIRD)}
    with pytest.raises(CheckpointError) as caught:
        pull(REPOSITORY, to=out, endpoint=hub.endpoint)
    assert f"{hub.endpoint} cannot be reached" in str(caught.value)
    assert "what was fetched is kept" in str(caught.value.hint)
    assert (out / UNFINISHED).exists()
    assert not (out / RECORD).exists()
    served = hub.served
    hub.cut.clear()
    assert pull(REPOSITORY, to=out, endpoint=hub.endpoint).outcome == "pulled"
    assert contents(out).items() >= contents(source).items()
    assert hub.served - served < sum(len(content) for content in contents(source).values())


def test_a_corrupted_file_is_named_and_removed(hub: Hub, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hub.corrupt = {SECOND, "tokenizer.json"}
    with pytest.raises(CheckpointError) as caught:
        pull(REPOSITORY, to=out, endpoint=hub.endpoint)
    assert f"\n  {SECOND}: changed: hash " in str(caught.value)
    assert "\n  tokenizer.json: changed: hash " in str(caught.value)
    assert caught.value.hint == "the bad files were removed: pull again, or from another mirror"
    assert not (out / SECOND).exists()
    assert (out / FIRST).exists()
    assert not (out / RECORD).exists()
    hub.corrupt.clear()
    pull(REPOSITORY, to=out, endpoint=hub.endpoint)
    assert contents(out).items() >= contents(source).items()


def test_a_shard_broken_at_the_source_is_found(hub: Hub, tmp_path: Path) -> None:
    hub.commits[NEW][SECOND] = hub.commits[NEW][SECOND][:-5]
    with pytest.raises(CheckpointError, match=f"{SECOND}: torn: the header describes"):
        pull(REPOSITORY, to=tmp_path / "out", endpoint=hub.endpoint)
    assert not (tmp_path / "out" / RECORD).exists()


def refusal(hub: Hub, tmp_path: Path, revision: str | None = None) -> tuple[str, str | None]:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError) as caught:
        pull(REPOSITORY, revision, out, endpoint=hub.endpoint)
    return str(caught.value).replace(hub.endpoint, "HUB"), caught.value.hint


def test_unknown_repository(hub: Hub, tmp_path: Path) -> None:
    hub.repository = "someone/else"
    assert refusal(hub, tmp_path) == (
        f"{REPOSITORY}: no such model on HUB, or not for you",
        "check the name; for a private model set HF_TOKEN",
    )
    assert not (tmp_path / "out").exists()


def test_unknown_revision(hub: Hub, tmp_path: Path) -> None:
    assert refusal(hub, tmp_path, "v9") == (
        f"{REPOSITORY}: has no revision v9 on HUB",
        "give a branch, a tag or a full commit id with --revision",
    )


def test_gated_repository(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    assert refusal(hub, tmp_path) == (
        f"{REPOSITORY}: is gated: HUB gives it only to those who accepted its terms",
        f"accept them at https://huggingface.co/{REPOSITORY}, then set HF_TOKEN",
    )


def test_a_hub_in_trouble(hub: Hub, tmp_path: Path) -> None:
    hub.status = 500
    assert refusal(hub, tmp_path) == (
        f"{REPOSITORY}: HUB answered HTTP 500",
        "try again later; what is here is kept",
    )


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        pull(REPOSITORY, to=tmp_path / "out", endpoint="http://user:secret@127.0.0.1:9")
    assert str(caught.value) == f"{REPOSITORY}: http://127.0.0.1:9 cannot be reached: ConnectError"
    assert "--endpoint or HF_ENDPOINT" in str(caught.value.hint)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pull("a/b/c", to=tmp_path / "out")
    assert str(caught.value) == "`a/b/c` is no repository name (OWNER/NAME) and no folder here"


def test_a_token_opens_and_is_written_nowhere(hub: Hub, tmp_path: Path) -> None:
    hub.token = CANARY
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="or not for you") as caught:
        pull(REPOSITORY, to=out, endpoint=hub.endpoint, token=Secret("hf_wrong", "HF_TOKEN"))
    assert "hf_wrong" not in str(caught.value)
    events: list[Event] = []
    token = Secret(CANARY, "HF_TOKEN")
    pull(REPOSITORY, to=out, endpoint=hub.endpoint, token=token, report=events.append)
    assert CANARY not in repr(events)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def test_a_disk_too_small_is_refused_before_the_first_byte(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_space", lambda folder: 500_000)
    message, hint = refusal(hub, tmp_path)
    assert message.startswith(f"{tmp_path / 'out'}: needs ")
    assert message.endswith("the disk has 500.0 kB free")
    assert hint == "free some space or choose a folder on another disk"
    assert (hub.served, (tmp_path / "out").exists()) == (0, False)


def test_a_dry_run_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    result = pull(REPOSITORY, to=tmp_path / "out", endpoint=hub.endpoint, dry_run=True)
    assert (result.outcome, hub.served, (tmp_path / "out").exists()) == ("planned", 0, False)
    first, second, third = str(result).splitlines()
    assert first == f"pull {REPOSITORY}: 8 files, 849.0 kB"
    assert second == "  left out, 3 B: .gitattributes, original/x.safetensors, pytorch_model.bin"
    assert third.startswith(f"  to {tmp_path / 'out'}, where ")


def test_a_folder_with_something_else_is_refused(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert refusal(hub, tmp_path) == (
        f"{tmp_path / 'out'}: is not empty and was not made by pull",
        "remove it or give another folder with --to",
    )


def test_a_name_that_leaves_the_folder_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.commits[NEW]["../evil.safetensors"] = b"x"
    assert refusal(hub, tmp_path)[0] == (
        f"{REPOSITORY}: refuses the file name '../evil.safetensors': it leaves the folder"
    )


def test_a_repository_without_safetensors(hub: Hub, tmp_path: Path) -> None:
    hub.commits[NEW] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    assert refusal(hub, tmp_path)[0] == f"{REPOSITORY}: holds no safetensors weights"


def test_a_local_folder_is_verified_where_it_is(source: Path) -> None:
    before = contents(source)
    result = pull(source)
    assert (result.folder, result.outcome, result.commit) == (source, "in place", None)
    assert contents(source) == before
    assert str(result).startswith(f"{source}: verified in place, ")
    (source / SECOND).unlink()
    with pytest.raises(CheckpointError, match=f"{SECOND}: missing"):
        pull(str(source))


def test_a_local_folder_is_copied(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "R1"
    result = pull(source, to=out)
    files = contents(out)
    record = json.loads(files.pop(RECORD))
    assert files == contents(source)
    assert result.outcome == "pulled"
    assert record["source"] == str(source)
    assert record["files"][FIRST] == {
        "size": len(files[FIRST]),
        "sha256": hashlib.sha256(files[FIRST]).hexdigest(),
    }
    stamps = {path: path.stat().st_ino for path in out.iterdir()}
    assert pull(source, to=out).outcome == "already here"
    assert {path: path.stat().st_ino for path in out.iterdir()} == stamps


def test_a_changed_source_is_copied_where_it_changed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pull(source, to=out)
    kept = (out / SECOND).stat().st_ino
    (source / "tokenizer.json").write_text('{"new": 1}')
    (source / "generation_config.json").unlink()
    assert pull(source, to=out).outcome == "pulled"
    assert (out / SECOND).stat().st_ino == kept
    files = contents(out)
    del files[RECORD]
    assert files == contents(source)


def test_another_source_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pull(source, to=out)
    other = deepseek(seed=1).write(tmp_path / "other")
    with pytest.raises(CheckpointError) as caught:
        pull(other, to=out)
    assert str(caught.value) == f"{out}: holds {source}"


def test_links_that_lead_outside_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    (source / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="notes.txt: is a link to .*, outside the checkpoint"):
        pull(source, to=tmp_path / "out")


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        pull(str(tmp_path / "none"))
    assert str(caught.value) == f"{tmp_path}/none: no such folder"
    assert caught.value.hint == "a repository of the hub is written OWNER/NAME"
    with pytest.raises(UsageError, match="has no revisions"):
        pull(tmp_path, "main")


SLOWLY = """
import sys, time
import flagdeploy.checkpoint.copying as copying
from flagdeploy.workflows.pull import pull
copying._CHUNK = 16384
print("started", flush=True)
pull(sys.argv[1], to=sys.argv[2], report=lambda event: time.sleep(0.003))
"""


def test_a_copy_killed_at_any_moment_goes_on(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    moments = random.Random(0)
    command = [sys.executable, "-c", SLOWLY, str(source), str(out)]
    finished: dict[Path, int] = {}
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        now = {path: path.stat().st_ino for path in out.glob("*.safetensors")}
        assert finished.items() <= now.items(), "a finished file was copied again"
        finished = now
    pull(source, to=out)
    files = contents(out)
    del files[RECORD]
    assert files == contents(source)
    assert not list(out.glob("*.part"))
