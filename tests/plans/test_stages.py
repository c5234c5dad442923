"""Plans with the vendors' own converters: the exact container, skips, refusals, order."""

from dataclasses import replace

import pytest

from flagdeploy.config.facts import Facts, HostFacts, Product
from flagdeploy.config.launch import LABEL_DEPLOYMENT, LABEL_RANK, LABEL_STAGE, Mount, Running
from flagdeploy.errors import HostError, UsageError
from flagdeploy.plans.serve import plan_serve
from flagdeploy.plans.stages import until_stage
from flagdeploy.plans.steps import CheckCheckpoint, Convert, Plan, Skip, Start, Stop
from plans.test_serve import WORKSPACE, Case, kinds, running

HOST = "192.0.2.1"
MADE = "/models/DeepSeek-R1-W4AFP8"
VENDOR = "stages.checkpoint.converter=quantize_mixed_precision_moe"


@pytest.fixture
def case() -> Case:
    return Case("deepseek_r1", "w4a8_h200", VENDOR)


def planned(case: Case, facts: Facts | None = None, until: str | None = None) -> Plan:
    return plan_serve(
        case.deployment, case.hosts, facts or Facts(), case.engine, case.vendor, "r", until=until
    )


def conversion(plan: Plan) -> Convert:
    (step,) = [step for step in plan.steps if isinstance(step, Convert)]
    return step


def with_product(plan: Plan, source: str = "abc", **changes) -> Facts:
    """The facts after the stage of `plan` was carried out on a source with digest ``abc``."""
    step = conversion(plan)
    record = {"identity": {**step.identity, **changes}, "source": "abc"}
    return Facts({step.host: HostFacts(products={MADE: Product(False, record, source)})})


def test_golden_plan_of_tensorrt_llms_own_converter(case, request):
    path = WORKSPACE / "tests" / "cases" / "stages" / "deepseek_r1__w4a8_h200.txt"
    assert case.problems() == []
    text = str(planned(case, until="checkpoint")) + "\n"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text()


def test_order_of_the_steps(case):
    plan = planned(case)
    assert kinds(plan) == ["CheckCheckpoint", "PullImage", "Convert", "Start", "WaitReady"]
    check, _, convert, start, _ = plan.steps
    assert check == CheckCheckpoint(
        HOST, "check", f"verify /models/DeepSeek-R1, the source of {MADE}", "/models/DeepSeek-R1"
    )
    assert convert.stage == "checkpoint"
    assert Mount(MADE, MADE, True) in start.spec.mounts


def test_a_product_that_is_there_is_skipped_and_verified(case):
    plan = planned(case, with_product(planned(case)))
    assert kinds(plan) == ["CheckCheckpoint", "PullImage", "Skip", "Start", "WaitReady"]
    assert plan.steps[0].path == MADE
    assert plan.steps[2] == Skip(
        HOST,
        "checkpoint",
        f"{MADE} is there: quantize_mixed_precision_moe made it of /models/DeepSeek-R1",
    )


def test_the_source_may_be_gone_once_it_was_converted(case):
    plan = planned(case, with_product(planned(case), source=""))
    assert "Convert" not in kinds(plan)


@pytest.mark.parametrize(
    ("source", "changes", "what"),
    [
        ("other", {}, "was made of another checkpoint than /models/DeepSeek-R1 is now"),
        ("abc", {"image": "trt:1", "argv": []}, "was made with another image and argv"),
        ("abc", {"kind": "dequant"},
         "holds something that quantize_mixed_precision_moe did not make"),
    ],
)  # fmt: skip
def test_what_else_lies_there_is_refused(case, source, changes, what):
    with pytest.raises(HostError) as caught:
        planned(case, with_product(planned(case), source, **changes))
    assert str(caught.value) == f"{HOST}: {MADE} {what}"
    assert caught.value.hint == (
        "move it away, name another folder, or take it as it is: stages.checkpoint.converter=none"
    )


def test_files_of_unknown_origin_are_refused_and_an_empty_folder_is_not(case):
    unknown = Facts({HOST: HostFacts(products={MADE: Product(empty=False)})})
    with pytest.raises(HostError, match="did not make"):
        planned(case, unknown)
    empty = Facts({HOST: HostFacts(products={MADE: Product(empty=True)})})
    assert "Convert" in kinds(planned(case, empty))


def test_what_the_ranks_hold_is_freed_before_a_converter_that_computes_on_it(case):
    before = Case("deepseek_r1", "w4a8_h200", "limits.max_num_seqs=8")
    assert kinds(planned(case, running(before.plan()))) == [
        "CheckCheckpoint", "Skip", "Stop", "Convert", "Start", "WaitReady",
    ]  # fmt: skip


def test_a_converter_without_devices_works_while_the_old_ranks_serve():
    settings = ["model.precision=bf16", "model.source=/models/fp8",
                "stages.checkpoint.converter=dequantize_hf_checkpoint",
                "stages.weight_cache.converter=none"]  # fmt: skip
    galaxy = Case("deepseek_r1", "tenstorrent_galaxy", *settings)
    before = Case("deepseek_r1", "tenstorrent_galaxy", "limits.context_length=2048")
    plan = planned(galaxy, running(before.plan()))
    assert kinds(plan) == [
        "CheckCheckpoint", "Skip", "Convert", "Stop", "Start", "WaitReady",
    ]  # fmt: skip
    assert conversion(plan).spec.devices == ()


def test_what_a_converter_needs_no_devices_for_it_gets_no_devices_and_no_privileges():
    settings = ["model.precision=bf16", "model.source=/models/fp8", "container.privileged=true",
                "stages.checkpoint.converter=dequantize_hf_checkpoint"]  # fmt: skip
    case = Case("deepseek_r1", "tenstorrent_galaxy", *settings)
    checkpoint, cache = [s for s in planned(case).steps if isinstance(s, Convert)]
    assert (checkpoint.spec.devices, checkpoint.spec.privileged) == ((), False)
    assert (cache.spec.devices, cache.spec.privileged) == (("/dev/tenstorrent",), True)


def test_until_a_stage_neither_stops_nor_starts_ranks(case):
    plan = planned(case, until="checkpoint")
    assert kinds(plan) == ["CheckCheckpoint", "PullImage", "Convert"]
    with pytest.raises(HostError) as caught:
        planned(case, running(case.plan()), until="checkpoint")
    assert str(caught.value) == (
        f"{HOST}: deepseek_r1 runs and holds the devices that the checkpoint stage computes on"
    )
    assert caught.value.hint == "flagdeploy stop deepseek_r1"


def test_until_a_stage_that_there_is_not(case):
    commands = case.engine.stages(case.deployment)
    with pytest.raises(UsageError) as caught:
        until_stage(commands, "weight_cache")
    assert str(caught.value) == "the deployment has no weight_cache stage"
    assert caught.value.hint == ("stages.weight_cache.converter names the converter that makes it")
    with pytest.raises(UsageError) as caught:
        until_stage(commands, "weights")
    assert str(caught.value) == "there is no stage weights"


def test_a_container_that_an_earlier_run_left_is_stopped_first(case):
    labels = {LABEL_DEPLOYMENT: "deepseek_r1", LABEL_RANK: "0", LABEL_STAGE: "checkpoint"}
    left = Running(HOST, "id", "flagdeploy-deepseek_r1-checkpoint-0", "running", labels)
    plan = planned(case, Facts({HOST: HostFacts(running=(left,))}))
    assert plan.steps[0] == Stop(
        HOST, "stop", "stop the checkpoint stage that an earlier run left (running)",
        "id", left.name, 0, 30,
    )  # fmt: skip
    assert kinds(plan)[1:] == ["CheckCheckpoint", "PullImage", "Convert", "Start", "WaitReady"]


def two_hosts(shared: str) -> Case:
    return Case(
        "deepseek_r1", "tensorrt_llm_2x8_h100", VENDOR, f"stages.shared={shared}",
        "stages.checkpoint.args.act_scales=/models/act_scales.safetensors",
        "model.source=/models/DeepSeek-R1", f"model.checkpoint={MADE}", "model.precision=w4a8",
    )  # fmt: skip


def test_every_host_converts_where_no_file_system_is_shared():
    plan = planned(two_hosts("false"))
    steps = [step for step in plan.steps if isinstance(step, Convert)]
    assert [step.spec.name for step in steps] == [
        "flagdeploy-deepseek_r1-checkpoint-0",
        "flagdeploy-deepseek_r1-checkpoint-1",
    ]
    assert len({step.stage for step in steps}) == 1  # one stage: both at once


def test_the_first_host_converts_for_all_on_a_shared_file_system():
    plan = planned(two_hosts("true"))
    checks = [step for step in plan.steps if step.stage == "check"]
    assert [step.host for step in checks] == [HOST]
    first, second = [step for step in plan.steps if step.stage == "checkpoint"]
    assert isinstance(first, Convert)
    assert second.why == f"{MADE} comes from {HOST}, on a shared file system"


def test_the_ranks_get_the_weight_cache_to_write():
    case = Case("deepseek_r1", "tenstorrent_galaxy")
    (start,) = [step for step in planned(case).steps if isinstance(step, Start)]
    assert Mount("/data/deepseek_v3_cache", "/data/deepseek_v3_cache") in start.spec.mounts


def test_a_mount_at_the_place_of_the_product_gives_way(case):
    container = replace(case.deployment.container, mounts=[f"/a:{MADE}", "/b:/c"])
    case.deployment = replace(case.deployment, container=container)
    assert [str(mount) for mount in conversion(planned(case)).spec.mounts] == [
        "/b:/c",
        "/models/DeepSeek-R1:/models/DeepSeek-R1:ro",
        "/models/act_scales.safetensors:/models/act_scales.safetensors:ro",
        f"{MADE}.flagdeploy-unfinished:{MADE}",
    ]
