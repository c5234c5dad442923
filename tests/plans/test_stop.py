from flagdeploy.config.launch import LABEL_RANK, Running
from flagdeploy.plans.stop import plan_stop


def rank(number: int, state: str = "running") -> Running:
    labels = {LABEL_RANK: str(number)}
    return Running(f"h{number}", f"id{number}", f"flagdeploy-r1-{number}", state, labels)


def test_the_last_rank_stops_first():
    plan = plan_stop([rank(0), rank(2, "exited"), rank(1)], "r1", timeout=45)
    assert [(step.stage, step.host, step.id, step.timeout) for step in plan.steps] == [
        ("stop-2", "h2", "id2", 45),
        ("stop-1", "h1", "id1", 45),
        ("stop-0", "h0", "id0", 45),
    ]
    assert plan.steps[0].why == "stop rank 2 (exited): asked for"


def test_nothing_to_stop():
    plan = plan_stop([], "r1")
    assert plan.steps == ()
    assert plan.notes == ("r1: nothing runs",)
