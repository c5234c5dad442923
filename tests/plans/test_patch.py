"""What applying, skipping and refusing patches looks like in a plan; no git, no host."""

from dataclasses import replace
from pathlib import Path

import pytest

from flagdeploy import engines, vendors
from flagdeploy.config.facts import Facts, HostFacts, Worktree
from flagdeploy.config.launch import LABEL_PATCH, LABEL_SPEC, Mount
from flagdeploy.config.load import load
from flagdeploy.config.patch_set import PatchFile, PatchSet
from flagdeploy.config.schema import Operators
from flagdeploy.errors import HostError
from flagdeploy.plans.serve import plan_serve, problems
from flagdeploy.plans.steps import ApplyPatches, Plan, Skip, Start
from flagdeploy.vendors import Plugin

ROOT = Path(__file__).parents[2]
BASE, COMMIT = "b" * 40, "c" * 40
SET = PatchSet(
    name="cambricon/vllm@bbbbbbbb",
    folder=Path("/patches/cambricon/vllm@bbbbbbbb"),
    component="vllm",
    repository="https://example.com/vllm",
    base=BASE,
    patches=(PatchFile("1.patch", "1" * 64), PatchFile("2.patch", "2" * 64)),
)
WANTED = [
    "patch.set=cambricon/vllm@bbbbbbbb",
    "patch.repository=/srv/vllm",
    "patch.worktree=/srv/vllm-mlu",
]
LOADED = load("deepseek_r1", "cambricon_bf16", WANTED, root=ROOT)
IN_PLACE = Worktree(
    "applied", {"set": SET.name, "digest": SET.digest, "base": BASE, "commit": COMMIT}, COMMIT
)
HOSTS = [host.address for host in LOADED.hosts]


def plan(found: dict[str, Worktree], patch_set: PatchSet | None = SET, **changes: object) -> Plan:
    deployment = replace(LOADED.deployment, **changes)
    facts = Facts({host: HostFacts(patched=worktree) for host, worktree in found.items()})
    engine, vendor = engines.load("vllm", ROOT), vendors.load("cambricon", ROOT)
    return plan_serve(deployment, LOADED.hosts, facts, engine, vendor, "run", patch_set=patch_set)


def patch_steps(plan: Plan) -> list[ApplyPatches | Skip]:
    return [step for step in plan.steps if step.stage == "patch"]


def starts(plan: Plan) -> list[Start]:
    return [step for step in plan.steps if isinstance(step, Start)]


def test_every_host_that_needs_it_is_patched_before_a_rank_starts() -> None:
    found = plan({HOSTS[1]: IN_PLACE})
    steps = patch_steps(found)
    assert [type(step) for step in steps] == [ApplyPatches, Skip, ApplyPatches, ApplyPatches]
    assert [step.host for step in steps] == HOSTS
    assert steps[1].why == "cambricon/vllm@bbbbbbbb is in place in /srv/vllm-mlu"
    order = [type(step) for step in found.steps]
    assert max(found.steps.index(step) for step in steps) < order.index(Start)
    text = str(found)
    assert f"[{HOSTS[0]}] apply cambricon/vllm@bbbbbbbb\n       git     /srv/vllm\n" in text
    assert f"       base    {BASE}\n       patch   1.patch\n       patch   2.patch\n" in text
    assert "       into    /srv/vllm-mlu\n" in text
    assert found.to_json()


def test_what_a_run_that_was_cut_off_left_beside_the_patches_is_cleared() -> None:
    cut_off = replace(IN_PLACE, unfinished=("/srv/vllm-mlu.flagdeploy-unfinished-abcdefgh",))
    steps = patch_steps(plan(dict.fromkeys(HOSTS, IN_PLACE) | {HOSTS[1]: cut_off}))
    assert [type(step) for step in steps] == [Skip, ApplyPatches, Skip, Skip]
    assert steps[1].why == f"finish applying {SET.name}"


def test_in_place_everywhere_is_a_plan_of_skips() -> None:
    steps = patch_steps(plan(dict.fromkeys(HOSTS, IN_PLACE)))
    assert {type(step) for step in steps} == {Skip}


def test_on_a_shared_file_system_the_first_host_does_it() -> None:
    patch = replace(LOADED.deployment.patch, shared=True)
    steps = patch_steps(plan({}, patch=patch))
    assert [type(step) for step in steps] == [ApplyPatches, Skip, Skip, Skip]
    assert steps[1].why == f"/srv/vllm-mlu comes from {HOSTS[0]}, on a shared file system"


REFUSED = {
    "foreign": (
        Worktree("foreign"),
        "/srv/vllm-mlu is there, and `patch apply` did not make it: nothing of yours is touched",
    ),
    "another set": (
        replace(IN_PLACE, record={**IN_PLACE.record, "digest": "other", "set": "x/vllm@1"}),
        "/srv/vllm-mlu holds x/vllm@1, not cambricon/vllm@bbbbbbbb as it is now",
    ),
    "changes": (
        replace(IN_PLACE, changes=("M a.py", "?? b.py")),
        "/srv/vllm-mlu has changes: M a.py, ?? b.py",
    ),
    "moved": (
        replace(IN_PLACE, head=BASE),
        f"/srv/vllm-mlu is at {BASE}, not at {COMMIT}, where it was left",
    ),
}


@pytest.mark.parametrize(("found", "error"), REFUSED.values(), ids=REFUSED)
def test_what_lies_there_instead_is_an_error_with_the_host(found: Worktree, error: str) -> None:
    with pytest.raises(HostError) as raised:
        plan({HOSTS[2]: found})
    assert str(raised.value) == f"{HOSTS[2]}: {error}"
    assert raised.value.hint


def test_the_ranks_see_the_source_and_start_anew_when_the_set_changes() -> None:
    patch = replace(LOADED.deployment.patch, mount="/workspace/vllm")
    spec = starts(plan({}, patch=patch))[0].spec
    assert Mount("/srv/vllm-mlu", "/workspace/vllm", read_only=True) in spec.mounts
    assert spec.labels[LABEL_PATCH] == SET.digest
    other = replace(SET, patches=SET.patches[:1])
    digests = {starts(plan({}, s))[0].spec.labels[LABEL_SPEC] for s in (SET, other, None)}
    assert len(digests) == 3


def test_half_a_patch_section() -> None:
    patch = replace(LOADED.deployment.patch, repository="", worktree="vllm", mount="")
    deployment = replace(LOADED.deployment, patch=patch)
    engine, vendor = engines.load("vllm", ROOT), vendors.load("cambricon", ROOT)
    assert problems(deployment, LOADED.hosts, engine, vendor) == [
        ("patch.repository", "patch.set needs it: an absolute path on the hosts"),
        ("patch.worktree", "`vllm`: an absolute path on the hosts is needed"),
    ]
    without = replace(deployment, patch=replace(patch, set=None, worktree="/srv/vllm"))
    assert problems(without, LOADED.hosts, engine, vendor) == [
        ("patch.worktree", "has no effect without patch.set")
    ]


def test_a_plugin_is_named_with_its_command_and_brings_its_variables() -> None:
    loaded = load("deepseek_r1", "vllm_fp8_h200", root=ROOT)
    operators = Operators(library="flaggems", build="plugin", compare_native=False)
    deployment = replace(loaded.deployment, operators=operators)
    engine, nvidia = engines.load("vllm", ROOT), vendors.load("nvidia", ROOT)
    plan = plan_serve(deployment, loaded.hosts, Facts(), engine, nvidia, "run")
    assert (
        "the image has to hold vllm-plugin-fl: pip install --extra-index-url "
        "https://resource.flagos.net/repository/flagos-pypi-hosted/simple vllm-plugin-fl"
    ) in plan.notes
    own = replace(nvidia, plugin={"vllm": Plugin("acme", environment={"ACME": "1"})})
    spec = starts(plan_serve(deployment, loaded.hosts, Facts(), engine, own, "run"))[0].spec
    assert spec.env["ACME"] == "1"
    assert spec.env["VLLM_PLUGINS"] == "fl"
