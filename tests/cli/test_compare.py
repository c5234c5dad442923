"""Exit codes, files and streams of `flagdeploy compare` and `flagdeploy baseline`."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flagdeploy.cli.app import app
from flagdeploy.evals.suites import SUITES

ROOT = Path(__file__).parents[2]


def flagdeploy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("cand", "verdict", "code"),
    [("85.61", "PASS", 0), ("82.16", "FAIL", 1), ("84.80", "INCONCLUSIVE", 3)],
)
def test_verdicts_become_exit_codes(tmp_path: Path, cand: str, verdict: str, code: int) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"task,n,base,cand\nMMLU,14042,85.34,{cand}\n")
    result = flagdeploy("compare", "--from-table", table)
    assert result.exit_code == code
    assert result.stdout.startswith(f"{verdict}: ")


def test_two_published_tables_and_every_kind_of_output(tmp_path: Path) -> None:
    as_json, report = tmp_path / "r.json", tmp_path / "r.md"
    options = ("--json", as_json, "--report", report, "--workspace", ROOT)
    result = flagdeploy("compare", "mlu590", "--baseline", "h100", *options)
    assert result.exit_code == 3
    data = json.loads(as_json.read_text())
    assert data["verdict"] == "INCONCLUSIVE"
    assert [test["verdict"] for test in data["tests"]].count("PASS") == 1
    assert report.read_text().startswith("# INCONCLUSIVE: mlu590 against h100")
    on_stdout = flagdeploy(
        "compare", "mlu590", "--baseline", "h100", "--json", "-", "--workspace", ROOT
    )
    assert json.loads(on_stdout.stdout)["tests"] == data["tests"]


def test_several_reports_and_a_form_for_stdout(tmp_path: Path) -> None:
    sides = ("compare", "mlu590", "--baseline", "h100", "--workspace", ROOT)
    files = [tmp_path / f"r.{suffix}" for suffix in ("html", "xml", "md")]
    reports = [argument for file in files for argument in ("--report", file)]
    result = flagdeploy(*sides, *reports, "--format", "card")
    assert result.exit_code == 3
    assert result.stdout.startswith(
        "# Evaluation Results\n\n| Metrics | DeepSeek-R1 on NVIDIA H100"
    )
    begins = ["<!doctype html>", "<?xml", "# INCONCLUSIVE"]
    assert [f.read_text().startswith(b) for f, b in zip(files, begins, strict=True)] == [True] * 3


def test_a_stored_result_is_printed_again(tmp_path: Path) -> None:
    stored, page = tmp_path / "result.json", tmp_path / "r.html"
    sides = ("compare", "mlu590", "--baseline", "h100", "--workspace", ROOT)
    first = flagdeploy(*sides, "--report", stored)
    again = flagdeploy("report", tmp_path, "--report", page)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert page.read_text().startswith("<!doctype html>")
    as_json = flagdeploy("report", stored, "--json")
    assert json.loads(as_json.stdout) == json.loads(stored.read_text())


def test_a_report_that_could_not_be_written_is_refused_before_anything_is_asked() -> None:
    for file, message in {
        "r.pdf": "error: --report r.pdf: the suffix says the form",
        "nowhere/r.md": "error: --report nowhere/r.md: no file can be written there",
    }.items():
        result = flagdeploy("compare", "http://127.0.0.1:9", "--baseline", "h100", "--report", file)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare",), "error: compare with what? Give --baseline NAME, URL or BUNDLE"),
        (("compare", "--baseline", "nope"), "error: no baseline `nope`"),
        (("compare", "--baseline", "h100", "--suite", "x"), "error: unknown suite `x`"),
        (
            ("compare", "mlu590", "--baseline", "h100", "--repeats", "4"),
            "error: --repeats, --temperature and --top-p need a candidate that is asked",
        ),
        (
            ("compare", "http://127.0.0.1:9", "--baseline", "h200", "--repeats", "4"),
            "error: 4 repeats of greedy answers would be copies of one, and the baseline was "
            "recorded greedily",
        ),
        (
            ("compare", "http://127.0.0.1:9", "--baseline", "h200", "--dataset", "gsm8k"),
            "error: --dataset: h200 is a recorded baseline, which brings its own questions",
        ),
        (
            ("compare", "--baseline", "h100", "--early", "--all-tiers"),
            "error: --early and --all-tiers exclude each other",
        ),
        (
            ("compare", "mlu590", "--baseline", "h100", "--format", "pdf"),
            "error: unknown format `pdf`",
        ),
        (("compare", "--plan", "--baseline", "h100", "--suite", "x"), "error: unknown suite `x`"),
        (
            ("compare", "--baseline", "h100", "--record", "/dev/null/x"),
            "error: --record /dev/null/x: no folder can be made: Not a directory",
        ),
        (
            ("compare", "127.0.0.1:8000", "--baseline", "h200"),
            f"error: command line: NAME: unknown deployment `127.0.0.1:8000` in {ROOT}/examples",
        ),
        (
            ("compare", "http://127.0.0.1:9", "--baseline", "h200", "--top-p", "0.9"),
            "error: the baseline h200 was recorded without top_p, so the candidate cannot be "
            "asked with 0.9",
        ),
        (("baseline", "show", "nope"), "error: no baseline `nope`"),
        (
            ("baseline", "record", "http://127.0.0.1:9", "--concurrency", "16;4"),
            "error: --concurrency 16;4: write numbers with commas between, such as 16,64",
        ),
        (
            ("baseline", "record", "http://127.0.0.1:9"),
            "error: an endpoint given by URL needs --benchmarks DIR or --dataset NAME, "
            "and --out FILE",
        ),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    result = flagdeploy(*arguments, "--workspace", ROOT)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == message
    assert result.stdout == ""


def test_a_host_without_a_scheme_is_told_how_a_url_begins() -> None:
    result = flagdeploy("compare", "127.0.0.1:8000", "--baseline", "h200", "--workspace", ROOT)
    assert "the URL of an endpoint begins with http:// or https://" in result.stderr


def test_a_folder_without_answers_says_what_was_looked_for(tmp_path: Path) -> None:
    result = flagdeploy("compare", tmp_path, "--baseline", "h200", "--workspace", ROOT)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: holds no answers of a tool known here")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)  # a read-only mount
    for option, place in {"--record": tmp_path, "--json": tmp_path / "r.json"}.items():
        result = flagdeploy("compare", "http://127.0.0.1:9", "--baseline", "h200", option, place)
        assert result.exit_code == 2
        assert result.stderr == f"error: {option} {place}: no file can be written there\n"


def test_an_endpoint_that_does_not_answer_is_an_error_not_a_verdict() -> None:
    result = flagdeploy("compare", "http://127.0.0.1:9", "--baseline", "h200", "--workspace", ROOT)
    assert result.exit_code == 1
    assert "/v1/models does not answer" in result.stderr


def test_baseline_show() -> None:
    result = flagdeploy("baseline", "show", "h100", "--workspace", ROOT)
    assert result.exit_code == 0
    assert "GSM8K        95.75% of 1319" in result.stdout
    as_json = flagdeploy("baseline", "show", "h100", "--json", "--workspace", ROOT)
    assert json.loads(as_json.stdout)["scores"]["MMLU"]["n"] == 14042


def test_a_plan_asks_no_endpoint() -> None:
    result = flagdeploy("compare", "--plan", "--baseline", "h200", "--workspace", ROOT)
    assert result.exit_code == 0
    assert result.stdout.startswith("To show a faithful deployment the same as h200:\n")
    as_json = flagdeploy(
        "compare", "--plan", "--baseline", "h200", "--json", "-", "--workspace", ROOT
    )
    assert json.loads(as_json.stdout)["format"] == "flagdeploy-compare-plan/1"


@pytest.mark.parametrize(("margin", "verdict"), [("2", "PASS"), ("0.2", "INCONCLUSIVE")])
def test_a_margin_in_points(tmp_path: Path, margin: str, verdict: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text("task,n,base,cand\nMMLU,14042,85.34,85.00\n")
    result = flagdeploy("compare", "--from-table", table, "--margin", margin)
    assert result.stdout.startswith(f"{verdict}: ")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flagdeploy.workflows.compare.compare", interrupted)
    result = flagdeploy("compare", "--baseline", "h100", "--record", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        f"answers so far: {tmp_path}; the same command with --record {tmp_path} goes on",
        "interrupted",
    ]


def test_a_plan_says_what_each_suite_takes() -> None:
    result = flagdeploy("compare", "--plan", "--baseline", "h200", "--workspace", ROOT)
    lines = [line.split() for line in result.stdout.splitlines()]
    quick, standard, full = (next(x for x in lines if x[:1] == [s]) for s in SUITES)
    assert quick[:3] == ["quick", "1000", "1"]
    assert standard[-1] == "yes"
    assert full[2:5] == ["1", "to", "16"]
