"""`flagdeploy compare`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out


def compare(
    candidate: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|URL|BUNDLE|FILE]",
            help="A running deployment, an endpoint, a recorded bundle, a published table, or "
            "answers of another tool. Default: the deployment that runs.",
            autocompletion=complete.deployments,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|URL|BUNDLE|FILE",
            help="A file of env/baselines/ by its name, a path, or an endpoint to ask beside.",
            autocompletion=complete.baselines,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            metavar="quick|standard|full",
            help="How much is asked: at most 1000 questions; all, and the candidate against "
            "itself; all, again and again with sampling.",
            autocompletion=complete.suites,
        ),
    ] = "quick",
    from_table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Published totals instead: CSV or YAML task,n,base,cand."
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result as JSON; `-`: stdout."),
    ] = None,
    report_files: options.ReportFiles = None,
    form: options.Form = "text",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask at most this many questions of each benchmark.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 16,
    benchmarks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with benchmark.yaml, if the baseline has none."),
    ] = None,
    dataset: options.DataSets = None,
    data_path: options.Data = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where answers are kept; give it again to go on."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            min=0.01,
            max=100.0,
            help="Accuracy that may be lost. Default: 1% of "
            "the baseline's, or what the benchmark says.",
        ),
    ] = None,
    early: Annotated[
        bool,
        typer.Option("--early", help="Look before everything is asked; end when it is decided."),
    ] = False,
    all_tiers: Annotated[
        bool, typer.Option("--all-tiers", help="Ask everything, also when FAIL is already shown.")
    ] = False,
    repeats: Annotated[
        str | None,
        typer.Option(
            metavar="K|auto",
            help="Answers to each question, sampled; auto: 1, 2, 4, 8, 16 until decided.",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="How both sides sample. Default: greedy.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", min=0.0, max=1.0, help="With --temperature.")
    ] = None,
    filter_name: Annotated[
        str | None,
        typer.Option(
            "--filter", help="Which filter of lm-eval's samples counts. Default: its first."
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="S|D|P",
            help="Score tokens by prefill (S), greedy decoding (D) or one request each (P). "
            "Default: the first of these that both sides have.",
            autocompletion=complete.modes,
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how much a verdict takes; asks no endpoint.")
    ] = False,
    power: Annotated[
        float, typer.Option(help="With --plan: chance that a faithful deployment passes.")
    ] = 0.8,
    speed: Annotated[
        float,
        typer.Option(metavar="TOKENS/S", min=0.001, help="With --plan: output of one request."),
    ] = 30.0,
    workspace: options.Workspace = None,
    quiet: options.Quiet = False,
) -> None:
    """Say whether a deployment is the same model as a baseline.

    Exit code 0 for PASS; 1 for FAIL (worse than allowed) and DIFFERENT (another model, though not
    shown to be worse than allowed); 3 for INCONCLUSIVE (too little was asked; the report says how
    much would decide).

    The cheapest tests come first: prompts, then the likelihood of the baseline's own tokens, then
    answers. What shows FAIL ends the run; where tokens show another model, answers are asked only
    until harm is shown or excluded.

    \b
      flagdeploy compare --baseline h100                    the deployment that runs
      flagdeploy compare http://host:8000 --baseline h200   any OpenAI-compatible endpoint
      flagdeploy compare http://b:8000 --baseline http://a:8000 --benchmarks DIR --repeats auto
            --temperature 0.6 --top-p 0.95                  two live ones, sampled in turn
      flagdeploy compare mlu590 --baseline h100             two published tables
      flagdeploy compare http://b:8000 --baseline h100 --dataset gsm8k,mmlu    with its scores
      flagdeploy compare --from-table scores.csv            task,n,base,cand
      flagdeploy compare mlu/out --baseline h100/out        lm-eval, evalscope, MLPerf output
      flagdeploy compare --baseline deepseek.refpt          a Tenstorrent token reference
      flagdeploy compare --baseline h100 --suite standard   every question, and its own noise
      flagdeploy compare --baseline h100 --report r.html    a page to sign; .md .xml .json too
      flagdeploy compare --plan --baseline h100 --margin 1  questions, repeats, tokens, time
    """
    if plan:
        from flagdeploy.evals.suites import suite_named

        suite_named(suite)  # all suites are shown; a misspelt one is said
        _plan(baseline, workspace, margin, power, speed, concurrency, str(json_file) == "-")
        return
    from flagdeploy.records import report as reports
    from flagdeploy.workflows.compare import compare as workflow
    from flagdeploy.workflows.compare import new_record_dir

    out.quiet, out.json = quiet, str(json_file) == "-" or form == "json"
    options.check_report(form, report_files)
    options.check_file("--json", json_file)
    options.check_folder("--record", record)
    record = record or new_record_dir(workspace)
    with out.progress() as report, _how_to_go_on(record):
        result = workflow(
            candidate,
            baseline,
            workspace=workspace,
            suite=suite,
            from_table=from_table,
            benchmarks=benchmarks,
            datasets=options.split(dataset),
            data=data_path,
            concurrency=concurrency,
            limit=limit,
            record_dir=record,
            margin_pp=margin,
            early=early,
            all_tiers=all_tiers,
            repeats=repeats,
            temperature=temperature,
            top_p=top_p,
            filter_name=filter_name,
            mode=mode,
            report=report,
        )
    data = result.to_json()
    if json_file and str(json_file) != "-":
        json_file.write_text(reports.render(data, "json") + "\n", "utf-8")
    reports.write_reports(data, report_files or [])
    out.result(reports.render(data, form), data)
    if record.is_dir():
        out.note(f"answers and report: {record}")
    raise typer.Exit(result.exit_code)


@contextmanager
def _how_to_go_on(record: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if record.is_dir():
            out.note(f"answers so far: {record}; the same command with --record {record} goes on")
        raise


def _plan(
    baseline: str | None,
    workspace: str | None,
    margin: float | None,
    power: float,
    speed: float,
    concurrency: int,
    as_json: bool,
) -> None:
    from flagdeploy.records import compare_plan as plans
    from flagdeploy.workflows.compare_plan import plan_compare

    out.json = as_json
    found = plan_compare(
        baseline,
        workspace=workspace,
        margin_pp=margin,
        power=power,
        speed=speed,
        concurrency=concurrency,
    )
    out.result(plans.text(found), found)
