import json
from pathlib import Path

import pytest

from flagdeploy.errors import EvalError, UsageError
from flagdeploy.records.report import form_of, render, write_reports
from flagdeploy.records.report.stored import read_result
from records.report.sample import RESULT


def test_a_result_comes_back_from_its_file_and_from_its_folder(tmp_path: Path) -> None:
    write_reports(RESULT, [tmp_path / "result.json"])
    assert read_result(tmp_path) == read_result(tmp_path / "result.json") == RESULT


def test_every_suffix_gives_its_form(tmp_path: Path) -> None:
    for name, beginning in {
        "r.html": "<!doctype html>",
        "r.md": "# INCONCLUSIVE",
        "r.XML": "<?xml",
        "r.json": "{",
        "r.txt": "INCONCLUSIVE",
    }.items():
        write_reports(RESULT, [tmp_path / name])
        assert (tmp_path / name).read_text().startswith(beginning)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON: "),
        ("[]", "expected a result of format flagdeploy-compare/1, found list"),
        ("{}", "expected a result of format flagdeploy-compare/1, found None"),
        (json.dumps({"format": "flagdeploy-compare/2"}), "found flagdeploy-compare/2"),
    ],
)
def test_what_is_no_result(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(EvalError) as error:
        read_result(path)
    assert message in str(error.value)


def test_wrong_names() -> None:
    with pytest.raises(UsageError, match="nowhere: no such file"):
        read_result(Path("nowhere"))
    with pytest.raises(UsageError, match="--report r.pdf: the suffix says the form"):
        form_of(Path("r.pdf"))
    with pytest.raises(UsageError, match="unknown format `pdf`") as error:
        render(RESULT, "pdf")
    assert error.value.hint == "there are: text, markdown, html, junit, json, card"
