from flagdeploy.config.launch import LABEL_RANK, Running
from flagdeploy.plans.stop import stop_steps


def rank(number: int, state: str = "running") -> Running:
    labels = {LABEL_RANK: str(number)}
    return Running(f"h{number}", f"id{number}", f"flagdeploy-r1-{number}", state, labels)


def test_the_last_rank_stops_first():
    steps = stop_steps([rank(0), rank(2, "exited"), rank(1)], "it changes", 45)
    assert [(step.stage, step.host, step.id, step.timeout) for step in steps] == [
        ("stop-2", "h2", "id2", 45),
        ("stop-1", "h1", "id1", 45),
        ("stop-0", "h0", "id0", 45),
    ]
    assert steps[0].why == "stop rank 2 (exited): it changes"
