"""When native outputs are recorded, and what proves a swap of operators."""

from dataclasses import replace

import pytest

from flagdeploy.config.facts import Facts, HostFacts
from flagdeploy.config.schema import Operators
from flagdeploy.plans.steps import CompareNative, Plan, ProveSwap, RecordNative, Start, Stop
from plans.test_serve import Case, kinds, running

SWAPPED = ["Start", "WaitReady", "ProveSwap", "CompareNative"]
NATIVE = ["Start", "WaitReady", "RecordNative", "Stop"]


def case(*overrides: str, library: bool = True) -> Case:
    asked = ["operators.library=flaggems"] if library else []
    wanted = ("operators.build=plugin", *asked, *overrides)
    return Case("deepseek_r1", "vllm_fp8_h200", *wanted)


def of(plan: Plan, kind: type) -> list:
    return [step for step in plan.steps if isinstance(step, kind)]


def record(plan: Plan) -> RecordNative:
    (found,) = of(plan, RecordNative)
    return found


def test_the_first_time_it_is_started_natively_before() -> None:
    plan = case().plan()
    assert kinds(plan) == ["CheckCheckpoint", "PullImage", *NATIVE, *SWAPPED]
    native, swapped = of(plan, Start)
    assert native.spec.env == {"USE_FLAGGEMS": "0"}
    assert swapped.spec.env == {"USE_FLAGGEMS": "1", "VLLM_PLUGINS": "fl"}
    assert native.spec.argv == swapped.spec.argv
    (stop,) = of(plan, Stop)
    assert stop.id == native.spec.name
    (compared,) = of(plan, CompareNative)
    assert compared.key == record(plan).key and not compared.required


def test_recorded_outputs_are_not_recorded_again() -> None:
    wanted = case()
    key, host = record(wanted.plan()).key, wanted.hosts[0].address
    held = HostFacts(images={wanted.deployment.container.image: "id"}, checkpoint="a")
    again = wanted.plan(Facts({host: held}, {key: "id a"}))
    assert kinds(again) == ["CheckCheckpoint", "Skip", *SWAPPED]


def test_what_runs_natively_is_asked_before_it_is_stopped() -> None:
    natively = case(library=False).plan()
    plan = case().plan(running(natively))
    assert kinds(plan)[-6:] == ["RecordNative", "Stop", *SWAPPED]
    assert len(of(plan, Start)) == 1


def test_a_second_serve_proves_and_changes_nothing() -> None:
    wanted = case()
    served = running(replace(wanted.plan(), steps=tuple(of(wanted.plan(), Start)[1:])))
    again = wanted.plan(served)
    assert kinds(again)[-4:] == ["Skip", "WaitReady", "ProveSwap", "CompareNative"]
    assert not of(again, Start) and not of(again, RecordNative)


@pytest.mark.parametrize("image, checkpoint", [("id", "b"), ("other", "a"), ("id", ""), ("", "a")])
def test_another_checkpoint_or_image_of_the_same_name_is_recorded_anew(
    image: str, checkpoint: str
) -> None:
    """Also one that is still to be made or pulled: what was recorded before it is of another."""
    wanted = case()
    key, host = record(wanted.plan()).key, wanted.hosts[0].address
    images = {wanted.deployment.container.image: image} if image else {}
    facts = Facts({host: HostFacts(images=images, checkpoint=checkpoint)}, {key: "id a"})
    assert record(wanted.plan(facts)).key == key


def test_without_a_native_run_the_log_alone_proves() -> None:
    plan = case("operators.compare_native=false").plan()
    assert kinds(plan) == ["CheckCheckpoint", "PullImage", "Start", "WaitReady", "ProveSwap"]


def test_what_every_process_has_to_have() -> None:
    plan = case("operators.exclude=[mm,softmax]", "container.env.USE_FLAGGEMS='true'").plan()
    (proof,) = of(plan, ProveSwap)
    assert proof.variables == {
        "USE_FLAGGEMS": "true",  # as the container gets it
        "VLLM_PLUGINS": "fl",
        "VLLM_FL_FLAGOS_BLACKLIST": "mm,softmax",
    }
    native, _ = of(plan, Start)
    assert native.spec.env == {"USE_FLAGGEMS": "0"}
    assert (proof.log, proof.exclude) == ("/tmp/flaggems_enable_oplist.txt", ("mm", "softmax"))


def test_the_log_is_looked_for_where_the_rank_is_told_to_write_it() -> None:
    moved = "container.env.FLAGGEMS_ENABLE_OPLIST_PATH=/logs/ops.txt"
    (proof,) = of(case(moved).plan(), ProveSwap)
    assert proof.log == "/logs/ops.txt"
    moved = "container.env.FLAGGEMS_LOG_PATH=/logs/ops"
    (proof,) = of(case("operators.build=flagdeploy", moved).plan(), ProveSwap)
    assert proof.log == "/logs/ops.*.log"


def test_a_prelude_that_switches_is_undone_in_the_native_run() -> None:
    prelude = "source /opt/env.sh && export USE_FLAGGEMS=1 # on"
    plan = case(f"container.prelude='{prelude}'").plan()
    native, swapped = of(plan, Start)
    start = ("bash", "-c", 'eval "$0" && exec "$@"', prelude)
    undone = ("env", "-u", "VLLM_PLUGINS", "USE_FLAGGEMS=0")
    assert native.spec.argv[:8] == (*start, *undone)
    assert native.spec.argv[8:] == swapped.spec.argv[4:]


@pytest.mark.parametrize("rank", range(4))
def test_every_rank_is_looked_into(rank: int) -> None:
    plan = Case("deepseek_r1", "cambricon_bf16").plan()
    proofs = of(plan, ProveSwap)
    assert proofs[rank].host == f"192.0.2.{11 + rank}"
    assert proofs[rank].log == ""
    (compared,) = of(plan, CompareNative)
    assert compared.required  # nothing else shows the swap on Cambricon


def test_no_library_no_proof() -> None:
    plan = case(library=False).plan()
    assert not of(plan, ProveSwap) and not of(plan, RecordNative) and not of(plan, CompareNative)
    assert Operators() == Case("deepseek_r1", "vllm_fp8_h200").deployment.operators
