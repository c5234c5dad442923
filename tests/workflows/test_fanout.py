import threading

import pytest

from flagdeploy.errors import HostError, HostsFailed
from flagdeploy.workflows.fanout import attempt, each


def fail(host: str) -> str:
    if host.startswith("bad"):
        raise HostError(host, "down", "is it up?")
    return host.upper()


def test_results_keep_the_order_of_the_hosts() -> None:
    hosts = {str(n): n for n in range(100)}
    assert list(each(hosts, lambda n: n * 2).items()) == [(str(n), n * 2) for n in range(100)]


def test_hosts_are_asked_at_once() -> None:
    together = threading.Barrier(8, timeout=30)
    each({str(n): n for n in range(8)}, lambda _: together.wait())


def test_one_failure_is_raised_as_it_is() -> None:
    with pytest.raises(HostError, match="^bad1: down$") as raised:
        each({"a": "a", "bad1": "bad1"}, fail)
    assert not isinstance(raised.value, HostsFailed)


def test_several_failures_are_raised_together() -> None:
    with pytest.raises(HostsFailed) as raised:
        each({"bad1": "bad1", "a": "a", "bad2": "bad2"}, fail)
    assert str(raised.value) == "bad1: down\nbad2: down"
    assert raised.value.hint == "is it up?"
    assert list(raised.value.failures) == ["bad1", "bad2"]


def test_attempt_gives_both() -> None:
    results, failures = attempt({"bad1": "bad1", "a": "a"}, fail)
    assert results == {"a": "A"}
    assert str(failures["bad1"]) == "bad1: down"


def test_a_fault_of_ours_is_no_failure_of_a_host() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt({"a": 0}, lambda n: 1 / n)
