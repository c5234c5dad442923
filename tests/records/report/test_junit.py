from xml.etree import ElementTree as xml

from flagdeploy.records.report import render
from records.report.sample import RESULT, real


def suite(result: dict[str, object]) -> xml.Element:
    found = xml.fromstring(render(result, "junit")).find("testsuite")
    assert found is not None
    return found


def test_a_case_per_test_and_counts_that_agree_with_them() -> None:
    result = real()
    found = suite(result)
    cases = found.findall("testcase")
    assert [case.get("name") for case in cases] == [test["name"] for test in result["tests"]]
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert found.get(attribute) == str(len(found.findall(f"testcase/{tag}")))
    assert found.get("tests") == "14"
    assert (found.get("failures"), found.get("skipped")) == ("7", "1")


def test_an_alarm_says_what_and_an_open_test_what_would_decide_it() -> None:
    found = suite(real())
    failure = found.find("testcase[@name='accuracy, all benchmarks']/failure")
    assert failure is not None
    assert failure.get("type") == "FAIL"
    assert str(failure.get("message")).startswith("86.70% at the baseline, 64.80% here")
    skipped = found.find("testcase[@name='teacher-forced log-likelihood difference']/skipped")
    assert skipped is not None
    assert str(skipped.get("message")).endswith("About 70 sequences would decide it (power 80%).")


def test_lost_answers_are_counted_as_properties() -> None:
    counts = {"ok": 98, "error": 2}
    found = suite({**RESULT, "answers": {"candidate": counts}})
    assert found.get("errors") == "0"
    values = {p.get("name"): p.get("value") for p in found.findall("properties/property")}
    assert values["answers.candidate.error"] == "2"


def test_the_order_and_attributes_that_the_schemas_want() -> None:
    found = suite(RESULT)
    assert [child.tag for child in found] == [
        "properties",
        "testcase",
        "testcase",
        "system-out",
        "system-err",
    ]
    assert found.get("timestamp") == "2026-01-01T00:00:00"
    assert set(found.keys()) == {
        "name",
        "package",
        "id",
        "timestamp",
        "hostname",
        "tests",
        "failures",
        "errors",
        "skipped",
        "time",
    }
