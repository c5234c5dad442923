"""A swap of operators is proven inside of real containers, or what was started is stopped."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image

from flagdeploy.errors import EngineError
from flagdeploy.records.events import Event
from flagdeploy.workflows.serve import Served, serve

ROOT = Path(__file__).parents[2]
ENGINE = Path(__file__).with_name("swap_engine")
Serve = Callable[..., Served]


@pytest.fixture
def swapped(
    fleet: Fleet, python_environment: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Serves the stand-in engine on one host, with FlagGems, in the way $SWAP names."""
    workspace = tmp_path / "workspace"
    for name in ("env", "examples"):
        shutil.copytree(ROOT / name, workspace / name, ignore=shutil.ignore_patterns("questions"))
    vendor = "vendor: {operator_libraries: [flaggems]}\n"
    (workspace / "env" / "vendors" / "standin.yaml").write_text(vendor)
    (tmp_path / "hosts.txt").write_text(fleet.hostfile().splitlines()[0] + "\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    monkeypatch.setenv("FLAGDEPLOY_KNOWN_HOSTS", str(fleet.known_hosts_path))
    mounts = [*python_environment.mounts, f"{ENGINE}:/opt/engine:ro"]
    programs = python_environment.mounts[-1].split(":")[0]
    shipped = ROOT / "examples" / "tiny_deepseek_r1" / "checkpoint"

    def run(swap: str, *overrides: str, **options: Any) -> Served:
        words = [
            "vendor=standin",
            "operators={library: flaggems, build: plugin}",
            f"container.image={python_environment.tag}",
            f"container.mounts=[{','.join(mounts)}]",
            f"container.env={{SWAP: {swap}, PATH: '/opt/engine:{programs}/bin:/usr/bin:/bin'}}",
            "container.init=false",
            "container.stop_timeout=0",
            f"model.checkpoint={shipped}",
            "parallel.tensor=1",
            "readiness={stall_timeout: 60, interval: 0.2}",
            *overrides,
        ]
        return serve(
            "tiny_deepseek_r1",
            "vllm_cpu",
            words,
            hosts=str(tmp_path / "hosts.txt"),
            workspace=str(workspace),
            **options,
        )

    run.workspace = workspace  # type: ignore[attr-defined]
    yield run
    for node in fleet:
        node.remove_containers()


def left(fleet: Fleet) -> list[str]:
    return [line for node in fleet for line in node.docker("ps", "-aq").split()]


@pytest.mark.fleet
def test_a_library_that_is_on_is_proven_in_three_ways(fleet: Fleet, swapped: Serve) -> None:
    events: list[Event] = []
    served = swapped("honest", report=events.append)
    assert served.proof == (
        "rank 0: USE_FLAGGEMS=1 in 2 process(es); 2 operators called: mm, softmax",
        "outputs differ from native ones on 3 of 3 prompts",
    )
    assert len(left(fleet)) == 1
    stages = [event.stage for event in events]
    assert stages.index("native-record") < stages.index("start-0") < stages.index("prove")
    again = swapped("honest")
    assert not again.changed
    assert again.proof == served.proof
    proofs = [step for step in again.to_dict()["outcome"] if step["step"] == "ProveSwap"]
    assert [proof["evidence"] for proof in proofs] == [served.proof[0]]


NOT_ON = "{host}: operators.library=flaggems was asked for, and is not on in rank 0:\n  "
LOG = "/tmp/flaggems_enable_oplist.txt"
FAULTS = {
    "ignored": f"operator log: there is no {LOG}",
    "empty": f"operator log: {LOG} names no operator: none of the library was called",
    "old": f"operator log: {LOG} is older than the rank, which started ",
    "dropped": " (sleep): USE_FLAGGEMS is not set, not `1`",
}


@pytest.mark.fleet
@pytest.mark.parametrize("swap", FAULTS)
def test_a_library_that_is_asked_for_and_not_there_fails(
    fleet: Fleet, swapped: Serve, swap: str
) -> None:
    with pytest.raises(EngineError) as caught:
        swapped(swap, "operators.compare_native=false")
    text = str(caught.value)
    assert text.startswith(NOT_ON.format(host=fleet[0].address))
    assert FAULTS[swap] in text
    assert "does the image hold the library" in str(caught.value.hint)
    assert left(fleet) == []


@pytest.mark.fleet
@pytest.mark.parametrize(
    "swap, expected",
    [
        ("renamed", "outputs differ from native ones on 3 of 3 prompts"),
        (
            "exact",
            "outputs are native ones to the last bit: the operators called compute the same bits",
        ),
        ("erratic", "native outputs differ from run to run"),
    ],
)
def test_what_outputs_show(swapped: Serve, swap: str, expected: str) -> None:
    served = swapped(swap)
    assert served.proof[1] == expected
    if swap == "renamed":  # what it started still shows the variable
        assert "USE_FLAGGEMS=1 in 1 process(es)" in served.proof[0]


@pytest.mark.fleet
@pytest.mark.parametrize("swap, expected", [("ignored", "to the last bit"), ("erratic", "differ")])
def test_where_no_log_is_kept_the_outputs_have_to_show_it(
    fleet: Fleet, swapped: Serve, swap: str, expected: str
) -> None:
    table = swapped.workspace / "env" / "engines" / "vllm.yaml"  # type: ignore[attr-defined]
    text = table.read_text()
    assert "unrecorded_on: {cambricon" in text
    table.write_text(text.replace("unrecorded_on: {cambricon", "unrecorded_on: {standin"))
    with pytest.raises(
        EngineError, match=f"nothing shows that the operator library is on.*{expected}"
    ):
        swapped(swap, "operators.build=patched")
    assert left(fleet) == []


@pytest.mark.fleet
def test_operators_that_fail_on_every_request_are_not_waited_for(
    fleet: Fleet, swapped: Serve
) -> None:
    with pytest.raises(EngineError, match="refuses to generate: HTTP 500.*16-byte aligned"):
        swapped("crashing")
    assert left(fleet) == []


@pytest.mark.fleet
def test_processes_of_other_containers_do_not_count(fleet: Fleet, swapped: Serve) -> None:
    """With the host's PID namespace every process is in sight."""
    served = swapped("honest", "container.pid=host")
    assert served.proof[0].startswith("rank 0: USE_FLAGGEMS=1 in 2 process(es);")


STAGES = ["native-start-0", "native-wait", "native-record", "native-stop-0", "start-0", "wait"]


@pytest.mark.fleet
@pytest.mark.parametrize("stage", [*STAGES, "prove", "prove-outputs"])
def test_ctrl_c_on_the_way_leaves_nothing_that_runs(
    fleet: Fleet, swapped: Serve, stage: str
) -> None:
    begun, pressed = threading.Event(), threading.Event()

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pressed.set()

    def listen(event: Event) -> None:
        if event.stage == stage and not begun.is_set():
            begun.set()
            threading.Timer(0.05, press).start()
            if stage.startswith("prove"):  # the last steps, which may be over sooner than that
                pressed.wait()

    with pytest.raises(KeyboardInterrupt):
        swapped("honest", report=listen)
    assert pressed.is_set()
    assert left(fleet) == []
    assert swapped("honest").proof[1] == "outputs differ from native ones on 3 of 3 prompts"


def test_a_plan_with_a_proof_is_plain_data() -> None:
    from plans.test_operators import case

    steps = json.loads(case().plan().to_json())["steps"]
    proof = next(step for step in steps if step["step"] == "ProveSwap")
    assert proof["variables"] == {"USE_FLAGGEMS": "1", "VLLM_PLUGINS": "fl"}
