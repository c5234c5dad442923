"""ops coverage: a profile of real requests to a process, and traces that somebody else made."""

import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from operators.traces import Recording
from typer.testing import CliRunner, Result

from flagdeploy.cli.app import app
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_RUN,
    LABEL_SPEC,
    Host,
    ProcessSpec,
)
from flagdeploy.errors import EngineError, EvalError, HostError, UsageError
from flagdeploy.evals.client import Endpoint
from flagdeploy.launchers.base import Result as CmdResult
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.operators.trace import read_traces
from flagdeploy.records.events import silent
from flagdeploy.records.run import Run
from flagdeploy.workflows import ops_coverage, places, profile
from flagdeploy.workflows.ops_coverage import Asking, of_deployment, of_traces

ENGINE = Path(__file__).with_name("profiled_engine.py")
CACHE = Path(__file__).parent.parent / "cases" / "triton_cache"
HERE = Host("127.0.0.1")
NAME = "tiny_deepseek_r1"
Serve = Callable[..., None]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start the engine as `flagdeploy serve` leaves one: labelled, and with its run recorded."""
    monkeypatch.setenv("FLAGDEPLOY_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(profile, "QUIET_S", 0.1)
    launcher = LocalLauncher(HERE, tmp_path / "runs" / "local")
    library = tmp_path / "site" / "flag_gems"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("raise RuntimeError('needs a device')")
    (library / "add.py").write_text("@triton.jit\ndef add_kernel(): ...")

    def start(how: str = "good", folder: bool = True, reuse: bool | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        labels = {
            LABEL_DEPLOYMENT: NAME,
            LABEL_RANK: "0",
            LABEL_RANKS: "1",
            LABEL_ENDPOINT: f"http://127.0.0.1:{port}",
            LABEL_MODEL: "tiny",
            LABEL_SPEC: "",
            LABEL_RUN: "",
        }
        argv = (sys.executable, str(ENGINE), str(port), str(tmp_path / "traces"), how)
        env = {
            "TRITON_CACHE_DIR": str(CACHE),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "none"),
            "VLLM_CACHE_ROOT": str(tmp_path / "none"),
            "FLAGGEMS_CACHE_DIR": str(tmp_path / "none"),
            "PYTHONPATH": str(library.parent),
        }
        launcher.start(ProcessSpec(f"flagdeploy-{NAME}-0", argv, env, labels, 5))
        run = Run.create(tmp_path / "runs", NAME)
        places.record(run, places.Place("local", (HERE,)))
        config = {"engine": "vllm", "engine_version": "0.33.0", "launcher": "local"}
        config |= {"kv_cache": {"block_reuse": reuse}}
        config |= {"operators": {"library": "flaggems"}, "profiler": {"folder": None}}
        if folder:
            config["profiler"] = {"folder": str(tmp_path / "traces")}
        run.write("config.yaml", yaml.safe_dump(config))
        _wait_for(port)

    yield start
    for rank in launcher.running():
        launcher.stop(rank.id, 0)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the engine does not listen")


def asked(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]


def command(*words: str) -> Result:
    return CliRunner().invoke(app, ["ops", "coverage", *words])


def test_requests_become_three_numbers_and_their_command(serve: Serve, tmp_path: Path) -> None:
    serve()
    coverage = of_deployment(None, Asking(requests=3, warm_up=2, max_tokens=7))
    rows = {name: (r.operators, r.launches, r.time_us) for name, r in coverage.rows.items()}
    assert rows["library"] == (1, 3, 90)
    assert rows["vendor"] == (1, 3, 30)
    assert coverage.shares(coverage.triton) == {"operators": 0.5, "launches": 0.5, "time_us": 0.75}
    assert (coverage.trace.files, coverage.trace.files_with_kernels) == (2, 1)
    about = dict(coverage.about)
    assert (about["requests"], about["prompt_tokens"], about["completion_tokens"]) == (3, 15, 6)
    assert about["engine"] == "vLLM 0.33.0"
    assert about["command"] == (
        f"flagdeploy ops coverage {NAME} --requests 3 --warm-up 2 --max-tokens 7"
    )
    # Warmed up with other questions than were profiled, all of them its benchmark's.
    sent = asked(tmp_path)
    assert [one["profiled"] for one in sent] == [False] * 2 + [True] * 3
    assert len({json.dumps(one["messages"]) for one in sent}) == 5
    assert {(one["model"], one["max_tokens"], one["temperature"]) for one in sent} == {
        ("tiny", 7, 0)
    }
    # What was kept gives the same again.
    folder = Path(about["folder"])
    again = of_traces([folder / "traces"], evidence_file=folder / "evidence.json")
    assert again.rows == coverage.rows
    kept = json.loads((folder / "coverage.json").read_text())
    assert kept["sources"]["triton"]["share"]["time_us"] == 0.75
    assert not (folder / "evidence.json").stat().st_mode & 0o077


def test_the_command(serve: Serve, tmp_path: Path) -> None:
    serve()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    done = command(NAME, "--requests", "3", "--warm-up", "0", "--prompts", str(prompts), "-q")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{NAME}, vLLM 0.33.0, Test device, ")
    assert "library                  1   50.0%           3   50.0%      0.090 ms   75.0%" in (
        done.stdout
    )
    assert f"made by: flagdeploy ops coverage {NAME} --requests 3" in done.stdout
    contents = sorted(str(one["messages"][0]["content"]) for one in asked(tmp_path))  # type: ignore[index]
    assert contents == ["one", "one", "two"]
    as_json = command(NAME, "--requests", "1", "--json", "-q")
    assert json.loads(as_json.stdout)["sources"]["library"]["launches"] == 1


def test_without_a_prefix_cache_the_same_is_asked_before(serve: Serve, tmp_path: Path) -> None:
    serve(reuse=False)
    of_deployment(NAME, Asking(requests=2, warm_up=3))
    before, after = (
        {json.dumps(one["messages"]) for one in asked(tmp_path) if one["profiled"] == profiled}
        for profiled in (False, True)
    )
    assert len(before) == 3
    assert after < before


def test_a_second_profile_takes_its_own_traces(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the same second."""
    serve()
    monkeypatch.setattr(ops_coverage.time, "strftime", lambda *_: "20260101T000000Z")
    first = of_deployment(NAME, Asking(requests=1, warm_up=0))
    second = of_deployment(NAME, Asking(requests=2, warm_up=0))
    assert [one.rows["library"].launches for one in (first, second)] == [1, 2]


def test_a_failed_request_ends_it_and_the_profiler(serve: Serve, tmp_path: Path) -> None:
    serve("fails")
    with pytest.raises(EvalError, match=r"2 of 2 requests failed: HTTP 400.*too long"):
        of_deployment(NAME, Asking(requests=2, warm_up=1))
    assert list((tmp_path / "traces").iterdir())  # it was stopped


def test_a_profile_that_begins_too_late_is_ended(serve: Serve, tmp_path: Path) -> None:
    serve("late")
    with pytest.raises(EngineError, match="/start_profile: timed out"):
        of_deployment(NAME, Asking(requests=1, warm_up=0), timeout_s=0.5)
    assert list((tmp_path / "traces").iterdir())


def test_an_engine_that_dies_is_told_by_the_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def post(endpoint: Endpoint, path: str, timeout_s: float) -> None:
        if path == "/stop_profile":
            raise EngineError("connection refused")

    def ask() -> None:
        raise EvalError("8 of 8 requests failed: connection lost")

    monkeypatch.setattr(profile, "_post", post)
    endpoint = Endpoint("http://127.0.0.1:9", "m")
    with pytest.raises(EvalError, match="8 of 8 requests failed"):
        profile.profile([], endpoint, ask, {}, to=tmp_path / "t", timeout_s=1, report=silent)


def test_traces_that_do_not_come(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve("silent")
    written = profile._written
    monkeypatch.setattr(profile, "_written", lambda ranks, before, _: written(ranks, before, 0.0))
    with pytest.raises(EngineError, match="no whole traces in .* of ranks: 0"):
        of_deployment(NAME, Asking(requests=1, warm_up=0))


def test_traces_in_a_folder_that_hosts_share_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sharing:
        def inside(self, rank: str, argv: list[str], timeout: float) -> CmdResult:
            done = subprocess.run([sys.executable, *argv[1:]], capture_output=True)
            return CmdResult(done.returncode, done.stdout, done.stderr)

    def post(endpoint: Endpoint, path: str, timeout_s: float) -> None:
        for rank in (0, 1) if path == "/stop_profile" else ():
            recording = Recording()
            recording.launch("add_kernel", 30 + rank)
            recording.write(tmp_path / "shared" / f"rank{rank}.pt.trace.json")

    def place(rank: int) -> profile.Place:
        running = SimpleNamespace(rank=rank, host=f"host{rank}", id=str(rank), what=f"rank {rank}")
        return profile.Place(running, Sharing(), str(tmp_path / "shared"))  # type: ignore[arg-type]

    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(profile, "_post", post)
    monkeypatch.setattr(profile, "QUIET_S", 0.1)
    found = profile.profile(
        [place(0), place(1)], Endpoint("http://127.0.0.1:9", "m"), lambda: None, {},
        to=tmp_path / "t", timeout_s=60, report=silent,
    )  # fmt: skip
    read = read_traces(found.traces)
    assert sum(tally.launches for tally in read.pairs.values()) == 2


def test_a_scan_that_fails_leaves_the_traces(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no permission')")
    monkeypatch.setattr(profile.scan, "__file__", str(broken))
    with pytest.raises(HostError, match="rank 0: no permission") as caught:
        of_deployment(NAME, Asking(requests=1, warm_up=0))
    folder = str(caught.value.hint).rpartition(" ")[2]
    assert of_traces([Path(folder)]).total.launches == 2


@pytest.mark.parametrize("how, folder", [("good", False), ("off", True)])
def test_served_without_its_profiler(how: str, folder: bool, serve: Serve) -> None:
    serve(how, folder=folder)
    with pytest.raises(UsageError, match=f"{NAME} was served without its profiler") as caught:
        of_deployment(NAME, Asking(requests=1, warm_up=0))
    assert f"flagdeploy serve {NAME} profiler.folder=" in str(caught.value.hint)


def test_it_has_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGDEPLOY_RUNS", str(tmp_path / "runs"))
    done = command(NAME)
    assert done.exit_code == 2
    assert f"{NAME} is not running" in done.stderr


# --- traces that exist --------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    recording = Recording()
    with recording.operator("aten::add"):
        recording.launch("add_kernel", 30)
    recording.launch("void gemm()", 10)
    return recording.write(tmp_path / "trace.json.gz")


def test_without_evidence_that_is_said(trace: Path) -> None:
    done = command("--trace", str(trace))
    assert done.exit_code == 0
    assert "vendor                   2  100.0%" in done.stdout
    assert "engine's Triton      not looked at\n" in done.stdout
    assert "careful: Triton's cache was not read" in done.stdout
    answer = json.loads(command("--trace", str(trace), "--json").stdout)
    assert answer["not_looked_at"] == ["library", "engine"]
    assert done.stdout.splitlines()[-1] == f"made by: flagdeploy ops coverage --trace {trace}"


def test_caches_and_sources_are_evidence(trace: Path, tmp_path: Path) -> None:
    of_triton = of_traces([trace], triton_caches=[CACHE])
    assert of_triton.rows["engine"].launches == 1
    library = tmp_path / "flag_gems"
    library.mkdir()
    (library / "__init__.py").write_text("")
    both = of_traces([trace], triton_caches=[CACHE], library_sources=[library])
    assert both.rows["library"].launches == 1  # by the file that Triton's cache names
    (library / "add.py").write_text("@triton.jit\ndef add_kernel(): ...")
    declared = of_traces([trace.parent], library_sources=[library])
    assert declared.rows["library"].launches == 1
    assert not declared.evidence.versions  # of what is installed here


REFUSED = {
    "no such trace": (["--trace", "missing.json"], "missing.json: cannot be read"),
    "an empty folder": (["--trace", "empty"], "empty: holds no traces"),
    "no such cache": (["--trace", "t.json", "--triton-cache", "no"], "no: no such folder"),
    "other evidence": (["--trace", "t.json", "--evidence", "t.json"], "t.json: is no evidence"),
    "a name too": (["NAME", "--trace", "t.json"], "--trace asks nothing"),
    "evidence alone": (["--evidence", "t.json"], "scanned beside its ranks"),
}


@pytest.mark.parametrize("words, error", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read(
    words: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Recording().write(Path("t.json"))
    done = command(*words)
    assert done.exit_code == 2
    assert error in done.stderr
    assert done.stdout == ""


def test_a_trace_that_is_named_twice_is_read_once(trace: Path, tmp_path: Path) -> None:
    """By its name, by that of its folder, by a link, or unpacked beside what the engine wrote."""
    whole = of_traces([trace])
    trace.with_suffix("").write_bytes(gzip.decompress(trace.read_bytes()))
    link = tmp_path / "link.json"
    link.symlink_to(trace)
    again = of_traces([trace.parent, trace, link])
    assert again.total == whole.total
    assert again.trace.files == 1


def test_a_trace_without_kernels_is_no_share_of_nothing(tmp_path: Path) -> None:
    recording = Recording()
    with recording.operator("aten::mm"):
        pass
    done = command("--trace", str(recording.write(tmp_path / "cpu.json")))
    assert done.exit_code == 1
    assert "no device kernels in the trace: 1 operators ran" in done.stdout
    assert "%" not in done.stdout
