"""The report as JUnit XML, for the CI servers that show it.

Valid by both schemas in use: that of Ant's tasks (windyroad/JUnit-Schema) and that of Jenkins'
xUnit plugin (junit-10.xsd).
"""

from collections.abc import Mapping
from xml.etree import ElementTree as xml

from flagdeploy.records.report.text import report as text
from flagdeploy.records.report.wording import Result, Test, decided_by, explained

HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'


def report(result: Result) -> str:
    """One suite with a case per test: an alarm is a failure, an open test skipped.

    Answers that never came are properties (``answers.candidate.error``), not errors of the suite:
    whether they withhold a PASS is what the tests say.
    """
    suites = xml.Element("testsuites")
    suite = xml.SubElement(suites, "testsuite", _attributes(result))
    properties = xml.SubElement(suite, "properties")
    for name, value in _properties(result).items():
        xml.SubElement(properties, "property", name=name, value=value)
    for test in result["tests"]:
        _case(suite, test)
    xml.SubElement(suite, "system-out").text = text(result)
    xml.SubElement(suite, "system-err")
    xml.indent(suites)
    return HEADER + xml.tostring(suites, encoding="unicode")


def _attributes(result: Result) -> dict[str, str]:
    verdicts = [test["verdict"] for test in result["tests"]]
    return {
        "name": f"{result['candidate']['name']} against {result['baseline']['name']}",
        "package": "flagdeploy.compare",
        "id": "0",
        "timestamp": str(result["started"]).removesuffix("Z") or "1970-01-01T00:00:00",
        "hostname": "localhost",
        "tests": str(len(verdicts)),
        "failures": str(sum(verdict in ("FAIL", "DIFFERENT") for verdict in verdicts)),
        "errors": "0",
        "skipped": str(verdicts.count("INCONCLUSIVE")),
        "time": f"{result['seconds']:.1f}",
    }


def _properties(result: Result) -> dict[str, str]:
    counts: Mapping[str, Mapping[str, int]] = result["answers"]
    return {
        "verdict": result["verdict"],
        "mode": result["mode"],
        "suite": result["suite"] or "none",
        "flips": str(result["flip_count"]),
        **{
            f"answers.{side}.{status}": str(count)
            for side, row in counts.items()
            for status, count in row.items()
        },
    }


def _case(suite: xml.Element, test: Test) -> None:
    case = xml.SubElement(
        suite, "testcase", name=test["name"], classname="flagdeploy.compare", time="0"
    )
    if test["verdict"] in ("FAIL", "DIFFERENT"):
        failure = xml.SubElement(case, "failure", type=test["verdict"], message=test["sentence"])
        failure.text = explained(test)
    elif test["verdict"] == "INCONCLUSIVE":
        decide = " ".join(decided_by(test))
        xml.SubElement(case, "skipped", message=f"{test['sentence']}. {decide}".rstrip())
