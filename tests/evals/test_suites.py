import pytest

from flagdeploy.errors import UsageError
from flagdeploy.evals.items import Item
from flagdeploy.evals.suites import SUITES, chosen, shares, suite_named


def items(task: str, n: int) -> list[Item]:
    return [Item(f"{i * 7919 % 1000:03}{task}", task, "gsm8k", (), "1", "", 9) for i in range(n)]


def test_where_a_suite_cuts_small_benchmarks_stay_whole() -> None:
    assert shares({"mmlu": 14_042, "aime": 30, "gsm8k": 1319}, 1000) == {
        "aime": 30,
        "gsm8k": 485,
        "mmlu": 485,
    }
    assert shares({"a": 3, "b": 4}, None) == {"a": 3, "b": 4}
    assert shares({"a": 400, "b": 400, "c": 200}, 1000) == {"a": 400, "b": 400, "c": 200}


def test_every_part_of_the_questions_holds_each_benchmark_in_its_share() -> None:
    asked = chosen([*items("a", 400), *items("b", 200)])
    assert len(asked) == 600
    for part in (75, 150, 300):
        of_b = sum(item.task == "b" for item in asked[:part])
        assert abs(of_b - part / 3) <= 1


def test_the_same_questions_whatever_the_order_of_the_file() -> None:
    given = items("a", 100)
    assert chosen(given, 10) == chosen(given[::-1], 10)
    assert chosen(given, 50, limit=10) == chosen(given, 10)


def test_each_suite_asks_at_least_what_the_one_before_does() -> None:
    assert list(SUITES) == ["quick", "standard", "full"]
    assert SUITES["quick"].questions == 1000
    assert [suite.own_floor for suite in SUITES.values()] == [False, True, True]
    assert [suite.repeats for suite in SUITES.values()] == [1, 1, 0]


def test_an_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown suite `slow`") as error:
        suite_named("slow")
    assert error.value.hint == "there are: quick, standard, full"
