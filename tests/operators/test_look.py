"""What a look into a rank prints, read."""

from flagdeploy.operators.look import Log, Seen, parse


def test_what_a_look_prints() -> None:
    text = "P 1 tini \nV USE_FLAGGEMS=1\nP 7 VLLM::Worker \nU\nL 1700000000 12 /tmp/a b.log\n"
    seen = parse(text + "O flag_gems.ops.mm.mm\nO flag_gems.ops.addmm\nO mm\n")
    assert [(p.pid, p.name, dict(p.variables), p.readable) for p in seen.processes] == [
        (1, "tini", {"USE_FLAGGEMS": "1"}, True),
        (7, "VLLM::Worker", {}, False),
    ]
    assert seen.logs == (Log(1700000000.0, "/tmp/a b.log", frozenset({"mm", "addmm"})),)
    assert parse("") == Seen()
