import json
from dataclasses import replace
from pathlib import Path

import pytest

from flagdeploy import engines, vendors
from flagdeploy.config import workspace
from flagdeploy.config.facts import Facts, HostFacts
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_RUN,
    LABEL_SPEC,
    Host,
    Mount,
    Running,
)
from flagdeploy.config.load import load
from flagdeploy.config.schema import Container, Endpoint
from flagdeploy.config.secret import Secret
from flagdeploy.errors import HostError
from flagdeploy.plans.serve import plan_serve, problems
from flagdeploy.plans.steps import (
    CheckCheckpoint,
    Plan,
    PullImage,
    Skip,
    Start,
    Stop,
    WaitReady,
)

WORKSPACE = Path(__file__).parents[2]
GOLDEN = WORKSPACE / "tests" / "cases" / "plans"
VARIANTS = [
    (model, path.stem)
    for model in workspace.deployments(WORKSPACE)
    for path in sorted((WORKSPACE / "examples" / model / "serve").glob("*.yaml"))
]


class Case:
    """One shipped deployment, and changes to it."""

    def __init__(self, name: str, variant: str, *overrides: str) -> None:
        loaded = load(name, variant, overrides, root=WORKSPACE)
        self.deployment, self.hosts = loaded.deployment, loaded.hosts
        self.engine = engines.load(self.deployment.engine, WORKSPACE)
        self.vendor = vendors.load(self.deployment.vendor, WORKSPACE)

    def problems(self) -> list[tuple[str, str]]:
        return problems(self.deployment, self.hosts, self.engine, self.vendor)

    def plan(self, facts: Facts | None = None, run_id: str = "dry-run") -> Plan:
        facts = facts or Facts()
        return plan_serve(
            self.deployment, self.hosts, facts, self.engine, self.vendor, run_id, "python"
        )


def kinds(plan: Plan) -> list[str]:
    return [type(step).__name__ for step in plan.steps]


def starts(plan: Plan) -> list[Start]:
    return [step for step in plan.steps if isinstance(step, Start)]


def running(plan: Plan, **changes) -> Facts:
    """The facts after `plan` was carried out; `changes` replace fields of rank 1."""
    hosts = {}
    for start in starts(plan):
        spec = start.spec
        found = Running(start.host, f"id{start.rank}", spec.name, "running", spec.labels)
        found = replace(found, **changes) if start.rank == 1 else found
        image = getattr(spec, "image", "")
        hosts[start.host] = HostFacts(images={image: image}, running=(found,))
    return Facts(hosts)


@pytest.fixture
def case() -> Case:
    return Case("tiny_deepseek_r1", "vllm_cpu")


@pytest.mark.parametrize(("model", "variant"), VARIANTS)
def test_golden_plan(model, variant, request):
    shipped = Case(model, variant)
    assert shipped.problems() == []
    text = str(shipped.plan()).replace(str(WORKSPACE), "WORKSPACE") + "\n"
    path = GOLDEN / f"{model}__{variant}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_plan_belongs_to_a_variant():
    names = {f"{model}__{variant}" for model, variant in VARIANTS}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == names


def test_order_of_the_steps(case):
    plan = case.plan()
    assert kinds(plan) == [
        "CheckCheckpoint", "CheckCheckpoint", "PullImage", "PullImage", "Start", "Start",
        "WaitReady",
    ]  # fmt: skip
    stages = list(dict.fromkeys(step.stage for step in plan.steps))
    assert stages == ["check", "pull", "start-0", "start-1", "wait"]
    assert [start.rank for start in starts(plan)] == [0, 1]


def test_labels_say_whose_and_what_a_container_is(case):
    labels = starts(case.plan(run_id="run-7"))[1].spec.labels
    digest = labels.pop(LABEL_SPEC)
    assert len(digest) == 64
    assert labels == {
        LABEL_DEPLOYMENT: "tiny_deepseek_r1",
        LABEL_RUN: "run-7",
        LABEL_RANK: "1",
        LABEL_RANKS: "2",
        LABEL_ENDPOINT: "http://192.0.2.31:8000",
        LABEL_MODEL: "tiny_deepseek_r1",
    }


def test_random_weights_need_no_checkpoint():
    plan = Case("tiny_deepseek_r1", "vllm_cpu", "weights=random").plan()
    assert CheckCheckpoint not in map(type, plan.steps)
    assert "--load-format dummy" in str(plan)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ("vllm:1", "vllm:1"),
        ("vllm", "vllm:latest"),
        ("localhost:5000/vllm", "localhost:5000/vllm:latest"),
        ("vllm@sha256:ab", "vllm@sha256:ab"),
    ],
)
def test_an_image_that_is_there_is_not_pulled(wanted, held):
    case = Case("tiny_deepseek_r1", "vllm_cpu", f"container.image={wanted}")
    facts = Facts({"192.0.2.31": HostFacts(images={held: held})})
    first, second = [step for step in case.plan(facts).steps if step.stage == "pull"]
    assert isinstance(first, Skip)
    assert isinstance(second, PullImage)


def test_what_runs_unchanged_is_left_alone(case):
    again = case.plan(running(case.plan(run_id="first")), run_id="second")
    assert kinds(again) == ["Skip", "Skip", "WaitReady"]
    assert [step.why for step in again.steps[:2]] == [
        "rank 0 runs already, unchanged",
        "rank 1 runs already, unchanged",
    ]


@pytest.mark.parametrize(
    "override",
    [
        "limits.context_length=512",
        "container.image=other:1",
        "container.env.OMP_NUM_THREADS='2'",
        "container.mounts=['/a:/b']",
        "endpoint.port=8001",
        "container.stop_timeout=31",
    ],
)
def test_any_change_restarts_the_whole_group(case, override):
    changed = Case("tiny_deepseek_r1", "vllm_cpu", override)
    plan = changed.plan(running(case.plan()))
    stops = [step for step in plan.steps if isinstance(step, Stop)]
    assert [step.rank for step in stops] == [1, 0]
    assert [step.id for step in stops] == ["id1", "id0"]
    assert [type(step) for step in plan.steps[-5:]] == [Stop, Stop, Start, Start, WaitReady]


@pytest.mark.parametrize("state", ["exited", "created"])
def test_a_rank_that_does_not_run_restarts_the_whole_group(case, state):
    plan = case.plan(running(case.plan(), state=state))
    assert [type(step) for step in plan.steps[-5:]] == [Stop, Stop, Start, Start, WaitReady]
    assert f"stop rank 1 ({state})" in str(plan)


def test_a_missing_rank_restarts_the_whole_group(case):
    facts = running(case.plan())
    alone = Facts({host: found for host, found in facts.hosts.items() if host == "192.0.2.31"})
    assert [type(step) for step in case.plan(alone).steps[-4:]] == [Stop, Start, Start, WaitReady]


def test_a_rank_on_another_host_restarts_the_whole_group(case):
    facts = running(case.plan(), host="192.0.2.99")
    assert Stop in map(type, case.plan(facts).steps)


def test_a_port_that_another_program_holds(case):
    facts = Facts({"192.0.2.31": HostFacts(ports_in_use=frozenset({8000}))})
    with pytest.raises(HostError) as caught:
        case.plan(facts)
    assert str(caught.value) == "192.0.2.31: port 8000 is taken by another program"
    assert caught.value.hint == "choose another one: endpoint.port=PORT"


def test_our_own_ports_are_no_obstacle(case):
    facts = running(case.plan(), state="exited")
    hosts = {
        host: replace(found, ports_in_use=frozenset({8000, 29501}))
        for host, found in facts.hosts.items()
    }
    assert Start in map(type, case.plan(Facts(hosts)).steps)


def test_a_port_is_ours_only_when_our_rank_says_so(case):
    """What runs cannot move to a port that somebody else holds: who answered there would count."""
    facts = running(case.plan())
    case.deployment = replace(case.deployment, endpoint=Endpoint(port=8102))
    hosts = {h: replace(f, ports_in_use=frozenset({8000, 8102})) for h, f in facts.hosts.items()}
    with pytest.raises(HostError, match="port 8102 is taken by another program"):
        case.plan(Facts(hosts))


def test_a_rank_that_has_ended_holds_no_port(case):
    facts = running(case.plan())
    ended = replace(facts.of("192.0.2.31").running[0], state="exited")
    found = HostFacts(running=(ended,), ports_in_use=frozenset({8000}))
    with pytest.raises(HostError, match="port 8000 is taken by another program"):
        case.plan(Facts({"192.0.2.31": found}))


def test_each_host_on_which_a_rank_listens_is_looked_at():
    case = Case("deepseek_r1", "tensorrt_llm_2x8_h100")
    for host in case.hosts:
        facts = Facts({host.address: HostFacts(ports_in_use=frozenset({29501}))})
        if host == case.hosts[0]:  # runs mpirun, and listens on the endpoint's port only
            assert Start in map(type, case.plan(facts).steps)
            continue
        with pytest.raises(HostError, match=f"{host.address}: port 29501 is taken"):
            case.plan(facts)


def with_secret(case: Case, value: str, name: str = "HF_TOKEN") -> Case:
    env = {**case.deployment.container.env, "HF_TOKEN": Secret(value, name)}
    container = replace(case.deployment.container, env=env)
    endpoint = Endpoint(api_key=Secret("canary-key", "R1_API_KEY"))
    case.deployment = replace(case.deployment, container=container, endpoint=endpoint)
    return case


def test_no_secret_is_printed_or_dumped(case):
    plan = with_secret(case, "canary-token").plan()
    assert starts(plan)[0].spec.env["HF_TOKEN"].reveal() == "canary-token"
    assert starts(plan)[0].spec.env["VLLM_API_KEY"].reveal() == "canary-key"
    for text in (str(plan), plan.to_json(), repr(plan)):
        assert "canary" not in text
    assert "env     HF_TOKEN=***" in str(plan)


def test_secrets_count_in_the_digest_by_name_only():
    def digest(value: str, name: str) -> str:
        case = with_secret(Case("tiny_deepseek_r1", "vllm_cpu"), value, name)
        return starts(case.plan())[0].spec.labels[LABEL_SPEC]

    assert digest("old", "HF_TOKEN") == digest("new", "HF_TOKEN")
    assert digest("old", "HF_TOKEN") != digest("old", "OTHER_TOKEN")


def test_variables_of_a_rank_override_those_of_all(case):
    container = replace(
        case.deployment.container,
        env={"VLLM_HOST_IP": "198.51.100.1", "A": "all"},
        rank_env={"1": {"A": "one"}},
    )
    case.deployment = replace(case.deployment, container=container)
    first, second = starts(case.plan())
    assert (first.spec.env["A"], second.spec.env["A"]) == ("all", "one")
    assert first.spec.env["VLLM_HOST_IP"] == "198.51.100.1"


def test_checkpoints_are_mounted_where_nothing_covers_them(case):
    assert starts(case.plan())[0].spec.mounts == (
        Mount("/models/tiny_deepseek_r1-bf16", "/models/tiny_deepseek_r1-bf16", True),
    )
    container = replace(case.deployment.container, mounts=["/models:/models:ro"])
    case.deployment = replace(case.deployment, container=container)
    assert starts(case.plan())[0].spec.mounts == (Mount("/models", "/models", True),)


def test_device_patterns_are_expanded_to_what_the_host_has(case):
    container = Container(image="i", devices=["/dev/tt[0-9]*", "/dev/other"])
    case.deployment = replace(case.deployment, container=container)
    assert starts(case.plan())[0].spec.devices == ("/dev/tt[0-9]*", "/dev/other")
    found = HostFacts(device_nodes=("/dev/tt0", "/dev/tt1", "/dev/other"))
    first, second = starts(case.plan(Facts({"192.0.2.31": found})))
    assert first.spec.devices == ("/dev/tt0", "/dev/tt1", "/dev/other")
    assert second.spec.devices == ("/dev/tt[0-9]*", "/dev/other")


def test_a_local_process_runs_under_the_given_interpreter():
    case = Case("tiny_deepseek_r1", "local")
    plan = plan_serve(
        case.deployment, case.hosts, Facts(), case.engine, case.vendor, "r", "/venv/bin/python"
    )
    assert starts(plan)[0].spec.argv[:3] == ("/venv/bin/python", "-m", "flagdeploy.server")
    assert kinds(plan) == ["CheckCheckpoint", "Start", "WaitReady"]


def test_waiting_asks_the_endpoint_as_clients_do():
    case = Case("deepseek_r1", "tensorrt_llm_h200", "endpoint.host=0.0.0.0", "endpoint.port=9000")
    plan = case.plan()
    wait = plan.steps[-1]
    assert isinstance(wait, WaitReady)
    assert (wait.host, wait.address, wait.port) == ("192.0.2.1", "192.0.2.1", 9000)
    assert wait.model == "DeepSeek-R1"
    assert "the endpoint is open to every network of the host and asks for no key" in plan.notes


def test_ipv6_hosts(case):
    case.hosts = (Host("2001:db8::1"), Host("2001:db8::2"))
    plan = case.plan()
    assert starts(plan)[0].spec.labels[LABEL_ENDPOINT] == "http://[2001:db8::1]:8000"


def test_the_plan_is_the_same_every_time(case):
    assert case.plan() == case.plan()
    dumped = json.loads(case.plan().to_json())
    assert [step["step"] for step in dumped["steps"]] == kinds(case.plan())


def test_problems_of_checks_vendor_and_engine_come_together():
    case = Case(
        "deepseek_r1", "vllm_fp8_h200", "parallel.tensor=3", "chip=H300", "engine_args.tp=8"
    )
    assert [key for key, _ in case.problems()] == [
        "parallel.tensor", "parallel.tensor", "chip", "engine_args.tp", "parallel.expert",
    ]  # fmt: skip
